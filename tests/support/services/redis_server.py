"""Debian's Redis as a process of a test's own, to be killed and started again on its port."""

import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from tests.support.gateway.processes import wait_for
from tests.support.services.ports import free_port


class RedisServer:
    """A running server; skips the test when Debian's package is not installed."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("Redis is not installed; `make services` installs Debian's package")
        self._program, self._folder, self._port = program, folder, free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                self._program,
                "--port",
                str(self._port),
                "--save",
                "",
                "--dir",
                str(self._folder),
                "--loglevel",
                "warning",
            ]
        )
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            wait_for(lambda: _answers(client), 10, "Redis")

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait(10)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
