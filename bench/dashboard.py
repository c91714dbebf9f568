"""Measures the dashboard over 10,000 nodes and 365 epochs of 288 slots: `make bench-dashboard`.

    python -m bench.dashboard [--smoke] [--out bench/results/dashboard.json]

The index is written once into .build/bench-dashboard and used again. Pages are served by the real server (gunicorn,
2 processes); a chain that answers from memory stands in for the RPC endpoint.
"""

import argparse
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
from typing import Any, NamedTuple

import httpx
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from bench import figures as results
from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Wei
from tests.support.webapp import seed as seeding
from tests.support.webapp.queries import counting
from webapp.server import DashboardServer
from webapp.settings import DashboardSettings

SLOTS, LENGTH = 288, 86_400
ROOT = Path(__file__).resolve().parents[1]
EVENT_EPOCHS = 30
"""Epochs whose claims are also in the events table."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
POOL = 34_246 * seeding.PRLX + 575_342_465_753_424_657


class Size(NamedTuple):
    """How much is in the index, and how long it is looked at.

    Attributes:
        whale: nodes of the largest operator.
        rounds: visits to each page whose time counts.
        viewer_seconds: how long 100 viewers look on.
    """

    nodes: int
    epochs: int
    owners: int
    whale: int
    rounds: int
    viewer_seconds: float


FULL = Size(nodes=10_000, epochs=365, owners=1_000, whale=100, rounds=40, viewer_seconds=30)
SMOKE = Size(nodes=100, epochs=70, owners=10, whale=20, rounds=2, viewer_seconds=6)


class SeedNode(NamedTuple):
    """A node of the made-up network."""

    number: int
    owner: str
    tier: int
    stake_wei: int


class IndexBuilder:
    """Writes an index as a keeper would have left it after `size.epochs` epochs, straight into SQLite."""

    def __init__(self, folder: Path, size: Size) -> None:
        self._folder, self._size, self._rng = folder, size, random.Random(1)
        self.net = net = seeding.SeededNetwork(
            f"sqlite:///{folder / 'index.db'}",
            folder / "deployment.json",
            folder,
            LENGTH,
            SLOTS,
            0,
            size.epochs,
        )
        net.now = seeding.GENESIS + size.epochs * LENGTH + LENGTH // 2
        net.owners = [seeding.address_of(f"owner {i}") for i in range(size.owners)]
        self._nodes = [
            SeedNode(
                i + 1,
                net.owners[0] if i < size.whale else net.owners[1 + i % (size.owners - 1)],
                1 + i % 4,
                (50_000 + 500 * (i % 41)) * seeding.PRLX,
            )
            for i in range(size.nodes)
        ]
        self._weight = sum(weight(Wei(node.stake_wei), Tier(node.tier)) for node in self._nodes)
        for epoch in range(size.epochs + 2):
            net.pools[epoch], net.totals[epoch] = POOL, self._weight
            if epoch < size.epochs:
                net.reported[epoch] = seeding.GENESIS + (epoch + 1) * LENGTH + 22_200

    def build(self) -> None:
        """Write the index, unless it was written before and the tables are still the same."""
        schema = hashlib.sha256((ROOT / "offchain/db/models.py").read_bytes()).hexdigest()[:12]
        marker = self._folder / f"ready-{schema}.json"
        if marker.exists():
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        seeding.empty(self._folder, LENGTH, SLOTS)
        db = sqlite3.connect(self._folder / "index.db")
        db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-400000;")
        self._register(db)
        states = self._uptime_rows()
        for epoch in range(self._size.epochs):
            self._close(db, epoch, self._rng.choices(states, k=len(self._nodes)))
            if epoch % 20 == 0:
                db.commit()
                print(f"epoch {epoch} of {self._size.epochs}", file=sys.stderr)
        self._probe(db)
        head = 3_000_000
        db.executemany(
            "insert into cursors (name, block_number, block_hash, block_timestamp) values (?, ?, ?, ?)",
            [
                ("head", head, seeding.hash_of("head"), self.net.now - 3),
                ("finalized", head - 64, seeding.hash_of("final"), self.net.now - 800),
            ],
        )
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        marker.write_text(
            json.dumps({"nodes": self._size.nodes, "epochs": self._size.epochs, "slots": SLOTS})
        )

    def _register(self, db: sqlite3.Connection) -> None:
        db.executemany(
            "insert into nodes (node_id, owner, beneficiary, key_address, key_hash, tier, stake_wei, active_from, "
            "active_until, unlock_at, withdrawn, manifest_hash, manifest_uri, registered_block, registered_at) "
            "values (?, ?, ?, ?, ?, ?, ?, 0, null, null, 0, null, null, ?, ?)",
            [
                (
                    n, owner, owner, seeding.address_of(f"k{n}"), seeding.hash_of(f"k{n}"), tier, f"{stake:078d}",
                    100 + n, seeding.GENESIS - 1,
                )
                for n, owner, tier, stake in self._nodes
            ],
        )  # fmt: skip
        db.executemany(
            "insert into keepers (keeper_id, operator, signer, bond_wei, region, url, active_from, active_until) "
            "values (?, ?, ?, ?, ?, ?, 0, null)",
            [
                (
                    i, seeding.address_of(f"ko{i}"), seeding.address_of(f"ks{i}"), f"{10**23:078d}", f"region-{i % 3}",
                    f"http://k{i}.example",
                )
                for i in range(1, 8)
            ],
        )  # fmt: skip

    def _uptime_rows(self) -> list[tuple[str, int]]:
        """Rows to draw from: the letter of each slot, and the uptime that they make."""
        rows = [("u" * SLOTS, 10_000)] * 200
        for _ in range(100):
            letters = ["u"] * SLOTS
            for _ in range(self._rng.randrange(1, 20)):
                letters[self._rng.randrange(SLOTS)] = "m"
            text = "".join(letters)
            rows.append((text, 10_000 * (SLOTS - text.count("m")) // SLOTS))
        return rows

    def _close(self, db: sqlite3.Connection, epoch: int, uptimes: list[tuple[str, int]]) -> None:
        """An epoch's slots, its report and the claims on it."""
        final = self.net.reported[epoch]
        db.executemany(
            "insert into slot_records (epoch, node_id, states, uptime_bps) values (?, ?, ?, ?)",
            [(epoch, node.number, *row) for node, row in zip(self._nodes, uptimes, strict=True)],
        )
        db.execute(
            "insert into reports (epoch, uptime_root, node_count, execution_root, bundle_hash, signer_bitmap, rejected, "
            "submitted_at, final_at, tx_hash) values (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            (
                epoch, seeding.hash_of(f"r{epoch}"), self._size.nodes, seeding.hash_of("x"), seeding.hash_of(f"b{epoch}"),
                f"{127:078d}", final - 21_600, final, seeding.hash_of(f"t{epoch}"),
            ),
        )  # fmt: skip
        claims = self._claims(epoch, uptimes)
        db.executemany(
            "insert into claims (node_id, epoch, to_address, amount_wei, uptime_bps, paid_at, tx_hash) "
            "values (?, ?, ?, ?, ?, ?, ?)",
            claims,
        )
        if epoch >= self._size.epochs - EVENT_EPOCHS:
            self._claim_events(db, epoch, claims)

    def _claims(self, epoch: int, uptimes: list[tuple[str, int]]) -> list[tuple[Any, ...]]:
        """Rows of the claims table: everybody claimed the older epochs, four in five the newer ones, nobody the last three."""
        claims: list[tuple[Any, ...]] = []
        if epoch >= self._size.epochs - 3:
            return claims
        paid_at = self.net.reported[epoch] + 60
        for (n, owner, tier, stake), (_, bps) in zip(self._nodes, uptimes, strict=True):
            if (n * 7 + epoch) % 5 or epoch < self._size.epochs - 60:
                amount = POOL * weight(Wei(stake), Tier(tier)) * bps // (10_000 * self._weight)
                claims.append((n, epoch, owner, f"{amount:078d}", bps, paid_at, f"0x{n:032x}{epoch:032x}"))
                self.net.paid[epoch] = self.net.paid.get(epoch, 0) + amount
        return claims

    def _claim_events(self, db: sqlite3.Connection, epoch: int, claims: list[tuple[Any, ...]]) -> None:
        block = 1_000_000 + epoch * 100
        rows = []
        for i, (n, _, owner, amount, bps, paid_at, tx) in enumerate(claims):
            args = {
                "nodeId": str(n), "epoch": str(epoch), "to": owner, "amount": str(int(amount)), "uptimeBps": str(bps),
            }  # fmt: skip
            event = (
                f"0x{block:064x}",
                i,
                block,
                paid_at,
                tx,
                json.dumps(args),
                n,
                epoch,
                f"claim:{n}:{epoch}",
            )
            rows.append(event)
        db.executemany(
            "insert into events (block_hash, log_index, block_number, block_timestamp, tx_hash, contract, name, args, "
            "node_id, epoch, entity) values (?, ?, ?, ?, ?, 'RewardDistributor', 'RewardClaimed', ?, ?, ?, ?)",
            rows,
        )

    def _probe(self, db: sqlite3.Connection) -> None:
        """The last twelve slots of the epoch that runs."""
        net, reached, rows = self.net, SLOTS // 2, []
        for slot in range(reached - 12, reached):
            due = (seeding.GENESIS + net.epoch * LENGTH + slot * (LENGTH // SLOTS)) * 1000
            for n in range(1, self._size.nodes + 1):
                due_at = due + self._rng.randrange(180_000)
                missed = self._rng.random() < 0.01
                outcome = ("missed", None) if missed else ("answered", self._rng.randrange(60, 400))
                rows.append((net.epoch, slot, n, due_at, *outcome))
        db.executemany(
            "insert into probes (epoch, slot, node_id, due_at_ms, lease_until_ms, outcome, evidence, latency_ms) "
            "values (?, ?, ?, ?, 0, ?, null, ?)",
            rows,
        )


def paths(net: seeding.SeededNetwork, size: Size, rng: random.Random) -> dict[str, str]:
    """Name -> path of each page, with an operator, a node and an epoch drawn at random."""
    owner, node = rng.choice(net.owners), rng.randrange(1, size.nodes + 1)
    return {
        "network": "/",
        "operator": f"/operators/{owner}",
        "operator_365": f"/operators/{owner}?epochs=365",
        "operator_100_nodes": f"/operators/{net.owners[0]}",
        "earnings": f"/operators/{owner}/earnings",
        "earnings_year": f"/operators/{owner}/earnings?from=0",
        "node": f"/nodes/{node}",
        "node_365": f"/nodes/{node}?epochs=365",
        "node_epoch": f"/nodes/{node}/epochs/{rng.randrange(size.epochs)}",
        "activity": "/activity",
        "activity_node": f"/activity?node={node}",
        "register_stake": "/register/stake?tier=2",
        "account": "/account",
        "credits": f"/credits/{owner}",
        "status": "/fragments/status",
    }


@contextmanager
def served(net: seeding.SeededNetwork, rpc: str, folder: Path) -> Iterator[str]:
    """Run the dashboard as it is deployed, for the block; its URL."""
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
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.dashboard", "--serve", str(config)],
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


def server_times(base: str, net: seeding.SeededNetwork, size: Size) -> dict[str, float]:
    """95th percentile of the server's own time for each page, ms, after four visits to each that do not count."""
    rng = random.Random(2)
    times: dict[str, list[float]] = {}
    with httpx.Client(
        base_url=base, headers={"Accept-Encoding": "gzip"}, trust_env=False, timeout=60
    ) as client:
        for number in range(-4, size.rounds):
            for name, path in paths(net, size, rng).items():
                answer = client.get(path)
                assert answer.status_code == 200, (path, answer.status_code)
                found = re.search(r"dur=([\d.]+)", answer.headers["Server-Timing"])
                assert found
                if number >= 0:
                    times.setdefault(name, []).append(float(found[1]))
    return {name: round(p95(values), 1) for name, values in times.items()}


def queries(net: seeding.SeededNetwork, size: Size, rpc: str) -> dict[str, int]:
    """Number of database queries of each page."""
    app = seeding.app_of(net, rpc)
    index = app.extensions["sources"].index
    counts = {}
    for name, path in paths(net, size, random.Random(3)).items():
        with counting(index) as seen:
            app.test_client().get(path)
        counts[name] = len(seen)
    seeding.close_apps()
    return counts


async def viewers(base: str, net: seeding.SeededNetwork, size: Size, count: int = 100) -> list[float]:
    """Milliseconds of each request of `count` viewers at once; each opens another page or live part every 5 s on average."""
    times: list[float] = []
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    end = time.monotonic() + size.viewer_seconds

    async def viewer(number: int, client: httpx.AsyncClient) -> None:
        rng = random.Random(number)
        await asyncio.sleep(rng.random() * 5)
        while time.monotonic() < end:
            chosen = rng.choice(["network", "operator", "node", "earnings", "activity", "status", "status"])
            start = time.perf_counter()
            answer = await client.get(paths(net, size, rng)[chosen])
            times.append((time.perf_counter() - start) * 1000)
            assert answer.status_code == 200
            await asyncio.sleep(rng.uniform(2.5, 7.5))

    async with httpx.AsyncClient(base_url=base, limits=limits, trust_env=False, timeout=60) as client:
        await asyncio.gather(*(viewer(number, client) for number in range(count)))
    return times


def in_browser(base: str, net: seeding.SeededNetwork, size: Size) -> tuple[float, int]:
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
        for path in paths(net, size, random.Random(4)).values():
            if path.startswith("/fragments"):
                continue
            tab.goto(base + path)
            found = Axe().run(tab).response["violations"]
            bad += sum(1 for item in found if item["impact"] in ("serious", "critical"))
        browser.close()
    return round(total, 1), bad


def measure(folder: Path, size: Size) -> dict[str, Any]:
    """All figures, over an index in this folder."""
    started = time.monotonic()
    builder = IndexBuilder(folder, size)
    builder.build()
    net, seeded = builder.net, time.monotonic() - started
    for epoch in range(size.epochs):
        net.paid.setdefault(epoch, net.pools[epoch] // 2)
    with (
        net.chain() as rpc,
        tempfile.TemporaryDirectory() as temporary,
        served(net, rpc, Path(temporary)) as base,
    ):
        per_page = server_times(base, net, size)
        watched = asyncio.run(viewers(base, net, size))
        first_load_kb, axe_serious = in_browser(base, net, size)
        counted = queries(net, size, rpc)
    return {
        "page_p95_ms": max(per_page.values()),
        "queries_max": max(counted.values()),
        "first_load_kb": first_load_kb,
        "axe_serious": axe_serious,
        "viewers100_p95_ms": round(p95(watched), 1),
        "detail": {
            "page_p95_ms": per_page,
            "queries": counted,
            "viewers100_requests": len(watched),
            "nodes": size.nodes,
            "epochs": size.epochs,
            "slots": SLOTS,
            "index_mb": round((folder / "index.db").stat().st_size / 1e6),
            "seed_seconds": round(seeded),
            "cpus": os.cpu_count(),
        },
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="100 nodes and 70 epochs: figures mean nothing")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench/results/dashboard.json", help="file of results"
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        DashboardServer(DashboardSettings.load(options.serve), announce=True).run()
        return
    if options.smoke:
        with tempfile.TemporaryDirectory(prefix="bench-dashboard-") as folder:
            figures = measure(Path(folder) / "index", SMOKE)
    else:
        figures = measure(ROOT / ".build/bench-dashboard", FULL)
    results.write(options.out, figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
