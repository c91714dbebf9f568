"""Measures the dashboard over 10,000 nodes and 365 epochs of 288 slots: `make bench-dashboard`.

The index is written once into .build/bench-dashboard and used again. Pages are served by the real server (gunicorn,
2 processes); a chain that answers from memory stands in for the RPC endpoint.
"""

import asyncio
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Wei
from tests.support.webapp import seed as seeding

NODES, EPOCHS, SLOTS, LENGTH, OWNERS = 10_000, 365, 288, 86_400, 1_000
WHALE = 100
"""Nodes of the largest operator."""
ROOT = Path(__file__).resolve().parents[1]
EVENT_EPOCHS = 30
"""Epochs whose claims are also in the events table."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def build(folder: Path) -> seeding.SeededNetwork:
    """The index, written once."""
    # an index of other tables is not used again
    schema = hashlib.sha256((ROOT / "offchain" / "db" / "models.py").read_bytes()).hexdigest()[:12]
    marker = folder / f"ready-{schema}.json"
    rng = random.Random(1)
    net = seeding.SeededNetwork(
        f"sqlite:///{folder / 'index.db'}", folder / "deployment.json", folder, LENGTH, SLOTS, 0, EPOCHS
    )
    net.now = seeding.GENESIS + EPOCHS * LENGTH + LENGTH // 2
    net.owners = [seeding.address_of(f"owner {i}") for i in range(OWNERS)]
    nodes = [
        (
            i + 1,
            net.owners[0] if i < WHALE else net.owners[1 + i % (OWNERS - 1)],
            1 + i % 4,
            (50_000 + 500 * (i % 41)) * seeding.PRLX,
        )
        for i in range(NODES)
    ]
    total = sum(weight(Wei(stake), Tier(tier)) for _, _, tier, stake in nodes)
    pool = 34_246 * seeding.PRLX + 575_342_465_753_424_657
    for epoch in range(EPOCHS + 2):
        net.pools[epoch], net.totals[epoch] = pool, total
        if epoch < EPOCHS:
            net.reported[epoch] = seeding.GENESIS + (epoch + 1) * LENGTH + 22_200
    if marker.exists():
        return net
    shutil.rmtree(folder, ignore_errors=True)
    seeding.empty(folder, LENGTH, SLOTS)
    db = sqlite3.connect(folder / "index.db")
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-400000;")
    _nodes(db, nodes)
    states = _state_pool(rng)
    for epoch in range(EPOCHS):
        _epoch(db, net, epoch, nodes, states, total, pool, rng)
        if epoch % 20 == 0:
            db.commit()
            print(f"epoch {epoch} of {EPOCHS}", file=sys.stderr)
    _probes(db, net, rng)
    head = 3_000_000
    db.executemany(
        "insert into cursors (name, block_number, block_hash, block_timestamp) values (?, ?, ?, ?)",
        [
            ("head", head, seeding.hash_of("head"), net.now - 3),
            ("finalized", head - 64, seeding.hash_of("final"), net.now - 800),
        ],
    )
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    marker.write_text(json.dumps({"nodes": NODES, "epochs": EPOCHS, "slots": SLOTS}))
    return net


def _nodes(db: sqlite3.Connection, nodes: list[tuple[int, str, int, int]]) -> None:
    db.executemany(
        "insert into nodes (node_id, owner, beneficiary, key_address, key_hash, tier, stake_wei, active_from, "
        "active_until, unlock_at, withdrawn, manifest_hash, manifest_uri, registered_block, registered_at) "
        "values (?, ?, ?, ?, ?, ?, ?, 0, null, null, 0, null, null, ?, ?)",
        [
            (
                n,
                owner,
                owner,
                seeding.address_of(f"k{n}"),
                seeding.hash_of(f"k{n}"),
                tier,
                f"{stake:078d}",
                100 + n,
                seeding.GENESIS - 1,
            )
            for n, owner, tier, stake in nodes
        ],
    )
    db.executemany(
        "insert into keepers (keeper_id, operator, signer, bond_wei, region, url, active_from, active_until) "
        "values (?, ?, ?, ?, ?, ?, 0, null)",
        [
            (
                i,
                seeding.address_of(f"ko{i}"),
                seeding.address_of(f"ks{i}"),
                f"{10**23:078d}",
                f"region-{i % 3}",
                f"http://k{i}.example",
            )
            for i in range(1, 8)
        ],
    )


def _state_pool(rng: random.Random) -> list[tuple[str, int]]:
    pool = [("u" * SLOTS, 10_000)] * 200
    for _ in range(100):
        letters = ["u"] * SLOTS
        for _ in range(rng.randrange(1, 20)):
            letters[rng.randrange(SLOTS)] = "m"
        text = "".join(letters)
        pool.append((text, 10_000 * (SLOTS - text.count("m")) // SLOTS))
    return pool


def _epoch(
    db: sqlite3.Connection,
    net: seeding.SeededNetwork,
    epoch: int,
    nodes: list[tuple[int, str, int, int]],
    pool_of_states: list[tuple[str, int]],
    total: int,
    pool: int,
    rng: random.Random,
) -> None:
    final = net.reported[epoch]
    drawn = rng.choices(pool_of_states, k=len(nodes))
    db.executemany(
        "insert into slot_records (epoch, node_id, states, uptime_bps) values (?, ?, ?, ?)",
        [(epoch, n, states, bps) for (n, _, _, _), (states, bps) in zip(nodes, drawn, strict=True)],
    )
    claims = []
    if epoch < EPOCHS - 3:
        for (n, owner, tier, stake), (_, bps) in zip(nodes, drawn, strict=True):
            if (n * 7 + epoch) % 5 or epoch < EPOCHS - 60:
                amount = pool * weight(Wei(stake), Tier(tier)) * bps // (10_000 * total)
                claims.append((n, epoch, owner, f"{amount:078d}", bps, final + 60, f"0x{n:032x}{epoch:032x}"))
                net.paid[epoch] = net.paid.get(epoch, 0) + amount
    db.executemany(
        "insert into claims (node_id, epoch, to_address, amount_wei, uptime_bps, paid_at, tx_hash) "
        "values (?, ?, ?, ?, ?, ?, ?)",
        claims,
    )
    db.execute(
        "insert into reports (epoch, uptime_root, node_count, execution_root, bundle_hash, signer_bitmap, rejected, "
        "submitted_at, final_at, tx_hash) values (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
        (
            epoch,
            seeding.hash_of(f"r{epoch}"),
            NODES,
            seeding.hash_of("x"),
            seeding.hash_of(f"b{epoch}"),
            f"{127:078d}",
            final - 21_600,
            final,
            seeding.hash_of(f"t{epoch}"),
        ),
    )
    if epoch >= EPOCHS - EVENT_EPOCHS:
        block = 1_000_000 + epoch * 100
        db.executemany(
            "insert into events (block_hash, log_index, block_number, block_timestamp, tx_hash, contract, name, args, "
            "node_id, epoch, entity) values (?, ?, ?, ?, ?, 'RewardDistributor', 'RewardClaimed', ?, ?, ?, ?)",
            [
                (
                    f"0x{block:064x}",
                    i,
                    block,
                    final + 60,
                    tx,
                    json.dumps(
                        {
                            "nodeId": str(n),
                            "epoch": str(epoch),
                            "to": owner,
                            "amount": str(int(amount)),
                            "uptimeBps": str(bps),
                        }
                    ),
                    n,
                    epoch,
                    f"claim:{n}:{epoch}",
                )
                for i, (n, _, owner, amount, bps, _, tx) in enumerate(claims)
            ],
        )


def _probes(db: sqlite3.Connection, net: seeding.SeededNetwork, rng: random.Random) -> None:
    reached = SLOTS // 2
    rows = []
    for slot in range(reached - 12, reached):
        due = (seeding.GENESIS + net.epoch * LENGTH + slot * (LENGTH // SLOTS)) * 1000
        for n in range(1, NODES + 1):
            missed = rng.random() < 0.01
            rows.append(
                (
                    net.epoch,
                    slot,
                    n,
                    due + rng.randrange(180_000),
                    "missed" if missed else "answered",
                    None if missed else rng.randrange(60, 400),
                )
            )
    db.executemany(
        "insert into probes (epoch, slot, node_id, due_at_ms, lease_until_ms, outcome, evidence, latency_ms) "
        "values (?, ?, ?, ?, 0, ?, null, ?)",
        rows,
    )


def paths(net: seeding.SeededNetwork, rng: random.Random) -> dict[str, str]:
    """One address of each page, drawn anew."""
    owner, node = rng.choice(net.owners), rng.randrange(1, NODES + 1)
    return {
        "network": "/",
        "operator": f"/operators/{owner}",
        "operator_365": f"/operators/{owner}?epochs=365",
        "operator_100_nodes": f"/operators/{net.owners[0]}",
        "earnings": f"/operators/{owner}/earnings",
        "earnings_year": f"/operators/{owner}/earnings?from=0",
        "node": f"/nodes/{node}",
        "node_365": f"/nodes/{node}?epochs=365",
        "node_epoch": f"/nodes/{node}/epochs/{rng.randrange(EPOCHS)}",
        "activity": "/activity",
        "activity_node": f"/activity?node={node}",
        "register_stake": "/register/stake?tier=2",
        "account": "/account",
        "credits": f"/credits/{owner}",
        "status": "/fragments/status",
    }


@contextmanager
def served(net: seeding.SeededNetwork, rpc: str, folder: Path) -> Iterator[str]:
    """The dashboard as it is deployed: its URL."""
    config = folder / "bench.toml"
    lines = {
        "data_dir": str(folder / "data"),
        "rpc_url": rpc,
        "deployment": str(net.deployment),
        "database_url": net.url,
        "port": 0,
        "workers": 2,
        "threads": 16,
    }
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    code = (
        "import sys; from pathlib import Path; from webapp.server import DashboardServer; "
        "from webapp.settings import WebappSettings; DashboardServer(WebappSettings.load(Path(sys.argv[1])), True).run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(config)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout
        yield json.loads(process.stdout.readline())["url"]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def p95(values: list[float]) -> float:
    """Nearest-rank 95th percentile."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]


def server_times(base: str, net: seeding.SeededNetwork, rounds: int = 40) -> dict[str, float]:
    """95th percentile of the server's own time for each page, ms; two visits to each before."""
    rng = random.Random(2)
    times: dict[str, list[float]] = {}
    with httpx.Client(
        base_url=base, headers={"Accept-Encoding": "gzip"}, trust_env=False, timeout=60
    ) as client:
        for number in range(-4, rounds):
            for name, path in paths(net, rng).items():
                answer = client.get(path)
                assert answer.status_code == 200, (path, answer.status_code)
                found = re.search(r"dur=([\d.]+)", answer.headers["Server-Timing"])
                assert found
                if number >= 0:
                    times.setdefault(name, []).append(float(found[1]))
    return {name: round(p95(values), 1) for name, values in times.items()}


def queries(net: seeding.SeededNetwork, rpc: str) -> dict[str, int]:
    """Database queries of each page."""
    app = seeding.app_of(net, rpc)
    index = app.extensions["sources"].index
    counts = {}
    for name, path in paths(net, random.Random(3)).items():
        with index.counting() as seen:
            app.test_client().get(path)
        counts[name] = len(seen)
    seeding.close_apps()
    return counts


async def viewers(
    base: str, net: seeding.SeededNetwork, count: int = 100, seconds: float = 30.0
) -> list[float]:
    """Viewers that each open another page every 5 s on average, while the open one refreshes its live parts."""
    times: list[float] = []
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    end = time.monotonic() + seconds

    async def viewer(number: int, client: httpx.AsyncClient) -> None:
        rng = random.Random(number)
        await asyncio.sleep(rng.random() * 5)
        while time.monotonic() < end:
            chosen = rng.choice(["network", "operator", "node", "earnings", "activity", "status", "status"])
            start = time.perf_counter()
            answer = await client.get(paths(net, rng)[chosen])
            times.append((time.perf_counter() - start) * 1000)
            assert answer.status_code == 200
            await asyncio.sleep(rng.uniform(2.5, 7.5))

    async with httpx.AsyncClient(base_url=base, limits=limits, trust_env=False, timeout=60) as client:
        await asyncio.gather(*(viewer(number, client) for number in range(count)))
    return times


def in_browser(base: str, net: seeding.SeededNetwork) -> tuple[float, int]:
    """Kilobytes over the wire of the first page with all its assets, and serious axe findings on all pages."""
    bad = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        context = browser.new_context()
        tab = context.new_page()
        session = context.new_cdp_session(tab)
        session.send("Network.enable")
        sizes: list[float] = []
        session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        tab.goto(base)
        tab.wait_for_load_state("networkidle")
        total = sum(sizes) / 1000
        for path in paths(net, random.Random(4)).values():
            if path.startswith("/fragments"):
                continue
            tab.goto(base + path)
            found = Axe().run(tab).response["violations"]
            bad += sum(1 for item in found if item["impact"] in ("serious", "critical"))
        browser.close()
    return round(total, 1), bad


def main() -> None:
    """Measure and write."""
    out = Path(sys.argv[1])
    folder = ROOT / ".build" / "bench-dashboard"
    started = time.monotonic()
    net = build(folder)
    seeded = time.monotonic() - started
    for epoch in range(EPOCHS):
        net.paid.setdefault(epoch, net.pools[epoch] // 2)
    with (
        net.chain() as rpc,
        tempfile.TemporaryDirectory() as temporary,
        served(net, rpc, Path(temporary)) as base,
    ):
        per_page = server_times(base, net)
        watched = asyncio.run(viewers(base, net))
        first_load_kb, axe_serious = in_browser(base, net)
        counted = queries(net, rpc)
    result: dict[str, Any] = {
        "page_p95_ms": max(per_page.values()),
        "queries_max": max(counted.values()),
        "first_load_kb": first_load_kb,
        "axe_serious": axe_serious,
        "viewers100_p95_ms": round(p95(watched), 1),
        "detail": {
            "page_p95_ms": per_page,
            "queries": counted,
            "viewers100_requests": len(watched),
            "nodes": NODES,
            "epochs": EPOCHS,
            "slots": SLOTS,
            "index_mb": round((folder / "index.db").stat().st_size / 1e6),
            "seed_seconds": round(seeded),
            "cpus": os.cpu_count(),
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
