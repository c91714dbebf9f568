"""A real browser in front of a served dashboard."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.services.anvil import KEYS
from tests.support.services.contracts import STAKE, Network
from tests.support.webapp.dashboard_user import OPERATOR, DashboardUser
from tests.support.webapp.live import live
from tests.support.webapp.seed import SeededNetwork, app_of, close_apps, empty, seed
from tests.support.webapp.serving import serving
from tests.support.webapp.wallet import TestWallet

ROOT = Path(__file__).resolve().parents[2]

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

expect.set_options(timeout=30_000)  # what merely waits costs nothing when it comes


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, one for all tests."""
    if not CHROMIUM.exists():
        pytest.fail("Chromium is missing: run `make services` as root")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def built_assets() -> Path:
    """The built assets; builds them when they are missing."""
    dist = ROOT / "webapp" / "static" / "dist"
    if not (dist / "manifest.json").exists():
        subprocess.run(["node", ROOT / "webapp" / "assets" / "build.mjs"], check=True, cwd=ROOT)
    return dist


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> SeededNetwork:
    """24 nodes of 5 operators over 40 epochs."""
    return seed(tmp_path_factory.mktemp("seeded"))


@pytest.fixture(scope="session")
def site(seeded: SeededNetwork, built_assets: Path) -> Iterator[str]:
    """The seeded network's dashboard; its URL."""
    with seeded.chain() as rpc, serving(app_of(seeded, rpc)) as url:
        yield url
    close_apps()


@pytest.fixture(scope="session")
def empty_site(tmp_path_factory: pytest.TempPathFactory, built_assets: Path) -> Iterator[str]:
    """A dashboard over tables without a row."""
    net = empty(tmp_path_factory.mktemp("empty"))
    with net.chain() as rpc, serving(app_of(net, rpc)) as url:
        yield url


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """A fresh tab; the test fails when the page logs an error or breaks its own policy."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            problems.append(message.text)
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    yield page
    context.close()
    assert not problems


@pytest.fixture
def user(chromium: Browser, network: Network, tmp_path: Path, built_assets: Path) -> Iterator[DashboardUser]:
    """A dashboard, and a wallet that holds three stakes."""
    wallet_address = network.signers[OPERATOR].address
    network.send(0, "ParallelixToken", "transfer", wallet_address, 3 * STAKE)
    with live(network, tmp_path) as (url, follower):
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        wallet = TestWallet(context, "0x" + KEYS[OPERATOR], network.anvil.url)
        tab = context.new_page()
        problems: list[str] = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda m: problems.append(m.text) if "Content Security Policy" in m.text else None)
        yield DashboardUser(url, tab, context, wallet, network, follower)
        context.close()
        wallet.close()
        assert not problems
