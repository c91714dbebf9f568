"""Fees and the meaning of reverts, as pure functions."""

from hypothesis import given
from hypothesis import strategies as st

from offchain.outbox.fees import FeeHistory, Fees, replacement, suggest
from offchain.outbox.rules import DEFAULT_RULES, RevertVerdict, verdict

GWEI = 10**9
fee = st.integers(1, 10**13)


@given(fee, st.lists(st.integers(0, 10**12), max_size=10), fee)
def test_suggest__any_history__stays_under_the_cap_and_over_the_base_fee(
    base: int, rewards: list[int], cap: int
) -> None:
    fees = suggest(FeeHistory(base, tuple(rewards)), cap)
    if fees is None:
        assert base >= cap - 10**6
        return
    assert base < fees.max_fee_wei <= cap
    assert 0 < fees.priority_fee_wei <= fees.max_fee_wei


@given(fee, st.integers(1, 100), fee, fee)
def test_replacement__any_transaction__is_accepted_by_a_node_or_not_made(
    max_fee: int, share: int, base: int, cap: int
) -> None:
    before = Fees(max_fee, max(1, max_fee * share // 100))
    after = replacement(before, FeeHistory(base, (GWEI,)), cap)
    if after is None:
        assert before.max_fee_wei * 9 > cap * 8 or before.max_fee_wei + 1 > cap
        return
    assert after.max_fee_wei <= cap
    assert after.max_fee_wei * 10 >= before.max_fee_wei * 11
    assert after.priority_fee_wei * 10 >= before.priority_fee_wei * 11 or before.max_fee_wei < 10
    assert after.priority_fee_wei <= after.max_fee_wei


def test_verdict__each_kind__knows_its_own_errors() -> None:
    cases = {
        ("attest:42", "WrongStatus(42, 1)"): RevertVerdict.SUPERSEDED,
        ("attest:42", "WrongStatus(42, 2)"): RevertVerdict.SUPERSEDED,
        ("attest:42", "WrongStatus(42, 3)"): RevertVerdict.FAULT,
        ("attest:42", "EpochNotOver(42, 7, 6)"): RevertVerdict.RETRY,
        ("attest:42", "QuorumNotReached(1, 3)"): RevertVerdict.FAULT,
        ("fulfil:0x01", "WrongStatus(0xab, 2)"): RevertVerdict.SUPERSEDED,
        ("fulfil:0x01", "DeadlinePassed(0xab, 1, 2)"): RevertVerdict.FAULT,
        ("claim:1:2", "AlreadyClaimed(1, 2)"): RevertVerdict.SUPERSEDED,
        ("other:1", "AlreadyClaimed(1, 2)"): RevertVerdict.FAULT,
    }
    assert {case: verdict(DEFAULT_RULES, *case) for case in cases} == cases
