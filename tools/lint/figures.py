"""Figures of the code: what issue 13 wants less of, in one table, of any checkout.

    python tools/lint/figures.py [--json] [FOLDER]

Needs only Python, and reads the checkout in FOLDER (this one by default) as text, so that older commits can be measured, too:

    git worktree add /tmp/before <commit> && python tools/lint/figures.py /tmp/before

- lines: of .py, .sol and .js files below each top folder
- modules: in the folder with the most, without __init__.py and conftest.py
- longest function: of Python in the product, from `def` to its last line
- doubled runs: runs of RUN equal statements' lines (blank lines and comments aside) that stand in more than one place
- comments: lines that hold a comment, for a hundred lines of code without docstrings; the product's Python
- doubled names: public classes of offchain/ and webapp/ that share their name with another one
"""

import argparse
import ast
import io
import json
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PRODUCT = ("offchain", "webapp", "scripts", "tools", "bench", "tests/bench")
FOLDERS = ("offchain", "webapp", "contracts", "scripts", "tools", "bench", "tests")
SUFFIXES = (".py", ".sol", ".js")
GENERATED = ("__pycache__", ".cache", "node_modules", "webapp/static/dist", "offchain/db/migrations/versions")
RUN = 8


def files(root: Path, *folders: str, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """Files of ours below these folders."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix in suffixes and not any(f"/{one}/" in f"/{name}" for one in GENERATED):
                yield path


def longest(root: Path) -> list[dict[str, Any]]:
    """Functions of the product, the longest first."""
    found = [
        {
            "lines": (node.end_lineno or 0) - node.lineno + 1,
            "where": f"{path.relative_to(root)}:{node.lineno} {node.name}",
        }
        for path in files(root, *PRODUCT, suffixes=(".py",))
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return sorted(found, key=lambda one: -one["lines"])


def comments(root: Path) -> tuple[int, int]:
    """(lines that hold a comment, lines of code without docstrings and blank lines) of the product's Python."""
    noted = code = 0
    for path in files(root, *PRODUCT, suffixes=(".py",)):
        text, lines = path.read_text(), set[int]()
        docstrings = {
            line
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                noted += not token.string.startswith(("# fmt:", "# noqa", "# type:", "#!"))
            elif token.string.strip() and token.type not in (
                tokenize.NEWLINE,
                tokenize.NL,
                tokenize.ENDMARKER,
            ):
                lines |= set(range(token.start[0], token.end[0] + 1))
        code += len(lines - docstrings)
    return noted, code


def doubled_runs(root: Path) -> tuple[int, int]:
    """(runs of RUN lines that stand in more than one place, copies of them beyond the first); offchain and webapp."""
    seen: Counter[tuple[str, ...]] = Counter()
    for path in files(root, "offchain", "webapp", suffixes=(".py",)):
        stripped = [line.strip() for line in path.read_text().splitlines()]
        lines = [line for line in stripped if line and not line.startswith(("#", "import ", "from "))]
        seen.update(tuple(lines[at : at + RUN]) for at in range(len(lines) - RUN + 1))
    doubled = [count for count in seen.values() if count > 1]
    return len(doubled), sum(doubled) - len(doubled)


def doubled_names(root: Path) -> dict[str, int]:
    """Public class names that more than one class has."""
    names = Counter(
        node.name
        for path in files(root, "offchain", "webapp", suffixes=(".py",))
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return {name: count for name, count in sorted(names.items()) if count > 1}


def figures(root: Path) -> dict[str, Any]:
    """All figures of a checkout."""
    lines = {
        folder: sum(path.read_bytes().count(b"\n") for path in files(root, folder)) for folder in FOLDERS
    }
    modules = Counter(
        path.parent.relative_to(root).as_posix()
        for path in files(root, *FOLDERS)
        if path.name not in ("__init__.py", "conftest.py")
    )
    functions = longest(root)
    noted, code = comments(root)
    runs, copies = doubled_runs(root)
    names = doubled_names(root)
    return {
        "lines": lines,
        "lines_offchain_and_webapp": lines["offchain"] + lines["webapp"],
        "largest_folders": dict(modules.most_common(5)),
        "folders_above_14_modules": sum(count > 14 for count in modules.values()),
        "longest_functions": functions[:5],
        "functions_above_60_lines": sum(one["lines"] > 60 for one in functions),
        "doubled_runs": {"runs": runs, "copies": copies, "lines_a_run": RUN},
        "comments_in_100_lines": round(100 * noted / code, 1),
        "doubled_public_names": names,
    }


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parents[2])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    found = figures(options.folder.resolve())
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):26} {_words(value)}")


def _words(value: Any) -> str:
    """A figure, or several of one kind on one line."""
    if isinstance(value, list):
        return _words({one["where"]: one["lines"] for one in value})
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
    return str(value)


if __name__ == "__main__":
    main()
