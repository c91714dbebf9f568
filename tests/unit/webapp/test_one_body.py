"""Rules that have one body in the house: these tests fail when a second one appears."""

import ast
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

ROOT = Path(__file__).resolve().parents[3]
PYTHON = sorted(path for room in ("offchain", "webapp", "scripts") for path in (ROOT / room).rglob("*.py"))
ASSETS = sorted((ROOT / "webapp" / "assets" / "src").rglob("*.js"))
TEMPLATES = sorted((ROOT / "webapp" / "templates").glob("*.html"))
POOL_TIMES_WEIGHT = re.compile(
    r"pool\w*\)?\s*\*|\*\s*\(?(?:\w+\.)*pool\w*|/\s*\(?(?:\w+\.)*total_?weight", re.IGNORECASE
)


def modules_with(found: object) -> set[str]:
    """Paths of the Python modules that hold an expression for which `found` is true."""
    assert callable(found)
    return {
        str(path.relative_to(ROOT))
        for path in PYTHON
        for node in ast.walk(ast.parse(path.read_text()))
        if found(node)
    }


def names(node: ast.AST) -> str:
    """Names in an expression, in lower case."""
    return " ".join(
        (part.attr if isinstance(part, ast.Attribute) else part.id).lower()
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute | ast.Name)
    )


def is_reward(node: ast.AST) -> bool:
    """A quotient that divides something with an uptime by a total."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.FloorDiv | ast.Div)
        and "uptime" in names(node.left)
        and "total" in names(node.right)
    )


def test_reward__in_python__is_computed_in_payout_alone() -> None:
    assert modules_with(is_reward) == {"offchain/domain/payout.py"}


@pytest.mark.parametrize("path", ASSETS + TEMPLATES, ids=lambda path: path.name)
def test_reward__in_scripts_and_templates__is_never_computed(path: Path) -> None:
    assert not POOL_TIMES_WEIGHT.search(path.read_text())


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_revert__in_scripts__has_no_words_of_its_own(path: Path) -> None:
    errors = re.compile(r"\b(?:StakeOutOfRange|NodeKeyInUse|AlreadyClaimed|EnforcedPause|errorName)\b")
    assert not errors.search(path.read_text())


def test_reverts__data__is_answered_in_words(client: FlaskClient) -> None:
    panic = "0x4e487b71" + (0x11).to_bytes(32, "big").hex()
    assert client.get(f"/api/v1/reverts/{panic}").json == {
        "words": "The contract refuses: panic 0x11: arithmetic overflow."
    }
    assert "without a reason" in client.get("/api/v1/reverts/0x").text


@pytest.mark.parametrize("data", ["", "0x1", "0xzz", "0x" + "00" * 1_001])
def test_reverts__malformed_data__is_refused(client: FlaskClient, data: str) -> None:
    assert client.get(f"/api/v1/reverts/{data}").status_code in (400, 404)


def test_bundles__readers__use_the_evidence_room() -> None:
    def is_own_reader(node: ast.AST) -> bool:
        return isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "'evidence'"

    assert modules_with(is_own_reader) == {"offchain/evidence/bundle.py"}
