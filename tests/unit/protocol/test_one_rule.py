"""Rules of the wire that two sides share have one body each; these tests find a second one in the source text."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROTOCOL = "offchain/protocol"
HEADER = re.compile(r"x-parallelix-[a-z-]+", re.IGNORECASE)
HEAD_LINE = re.compile(r"x-parallelix-[a-z-]+: ", re.IGNORECASE)


@functools.cache
def product_code() -> tuple[tuple[str, ast.AST], ...]:
    """(path from the root on, parsed module)."""
    return tuple(
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text()))
        for room in ("offchain", "webapp")
        for path in sorted((ROOT / room).rglob("*.py"))
    )


def literals(tree: ast.AST) -> Iterator[str]:
    """Texts and bytes that the code uses; docstrings are none."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docs:
            if isinstance(node.value, str):
                yield node.value
            elif isinstance(node.value, bytes):
                yield node.value.decode("latin-1")


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def compared(tree: ast.AST) -> Iterator[str]:
    """Names of attributes that are compared with something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Attribute):
                    yield inner.attr


def test_header_names__product_code__stand_in_headers_alone() -> None:
    found = {
        path
        for path, tree in product_code()
        if any(HEADER.fullmatch(text.strip()) or HEAD_LINE.search(text) for text in literals(tree))
    }
    assert found == {f"{PROTOCOL}/headers.py"}


def test_event_streams__product_code__are_read_in_one_module() -> None:
    found = {
        path
        for path, tree in product_code()
        if any(text.startswith("data:") or text == "[DONE]" for text in literals(tree))
    }
    assert found == {f"{PROTOCOL}/server_sent_events.py"}


def test_receipts__product_code__are_checked_in_one_module() -> None:
    bound = {"request_hash", "result_hash", "poe"}
    assert {path for path, tree in product_code() if bound & set(compared(tree))} == {
        f"{PROTOCOL}/receipts.py"
    }
    made_or_checked = {path for path, tree in product_code() if "proof_of_execution" in set(calls(tree))}
    assert made_or_checked == {f"{PROTOCOL}/receipts.py", "offchain/node/agent/receipts.py"}


def test_signatures_under_receipts__product_code__are_held_against_keys_in_one_module() -> None:
    """Answers in evidence are the exception: their signers are recovered in other processes, from packed bytes."""
    found = set()
    for path, tree in product_code():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Compare)
                and isinstance(node.ops[0], ast.In | ast.NotIn)
                and isinstance(node.comparators[0], ast.Attribute)
                and node.comparators[0].attr in ("keys", "node_keys")
            ):
                found.add(path)
    assert found == {"offchain/evidence/bundle.py"}


def test_text_of_an_answer__product_code__is_taken_for_receipts_in_one_module() -> None:
    """The stream's token ledger and the playground read `content` too, but no receipt binds what they read."""
    readers = {
        path
        for path, tree in product_code()
        if {"tool_calls", "content"} & set(literals(tree)) and "choices" in set(literals(tree))
    }
    assert readers == {
        "offchain/domain/answer_text.py",
        "offchain/workloads/inference/stream.py",
        "webapp/sources/gateway.py",
    }
    results = {path for path, tree in product_code() if "result_bytes" in set(calls(tree))}
    assert results == {"offchain/domain/answer_text.py"}
