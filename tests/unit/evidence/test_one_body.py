"""Rules of evidence and rewards that must have one body: a second one would pay or verify differently one day."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("offchain/keeper", "offchain/evidence", "offchain/audit", "offchain/db", "webapp", "bench")


def modules_with(pattern: str, rooms: Iterable[str] = ROOMS) -> set[str]:
    """Modules of these rooms in whose text a pattern occurs."""
    return {
        str(path.relative_to(ROOT))
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if re.search(pattern, path.read_text())
    }


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"\* \w*uptime\w* //|\(FULL_BPS \* \w*total", set[str]()),
        (r"PublicKey|HALF_ORDER|\(27, 28\)", set[str]()),
        (r"lease_until=|lease_until\": (?!0)", {"offchain/db/jobs.py"}),
        (r"values\(holder=", {"offchain/db/leases.py"}),
        (r"threading\.Thread\(.*name=\"lease\"", {"offchain/keeper/attestation/lease.py"}),
    ],
    ids=["reward formula", "valid signature", "job lease", "process lease", "lease renewal"],
)
def test_rule__searched_for__stands_in_its_module_only(pattern: str, home: set[str]) -> None:
    assert modules_with(pattern) == home


def test_reward_formula__stands_in_the_domain() -> None:
    assert modules_with(r"\* \w*uptime\w* //", ["offchain/domain"]) == {"offchain/domain/payout.py"}
