"""Makes a batch of execution records in a process of its own: its memory and its time are not the gateway's.

::

    gateway                                       this process
      | folder, epoch, where the records wait ------> | reads them, builds the tree
      | <-------------------------------- count, root |
      | signs it, shows it to keepers                 |
      | signed batch -------------------------------> | writes the file
      | <---------------------------------- exit code |

It runs at the lowest priority and knows no key. A gateway that is gone, SIGKILL included, has closed the pipe, and the
process ends at once. What it leaves half-made in the folder, the next one of that epoch writes anew.
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
    """The gateway's end: `draft`, then `write`, in a `with` block that leaves no process behind.

    Raises:
        OSError: by each call, when the process ended before its work was done; its last words are the reason.
    """

    def __init__(self, folder: Path, redis_url: str | None, epoch: Epoch) -> None:
        self._epoch = epoch
        self._order = {"folder": str(folder.resolve()), "redis_url": redis_url, "epoch": epoch}
        # -P: of the present folder nothing is imported. A session of its own: Ctrl-C is the gateway's to handle.
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
        """Of the process."""
        return self._process.pid

    def kill(self) -> None:
        """End it now, from any thread; whoever waits for it gets an OSError."""
        self._process.kill()

    def draft(self) -> ExecutionBatch:
        """What the records that the epoch's batch took come to; a count of 0 when there is none."""
        self._tell(json.dumps(self._order))
        answer = self._answers.readline()
        if not answer.endswith(b"\n"):
            raise self._ended()
        made = json.loads(answer)
        return ExecutionBatch(self._epoch, made["count"], bytes.fromhex(made["root"]))

    def write(self, signed: SignedExecutionBatch) -> None:
        """Have the batch's file written; it is there when this returns."""
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
        return OSError(
            f"the process that makes a batch ended with {code}: {words[-1] if words else 'it said nothing'}"
        )


def main() -> int:
    """Make one batch; what to make and its signature come by standard input."""
    os.nice(_LOWEST_PRIORITY)
    told: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    order = json.loads(told.get())
    folder, epoch = Path(order["folder"]), Epoch(order["epoch"])
    try:
        with files.draft(folder, epoch, open_pending(folder, order["redis_url"]).taken(epoch)) as made:
            sys.stdout.write(
                json.dumps({"count": made.commitment.count, "root": made.commitment.root.hex()}) + "\n"
            )
            sys.stdout.flush()
            files.write(folder, made, SignedExecutionBatch.unpack(told.get().decode()))
    except (OSError, RedisError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _listen(told: "SimpleQueue[bytes]") -> None:
    with open(0, "rb", buffering=0, closefd=False) as gateway:  # a buffer's lock would hold up the exit
        while line := gateway.readline():
            told.put(line.rstrip())
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
