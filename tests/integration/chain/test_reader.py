"""Pinned, typed reads against the real contracts."""

import dataclasses
from contextlib import closing
from types import MappingProxyType

import pytest

from offchain.chain.reader import ChainReader, EpochStatus, NodeState
from offchain.chain.rpc import BlockUnknownError, Rpc
from offchain.domain.types import Epoch, NodeId
from offchain.errors import FatalError, SkipError, TransientError
from tests.support.services.contracts import BOND, STAKE, Network
from tests.support.services.ports import free_port

pytestmark = pytest.mark.anvil


def test_reader__nodes_and_keepers__are_what_was_sent(network: Network) -> None:
    first, second = network.register_node(), network.register_node(account=1, tier=3, key_account=2)
    for account in (3, 4, 5):
        network.join_keeper(account)
    epoch = Epoch(network.next_epoch())
    reads = network.chain.at(network.chain.head_block())
    assert reads.node_count() == second
    node = reads.node(NodeId(second))
    assert (node.owner, node.tier, node.stake_wei) == (network.signers[1].address, 3, STAKE)
    assert node.state is NodeState.ACTIVE
    assert node.key_address == reads.node_key(NodeId(second)) == network.signers[2].address
    assert reads.node_of_key(network.signers[2].address) == second
    assert reads.node_of_key(network.signers[7].address) is None
    weights = reads.weights(epoch, [NodeId(first), NodeId(second)])
    assert weights == {first: STAKE * 10_000, second: STAKE * 25_000}
    assert reads.total_weight(epoch) == sum(weights.values())
    assert reads.total_weight(Epoch(epoch - 1)) == 0
    keepers = reads.keeper_set(epoch)
    assert keepers.signers == tuple(network.signers[account].address for account in (3, 4, 5))
    assert keepers.quorum == 3
    assert len(keepers.digest) == 32
    report = reads.report(epoch)
    assert (report.status, report.final_at) == (EpochStatus.OPEN, 0)
    assert reads.pool(epoch) > 0
    assert reads.paid(epoch) == 0
    assert reads.claimed([(NodeId(first), epoch)]) == {(first, epoch): False}
    assert not reads.is_gateway(network.signers[0].address)
    assert reads.gateway_keeper(network.signers[0].address) is None
    assert BOND > 0


def test_reader__an_old_block__answers_from_that_block(network: Network) -> None:
    before = network.chain.head_block()
    network.register_node()
    assert network.chain.at(before).node_count() == 0
    assert network.chain.at(network.chain.head_block()).node_count() == 1


def test_reader__pinned_block_reorganised_away__fails_instead_of_answering(network: Network) -> None:
    network.anvil.mine(3)
    pinned = network.chain.head_block()
    network.anvil.reorg(2)
    with pytest.raises(BlockUnknownError):
        network.chain.at(pinned).node_count()


def test_reader__a_call_that_reverts__says_why(network: Network) -> None:
    with pytest.raises(SkipError, match="UnknownNode"):
        network.chain.at(network.chain.head_block()).one("NodeRegistryLocker", "withdrawStake", 77)


def test_reader__finality__by_tag_and_by_depth(network: Network) -> None:
    network.anvil.mine(8)
    height = network.anvil.height
    assert (
        network.chain.finalized_block().number == int(network.anvil.block("finalized")["number"], 16) < height
    )
    deep = ChainReader(network.rpc, network.deployment, confirmations=5)
    assert deep.finalized_block().number == height - 5
    deeper = ChainReader(network.rpc, network.deployment, confirmations=10**6)
    assert deeper.finalized_block().number == 0


def test_check__right_chain__passes_and_wrong_ones_are_fatal(network: Network) -> None:
    network.chain.check()
    other = dataclasses.replace(network.deployment, chain_id=1)
    with pytest.raises(FatalError, match=r"serves chain 31337.*of chain 1"):
        ChainReader(network.rpc, other).check()
    name = "KeeperRegistry"
    for changes, line in [
        ({"code_hash": "0x" + "0" * 64}, "is not the one"),
        ({"address": network.signers[0].address}, "no code at KeeperRegistry"),
    ]:
        ref = dataclasses.replace(network.deployment.contract(name), **changes)  # type: ignore[arg-type]
        contracts = MappingProxyType({**network.deployment.contracts, name: ref})
        with pytest.raises(FatalError, match=line):
            ChainReader(network.rpc, dataclasses.replace(network.deployment, contracts=contracts)).check()


def test_reader__endpoint_gone__is_transient_and_names_no_credentials(network: Network) -> None:
    port = free_port()
    rpc = Rpc(f"http://user:secret@127.0.0.1:{port}/v3/apikey", timeout_seconds=1)
    line = f"127.0.0.1:{port} cannot be reached"
    with closing(rpc), pytest.raises(TransientError, match=line) as caught:
        ChainReader(rpc, network.deployment).head_block()
    assert "secret" not in str(caught.value)
    assert "apikey" not in str(caught.value)


def test_rpc__first_endpoint_down__second_answers_and_first_rests(network: Network) -> None:
    now = [0.0]
    rpc = Rpc(
        [f"http://127.0.0.1:{free_port()}", network.anvil.url], timeout_seconds=2, monotonic=lambda: now[0]
    )
    assert ChainReader(rpc, network.deployment).head_block().number == network.anvil.height
    assert rpc.call("eth_chainId") == "0x7a69"
    rpc.close()
