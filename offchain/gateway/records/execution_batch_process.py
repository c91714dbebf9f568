"""Makes a batch of execution records in a child process, so that the gateway spends neither the memory nor the time.

::

    gateway                                       child process
      | folder, epoch, redis_url -------------------> | reads the records, builds the tree
      | <-------------------------------- count, root |
      | signs the root, shows it to keepers           |
      | signed batch -------------------------------> | writes the file
      | <---------------------------------- exit code |

The child runs at the lowest priority and has no key. When the gateway ends, even by SIGKILL, the pipe closes and the child ends
at once. Half-written files are overwritten by the next child for that epoch.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Self, cast

from redis.exceptions import RedisError

from offchain.domain.evidence_entries import SignedExecutionBatch
from offchain.domain.messages import ExecutionBatch
from offchain.domain.types import Epoch
from offchain.gateway.records import execution_batch_file as files
from offchain.gateway.records.pending_executions import open_pending

_LOWEST_PRIORITY = 19


class ExecutionBatchProcess:
    """The gateway's side: call `draft`, then `write`, in a `with` block, which ends the child.

    Raises:
        OSError: from each call, when the child ended before its work was done; the message is its last line of stderr.
    """

    def __init__(self, folder: Path, redis_url: str | None, epoch: Epoch) -> None:
        self._epoch = epoch
        self._order = {"folder": str(folder.resolve()), "redis_url": redis_url, "epoch": epoch}
        # -P: imports nothing from the current folder. Own session: Ctrl-C goes to the gateway only.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._orders, self._answers, self._words = cast("tuple[IO[bytes], IO[bytes], IO[bytes]]", pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.__exit__(kind, error, trace)  # closes the pipes and waits

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the child, from any thread. A pending `draft` or `write` raises OSError."""
        self._process.kill()

    def draft(self) -> ExecutionBatch:
        """Count and Merkle root of the epoch's records; a count of 0 when there are none."""
        self._tell(json.dumps(self._order))
        answer = self._answers.readline()
        if not answer.endswith(b"\n"):
            raise self._ended()
        made = json.loads(answer)
        return ExecutionBatch(self._epoch, made["count"], bytes.fromhex(made["root"]))

    def write(self, signed: SignedExecutionBatch) -> None:
        """Have the batch's file written. The file is there when this returns."""
        self._tell(signed.pack())
        if self._process.wait():
            raise self._ended()

    def _tell(self, line: str) -> None:
        try:
            self._orders.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> OSError:
        code = self._process.wait()
        words = self._words.read().decode(errors="replace").strip().splitlines()
        said = words[-1] if words else "it said nothing"
        return OSError(f"the process that makes a batch ended with {code}: {said}")


def main() -> int:
    """The child: makes one batch. The order and the signed batch come as lines of standard input."""
    os.nice(_LOWEST_PRIORITY)
    lines: SimpleQueue[bytes] = SimpleQueue()
    # It reads all the time, so that a gateway's end is noticed while the tree is built (ADR 0090).
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    order = json.loads(lines.get())
    folder, epoch = Path(order["folder"]), Epoch(order["epoch"])
    try:
        with files.draft(folder, epoch, open_pending(folder, order["redis_url"]).taken(epoch)) as made:
            answer = {"count": made.commitment.count, "root": made.commitment.root.hex()}
            print(json.dumps(answer), flush=True)  # noqa: T201  standard output is the pipe to the gateway
            files.write(folder, made, SignedExecutionBatch.unpack(lines.get().decode()))
    except (OSError, RedisError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _listen(lines: "SimpleQueue[bytes]") -> None:
    # unbuffered: the lock of a buffer would block the exit
    with open(0, "rb", buffering=0, closefd=False) as gateway:
        while line := gateway.readline():
            lines.put(line.rstrip())
    # Not sys.exit, which would end this thread only.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
