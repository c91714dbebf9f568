"""The dashboard over a seeded index and a chain that answers over HTTP."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import create_engine, update

from offchain.db.models import Node
from tests.support.webapp.account import OWNER
from tests.support.webapp.seed import SeededNetwork, app_of, close_apps, empty, seed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def built_assets() -> Path:
    """The built assets; builds them when they are missing."""
    dist = ROOT / "webapp" / "static" / "dist"
    if not (dist / "manifest.json").exists():
        subprocess.run(["node", ROOT / "webapp" / "assets" / "build.mjs"], check=True, cwd=ROOT)
    return dist


@pytest.fixture(autouse=True, scope="session")
def _no_open_connections() -> Iterator[None]:
    yield
    close_apps()


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> SeededNetwork:
    """24 nodes of 5 operators over 40 epochs. Read only: tests share it."""
    return seed(tmp_path_factory.mktemp("seeded"))


@pytest.fixture(scope="session")
def seeded_app(seeded: SeededNetwork, built_assets: Path) -> Iterator[Flask]:
    """The dashboard of `seeded`, shared by tests."""
    with seeded.chain() as url:
        yield app_of(seeded, url)


@pytest.fixture
def client(seeded_app: Flask) -> FlaskClient:
    """A test client of the dashboard of `seeded`."""
    return seeded_app.test_client()


@pytest.fixture
def empty_net(tmp_path: Path, built_assets: Path) -> SeededNetwork:
    """A network whose index has tables without a row."""
    return empty(tmp_path)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, built_assets: Path) -> SeededNetwork:
    """A network whose first nodes belong to a wallet that we hold."""
    net = seed(tmp_path_factory.mktemp("template"), nodes=12, epochs=12, owners=2, evidence=False)
    engine = create_engine(net.url)
    with engine.begin() as db:
        db.execute(update(Node).where(Node.node_id <= 2).values(owner=OWNER.address))
    engine.dispose()  # the last connection folds the write-ahead log into the file
    return net


@pytest.fixture
def net(template: SeededNetwork, tmp_path: Path) -> SeededNetwork:
    """A copy of `template` that one test may change."""
    shutil.copy(template.folder / "index.db", tmp_path / "index.db")
    return replace(template, url=f"sqlite:///{tmp_path / 'index.db'}", folder=tmp_path)


@pytest.fixture
def app(net: SeededNetwork) -> Iterator[Flask]:
    """The dashboard of `net`; webhooks may call loopback."""
    with net.chain() as url:
        yield app_of(net, url, webhook_private_hosts=True)
