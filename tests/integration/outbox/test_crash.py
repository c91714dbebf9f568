"""SIGKILL between any two persisted steps, and two senders at once: each intent still happens exactly once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offchain.db.database import Database
from offchain.outbox import Outbox, intents
from offchain.runtime.crash_points import SENDER_POINTS, VARIABLE
from tests.support.services.anvil import KEYS, ROOT
from tests.support.services.contracts import Network

pytestmark = [pytest.mark.anvil, pytest.mark.slow]

RECIPIENT = "0x00000000000000000000000000000000000000bb"
INTENTS = 4
ACCOUNT = 0


def enqueue(network: Network, database: Database) -> None:
    outbox = Outbox(network.deployment, network.signers[ACCOUNT].address)
    with database.write() as session:
        for number in range(INTENTS):
            outbox.enqueue(session, f"pay:{number}", "ParallelixToken", "transfer", (RECIPIENT, 10**number))


def start(
    network: Network, database_url: str, crash_points: Path | None = None, replace_after: int = 60
) -> "subprocess.Popen[str]":
    program = Path(__file__).parents[2] / "support/services/outbox_worker.py"
    arguments = [
        network.anvil.url,
        str(network.deployment.path),
        database_url,
        KEYS[ACCOUNT],
        str(replace_after),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if crash_points is not None:
        environment[VARIABLE] = str(crash_points)
    command = [sys.executable, str(program), *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(
    network: Network, database_url: str, crash_points: Path | None = None, replace_after: int = 60
) -> int:
    with start(network, database_url, crash_points, replace_after) as worker:
        output, _ = worker.communicate(timeout=90)
    print(output)
    return worker.returncode


def armed(folder: Path, point: str) -> Path:
    """A folder of crash points with one in it."""
    points = folder / "crash"
    points.mkdir()
    (points / point).touch()
    return points


def assert_each_happened_once(network: Network, database: Database) -> None:
    reads = network.chain.at(network.chain.head_block())
    assert reads.one("ParallelixToken", "balanceOf", RECIPIENT) == 1_111
    with database.read() as session:
        assert intents.counts(session) == {"final": INTENTS}


ON_POSTGRESQL = ("simulated", "stored", "broadcast", "mined")
"""Points that are also tried on PostgreSQL; the steps are the same, the locks are not."""


@pytest.mark.parametrize(
    ("empty_database_url", "point"),
    [("sqlite", point) for point in SENDER_POINTS] + [("postgresql", point) for point in ON_POSTGRESQL],
    indirect=["empty_database_url"],
)
def test_sender__killed_at_every_point__each_intent_happens_once(
    network: Network, database: Database, database_url: str, tmp_path: Path, point: str
) -> None:
    enqueue(network, database)
    points = armed(tmp_path, point)
    if point.startswith("replacement"):  # the transactions stay in the pool until the worker has died
        network.anvil.automine(False)
        killed = run(network, database_url, points, replace_after=0)
    else:
        with network.anvil.mining():
            killed = run(network, database_url, points)
    assert killed == -signal.SIGKILL, f"{point} was never reached"
    with network.anvil.mining():
        assert run(network, database_url) == 0
    assert_each_happened_once(network, database)


def test_sender__three_at_once_of_which_one_is_killed__each_intent_happens_once(
    network: Network, database: Database, database_url: str, tmp_path: Path
) -> None:
    enqueue(network, database)
    with network.anvil.mining():
        workers = [start(network, database_url, point) for point in (None, None, armed(tmp_path, "marked"))]
        outputs = [worker.communicate(timeout=90)[0] for worker in workers]
    assert [worker.returncode for worker in workers[:2]] == [0, 0], outputs
    assert_each_happened_once(network, database)
