"""What to pay for gas: pure arithmetic over `eth_feeHistory` (EIP-1559). All amounts are wei per gas."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BUMP_NUMERATOR, BUMP_DENOMINATOR = 9, 8
"""Nodes accept a replacement only with both fees at least 10 % higher; 12.5 % is what most of them suggest."""
MIN_PRIORITY_WEI = 1_000_000


@dataclass(frozen=True, slots=True)
class Fees:
    """Fees of one transaction."""

    max_fee_wei: int
    priority_fee_wei: int


@dataclass(frozen=True, slots=True)
class FeeHistory:
    """The last blocks' fees.

    Attributes:
        next_base_fee_wei: base fee of the block to come.
        rewards_wei: median priority fee of each block, oldest first.
    """

    next_base_fee_wei: int
    rewards_wei: tuple[int, ...]


def transaction(chain_id: int, nonce: int, to: str, data: bytes, gas: int, price: Fees) -> dict[str, Any]:
    """A call without value, with web3's field names, ready to be signed."""
    call = {"type": 2, "chainId": chain_id, "nonce": nonce, "to": to, "value": 0, "data": data, "gas": gas}
    return call | {"maxFeePerGas": price.max_fee_wei, "maxPriorityFeePerGas": price.priority_fee_wei}


def suggest(history: FeeHistory, cap_wei: int) -> Fees | None:
    """Fees that get into one of the next blocks, also if the base fee doubles; None when the cap forbids even the next.

    `max_fee = min(cap, 2 x next base fee + priority)`, priority = median of the recent medians.
    """
    priority = max(MIN_PRIORITY_WEI, _median(history.rewards_wei))
    least = history.next_base_fee_wei + MIN_PRIORITY_WEI
    if least > cap_wei:
        return None
    max_fee = min(cap_wei, 2 * history.next_base_fee_wei + priority)
    return Fees(max_fee, min(priority, max_fee - history.next_base_fee_wei))  # the tip must fit below the cap


def replacement(previous: Fees, history: FeeHistory, cap_wei: int) -> Fees | None:
    """Fees of a transaction that takes the place of an earlier one; None when the cap forbids a sufficient bump."""
    least = Fees(_bump(previous.max_fee_wei), _bump(previous.priority_fee_wei))
    if least.max_fee_wei > cap_wei:
        return None
    now = suggest(history, cap_wei)
    if now is None:
        return least
    max_fee = max(least.max_fee_wei, now.max_fee_wei)
    return Fees(max_fee, min(max_fee, max(least.priority_fee_wei, now.priority_fee_wei)))


def _bump(value: int) -> int:
    return max(value + 1, -(-value * BUMP_NUMERATOR // BUMP_DENOMINATOR))  # tiny fees round down to no bump


def _median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0
