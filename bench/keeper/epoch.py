"""An epoch of 100,000 nodes, from stored receipts to a signed root, and its verification; one process each.

    python -m bench.keeper.epoch [--nodes N] [--slots S] [--smoke] [--out bench/results/keeper.json]

Three keepers probed every node in every slot, so there are 3 x nodes x slots dual-signed receipts. `close` starts with
this keeper's receipts in its database and the others' documents as bytes, as they come over HTTP, and ends with the
stored signature under the report; `verify` starts with the bundle's bytes and ends with the balanced account.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson

from bench import figures as results
from offchain.chain.reader import EpochStatus, KeeperSet
from offchain.crypto.keys import Signer
from offchain.db.cursors import move
from offchain.db.database import open_database
from offchain.db.migrations import upgrade
from offchain.db.models import Event, Job
from offchain.domain.canonical_json import canonical
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.epochs import EpochClock
from offchain.domain.evidence_entries import AnswerEntry
from offchain.domain.measurement.schedule import ProbeSchedule, probe_challenge, seed_of
from offchain.domain.messages import ServiceReceipt, SlotReceipt, proof_of_execution
from offchain.domain.payout import epoch_account, reward
from offchain.domain.types import Address, BlockRef, Epoch, NodeId, Wei, Weight
from offchain.evidence.bundle import read, verify_bundle
from offchain.evidence.document import Evidence
from offchain.evidence.epoch_context import EpochContext, SeedBlock
from offchain.evidence.epoch_context_reader import EpochContextReader
from offchain.evidence.keeper_peers import ProposalReply
from offchain.keeper import store
from offchain.keeper.attestation.lease import alone
from offchain.keeper.attestation.open_epochs import frozen_at
from offchain.keeper.attestation.service import AttestService

EPOCH = Epoch(5)
CHAIN_ID = 31337
ATTESTATION = SigningDomain(CHAIN_ID, "0x" + "aa" * 20)
MARKET = SigningDomain(CHAIN_ID, "0x" + "bb" * 20)
SEED = BlockRef(1, "0x" + keccak256(b"seed block").hex(), 0)
REGIONS = ("eu", "us", "ap")
KEYS = 64
"""Node keys are shared by many nodes, which makes the input faster to produce and no check cheaper."""
STAKE = 50_000 * 10**18
POOL = Wei(34_246 * 10**18)


def key(name: str) -> Signer:
    return Signer.from_key(keccak256(name.encode()))


def clock_of(slots: int) -> EpochClock:
    return EpochClock(1_700_000_000, 86_400, slots)


class Network:
    """`Deployment` and `ChainView` of the made-up network."""

    def __init__(self, slots: int) -> None:
        self._clock = clock_of(slots)
        self.keepers = [key(f"keeper {i}") for i in range(3)]

    def clock(self) -> EpochClock:
        return self._clock

    def signing_domain(self, name: str) -> SigningDomain:
        return MARKET if name == "InferenceMarket" else ATTESTATION

    def latest(self) -> BlockRef:
        return self.block(3)

    def block(self, number: int) -> BlockRef:
        start = self._clock.start(EPOCH)
        times = (0, start - 7_200, start - 60, self._clock.end(EPOCH) + 60)
        return BlockRef(
            number, SEED.hash if number == 1 else "0x" + keccak256(b"%d" % number).hex(), times[number]
        )

    def keeper_set(self, epoch: Epoch, at: BlockRef) -> KeeperSet:
        return KeeperSet(epoch, tuple(signer.address for signer in self.keepers), 3, keccak256(b"set"))

    def status(self, epoch: Epoch) -> EpochStatus:
        return EpochStatus.OPEN if epoch == EPOCH else EpochStatus.LAPSED

    def submit_deadline(self, epoch: Epoch) -> int:
        return self._clock.end(epoch) + 86_400

    def pool(self, epoch: Epoch) -> Wei:
        return POOL


class StillClock:
    """A clock that stands just after the epoch's evidence was frozen."""

    def __init__(self, slots: int) -> None:
        self._ms = (frozen_at(clock_of(slots), EPOCH) + 1) * 1000

    def now_ms(self) -> int:
        return self._ms


class PeersOnDisk:
    """`Peers` whose documents are on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def evidence(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        return {
            str(path): orjson.loads(path.read_bytes())
            for path in sorted(self._folder.glob("evidence-*.json"))
        }

    def epoch(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        return {}

    def bundle(self, urls: Sequence[str], bundle_hash: str) -> bytes | None:
        return None

    def propose(self, urls: Sequence[str], epoch: Epoch, proposal: Mapping[str, Any]) -> list[ProposalReply]:
        return []


class UnreachedOutbox:
    """An outbox that is never called: without the two other signatures there is nothing to submit."""

    def submit_report(self, *_: Any) -> None:
        raise AssertionError("there is no quorum in this bench")


def seed_signature(keeper: Signer) -> bytes:
    return keeper.sign_digest(probe_challenge(EPOCH, bytes.fromhex(SEED.hash[2:])))


def entries(task: tuple[int, int, int, int]) -> list[str]:
    """Packed answers of one keeper about some nodes in one slot."""
    which, slot, first, last = task[0], task[1] >> 16, task[2], task[3]
    slots = task[1] & 0xFFFF
    keeper, nodes = key(f"keeper {which}"), [key(f"node {i}") for i in range(KEYS)]
    schedule = ProbeSchedule(clock_of(slots), EPOCH, seed_of(seed_signature(keeper)))
    revision, result = keccak256(b"revision"), b"Paris"
    result_hash, found = keccak256(result), []
    for number in range(first, last):
        node = NodeId(number)
        request = keccak256(b"%d %d %d" % (which, slot, number))
        started = schedule.due_ms(node, slot) + 20
        receipt = ServiceReceipt(
            request, node, keccak256(request), result_hash, proof_of_execution(request, result, node), revision,
            20, 4, started, started + 300, Wei(24 * 10**12),
        )  # fmt: skip
        struct = receipt.struct_hash()
        answer = AnswerEntry(
            slot,
            receipt,
            nodes[number % KEYS].sign_struct(MARKET, struct),
            keeper.sign_struct(ATTESTATION, SlotReceipt(EPOCH, slot, node, struct).struct_hash()),
        )
        found.append(answer.pack())
    return found


def prepare(folder: Path, nodes: int, slots: int) -> None:
    """Make the receipts: two keepers' documents as files, the third's in its database, with the chain's events."""
    step, own = 5_000, list[str]()
    with multiprocessing.Pool() as pool:
        for which in range(3):
            tasks = [
                (which, slot << 16 | slots, first, min(first + step, nodes + 1))
                for slot in range(slots)
                for first in range(1, nodes + 1, step)
            ]
            answers = [text for part in pool.imap(entries, tasks) for text in part]
            if which == EPOCH % 3:
                own = answers
                continue
            signer = key(f"keeper {which}")
            document = Evidence(
                ATTESTATION, EPOCH, Address(signer.address.lower()), SeedBlock(SEED.number, SEED.hash),
                seed_signature(signer), tuple(answers), (), (), homes(nodes),
            ).sign(signer)  # fmt: skip
            (folder / f"evidence-{which}.json").write_bytes(canonical(document.to_json()))
    url = f"sqlite:///{folder}/keeper.db"
    upgrade(url)
    database = open_database(url)
    network = Network(slots)
    with database.write() as session:
        session.add_all(events(network, nodes))
        session.add_all(
            Job(kind=store.REGION, ref=str(node), status="done", created_at=0, result={"region": region})
            for region, ids in homes(nodes).items()
            for node in ids
        )
        move(session, "finalized", None, network.block(3))
        probes = [
            store.DueProbe(EPOCH, slot, NodeId(n), 0) for slot in range(slots) for n in range(1, nodes + 1)
        ]
        store.plan_probes(session, probes)
        for probe, text in zip(probes, own, strict=True):
            store.record_probe(session, probe, "answered", {"entry": text}, 300)
    database.close()


def homes(nodes: int) -> dict[str, tuple[int, ...]]:
    """Region -> ids of the nodes in it; all keepers agree."""
    return {region: tuple(range(i + 1, nodes + 1, len(REGIONS))) for i, region in enumerate(REGIONS)}


def events(network: Network, nodes: int) -> list[Event]:
    """The events of the chain: three keepers join, all nodes register."""
    addresses = [key(f"node {i}").address for i in range(KEYS)]
    joined = [
        ("KeeperJoined", {"keeperId": str(i + 1), "operator": "0x" + f"{i + 1:040x}", "signer": keeper.address,
                          "region": "0x" + REGIONS[i].encode().ljust(32, b"\0").hex(), "url": ""})
        for i, keeper in enumerate(network.keepers)
    ]  # fmt: skip
    registered = [
        ("NodeRegistered", {"nodeId": str(n), "owner": "0x" + f"{n + 1000:040x}", "tier": "1", "stake": str(STAKE),
                            "nodeKeyHash": "0x" + "00" * 12 + addresses[n % KEYS][2:].lower(), "activeFrom": "2"})
        for n in range(1, nodes + 1)
    ]  # fmt: skip
    return [
        Event(
            block_hash="0x" + "ee" * 32, log_index=i, block_number=1, block_timestamp=1_700_000_100,
            tx_hash="0x" + "dd" * 32, contract="NodeRegistryLocker", name=name, args=args,
        )
        for i, (name, args) in enumerate(joined + registered)
    ]  # fmt: skip


def service(folder: Path, slots: int) -> tuple[AttestService, EpochContextReader, Any]:
    database = open_database(f"sqlite:///{folder}/keeper.db")
    network: Any = Network(slots)
    frames = EpochContextReader(database, network, network)
    made = AttestService(
        database,
        network,
        frames,
        network.keepers[EPOCH % 3],
        StillClock(slots),
        PeersOnDisk(folder),
        UnreachedOutbox(),
        ["http://peer"],
    )
    return made, frames, database


def close(folder: Path, slots: int) -> dict[str, Any]:
    """Lead the epoch: from receipts to the signed report."""
    attest, _frames, database = service(folder, slots)
    with Memory() as memory, alone(database, StillClock(slots), "attest") as fence:
        assert fence is not None
        began = time.perf_counter()
        attest.leader.step(fence)
        seconds = time.perf_counter() - began
    with database.read() as session:
        [signed] = store.signatures(session, EPOCH)
        raw = store.load_bundle(session, signed.report["bundleHash"])
    assert raw is not None
    (folder / "bundle.json").write_bytes(raw)
    return {
        "epoch_100k_s": round(seconds, 2),
        "epoch_100k_rss_mib": memory.peak_mib,
        "bundle_mib": len(raw) >> 20,
    }


def verify(folder: Path, slots: int) -> dict[str, Any]:
    """What `epoch verify` computes once chain events are scanned and the bundle is there."""
    _attest, frames, _database = service(folder, slots)
    raw = (folder / "bundle.json").read_bytes()
    with Memory() as memory:
        began = time.perf_counter()
        context: EpochContext = frames.read(EPOCH, Network(slots).block(3))
        verdict = verify_bundle(context, read(raw, context))
        total = Weight(sum(node.weight for node in context.nodes.values()))
        uptimes = verdict.table.uptimes()
        earned = {n: reward(POOL, context.nodes[n].weight, total, uptimes[n]) for n in uptimes}
        account = epoch_account(POOL, earned, {})
        seconds = time.perf_counter() - began
    assert account.claimable + account.carried == POOL
    assert verdict.tree.uptime(NodeId(1)) == 10_000
    return {
        "verify_100k_s": round(seconds, 2),
        "verify_100k_rss_mib": memory.peak_mib,
    }


class Memory(threading.Thread):
    """Peak resident memory of this process and of all processes that share its work, MiB; shared pages count in each."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.peak_mib = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        pages = os.sysconf("SC_PAGE_SIZE")
        while not self._over.wait(0.2):
            total, queue = 0, [str(os.getpid())]
            while queue:
                process = Path("/proc") / queue.pop()
                with suppress(FileNotFoundError, ProcessLookupError):
                    total += int((process / "statm").read_text().split()[1]) * pages
                    queue += [
                        pid for task in process.glob("task/*/children") for pid in task.read_text().split()
                    ]
            self.peak_mib = max(self.peak_mib, total >> 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=1, help="slots of the epoch; 288 in a real one")
    parser.add_argument(
        "--smoke", action="store_true", help="300 nodes and no bounds: it runs, figures mean nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/keeper.json"))
    parser.add_argument("--part", choices=["close", "verify"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.nodes = 300
    if chosen.part:
        part = close if chosen.part == "close" else verify
        print(json.dumps(part(chosen.folder, chosen.slots)))
        return
    figures: dict[str, Any] = {"epoch_nodes": chosen.nodes, "epoch_receipts": 3 * chosen.nodes * chosen.slots}
    with tempfile.TemporaryDirectory(prefix="parallelix-bench-") as text:
        folder = Path(text)
        began = time.perf_counter()
        prepare(folder, chosen.nodes, chosen.slots)
        print(
            f"made {figures['epoch_receipts']} receipts in {time.perf_counter() - began:.1f} s",
            file=sys.stderr,
        )
        for part_name in ("close", "verify"):
            words = [
                sys.executable,
                "-m",
                "bench.keeper.epoch",
                "--part",
                part_name,
                "--folder",
                text,
                "--slots",
                str(chosen.slots),
            ]
            done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
            figures |= json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(figures), file=sys.stderr)
    results.merge(chosen.out, figures)
    if chosen.smoke:
        return
    assert figures["epoch_100k_s"] < 60, figures
    assert figures["epoch_100k_rss_mib"] < 2_048, figures
    assert figures["verify_100k_s"] < 60, figures


if __name__ == "__main__":
    main()
