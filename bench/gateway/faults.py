"""What callers see when a node dies or hangs, when a caller leaves, and when another tenant floods."""

import contextlib
import json
import signal
import socket
import subprocess
import time
import tomllib
from typing import Any, cast

import httpx
import redis

from bench.gateway.core import Bench, say
from bench.gateway.parts import Contender, load, start_load, wait_until
from offchain.gateway.records.request_log import RequestRecord
from offchain.gateway.tenants.api_keys import create_key
from tests.support.gateway.processes import Process, Rig


def kill(bench: Bench) -> None:
    """A node is killed with SIGKILL while streams and whole answers are in flight."""
    bench.detail["kill"] = {}
    names = ("parallelix", *bench.rival_names)
    for name in names:
        try:
            counts = _kill_one(bench, name)
        except (RuntimeError, subprocess.SubprocessError) as error:
            if name == "parallelix":
                raise
            say(f"  {name}: {error}: left out")
            continue
        if counts is not None:
            bench.detail["kill"][name] = counts
            say(f"  {name}: {counts}")
    ours = bench.detail["kill"]["parallelix"]
    bench.figures["kill_lost"] = ours["lost"] + ours["plain_bad"] + ours["error_event"]
    bench.figures["kill_truncated"] = ours["truncated"]
    bench.figures["kill_duplicated_tokens"] = ours["duplicated"]


def _kill_one(bench: Bench, name: str) -> dict[str, Any] | None:
    with contextlib.ExitStack() as stack:
        _, contender, nodes = stack.enter_context(bench.ours(stubs=2, reply_ms=30))
        if name != "parallelix":
            rivals = bench.rivals(stack, [node.url for node in nodes], (name,))
            if not rivals:
                return None
            contender = rivals[0]
        streams = start_load(
            contender, mode="stream", connections=16, requests=160, max_tokens=40, limit_seconds=60
        )
        plain = start_load(contender, mode="closed", connections=8, requests=400, limit_seconds=60)
        wait_until(lambda: any(map(is_busy, nodes)), 60, "no node was busy")
        max(nodes, key=lambda node: state(node)["running"]).kill()
        result: dict[str, Any] = json.loads(streams.communicate(timeout=90)[0])
        whole: dict[str, Any] = json.loads(plain.communicate(timeout=90)[0])
        kept = ("whole", "lost", "truncated", "duplicated", "error_event", "hung", "max_ms")
        return {
            **{k: result[k] for k in kept},
            "plain_bad": whole["bad"],
            "plain_max_ms": whole["max_ms"],
        }


def is_busy(node: Process) -> bool:
    """Whether a node has served more than 60 requests and has more than four running."""
    found = state(node)
    return bool(found["served"] > 60 and found["running"] > 4)


def state(node: Process) -> dict[str, Any]:
    """Counters of a stub: `running`, `served`, `cut`, `beats`."""
    found: dict[str, Any] = httpx.get(f"{node.url}/stub", timeout=5).json()
    return found


def hang(bench: Bench) -> None:
    """Seconds until requests leave a node that stops (SIGSTOP), vanishes from the network or becomes ten times slower."""
    bench.detail["hang"] = {fault: _hang_one(bench, fault) for fault in ("stopped", "unreachable", "slow")}
    bench.figures["hang_redispatch_s"] = max(bench.detail["hang"].values())


def _hang_one(bench: Bench, fault: str) -> float:
    """Seconds of the longest attempt on the sick node; a healthy one answers in 150 ms."""
    with bench.ours(stubs=2, reply_ms=150) as (rig, ours, nodes), contextlib.ExitStack() as stack:
        load(ours, mode="closed", connections=16, requests=320)
        load(ours, mode="stream", connections=8, requests=160, max_tokens=4)
        if fault == "stopped":
            nodes[0].signal(signal.SIGSTOP)
        elif fault == "slow":
            httpx.post(f"{nodes[0].url}/stub", json={"slow": 10})
        else:
            deaf = stack.enter_context(contextlib.closing(deaf_socket()))
            at = state(nodes[0])["beats"]
            httpx.post(f"{nodes[0].url}/stub", json={"url": f"http://127.0.0.1:{deaf.getsockname()[1]}"})
            wait_until(lambda: state(nodes[0])["beats"] > at + 1, 10, "the node said nothing of its address")
        asked = 240
        result = load(ours, mode="closed", connections=16, requests=asked, limit_seconds=60)
        if fault == "stopped":
            asked += 80
            result["bad"] += load(
                ours, mode="stream", connections=8, requests=80, max_tokens=4, limit_seconds=60
            )["lost"]
        nodes[0].signal(signal.SIGCONT)
        if result["bad"]:
            raise RuntimeError(f"{result['bad']} requests were lost while a node was {fault}")
        worst = _longest_on_sick_node(rig, 320 + 160 + asked)
        if (
            not worst and not bench.options.smoke
        ):  # a busy machine may send none there before the fault is seen
            raise RuntimeError("no request met the sick node")
        return worst


def deaf_socket() -> socket.socket:
    """A listener whose backlog is full: a connection to it is neither accepted nor refused."""
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(0)
    for _ in range(4):
        _CALLERS.append(one := socket.socket())
        one.setblocking(False)
        one.connect_ex(deaf.getsockname())
    return deaf


_CALLERS: list[socket.socket] = []


def _longest_on_sick_node(rig: Rig, asked: int) -> float:
    """Seconds of the longest attempt that a sick node ended, from the records of `asked` requests; 0 when none met it."""
    config = tomllib.loads((rig.folder / "gateway-0.toml").read_text())
    with contextlib.closing(redis.Redis.from_url(config["redis_url"])) as client:

        def records() -> list[RequestRecord]:
            keys = client.scan_iter(match="parallelix:receipts:*")
            found = [cast("dict[bytes, bytes]", client.hgetall(key)) for key in keys]
            return [RequestRecord.unpack(*record) for records in found for record in records.items()]

        wait_until(lambda: len(records()) >= asked, 10, "the records of all requests were not shared")
        return max(
            (
                attempt.ms / 1000
                for entry in records()
                for attempt in entry.trace.attempts
                if attempt.reason in ("first_byte_timeout", "unreachable", "heartbeats_stopped", "stalled")
            ),
            default=0.0,
        )


def fairness(bench: Bench) -> None:
    """A tenant's 95th percentile alone, and while another one sends ten times as much; answers take 50 to 150 ms."""
    with bench.ours(stubs=4, reply_ms=100, reply_spread=0.5, slots=16) as (rig, ours, _):
        flood_key = create_key(rig.keys_file, "flooder")
        flooder = Contender("flood", ours.url, ours.pid, flood_key)
        greeting = {"Authorization": f"Bearer {flood_key}"}
        wait_until(
            lambda: httpx.get(f"{ours.url}/v1/models", headers=greeting).status_code == 200,
            10,
            "the flooder's key was not known",
        )
        seconds = 12 * bench.options.scale
        victim = {"mode": "poisson", "rate": 62, "seconds": seconds}
        load(ours, mode="closed", connections=16, requests=200)
        alone = load(ours, **victim)
        flood = start_load(flooder, mode="poisson", rate=620, seconds=seconds + 4, seed=2)
        full = 1 if bench.options.smoke else 50  # a busy machine sends no flood that fills them
        wait_until(lambda: gauge(ours, "attempts_running") >= full, 15, "the flood did not fill the nodes")
        crowded = load(ours, **{**victim, "seed": 3})
        flooded = json.loads(flood.communicate(timeout=120)[0])
    bench.detail["fairness"] = {"alone": alone, "crowded": crowded, "flood": flooded}
    bench.figures["victim_p95_ratio"] = crowded["p95_ms"] / alone["p95_ms"]


def gauge(ours: Contender, name: str) -> int:
    """Value of one of the gateway's gauges, for example `attempts_running`."""
    text = httpx.get(f"{ours.url}/metrics").text
    return int(float(text.split(f"\nparallelix_gateway_{name} ")[1].split("\n")[0]))


def cancel(bench: Bench) -> None:
    """Milliseconds from the moment a caller leaves its stream until the node is idle."""
    worst = 0.0
    with bench.ours(stubs=1) as (rig, ours, nodes):
        for _ in range(10):
            body = {
                "model": "bench-model",
                "messages": [{"role": "user", "content": "x"}],
                "stream": True,
            }
            with httpx.stream(
                "POST",
                f"{ours.url}/v1/chat/completions",
                json={**body, "max_tokens": 2000},
                headers=rig.auth,
            ) as answer:
                pieces = answer.iter_raw()
                next(pieces)
            left = time.perf_counter()
            wait_until(
                lambda: httpx.get(f"{nodes[0].url}/stub").json()["running"] == 0, 5, "the node went on"
            )
            worst = max(worst, (time.perf_counter() - left) * 1000)
    bench.figures["cancel_ms"] = worst
