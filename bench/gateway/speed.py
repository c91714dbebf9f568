"""Latency and CPU that our gateway and its rivals add to a request."""

import contextlib
import statistics
import time

from bench.gateway.core import Bench, say
from bench.gateway.parts import Contender, cpu_seconds, load

AFTERWARDS_SECONDS = 1.0
"""CPU is read this long after the last answer, so that the work that follows answers (records, logs) counts, too."""


def speed(bench: Bench) -> None:
    """Latency at one connection, CPU per request and per stream, long prompts."""
    scale = bench.options.scale
    with contextlib.ExitStack() as stack:
        rig, ours, nodes = stack.enter_context(bench.ours(stubs=1))
        direct = Contender("direct", nodes[0].url, nodes[0].pid)
        floor = bench.floor(rig, nodes[0].url)
        contenders = [direct, floor, ours, *bench.rivals(stack, [nodes[0].url])]
        p50: dict[str, list[float]] = {c.name: [] for c in contenders}
        cpu: dict[str, list[float]] = {c.name: [] for c in contenders}
        stream_cpu: dict[str, list[float]] = {c.name: [] for c in contenders}
        ttft: dict[str, list[float]] = {c.name: [] for c in contenders}
        for contender in contenders:
            load(contender, mode="closed", connections=8, requests=200)
            load(contender, mode="stream", connections=8, requests=32, max_tokens=4)
        for number in range(bench.options.rounds):
            say(f"  round {number + 1} of {bench.options.rounds}")
            for c in contenders:
                few = 0.2 if c.name == "litellm" else 1
                p50[c.name].append(
                    load(c, mode="closed", connections=1, requests=int(600 * scale * few))["p50_ms"]
                )
            for c in contenders:
                count = int(3000 * scale * (0.2 if c.name == "litellm" else 1))
                before = cpu_seconds(c.pid)
                result = load(c, mode="closed", connections=32, requests=count)
                time.sleep(AFTERWARDS_SECONDS)
                cpu[c.name].append((cpu_seconds(c.pid) - before) / count * 1e6)
                if result["bad"]:
                    say(f"  {c.name}: {result['bad']} bad answers")
            for c in contenders:
                count = 32 * max(2, int(4 * scale * (0.3 if c.name == "litellm" else 1)))
                before = cpu_seconds(c.pid)
                result = load(c, mode="stream", connections=32, requests=count, max_tokens=32)
                stream_cpu[c.name].append((cpu_seconds(c.pid) - before) / count * 1e6)
                if result["whole"] != count:
                    say(f"  {c.name}: {result}")
            for c in contenders:
                result = load(
                    c, mode="stream", connections=20, requests=60, max_tokens=2, prompt_bytes=220_000
                )
                ttft[c.name].append(result["ttft"]["p50_ms"])
    best = {name: statistics.median(values) for name, values in p50.items()}
    added = {name: value - best["direct"] for name, value in best.items() if name != "direct"}
    request_us = {name: statistics.median(values) for name, values in cpu.items()}
    stream_us = {name: statistics.median(values) for name, values in stream_cpu.items()}
    first = {name: statistics.median(values) for name, values in ttft.items()}
    bench.detail["speed"] = {
        "p50_ms": best, "added_p50_ms": added, "cpu_us_per_request": request_us,
        "cpu_us_per_stream": stream_us, "long_prompt_ttft_p50_ms": first,
    }  # fmt: skip
    bench.figures["added_p50_ms"] = added["parallelix"]
    if (name := "vllm_router_round_robin") in added:
        bench.figures["added_p50_vs_vllm_router"] = added["parallelix"] / added[name]
    if (name := "vllm_router_cache_aware") in request_us:
        bench.figures["cpu_vs_vllm_router"] = request_us["parallelix"] / request_us[name]
        bench.figures["stream_cpu_vs_vllm_router"] = stream_us["parallelix"] / stream_us[name]
    if "litellm" in request_us:
        bench.figures["cpu_vs_litellm"] = request_us["parallelix"] / request_us["litellm"]
    bench.figures["long_prompt_added_ttft_p50_ms"] = first["parallelix"] - first["direct"]


def poisson(bench: Bench) -> None:
    """Latency when requests arrive at random, at a third of what one core serves."""
    with contextlib.ExitStack() as stack:
        _, ours, nodes = stack.enter_context(bench.ours(stubs=1))
        direct = Contender("direct", nodes[0].url, nodes[0].pid)
        contenders = [direct, ours, *bench.rivals(stack, [nodes[0].url], bench.rival_names[:2])]
        bench.detail["poisson"] = {
            c.name: load(c, mode="poisson", rate=300, seconds=4 * bench.options.scale) for c in contenders
        }
