"""One chain for the files here: each gets it as it was deployed."""

from collections.abc import Iterator

import pytest

from offchain.demo.network import LocalNetwork
from tests.support.node.network import chain_with_actors, taken_back


@pytest.fixture(scope="session")
def deployed_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    """Contracts, bonded keepers and two operators."""
    with chain_with_actors(tmp_path_factory.mktemp("network") / "run") as running:
        yield running


@pytest.fixture(scope="module")
def network(deployed_network: LocalNetwork) -> Iterator[LocalNetwork]:
    """The network for one file."""
    with taken_back(deployed_network) as running:
        yield running
