"""Figures of a running keeper: how soon an event is in the gateway's routing table and a request on a node, how soon a
killed worker's task runs again, and whether any transaction is lost or doubled while processes die at every step.

    python -m bench.keeper.running [--smoke] [--out bench/results/keeper.json]

Real anvil (a block a second), contracts, keeper, gateway and stub node; medians and p95 over the events of this run.
"""

import argparse
import json
import os
import secrets
import signal
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from bench import figures as results
from offchain.crypto.keys import Signer
from offchain.domain.eip712 import keccak256
from offchain.domain.messages import Heartbeat
from offchain.domain.types import NodeId
from offchain.runtime.crash_points import REQUEST_POINTS, SENDER_POINTS
from tests.support.keeper.processes import OPERATOR, KeeperRig, wait_for
from tests.support.services.anvil import start_anvil

BLOCK_SECONDS = 1
DEATHS = (*REQUEST_POINTS, *(point for point in SENDER_POINTS if not point.startswith("replacement")))


class Rounds(NamedTuple):
    """How often each thing is measured."""

    rotations: int
    requests: int
    kills: int
    deaths: int
    points: tuple[str, ...] = DEATHS
    """The steps at which a process dies in each round of deaths."""


FULL = Rounds(rotations=40, requests=40, kills=5, deaths=2)
SMOKE = Rounds(rotations=2, requests=2, kills=1, deaths=1, points=DEATHS[:2])


def _attempted(rig: KeeperRig, request: str, times: int) -> bool:
    row = rig.row(0, "select attempts from jobs where kind = 'fulfil' and ref = ?", request)
    return row is not None and row[0] == times


def routing(rig: KeeperRig, rotations: int) -> list[float]:
    """Seconds from the block in which a node's key changes until the gateway takes a heartbeat signed with the new key."""
    node, found = NodeId(rig.node_ids[1]), list[float]()
    domain = rig.network.deployment.signing_domain("NodeRegistryLocker")
    body = json.dumps(
        {
            "node_id": node, "url": "http://127.0.0.1:9", "slots": 1, "models": [], "free_slots": 0, "queue": 0,
            "region": "local", "tier": 1, "versions": {}, "price_per_token_wei": "10",
        }
    ).encode()  # fmt: skip
    with httpx.Client(timeout=5) as http:

        def taken(key: Signer) -> bool:
            sent = time.time_ns() // 1_000_000
            signature = key.sign_struct(domain, Heartbeat(node, keccak256(body), sent).struct_hash())
            header = "0x" + sent.to_bytes(8, "big").hex() + signature.hex()
            url, headers = f"{rig.gateway_url}/internal/heartbeat", {"X-Parallelix-Heartbeat": header}
            answer = http.post(url, content=body, headers=headers)
            assert answer.is_success or answer.json()["error"]["code"] == "invalid_signature", answer.text
            return answer.is_success

        for _ in range(rotations):
            key = Signer.from_key(secrets.token_bytes(32))
            key_hash = bytes(12) + bytes.fromhex(key.address[2:])
            rig.network.send(OPERATOR, "NodeRegistryLocker", "setNodeKey", node, key_hash)
            mined = time.monotonic()
            wait_for(partial(taken, key), 20, "the gateway's new record")
            found.append(time.monotonic() - mined)
    return found


def dispatch(rig: KeeperRig, requests: int) -> list[float]:
    """Seconds from the block of a request until a node works on it."""
    found = []
    for number in range(requests):
        served = int(rig.nodes[0].state()["served"])
        request = rig.ask_on_chain()
        mined = time.monotonic()
        wait_for(partial(_served, rig, served), 20, "the node's turn")
        found.append(time.monotonic() - mined)
        wait_for(partial(rig.fulfilments, request), 30, f"fulfilment {number}")
    return found


def _served(rig: KeeperRig, before: int) -> bool:
    return int(rig.nodes[0].state()["served"]) > before


def recover(rig: KeeperRig, kills: int) -> list[float]:
    """Seconds from the death of a worker until its task runs again."""
    rig.nodes[0].set(first_ms=8_000)
    found = []
    for _ in range(kills):
        request = rig.ask_on_chain(120)
        wait_for(partial(_attempted, rig, request, 1), 30, "a first attempt")
        os.kill(rig.keepers[0].child("work"), signal.SIGKILL)
        killed = time.monotonic()
        wait_for(partial(_attempted, rig, request, 2), 30, "a second attempt")
        found.append(time.monotonic() - killed)
        wait_for(partial(rig.fulfilments, request), 60, "a fulfilment")
    return found


def die(rig: KeeperRig, rounds: int, points: tuple[str, ...]) -> int:
    """How many requests or transactions were lost or doubled while a process died at each of `points`, `rounds` times."""
    rig.nodes[0].set(first_ms=5)
    wrong = 0
    for _ in range(rounds):
        rig.arm(*points)
        requests = [rig.ask_on_chain(300) for _ in range(4)]
        wait_for(lambda: not rig.armed(), 120, "a death at each step")
        for request in requests:
            wait_for(partial(rig.fulfilments, request), 120, "a fulfilment")
            wait_for(partial(_final, rig, request), 60, "a final intent")
        wrong += sum(rig.fulfilments(request) != 1 for request in requests)
    faults = rig.row(0, "select count(*) from intents where status = 'fault'")
    return wrong + (int(faults[0]) if faults else 0)


def _final(rig: KeeperRig, request: str) -> bool:
    return rig.row(0, "select status from intents where key = ?", f"fulfil:{request}") == ("final",)


def p95(values: list[float]) -> float:
    return round(sorted(values)[min(len(values) - 1, int(0.95 * len(values)))], 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--smoke", action="store_true", help="each thing once or twice and no bounds: figures mean nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/keeper.json"))
    chosen = parser.parse_args()
    rounds = SMOKE if chosen.smoke else FULL
    with (
        tempfile.TemporaryDirectory(prefix="parallelix-bench-") as text,
        start_anvil("--block-time", "1", "--mixed-mining") as anvil,
    ):
        rig = KeeperRig(anvil, Path(text), bonded=1, epoch_seconds=3_600, slots=10)
        try:
            rig.start_keeper(0)
            rig.start_node(0, beat_seconds=0.5)
            wait_for(lambda: rig.broker(0).keys("parallelix:fleet:*"), 20, "a heartbeat")
            rig.start_gateway()
            lags = routing(rig, rounds.rotations)
            waits = dispatch(rig, rounds.requests)
            recoveries = recover(rig, rounds.kills)
            lost_or_doubled = die(rig, rounds.deaths, rounds.points)
        finally:
            rig.close()
    figures: dict[str, Any] = {
        "routing_lag_p95_s": p95(lags),
        "routing_lag_median_s": round(sorted(lags)[len(lags) // 2], 3),
        "onchain_dispatch_p95_s": p95(waits),
        "onchain_dispatch_median_s": round(sorted(waits)[len(waits) // 2], 3),
        "worker_recovery_s": round(max(recoveries), 2),
        "tx_lost_or_doubled": lost_or_doubled,
        "tx_deaths": rounds.deaths * len(rounds.points),
    }
    results.merge(chosen.out, figures)
    print(json.dumps(figures))
    if chosen.smoke:
        return
    assert figures["routing_lag_p95_s"] <= BLOCK_SECONDS + 1, figures
    assert figures["onchain_dispatch_p95_s"] < 3, figures
    assert figures["worker_recovery_s"] <= 5, figures
    assert figures["tx_lost_or_doubled"] == 0, figures


if __name__ == "__main__":
    main()
