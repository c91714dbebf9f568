"""A real local chain for tests: anvil on a free port, with the few controls that tests need."""

import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.services.ports import free_port

__all__ = ["KEYS", "ROOT", "Anvil", "free_port", "start_anvil"]

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 90
"""Far more than it takes: at the lowest priority beside other suites it may get no core for a long time."""
KEYS = (  # anvil's published test mnemonic
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    "92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    "4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbffa7cbf4a",
    "dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
    "2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
)


class Anvil:
    """A running anvil. `rpc` calls raise AssertionError on JSON-RPC errors."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._http = httpx.Client(timeout=60, trust_env=False)

    def rpc(self, method: str, *params: Any) -> Any:
        """Result of one call."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self._http.post(self.url, json=body).json()
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    @property
    def height(self) -> int:
        """Number of the newest block."""
        return int(self.rpc("eth_blockNumber"), 16)

    def block(self, number: int | str = "latest") -> dict[str, Any]:
        """A block by number or tag."""
        found: dict[str, Any] = self.rpc(
            "eth_getBlockByNumber", number if isinstance(number, str) else hex(number), False
        )
        return found

    def mine(self, blocks: int = 1) -> None:
        """Mine blocks at once."""
        self.rpc("anvil_mine", hex(blocks))

    def automine(self, on: bool) -> None:
        """Mine each transaction when it arrives, or only on `mine`."""
        self.rpc("evm_setAutomine", on)

    def set_time(self, timestamp: int) -> None:
        """Mine one block with this timestamp (Unix seconds); later ones follow on it."""
        self.rpc("evm_setNextBlockTimestamp", timestamp)
        self.mine()

    def reorg(self, depth: int) -> None:
        """Replace the newest `depth` blocks by as many empty ones; their transactions are gone for good."""
        # Empty blocks that replace empty blocks could be the very same ones.
        self.rpc("anvil_setCoinbase", "0x" + secrets.token_hex(20))
        self.rpc("anvil_reorg", depth, [])

    @contextmanager
    def mining(self, every_seconds: float = 0.05) -> Iterator[None]:
        """Mine on a thread of its own until the block ends, for programs that wait for finality."""
        done = threading.Event()
        miner = Anvil(self.port)

        def run() -> None:
            while not done.wait(every_seconds):
                miner.mine()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            miner.close()

    def close(self) -> None:
        """Close the client; the process is `start_anvil`'s."""
        self._http.close()


@contextmanager
def start_anvil(*arguments: str, log: Path | None = None) -> Iterator[Anvil]:
    """Run anvil with one-block-deep finality on a free port until the block ends."""
    program = shutil.which("anvil") or str(ROOT / "node_modules/.bin/anvil")
    port = free_port()
    command = [
        program,
        "--port",
        str(port),
        "--slots-in-an-epoch",
        "1",
        "--accounts",
        "20",
        "--silent",
        *arguments,
    ]
    output = log.open("wb") if log else subprocess.DEVNULL
    # In its own group: npm's launcher starts the real binary as a child.
    process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    anvil = Anvil(port)
    try:
        _wait(anvil, process)
        yield anvil
    finally:
        anvil.close()
        os.killpg(process.pid, 9)
        process.wait()


def _wait(anvil: Anvil, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            anvil.rpc("eth_chainId")
        except httpx.TransportError:
            assert process.poll() is None, "anvil ended at once"
            assert time.monotonic() < deadline, f"anvil did not answer within {START_SECONDS} s"
            time.sleep(0.02)
        else:
            return


@pytest.fixture
def anvil() -> Iterator[Anvil]:
    """A fresh chain for one test."""
    with start_anvil() as running:
        yield running
