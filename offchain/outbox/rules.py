"""What a revert means for an intent: another keeper did the same first, it is too early, or a person must look."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class RevertVerdict(Enum):
    """What becomes of an intent whose call reverts."""

    SUPERSEDED = "superseded"
    RETRY = "retry"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class RevertRule:
    """Patterns over the code of the decoded error, e.g. `WrongStatus(42, 1)`; they match all of it. Others are faults."""

    superseded: tuple[str, ...] = ()
    retry: tuple[str, ...] = ()

    def verdict(self, reason: str) -> RevertVerdict:
        """The verdict on a decoded error, `str(Revert)`: its code, then perhaps a colon and its words."""
        code = reason.partition(": ")[0]
        if any(re.fullmatch(pattern, code) for pattern in self.superseded):
            return RevertVerdict.SUPERSEDED
        if any(re.fullmatch(pattern, code) for pattern in self.retry):
            return RevertVerdict.RETRY
        return RevertVerdict.FAULT


DEFAULT_RULES: Mapping[str, RevertRule] = {
    # Status 1 and 2: another keeper's submission of this epoch was accepted. 3 (lapsed) is a fault.
    "attest": RevertRule(superseded=(r"WrongStatus\(\d+, [12]\)",), retry=(r"EpochNotOver\(.*\)",)),
    # Status 2 and 3: another keeper fulfilled the request, or it was refunded.
    "fulfil": RevertRule(superseded=(r"WrongStatus\(0x[0-9a-f]+, [23]\)",)),
    "refund": RevertRule(
        superseded=(r"WrongStatus\(0x[0-9a-f]+, [23]\)",), retry=(r"DeadlineNotPassed\(.*\)",)
    ),
    "claim": RevertRule(superseded=(r"AlreadyClaimed\(.*\)",), retry=(r"EpochNotFinal\(.*\)",)),
    "rollover": RevertRule(superseded=(r"EpochSettled\(.*\)",), retry=(r"EpochNotLapsed\(.*\)",)),
    "sweep": RevertRule(superseded=(r"EpochSettled\(.*\)",), retry=(r"ClaimStillOpen\(.*\)",)),
}
"""By kind, the part of an intent's key before the first colon."""


def verdict(rules: Mapping[str, RevertRule], key: str, reason: str) -> RevertVerdict:
    """The verdict on an intent by its key and decoded error."""
    return rules.get(key.partition(":")[0], RevertRule()).verdict(reason)
