"""`make bench-gateway`: our gateway beside its rivals, over the same stub nodes, in one run.

Router on one core, stubs and load on the other; rounds interleaved; all of our features on (tickets and receipts signed
and verified, records kept and shared through a Valkey, quotas, fairness, cache salts, metrics). Prints a table of every
figure with its bound, writes bench/results/gateway.json, and exits with 1 when a bound is missed.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench import figures as results
from bench.gateway import faults, scale, speed
from bench.gateway.core import Bench, say
from bench.gateway.parts import LOAD_CORE, ROUTER_CORE

ROOT = Path(__file__).resolve().parents[2]
SMOKE = {"rounds": 1, "scale": 0.05, "memory_requests": 1_000, "index_nodes": 2_000}
BOUNDS: dict[str, tuple[str, float]] = {
    "added_p50_ms": ("<=", 0.3),
    "added_p50_vs_vllm_router": ("<=", 2.0),
    "cpu_vs_vllm_router": ("<=", 1.5),
    "cpu_vs_litellm": ("<=", 0.02),
    "stream_cpu_vs_vllm_router": ("<=", 1.5),
    "long_prompt_added_ttft_p50_ms": ("<=", 20.0),
    "kill_lost": ("<=", 0),
    "kill_truncated": ("<=", 0),
    "kill_duplicated_tokens": ("<=", 0),
    "hang_redispatch_s": ("<=", 1.0),
    "pick_100k_p99_us": ("<=", 50.0),
    "update_100k_p99_us": ("<=", 50.0),
    "victim_p95_ratio": ("<=", 1.2),
    "cancel_ms": ("<=", 100.0),
    "real_vllm_added_p95_ms": ("<=", 5.0),
    "small_request_p95_ms": ("<", 200.0),
    "rss_growth_mib": ("<=", 32.0),
}
SCENARIOS = {
    "index": scale.index,
    "speed": speed.speed,
    "poisson": speed.poisson,
    "kill": faults.kill,
    "hang": faults.hang,
    "fairness": faults.fairness,
    "cancel": faults.cancel,
    "vllm": scale.vllm,
    "memory": scale.memory,
}


def known(out: Path) -> dict[str, Any]:
    """What earlier runs wrote into the file of results."""
    return {"figures": {}, "measured": {}, "detail": {}} | results.load(out)


def write(bench: Bench) -> None:
    """Write what this run measured so far; results that it did not measure stay as they are."""
    before = known(bench.options.out)
    now = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())
    for name in bench.figures:
        bench.measured.setdefault(name, now)
    document = {
        "figures": {**before["figures"], **{name: round(value, 5) for name, value in bench.figures.items()}},
        "bounds": {name: bound for name, (_, bound) in BOUNDS.items()},
        "measured": {**before["measured"], **bench.measured},
        "detail": {**before["detail"], **bench.detail},
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "load_average": os.getloadavg(),
        },
        "pinning": {"router": ROUTER_CORE, "stubs_and_load": LOAD_CORE},
    }
    results.write(bench.options.out, document)


def show(bench: Bench) -> bool:
    """Print every figure with its bound. Returns whether all bounds hold for what this run measured."""
    found = known(bench.options.out)
    held = True
    for name, (sign, bound) in BOUNDS.items():
        value = found["figures"].get(name)
        if value is None:
            sys.stdout.write(f"  {name:34} not measured\n")
            continue
        good = value < bound or (value == bound and sign == "<=")
        held = held and (good or name not in bench.figures)
        verdict = "not judged" if bench.options.smoke else "ok" if good else "MISSED"
        when = "" if name in bench.figures else f"   ({found['measured'][name]})"
        sys.stdout.write(f"  {name:34} {value:12.4f}   {sign:2} {bound:<6g} {verdict}{when}\n")
    say(f"written to {bench.options.out}")
    return held


def main() -> int:
    """Run the scenarios that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--envs", type=Path, default=ROOT / ".build/bench", help="Folder of the rivals' environments."
    )
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="Run these scenarios alone.")
    parser.add_argument(
        "--smoke", action="store_true", help="The smallest form, without rivals and vLLM; no bound is judged."
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench/results/gateway.json", help="File of results."
    )
    parser.add_argument("--rounds", type=int, default=5, help="Interleaved rounds of the speed scenario.")
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the usual number of requests.")
    parser.add_argument("--memory-requests", type=int, default=1_000_000)
    parser.add_argument(
        "--memory-seconds", type=float, default=3600.0, help="End the memory scenario after so long."
    )
    parser.add_argument("--index-nodes", type=int, default=100_000, help="Nodes of the index scenario.")
    options = parser.parse_args()
    scenarios = options.only or list(SCENARIOS)
    if options.smoke:
        vars(options).update(SMOKE)
        scenarios = [name for name in scenarios if name != "vllm"]
        say("smoke: the rivals and the scenario vllm are left out, and no bound is judged")
    failed = []
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        bench = Bench(Path(folder), options.envs.resolve(), options)
        for name in scenarios:
            say(name)
            try:
                SCENARIOS[name](bench)
            except (
                RuntimeError,
                AssertionError,
                OSError,
                ValueError,
                httpx.HTTPError,
                subprocess.SubprocessError,
            ) as error:
                say(f"  {name} failed: {error}")
                failed.append(name)
            write(bench)
        held = show(bench)
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 0 if (held or options.smoke) and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
