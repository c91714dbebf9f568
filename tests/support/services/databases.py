"""Databases for tests: each test gets its own, once on SQLite and once on PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from offchain.db.database import Database, open_database
from offchain.db.migrations import upgrade
from tests.support.services.ports import free_port


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without tables, of this test alone."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/index.db"
    server: str = request.getfixturevalue("postgresql_url")
    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(server.replace("postgresql://", "postgresql+psycopg://") + "/postgres")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """URL of a migrated, empty database."""
    upgrade(empty_database_url)
    return empty_database_url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database."""
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A PostgreSQL server of this session; skips when the Debian package is not installed."""
    programs = find_postgresql()
    if programs is None:
        pytest.skip("PostgreSQL is not installed; `make services` installs Debian's package")
    with start_postgresql(programs) as url:
        yield url


def find_postgresql() -> Path | None:
    """Folder of the newest installed server's programs."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3])
    )
    if versions:
        return versions[-1].parent
    found = shutil.which("postgres")
    return Path(found).parent if found else None


@contextmanager
def start_postgresql(programs: Path) -> Iterator[str]:
    """Run a server on a free port of loopback, its data in a folder that goes with it. It refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="parallelix-pg-"))
    user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    data, port = folder / "data", free_port()
    init = [
        *user,
        str(programs / "initdb"),
        "--no-sync",
        "--auth=trust",
        "--username=parallelix",
        "-D",
        str(data),
    ]
    done = subprocess.run(init, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(folder),
        "fsync": "off",
        "max_connections": "200",
    }
    server = [*user, str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    for name, value in options.items():
        server += ["-c", f"{name}={value}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(server, cwd=folder, stdout=log, stderr=log)
    try:
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
        end = time.monotonic() + 60
        while subprocess.run(ready, timeout=10, check=False).returncode != 0:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "PostgreSQL was not ready within 60 s"
            time.sleep(0.05)  # a port that nobody listens on yet is refused at once
        yield f"postgresql://parallelix@127.0.0.1:{port}"
    finally:
        process.send_signal(3)  # SIGQUIT: at once, without waiting for clients
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)
