"""How fast, and in how much memory, the index reads a long history.

A real chain carries the logs: a few bytes of EVM code stand at the distributor's address and emit `RewardClaimed` in a
loop, a few hundred to a block. The index runs in a process of its own, so that its memory is its own.

    python -m bench.keeper.backfill [--logs 1000000 | --smoke] [--database URL] [--out FILE]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import figures as results
from offchain.chain.deployment import Deployment
from offchain.chain.indexer import Indexer, Progress
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crypto.addresses import checksum
from offchain.db.database import open_database
from offchain.db.migrations import upgrade
from offchain.domain.eip712 import keccak256, word

ROOT = Path(__file__).resolve().parents[2]
FULL_LOGS, SMOKE_LOGS = 1_000_000, 5_000
LOGS_PER_BLOCK = 250
NODES = 100_000
MIN_LOGS_PER_SECOND = 5_000
MAX_GROWTH_MIB = 64
ADDRESS = checksum("0x" + "d1" * 20)
ABI = [
    {
        "type": "event",
        "name": "RewardClaimed",
        "inputs": [
            {"name": "nodeId", "type": "uint32", "indexed": True},
            {"name": "epoch", "type": "uint32", "indexed": True},
            {"name": "to", "type": "address", "indexed": True},
            {"name": "amount", "type": "uint256", "indexed": False},
            {"name": "uptimeBps", "type": "uint16", "indexed": False},
        ],
    }
]


def backfill_figures(logs: int, database_url: str | None = None) -> dict[str, float]:
    """Make a chain with this many logs and read it.

    Args:
        logs: number of logs, for example 1,000,000.
        database_url: an empty database; None means a SQLite file that is thrown away.

    Returns:
        `backfill_logs_per_s`; `backfill_rss_mib`, the peak of the reading process; `backfill_rss_growth_mib`, its
        growth from the first tenth of the logs to the end.
    """
    with tempfile.TemporaryDirectory(prefix="parallelix-backfill-") as name, _anvil() as (url, rpc):
        folder = Path(name)
        _emit(rpc, logs)
        manifest = folder / "deployment.json"
        manifest.write_text(json.dumps(_manifest()))
        target = database_url or f"sqlite:///{folder}/index.db"
        command = [sys.executable, "-m", "bench.keeper.backfill", "--read", url, str(manifest), target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1_800, check=False, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(done.stderr)
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if seen["events"] != logs:
        raise RuntimeError(f"{seen['events']} of {logs} logs were read")
    return {
        "backfill_logs_per_s": round(logs / seen["seconds"]),
        "backfill_rss_mib": round(seen["peak_mib"]),
        "backfill_rss_growth_mib": round(seen["peak_mib"] - seen["early_mib"]),
    }


def _read(url: str, manifest: str, database_url: str) -> None:
    upgrade(database_url)
    database = open_database(database_url)
    indexer = Indexer(database, ChainReader(Rpc(url), Deployment.load(Path(manifest))))
    begin = time.perf_counter()
    total, early = 0, 0.0

    def show(progress: Progress) -> None:
        nonlocal total, early
        total += progress.events
        if not early and progress.behind < 0.9 * progress.chain_head:
            early = _peak_mib()
        rate = total / (time.perf_counter() - begin)
        print(
            f"{total} logs, {progress.behind} blocks to go, {rate:.0f}/s, {_peak_mib():.0f} MiB",
            file=sys.stderr,
        )

    indexer.backfill(show)
    seconds = time.perf_counter() - begin
    print(json.dumps({"events": total, "seconds": seconds, "early_mib": early, "peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _anvil() -> Iterator[tuple[str, Callable[..., Any]]]:
    from tests.support.services.anvil import start_anvil  # pytest is no part of the memory that is measured

    arguments = ["--hardfork", "cancun", "--disable-block-gas-limit", "--no-mining", "--prune-history"]
    with start_anvil(*arguments) as anvil:
        yield anvil.url, anvil.rpc


def _emit(rpc: Callable[..., Any], logs: int) -> None:
    rpc("anvil_setCode", ADDRESS, "0x" + _emitter().hex())
    sender = rpc("eth_accounts")[0]
    for first in range(0, logs, LOGS_PER_BLOCK):
        epoch, node = divmod(first, NODES)
        last = min(first + LOGS_PER_BLOCK, logs) - first
        data = word(node + 1) + word(node + 1 + last) + word(epoch)
        fields = {"from": sender, "to": ADDRESS, "data": "0x" + data.hex(), "gas": hex(10_000 + 4_000 * last)}
        rpc("eth_sendTransaction", fields)
        rpc("evm_mine")


def _emitter() -> bytes:
    """`for (i = calldata[0]; i < calldata[32]; i++) emit RewardClaimed(i, calldata[64], msg.sender, 1, 9950)`."""
    topic = keccak256(b"RewardClaimed(uint32,uint32,address,uint256,uint16)")
    head = bytes.fromhex("60016000526126de602052600035")  # memory: 1, 9950; stack: i
    loop = len(head)
    test = bytes.fromhex("5b80602035111560")  # jumpdest; i >= end ?
    body = bytes.fromhex("5733604035827f") + topic + bytes.fromhex("60406000a460010160")
    end = loop + len(test) + 1 + len(body) + 2
    return head + test + bytes((end,)) + body + bytes((loop,)) + bytes.fromhex("565b00")


def _manifest() -> dict[str, Any]:
    zero = "0x" + "0" * 64
    contract = {
        "address": ADDRESS, "block": 1, "tx_hash": zero, "abi_hash": zero, "code_hash": zero, "abi": ABI,
    }  # fmt: skip
    return {
        "version": 1, "chain_id": 31337, "network": "local", "deployed_at_block": 1, "genesis": 1, "epoch_length": 600,
        "slots_per_epoch": 10, "contracts": {"RewardDistributor": contract},
    }  # fmt: skip


def main() -> None:
    """Run the bench and print or write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=FULL_LOGS)
    parser.add_argument(
        "--smoke", action="store_true", help=f"read {SMOKE_LOGS:,} logs: it runs, figures mean nothing"
    )
    parser.add_argument("--database", help="URL of an empty database (default: a SQLite file)")
    parser.add_argument("--out", type=Path, help="file of results to write the figures into")
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        _read(*options.read)
        return
    logs = SMOKE_LOGS if options.smoke else options.logs
    figures = backfill_figures(logs, options.database)
    print(json.dumps(figures, indent=2))
    if options.out:
        results.merge(options.out, figures)
    if logs >= FULL_LOGS and (
        figures["backfill_logs_per_s"] < MIN_LOGS_PER_SECOND
        or figures["backfill_rss_growth_mib"] > MAX_GROWTH_MIB
    ):
        sys.exit("the bound was missed: 5,000 logs/s in flat memory")


if __name__ == "__main__":
    main()
