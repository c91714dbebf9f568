"""docs/audit/ names tests as evidence: each of them must exist, and each invariant must be held by a stateful one."""

import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
AUDIT = ROOT / "docs/audit"
TEST_NAME = re.compile(r"`(?:\w+\.py::)?((?:test_\w+__|testFuzz_|invariant_)[\w*]*)(?:\[[^\]`]*\])?`")
METHOD = re.compile(r"`(Handler|\w+Machine)\.(\w+)`")


@cache
def functions() -> frozenset[str]:
    """Names of all tests, in Python and in Solidity."""
    found: set[str] = set()
    for pattern, path in (("*.py", "tests/contracts"), ("*.py", "tests/fork"), ("*.sol", "tests/foundry")):
        for file in (ROOT / path).rglob(pattern):
            found |= set(re.findall(r"\b(?:def|function) (\w+)", file.read_text()))
    return frozenset(found)


@cache
def methods() -> dict[str, frozenset[str]]:
    """Class or contract -> what it defines."""
    found = {"Handler": (ROOT / "tests/foundry/Handler.sol").read_text()}
    for file in (ROOT / "tests/contracts/stateful").glob("test_*.py"):
        text = file.read_text()
        found[re.findall(r"class (\w+Machine)\(", text)[0]] = text
    return {name: frozenset(re.findall(r"\b(?:def|function) (\w+)", text)) for name, text in found.items()}


def missing(text: str) -> list[str]:
    """Tests that a text names and that do not exist."""
    absent = [
        name for name in TEST_NAME.findall(text) if not any(fnmatchcase(one, name) for one in functions())
    ]
    absent += [f"{kind}.{name}" for kind, name in METHOD.findall(text) if name not in methods()[kind]]
    absent += [
        name
        for name in re.findall(r"`([\w/]+\.(?:py|sol))`", text)
        if not (ROOT / name).is_file() and not any((ROOT / "tests").rglob(name))
    ]
    return absent


def rows() -> list[list[str]]:
    """Cells of each numbered invariant."""
    lines = (AUDIT / "INVARIANTS.md").read_text().splitlines()
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| \d+ \|", line)
    ]


@pytest.mark.parametrize("name", ["INVARIANTS.md", "THREATS.md", "TRUST_MODEL.md", "KNOWN_ISSUES.md"])
def test_audit_docs__tests_they_name__exist(name: str) -> None:
    assert missing((AUDIT / name).read_text()) == []


def test_invariants__all_twenty__are_held_by_a_stateful_and_a_unit_test() -> None:
    assert [int(row[0]) for row in rows()] == list(range(1, 21))
    for number, _, stateful, unit in rows():
        held = METHOD.findall(stateful) or re.findall(r"`invariant_", stateful)
        assert held, f"invariant {number} has no stateful test"
        assert TEST_NAME.search(unit), f"invariant {number} has no unit test"


def test_audit_docs__name_that_is_not_there__is_noticed() -> None:
    assert missing("`test_nothing__of_the_kind__exists`") == ["test_nothing__of_the_kind__exists"]
    assert missing("`KeeperMachine.nonsense`") == ["KeeperMachine.nonsense"]
    assert missing("`test_nowhere.py`") == ["test_nowhere.py"]
