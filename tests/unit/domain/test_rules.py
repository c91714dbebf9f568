"""The rules that money depends on, as properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain.domain import uptime_tree
from offchain.domain.epochs import EpochClock
from offchain.domain.measurement.uptime import Observation, SlotState, tabulate
from offchain.domain.payout import epoch_account, reward
from offchain.domain.types import Bps, Epoch, NodeId, Wei, Weight


@given(st.integers(1, 10_000), st.data())
def test_epoch_clock__any_second__lies_in_the_slot_it_is_given(length: int, data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, length))
    clock = EpochClock(1_000, length, slots)
    second = data.draw(st.integers(1_000, 1_000 + 5 * length))
    epoch, slot = clock.slot_at(second)
    first, after = (clock.start(epoch) + s * length // slots for s in (slot, slot + 1))
    assert first <= second < after


def test_epoch_clock__before_genesis__is_refused() -> None:
    with pytest.raises(ValueError, match="genesis"):
        EpochClock(100, 10, 2).epoch_at(99)


@given(
    st.integers(0, 10**27),
    st.lists(
        st.tuples(st.integers(0, 10**30), st.integers(0, 10_000)),
        min_size=1,
        max_size=40,
    ),
)
def test_reward__any_table__never_pays_more_than_the_pool_and_loses_less_than_a_wei_a_node(
    pool: int, nodes: list[tuple[int, int]]
) -> None:
    total = Weight(sum(weight for weight, _ in nodes))
    paid = sum(reward(Wei(pool), Weight(weight), total, Bps(up)) for weight, up in nodes)
    assert paid <= pool
    if total and all(up == 10_000 for _, up in nodes):
        assert pool - paid < len(nodes)


@given(
    st.integers(1, 10**27),
    st.integers(1, 10**27),
    st.integers(1, 10**27),
    st.integers(0, 10_000),
)
def test_reward__another_node_down__earns_nobody_more(pool: int, mine: int, other: int, up: int) -> None:
    total = Weight(mine + other)
    assert reward(Wei(pool), Weight(mine), total, Bps(up)) == pool * mine * up // (10_000 * total)


def test_epoch_account__paid_something_else_than_earned__is_refused() -> None:
    with pytest.raises(ValueError, match="node 1 was paid 6 wei but earned 5"):
        epoch_account(Wei(10), {NodeId(1): Wei(5)}, {NodeId(1): Wei(6)})


def test_epoch_account__one_claimed_one_not__balances() -> None:
    account = epoch_account(Wei(10), {NodeId(1): Wei(5), NodeId(2): Wei(3)}, {NodeId(1): Wei(5)})
    assert (account.paid, account.claimable, account.carried) == (5, 3, 2)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33, 4_097, 131_071])
def test_uptime_tree__every_kind_of_position__proves_and_nothing_else_does(
    count: int,
) -> None:
    epoch = Epoch(7)
    tree = uptime_tree.UptimeTree(epoch, count, {NodeId(i): Bps(i % 10_001) for i in range(1, count + 1)})
    for node in {1, count, (count + 1) // 2}:
        leaf, proof = tree.leaf(NodeId(node)), tree.proof(NodeId(node))
        assert tree.uptime(NodeId(node)) == node % 10_001
        assert uptime_tree.verify(tree.root, epoch, count, NodeId(node), leaf, proof)
        assert not uptime_tree.verify(tree.root, Epoch(8), count, NodeId(node), leaf, proof)
        raised = leaf[:-1] + bytes([leaf[-1] ^ 1])
        assert not uptime_tree.verify(tree.root, epoch, count, NodeId(node), raised, proof)
        assert not uptime_tree.verify(tree.root, epoch, count, NodeId(node), leaf, [*proof[1:], proof[0]])
        assert not uptime_tree.verify(tree.root, epoch, count, NodeId(node), leaf, proof[:-1])


def test_uptime_tree__uptime_over_the_whole__is_refused() -> None:
    with pytest.raises(ValueError, match="over 10000"):
        uptime_tree.UptimeTree(Epoch(0), 3, {NodeId(2): Bps(10_001)})


def test_tabulate__two_regions_miss_one_region_misses_and_a_receipt_wins__states() -> None:
    node = NodeId(4)
    seen = [
        Observation(node, 0, "eu", answered=True),
        Observation(node, 1, "eu", answered=False),
        Observation(node, 1, "us", answered=False),
        Observation(node, 2, "eu", answered=False),
        Observation(node, 3, "eu", answered=False),
        Observation(node, 3, "us", answered=False),
        Observation(node, 3, "ap", answered=True),
        Observation(NodeId(9), 0, "eu", answered=False),
    ]
    table = tabulate([node], 5, seen)
    assert table.states[node] == (
        SlotState.UP,
        SlotState.MISSED,
        SlotState.UNCONFIRMED,
        SlotState.UP,
        SlotState.ABSTAINED,
    )
    assert table.uptime(node) == 8_000
    assert table.covered()
    assert not tabulate([node, NodeId(5)], 5, seen).covered()
