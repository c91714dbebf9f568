"""Which answers are run again, and what their comparison says.

The draw is made after the fact: its seed is the hash of a block that came later than the answer, so a node cannot know
which of its answers will be checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from offchain.domain.eip712 import keccak256
from offchain.domain.types import FULL_BPS, Bps, NodeId

BASE_RATE_BPS = Bps(500)
MAX_RATE_BPS = Bps(5_000)
AGREEMENT_BPS = Bps(9_000)
"""Share of tokens, counted from the start, in which two answers must agree: rounding may part them late, not early."""
_TAG = keccak256(b"parallelix.validation.draw.v1")


def rate(recent: int, disagreed: int) -> Bps:
    """Share of answers to run again: 5 %, and up to 50 % as disagreement rises (ten times its share on top)."""
    if recent <= 0:
        return BASE_RATE_BPS
    return Bps(min(MAX_RATE_BPS, BASE_RATE_BPS + 10 * FULL_BPS * disagreed // recent))


def drawn(request_id: bytes, block_hash: bytes, rate_bps: Bps) -> bool:
    """Whether this answer is run again."""
    # 64 bits: the bias of the remainder is below 10^-15.
    return int.from_bytes(keccak256(_TAG + request_id + block_hash)[:8], "big") % FULL_BPS < rate_bps


def agree(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two answers, as tokens or words, are the same up to float noise: equal in their first nine tenths."""
    longer = max(len(first), len(second))
    if longer == 0:
        return True
    common = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        common += 1
    return common * FULL_BPS >= longer * AGREEMENT_BPS


class Outcome(StrEnum):
    """What a validation came to."""

    AGREED = "agreed"
    ODD_ONE_OUT = "odd_one_out"
    ALL_DIFFER = "all_differ"


@dataclass(frozen=True, slots=True)
class SampleFinding:
    """Outcome, who answered like somebody else, and who is flagged."""

    outcome: Outcome
    agreed: tuple[NodeId, ...]
    flagged: tuple[NodeId, ...]


def compare(answers: Mapping[NodeId, Sequence[str]]) -> SampleFinding | None:
    """Majority among two or three answers; None when two differ, so that a third is needed.

    Raises:
        ValueError: not two or three answers.
    """
    nodes = sorted(answers)
    if len(nodes) not in (2, 3):
        raise ValueError("a validation compares two or three answers")
    friends = {
        node: [other for other in nodes if other != node and agree(answers[node], answers[other])]
        for node in nodes
    }
    agreed = tuple(node for node in nodes if friends[node])
    flagged = tuple(node for node in nodes if not friends[node])
    if not flagged:
        return SampleFinding(Outcome.AGREED, agreed, ())
    if len(nodes) == 2:
        return None
    if agreed:
        return SampleFinding(Outcome.ODD_ONE_OUT, agreed, flagged)
    return SampleFinding(Outcome.ALL_DIFFER, (), flagged)
