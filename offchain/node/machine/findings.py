"""What a check of a node found: a verdict, a reason and a remedy."""

from dataclasses import dataclass
from enum import StrEnum


class CheckVerdict(StrEnum):
    """Of one check. A warning does not stop the node, a failure does."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class MachineFinding:
    """What one check found.

    Attributes:
        reason: what was seen.
        remedy: what to do; empty when nothing is to be done.
    """

    name: str
    verdict: CheckVerdict
    reason: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """For `--json`."""
        return {
            "check": self.name,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "remedy": self.remedy,
        }


def passed(name: str, reason: str) -> MachineFinding:
    """A check that found nothing wrong."""
    return MachineFinding(name, CheckVerdict.OK, reason)


def failed(name: str, error: str, remedy: str = "") -> MachineFinding:
    """A check that did. An error in the form `what is wrong; what to do` brings its remedy along."""
    reason, _, hint = error.partition("; ")
    return MachineFinding(name, CheckVerdict.FAIL, reason, remedy or hint)
