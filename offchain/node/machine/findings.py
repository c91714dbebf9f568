"""What one check of a machine found: a verdict, a reason and a remedy."""

from dataclasses import dataclass
from enum import StrEnum

import httpx


class CheckVerdict(StrEnum):
    """Of one check. A node can serve with warnings; after a failure it should not be started."""

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


def warned(name: str, reason: str, remedy: str = "") -> MachineFinding:
    """A check that found something to look at."""
    return MachineFinding(name, CheckVerdict.WARN, reason, remedy)


def failed(name: str, error: str, remedy: str = "") -> MachineFinding:
    """A check that found something wrong. Without `remedy`, `error` reads `what is wrong; what to do`."""
    if not remedy:
        error, _, remedy = error.partition("; ")
    return MachineFinding(name, CheckVerdict.FAIL, error, remedy)


def http_fault(error: Exception) -> str:
    """Why an HTTP exchange failed, without the URL, which may hold a key: `answered 401`, `ConnectError`."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"answered {error.response.status_code}"
    return str(error) if isinstance(error, ValueError) else type(error).__name__
