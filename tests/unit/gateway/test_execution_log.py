"""Execution records of a gateway that runs alone: written, closed into batches, found again with their proofs."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import SigningDomain
from offchain.domain.epochs import EpochClock
from offchain.domain.evidence_entries import EXECUTION_SIZE, Execution
from offchain.domain.execution_tree import BATCH, ExecutionProof, ExecutionTree, verify
from offchain.domain.types import Epoch, Wei
from offchain.gateway.records import execution_batch_process, execution_log
from offchain.gateway.records.execution_batch_process import ExecutionBatchProcess
from offchain.gateway.records.execution_log import ExecutionLog
from offchain.gateway.records.pending_executions import FilePending
from offchain.protocol.receipts import SignedReceipt
from tests.support.keeper.epoch_factory import receipt_of

CLOCK = EpochClock(genesis=1_700_000_000, length_seconds=60, slots=4)
DOMAIN = SigningDomain(31337, "0x" + "aa" * 20)
KEY = Signer.from_key(b"\x07" * 32)


def answered(number: int, at: int) -> SignedReceipt:
    """A receipt of a request that was made in a Unix second."""
    request_id = (at // 60).to_bytes(4, "big") + number.to_bytes(28, "big")
    return SignedReceipt(receipt_of(1 + number % 3, request_id, at * 1000), bytes(65), "0x")


class World:
    """A gateway's log, and time that is moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = CLOCK.start(Epoch(5)) + 20
        self.pending = Store(folder)
        self.log = self.restarted()

    def restarted(self) -> ExecutionLog:
        """A new process over the same folder; what the old one had not written is gone."""
        self.log = ExecutionLog(
            self.folder, self.pending, CLOCK, DOMAIN, KEY.sign, lambda: self.now * 1000, self.begin
        )
        return self.log

    def begin(self, epoch: Epoch) -> ExecutionBatchProcess:
        """The real process."""
        return ExecutionBatchProcess(self.folder, None, epoch)

    def serve(self, *numbers: int) -> list[SignedReceipt]:
        """Answer requests and write them down."""
        made = [answered(number, self.now) for number in numbers]
        for one in made:
            self.log.add(one)
        step(self.log)
        return made

    def end_epoch(self) -> None:
        """Move to two seconds after the end of the present epoch, and let the gateway work."""
        self.now = CLOCK.end(CLOCK.epoch_at(self.now)) + 2
        step(self.log)

    def counts(self) -> dict[int, int]:
        """Records in each batch."""
        return {item["epoch"]: item["count"] for item in self.log.listed(0)}


class Store(FilePending):
    """The real store, which may fail as a full disk or a lost connection does."""

    fails = False

    def add(self, records: Sequence[bytes], unless_taken: int | None = None) -> None:
        if self.fails:
            raise OSError("no space")
        super().add(records, unless_taken)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def holds(found: dict[str, Any] | None, signed: SignedReceipt) -> bool:
    """Whether what the gateway gives for a request proves it."""
    assert found is not None
    batch = found["batch"]
    proof = ExecutionProof(
        found["index"], found["count"], tuple(bytes.fromhex(item[2:]) for item in found["siblings"])
    )
    root, epoch = bytes.fromhex(batch["root"][2:]), Epoch(batch["epoch"])
    return (
        found["receipt"] == signed.receipt.to_json()
        and batch["gateway"] == KEY.address
        and verify(root, epoch, signed.receipt.struct_hash(), proof, BATCH)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13, 700])
def test_close__epoch_is_over__every_request_is_found_and_proven(world: World, count: int) -> None:
    made = world.serve(*range(count))
    assert world.log.find(made[0].receipt.request_id) is None, "no batch has it yet"
    world.end_epoch()
    assert world.counts() == {5: count}
    for one in made:
        assert holds(world.log.find(one.receipt.request_id), one)
    assert world.log.find(answered(count, world.now).receipt.request_id) is None
    assert world.log.find(bytes(32)) is None


def step(log: ExecutionLog) -> None:
    """What `run` does again and again, once."""
    log.write_new()
    log.close_over()


def test_close__again_and_after_a_restart__is_one_batch(world: World) -> None:
    made = world.serve(1, 2)
    world.end_epoch()
    before = world.log.listed(0)
    step(world.log)
    step(world.restarted())
    assert world.log.listed(0) == before
    assert holds(world.log.find(made[0].receipt.request_id), made[0])


def test_close__nothing_was_served__makes_no_batch(world: World) -> None:
    world.end_epoch()
    world.end_epoch()
    assert world.counts() == {}


def test_close__gateway_was_away_for_epochs__late_records_are_in_the_next_batch(world: World) -> None:
    first = world.serve(1)
    world.now = CLOCK.start(Epoch(9)) + 30
    step(world.restarted())
    second = world.serve(2)
    world.end_epoch()
    assert world.counts() == {9: 2}
    assert holds(world.log.find(first[0].receipt.request_id), first[0])
    assert holds(world.log.find(second[0].receipt.request_id), second[0])


def test_close__started_long_after_the_end__leaves_what_waits_to_the_next_batch(world: World) -> None:
    world.serve(1)
    assert world.counts() == {}
    world.now = CLOCK.end(Epoch(5)) + execution_log.CLOSE_UNTIL_SECONDS
    step(world.restarted())
    assert world.counts() == {}
    world.end_epoch()
    assert world.counts() == {6: 1}


def test_close__killed_between_any_two_steps__same_batch_and_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world.serve(1, 2, 3)
    root = ExecutionTree(Epoch(5), [one.receipt.struct_hash() for one in made], BATCH).root

    class KilledError(Exception):
        pass

    def die(*_: object) -> None:
        raise KilledError

    world.now = CLOCK.end(Epoch(5)) + 2
    for name in ("draft", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(ExecutionBatchProcess, name, die)
            with pytest.raises(KilledError):
                step(world.log)
        world.restarted()
    assert world.counts() == {}
    with monkeypatch.context() as patch:
        patch.setattr(world.pending, "done", die)
        with pytest.raises(KilledError):
            step(world.log)
    world.restarted()
    world.now = CLOCK.end(Epoch(6)) + 2
    step(world.log)
    assert [(item["epoch"], item["root"]) for item in world.log.listed(0)] == [(5, "0x" + root.hex())]
    assert sorted(path.name for path in world.folder.iterdir()) == ["5.batch"]


def test_write__a_batch_is_being_made__does_not_wait_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.serve(1)
    late: list[SignedReceipt] = []
    real = ExecutionBatchProcess.write

    def slow(*given: Any) -> None:
        late.append(answered(2, world.now))
        world.log.add(late[0])
        writing = threading.Thread(target=world.log.write_new)
        writing.start()
        writing.join(5)
        assert not writing.is_alive()
        real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(ExecutionBatchProcess, "write", slow)
        world.end_epoch()
    world.restarted()  # killed: what was written stays
    world.end_epoch()
    assert world.counts() == {5: 1, 6: 1}
    assert holds(world.log.find(late[0].receipt.request_id), late[0])


@pytest.mark.parametrize(
    ("blocked", "shown"), [("5.raw", [(True, {})]), ("5.batch", [(True, {}), (False, {5: 2})])]
)
def test_close__file_cannot_be_written__is_listed_when_signed_and_made_later(
    world: World, monkeypatch: pytest.MonkeyPatch, blocked: str, shown: list[tuple[bool, dict[int, int]]]
) -> None:
    made = world.serve(1, 2)
    seen: list[tuple[bool, dict[int, int]]] = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            seen.append((world.log.making, world.counts()))
            return real(*given)

        return call

    (world.folder / blocked).mkdir()
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(ExecutionBatchProcess, "draft", watched(ExecutionBatchProcess.draft))
        patch.setattr(ExecutionBatchProcess, "write", watched(ExecutionBatchProcess.write))
        world.end_epoch()
    assert seen == shown
    assert [(entry["what"], "IsADirectoryError" in entry["reason"]) for entry in logs] == [("close", True)]
    assert world.log.find(made[0].receipt.request_id) is None
    (world.folder / blocked).rmdir()
    world.now += execution_log.LOOK_SECONDS
    step(world.log)
    assert holds(world.log.find(made[0].receipt.request_id), made[0])


@pytest.mark.parametrize("name", ["draft", "write"])
def test_close__process_is_killed__is_said_and_the_batch_is_made_later(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = world.serve(1)
    real = getattr(ExecutionBatchProcess, name)
    pids = []

    def killed(process: ExecutionBatchProcess, *given: Any) -> Any:
        pids.append(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        return real(process, *given)

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(ExecutionBatchProcess, name, killed)
        world.end_epoch()
    assert [entry["reason"] for entry in logs] == [
        "the process that makes a batch ended with -9: it said nothing"
    ]
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    world.now += execution_log.LOOK_SECONDS
    step(world.log)
    assert holds(world.log.find(made[0].receipt.request_id), made[0])


def test_stop__batch_in_the_making__is_given_up_at_once_and_made_by_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world.serve(1)
    real = ExecutionBatchProcess.draft

    def stopped(process: ExecutionBatchProcess) -> Any:
        os.kill(process.pid, signal.SIGSTOP)  # it would never end by itself
        world.log.stop()
        return real(process)

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(ExecutionBatchProcess, "draft", stopped)
        world.end_epoch()
        world.now += execution_log.LOOK_SECONDS
        step(world.log)
    assert logs == []
    assert world.counts() == {}
    world.pending.fails = True
    world.log.add(answered(2, world.now))
    with structlog.testing.capture_logs() as logs:
        world.log.write_new()
    assert [entry["what"] for entry in logs] == ["write"], "what could not be written at the end is told"
    step(world.restarted())
    assert holds(world.log.find(made[0].receipt.request_id), made[0])


def test_stored__writer_was_killed__what_it_left_is_removed(world: World) -> None:
    made = world.serve(1)
    world.end_epoch()
    left = world.folder / ".5.batch.k1ll3d"  # as `runtime.files.replacing` names it
    left.write_bytes(b"half a batch")
    world.restarted()
    assert not left.exists()
    assert holds(world.log.find(made[0].receipt.request_id), made[0])


def test_process__gateway_is_killed__ends_at_once_and_leaves_no_batch(world: World) -> None:
    world.serve(1)
    assert world.pending.take(5)
    order = {"folder": str(world.folder), "redis_url": None, "epoch": 5}
    with subprocess.Popen(
        [sys.executable, "-m", execution_batch_process.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["count"] == 1
        process.stdin.close()
        assert process.wait(5) == 1
    assert not list(world.folder.glob("*.batch"))


def test_close__killed_after_the_rename_and_back_an_epoch_later__the_batch_is_made(world: World) -> None:
    made = world.serve(1)
    assert world.pending.take(5)
    world.now = CLOCK.end(Epoch(7)) + 2
    step(world.restarted())
    assert world.counts() == {5: 1}
    assert holds(world.log.find(made[0].receipt.request_id), made[0])


def test_write__killed_in_the_middle_of_a_record__the_rest_stays_whole(world: World) -> None:
    made = world.serve(1)
    with (world.folder / "pending").open("ab") as file:
        file.write(b"x" * (EXECUTION_SIZE - 1))
    world.restarted()
    made += world.serve(2)
    world.end_epoch()
    assert world.counts() == {5: 2}
    assert all(holds(world.log.find(one.receipt.request_id), one) for one in made)


def test_write__store_fails__is_written_later_and_what_is_too_much_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pending.fails = True
    made = world.serve(1, 2)
    world.pending.fails = False
    made += world.serve(3)
    world.end_epoch()
    assert world.counts() == {5: 3}
    assert all(holds(world.log.find(one.receipt.request_id), one) for one in made)
    assert world.log.lost == 0
    monkeypatch.setattr(execution_log, "MAX_UNWRITTEN", 2)
    world.restarted()
    world.pending.fails = True
    world.serve(4, 5, 6)
    assert world.log.lost == 1


def test_write__more_comes_while_the_store_fails__what_is_pushed_out_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_log, "MAX_UNWRITTEN", 2)
    world.restarted()
    log, late = world.log, answered(9, world.now)

    def fail(*_: object) -> None:
        log.add(late)
        raise OSError("the disk is full")

    for number in (7, 8):
        log.add(answered(number, world.now))
    monkeypatch.setattr(world.pending, "add", fail)
    log.write_new()
    assert log.lost == 1


def test_add__receipt_that_no_contract_reads__is_left_out(world: World) -> None:
    signed = answered(1, world.now)
    for change in ({"prompt_tokens": 2**32}, {"price_wei": Wei(2**256)}, {"finished_at_ms": 2**64}):
        world.log.add(signed._replace(receipt=signed.receipt._replace(**change)))
    world.end_epoch()
    assert world.counts() == {}
    assert world.log.lost == 3


def test_forget__thirty_days_later__files_are_gone(world: World) -> None:
    made = world.serve(1)
    world.end_epoch()
    world.now += execution_log.KEEP_SECONDS + 120
    step(world.log)
    assert world.counts() == {}
    assert world.log.find(made[0].receipt.request_id) is None
    assert list(world.folder.glob("*.batch")) == []


def test_listed__since__the_newest_from_there_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        world.serve(number)
        world.end_epoch()
    assert [item["epoch"] for item in world.log.listed(7)] == [7, 8]
    monkeypatch.setattr(execution_log, "MAX_LISTED", 2)
    assert [item["epoch"] for item in world.log.listed(0)] == [7, 8]


def test_stored__file_of_another_kind__is_passed_over(world: World) -> None:
    world.serve(1)
    world.end_epoch()
    (world.folder / "9.batch").write_bytes(b"")
    world.restarted()
    assert world.counts() == {5: 1}


def test_execution__bytes__come_back() -> None:
    signed = answered(3, CLOCK.genesis)
    execution = Execution(signed.receipt, signed.signature)
    assert Execution.from_bytes(execution.to_bytes()) == execution
    assert len(execution.to_bytes()) == EXECUTION_SIZE
