"""Which files and names a document refers to, and which of them do not exist.

A document names a file as `offchain/domain/payout.py`, and a function, class, method, constant or contract function in it
as `offchain/domain/payout.py:reward` or `offchain/domain/epochs.py:EpochClock.start`, always in backticks.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = re.compile(
    r"`((?:offchain|webapp|contracts|scripts|tools|tests|bench|docs|deploy)/[\w./-]*)(?::([A-Za-z_][\w.]*))?`"
)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)")
_SOLIDITY = re.compile(
    r"\b(?:abstract contract|contract|library|interface|struct|enum|event|error|function|modifier)\s+(\w+)"
    r"|^\s*(?:\w+|mapping\(.*\))\s.*?\b(\w+)(?:\s*=[^;]*)?;",
    re.MULTILINE,
)


def missing(text: str, folder: Path = ROOT / "docs") -> list[str]:
    """References and relative links of a document that lead nowhere, anchors of headings included.

    Args:
        text: the document.
        folder: where it lies; its links are relative to that.
    """
    absent = [
        f"{path}:{name}" if name else path
        for path, name in REFERENCE.findall(text)
        if not _is_there(path, name)
    ]
    for link, heading in LINK.findall(text):
        if "://" in link:
            continue
        target = folder / link if link else None
        words = (
            text
            if target is None
            else target.read_text()
            if target.suffix == ".md" and target.is_file()
            else ""
        )
        if (target is not None and not target.exists()) or (heading and heading not in headings(words)):
            absent.append(f"{link}#{heading}" if heading else link)
    return absent


def headings(text: str) -> set[str]:
    """Anchors of a document's headings, as web pages of repositories make them."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def _is_there(path: str, name: str) -> bool:
    file = ROOT / path
    return file.exists() if not name else file.is_file() and name in names_in(file)


@cache
def names_in(file: Path) -> frozenset[str]:
    """Everything that a Python or Solidity file defines; members of a class as `Class.member`."""
    text = file.read_text()
    if file.suffix == ".py":
        return frozenset(_names(ast.parse(text).body, ""))
    return frozenset(one or other for one, other in _SOLIDITY.findall(text))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + statement.name
        elif isinstance(statement, ast.ClassDef):
            yield prefix + statement.name
            yield from _names(statement.body, f"{prefix}{statement.name}.")
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                yield from (prefix + node.id for node in ast.walk(target) if isinstance(node, ast.Name))
