"""A chain with the contracts, keepers that list a gateway, and funded operators: what a node needs around it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from offchain.demo.narrator import Narrator
from offchain.demo.network import LocalNetwork, Places

ROOT = Path(__file__).resolve().parents[3]


@contextlib.contextmanager
def chain_with_actors(run: Path) -> Iterator[LocalNetwork]:
    """The demo's network without its services: anvil, contracts, bonded keepers with a listed gateway, two operators."""
    with LocalNetwork(Places(ROOT, run), Narrator(as_json=True)) as network:
        network.start_chain()
        network.create_actors()
        network.bond_keepers()
        yield network


@contextlib.contextmanager
def taken_back(network: LocalNetwork) -> Iterator[LocalNetwork]:
    """The network for one test: afterwards its chain is as it was, and its nodes are unregistered."""
    snapshot = network.chain.rpc.call("evm_snapshot")
    try:
        yield network
    finally:
        assert network.chain.rpc.call("evm_revert", snapshot) is True
        for node in network.nodes:
            node.node_id = 0
