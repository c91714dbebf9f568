"""A plausible network written through the real tables, and the chain that belongs to it, for tests and screenshots.

Everything follows from a seed number: the same call gives the same bytes.
"""

import random
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import create_engine, insert
from sqlalchemy.engine import Engine

from offchain.chain.deployment import Deployment
from offchain.crypto.keys import Signer
from offchain.db.models import (
    Base,
    Bundle,
    Claim,
    Cursor,
    Event,
    Keeper,
    MarketRequest,
    Node,
    NodeInterval,
    Probe,
    Report,
    SlotRecord,
)
from offchain.domain.eip712 import keccak256
from offchain.domain.evidence_entries import Miss
from offchain.domain.messages import MissReason, SlotMiss
from offchain.domain.payout import reward
from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Bps, Epoch, NodeId, Wei, Weight
from offchain.domain.uptime_tree import UptimeTree
from offchain.evidence.bundle import assemble
from offchain.evidence.document import Evidence
from offchain.evidence.epoch_context import EpochContext, SeedBlock
from tests.support.webapp.chain import (
    GENESIS,
    POOL,
    PRLX,
    SeededNetwork,
    address_of,
    hash_of,
    write_deployment,
)
from webapp import create_app
from webapp.settings import DashboardSettings


def empty(folder: Path, length: int = 86_400, slots: int = 288) -> SeededNetwork:
    """Tables without a row, and a deployment."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder / 'index.db'}"
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    engine.dispose()
    write_deployment(folder / "deployment.json", length, slots)
    return SeededNetwork(url, folder / "deployment.json", folder, length, slots, GENESIS + 60, 0)


def seed(
    folder: Path,
    nodes: int = 24,
    epochs: int = 40,
    owners: int = 5,
    length: int = 86_400,
    slots: int = 288,
    number: int = 7,
    claimed_share: float = 0.7,
    evidence: bool = True,
) -> SeededNetwork:
    """A network in the middle of epoch `epochs`: reports, slots, claims, live probes."""
    net = empty(folder, length, slots)
    rng = random.Random(number)
    net.epoch, net.now = epochs, GENESIS + epochs * length + int(length * 0.62)
    net.owners = [address_of(f"owner {i}") for i in range(owners)]
    engine = create_engine(net.url)
    rows = _nodes(net, nodes, rng)
    with engine.begin() as connection:
        connection.execute(insert(Node), rows)
    _keepers(engine, net)
    if evidence:
        with engine.begin() as connection:
            connection.execute(
                insert(Event),
                [
                    _event(
                        net, row["registered_block"], 0, row["registered_at"], "NodeRegistryLocker", "NodeRegistered",
                        nodeId=row["node_id"], owner=row["owner"], tier=row["tier"], stake=row["stake_wei"],
                        activeFrom=row["active_from"],
                    )
                    for row in rows
                ],
            )  # fmt: skip
    _history(engine, net, rows, rng, claimed_share, evidence)
    _probes(engine, net, rows, rng)
    _served(engine, rows, rng)
    head = 90_000 + epochs
    with engine.begin() as connection:
        connection.execute(
            insert(Cursor),
            [
                {
                    "name": "head",
                    "block_number": head,
                    "block_hash": hash_of("head"),
                    "block_timestamp": net.now - 3,
                },
                {
                    "name": "finalized",
                    "block_number": head - 12,
                    "block_hash": hash_of("final"),
                    "block_timestamp": net.now - 147,
                },
            ],
        )
    engine.dispose()
    return net


def _nodes(net: SeededNetwork, count: int, rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        owner = net.owners[0] if i < 6 else rng.choice(net.owners[1:] or net.owners)
        active_from = 1 if i < count // 2 else min(net.epoch, 1 + rng.randrange(max(1, net.epoch // 2)))
        row: dict[str, Any] = {
            "node_id": i + 1,
            "owner": owner,
            "beneficiary": owner,
            "key_address": address_of(f"key {i}"),
            "key_hash": hash_of(f"key {i}"),
            "tier": (3, 2, 2, 1, 1, 4)[i] if i < 6 else rng.choices((1, 2, 3, 4), (4, 5, 3, 1))[0],
            "stake_wei": (50_000 + 2_500 * rng.randrange(0, 21)) * PRLX,
            "active_from": active_from,
            "active_until": None,
            "unlock_at": None,
            "withdrawn": False,
            "manifest_hash": None,
            "manifest_uri": None,
            "registered_block": 100 + i * 7,
            "registered_at": GENESIS - 3_600 + i * 90,
        }
        if count >= 12 and i == 4:
            row |= {"active_until": net.epoch + 1, "unlock_at": net.now + 5 * 86_400}
        if count >= 12 and i == count - 1:
            row |= {"active_from": net.epoch + 1}
        if count >= 12 and i == count - 2:
            row |= {"active_until": max(2, net.epoch - 9), "unlock_at": net.now - 86_400, "withdrawn": True}
        rows.append(row)
    return rows


def _keepers(engine: Engine, net: SeededNetwork) -> None:
    regions = ("eu-west", "us-east", "ap-south")
    with engine.begin() as connection:
        connection.execute(
            insert(Keeper),
            [
                {
                    "keeper_id": i + 1,
                    "operator": address_of(f"keeper operator {i}"),
                    "signer": keeper_signer(i).address,
                    "bond_wei": 100_000 * PRLX,
                    "region": region,
                    "url": f"http://keeper-{i + 1}.example",
                    "active_from": 0,
                    "active_until": None,
                }
                for i, region in enumerate(regions)
            ],
        )


def keeper_signer(number: int) -> Signer:
    """The key of a seeded keeper."""
    return Signer.from_key(keccak256(b"keeper key %d" % number))


def _bundle(net: SeededNetwork, epoch: int, records: list[dict[str, Any]]) -> bytes:
    """A bundle with the misses alone, as two keepers signed them."""
    deployment = Deployment.load(net.deployment)
    domain = deployment.signing_domain("UptimeAttestation")
    seed_block = SeedBlock(epoch, hash_of(f"seed {epoch}"))
    slot_ms = net.length * 1000 // net.slots
    documents = []
    for keeper in (0, 1):
        signer = keeper_signer(keeper)
        misses = []
        for record in records:
            for slot, letter in enumerate(record["states"]):
                if letter != "m" and not (letter == "n" and keeper == 0):
                    continue
                at_ms = (GENESIS + epoch * net.length) * 1000 + slot * slot_ms + 40_000 + keeper * 7_000
                reason = MissReason.TIMEOUT if slot % 3 else MissReason.UNREACHABLE
                miss = SlotMiss(Epoch(epoch), slot, NodeId(record["node_id"]), at_ms, reason)
                signature = signer.sign_struct(domain, miss.struct_hash())
                misses.append(Miss(slot, miss.node_id, at_ms, reason, signature).pack())
        evidence = Evidence(
            domain, Epoch(epoch), signer.address, seed_block, bytes(65), (), tuple(misses), (), {}, ()
        )
        documents.append(evidence.sign(signer))
    context = EpochContext(
        deployment.clock(), Epoch(epoch), 0, {}, (), 0, bytes(32), seed_block, domain, domain
    )
    return assemble(context, documents).raw


def _event(
    net: SeededNetwork, block: int, index: int, at: int, contract: str, name: str, **args: Any
) -> dict[str, Any]:
    node, epoch = args.get("nodeId"), args.get("epoch")
    return {
        "block_hash": hash_of(f"block {block}"),
        "log_index": index,
        "block_number": block,
        "block_timestamp": at,
        "tx_hash": hash_of(f"tx {block} {index}"),
        "contract": contract,
        "name": name,
        "args": {key: str(value) for key, value in args.items()},
        "node_id": node,
        "epoch": epoch,
        "entity": None,
    }


def _active(row: dict[str, Any], epoch: int) -> bool:
    return row["active_from"] <= epoch and (row["active_until"] is None or epoch < row["active_until"])


def _states(rng: random.Random, slots: int, quality: float) -> str:
    letters = ["u"] * slots
    if rng.random() > quality:
        for _ in range(rng.randrange(1, 4)):
            start, length = rng.randrange(slots), rng.randrange(1, max(2, slots // 24))
            for slot in range(start, min(slots, start + length)):
                letters[slot] = "m"
    for slot in range(slots):
        if letters[slot] == "u" and rng.random() < 0.004:
            letters[slot] = rng.choice("na")
    return "".join(letters)


def _history(
    engine: Engine,
    net: SeededNetwork,
    rows: list[dict[str, Any]],
    rng: random.Random,
    claimed_share: float,
    evidence: bool,
) -> None:
    challenge = net.length // 4
    for epoch in range(net.epoch + 2):
        active = [row for row in rows if _active(row, epoch)]
        total = sum(weight(row["stake_wei"], Tier(row["tier"])) for row in active)
        net.pools[epoch], net.totals[epoch] = (POOL + epoch % 3 if total or epoch else POOL), total
        if epoch >= net.epoch or not active:
            continue
        if epoch == net.epoch - 11:
            net.lapsed.add(epoch)
            continue
        records, claims, uptimes = [], [], {}
        submitted = GENESIS + (epoch + 1) * net.length + 600
        final_at = submitted + challenge if epoch < net.epoch - 1 else net.now + 4_000
        net.reported[epoch] = final_at
        for row in active:
            quality = 0.93 if row["node_id"] % 5 else 0.6
            states = _states(rng, net.slots, quality)
            bps = 10_000 * (net.slots - states.count("m")) // net.slots
            uptimes[NodeId(row["node_id"])] = Bps(bps)
            records.append({"epoch": epoch, "node_id": row["node_id"], "states": states, "uptime_bps": bps})
            amount = reward(
                Wei(net.pools[epoch]), weight(row["stake_wei"], Tier(row["tier"])), Weight(total), Bps(bps)
            )
            settled = (epoch < net.epoch - 4 and rng.random() < claimed_share) or epoch < net.epoch - 16
            if settled and amount:
                net.paid[epoch] = net.paid.get(epoch, 0) + amount
                claims.append(
                    {
                        "node_id": row["node_id"],
                        "epoch": epoch,
                        "to_address": row["beneficiary"],
                        "amount_wei": amount,
                        "uptime_bps": bps,
                        "paid_at": final_at + 3_600,
                        "tx_hash": hash_of(f"claim {row['owner']} {epoch}"),
                    }
                )
        tree = UptimeTree(Epoch(epoch), len(rows), uptimes)
        bundle_hash, body = hash_of(f"bundle {epoch}"), b""
        if epoch >= net.epoch - 8 and evidence:
            body = _bundle(net, epoch, records)
            bundle_hash = "0x" + keccak256(body).hex()
        block = 80_000 + epoch * 200
        happened = [
            _event(
                net, block, 0, submitted, "UptimeAttestation", "ReportSubmitted",
                epoch=epoch, uptimeRoot="0x" + tree.root.hex(), nodeCount=len(rows), finalAt=final_at,
            )
        ]  # fmt: skip
        for place, claim in enumerate(claims):
            happened.append(
                _event(
                    net, block + 60, place, final_at + 3_600, "RewardDistributor", "RewardClaimed",
                    nodeId=claim["node_id"], epoch=epoch, to=claim["to_address"], amount=claim["amount_wei"],
                    uptimeBps=claim["uptime_bps"],
                )
            )  # fmt: skip
        with engine.begin() as connection:
            if evidence:
                connection.execute(insert(Event), happened)
            if body:
                connection.execute(insert(Bundle), {"hash": bundle_hash, "epoch": epoch, "body": body})
            connection.execute(insert(SlotRecord), records)
            if claims:
                connection.execute(insert(Claim), claims)
            connection.execute(
                insert(Report),
                {
                    "epoch": epoch,
                    "uptime_root": "0x" + tree.root.hex(),
                    "node_count": len(rows),
                    "execution_root": hash_of(f"execution {epoch}"),
                    "bundle_hash": bundle_hash,
                    "rejected": False,
                    "signer_bitmap": 0b111 if epoch % 6 else 0b011,
                    "submitted_at": submitted,
                    "final_at": final_at,
                    "tx_hash": hash_of(f"report {epoch}"),
                },
            )


def _probes(engine: Engine, net: SeededNetwork, rows: list[dict[str, Any]], rng: random.Random) -> None:
    slot_seconds = net.length // net.slots
    reached = (net.now - GENESIS - net.epoch * net.length) // slot_seconds
    probes = []
    for row in rows:
        if not _active(row, net.epoch):
            continue
        for slot in range(max(0, reached - 60), reached):
            missed = rng.random() < 0.004 or (row["node_id"] == 9 and slot > reached - 4)
            due = (GENESIS + net.epoch * net.length + slot * slot_seconds) * 1000 + rng.randrange(
                slot_seconds * 600
            )
            probes.append(
                {
                    "epoch": net.epoch,
                    "slot": slot,
                    "node_id": row["node_id"],
                    "due_at_ms": due,
                    "lease_until_ms": 0,
                    "outcome": "missed" if missed else "answered",
                    "evidence": None,
                    "latency_ms": None if missed else int(rng.lognormvariate(5.2 - row["tier"] * 0.15, 0.25)),
                }
            )
    with engine.begin() as connection:
        connection.execute(insert(Probe), probes)


def _served(engine: Engine, rows: list[dict[str, Any]], rng: random.Random) -> None:
    """A few on-chain requests that nodes answered."""
    with engine.begin() as connection:
        connection.execute(
            insert(MarketRequest),
            [
                {
                    "request_id": hash_of(f"request {row['node_id']} {number}"),
                    "requester": address_of("requester"),
                    "model_hash": hash_of("model"),
                    "payload": b"{}",
                    "price_ceiling_wei": PRLX // 10,
                    "deadline": GENESIS,
                    "requested_block": 100,
                    "status": "fulfilled",
                    "node_id": row["node_id"],
                    "price_wei": PRLX // 400 * rng.randrange(8, 30),
                    "result": b"",
                }
                for row in rows
                for number in range(rng.randrange(0, 14))
            ],
        )


def app_of(net: SeededNetwork, rpc_url: str, **changes: object) -> Flask:
    """The dashboard of a seeded network; its clock stands still at `net.now`."""
    fields = {
        "data_dir": net.folder / "dashboard",
        "rpc_url": rpc_url,
        "deployment": net.deployment,
        "database_url": net.url,
    }
    app = create_app(DashboardSettings(**{**fields, **changes}), clock=lambda: net.now)
    _OPENED.append(app)
    return app


def close_apps() -> None:
    """Close the connections of all apps that `app_of` made."""
    while _OPENED:
        app = _OPENED.pop()
        app.extensions["sources"].close()
        app.extensions["store"].close()


_OPENED: list[Flask] = []


__all__ = [
    "GENESIS",
    "POOL",
    "PRLX",
    "NodeInterval",
    "SeededNetwork",
    "address_of",
    "app_of",
    "empty",
    "hash_of",
    "seed",
]
