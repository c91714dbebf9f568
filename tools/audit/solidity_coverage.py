"""Line and branch coverage of contracts/ from what the in-process chain executed.

A line is covered if an instruction of a statement that begins on it ran. A branch point is a conditional jump that belongs
to the condition of an `if`, a loop or a `? :`; it has two outcomes, and both must have been seen.
"""

import json
import os
import pickle
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
METADATA = 53
STATEMENTS = {
    "ExpressionStatement", "VariableDeclarationStatement", "Return", "EmitStatement", "RevertStatement", "IfStatement",
    "ForStatement", "WhileStatement", "InlineAssembly",
}  # fmt: skip
BRANCHES = {"IfStatement": "trueBody", "ForStatement": "body", "WhileStatement": "body", "Conditional": ""}


@dataclass
class FileCoverage:
    """What was seen of one source file.

    Attributes:
        lines: line -> whether covered.
        branches: (offset, length) of a branch point -> outcomes seen.
    """

    lines: dict[int, bool] = field(default_factory=dict)
    branches: dict[tuple[int, int], set[bool]] = field(default_factory=dict)

    @property
    def line_rate(self) -> tuple[int, int]:
        """Covered and all lines."""
        return sum(self.lines.values()), len(self.lines)

    @property
    def branch_rate(self) -> tuple[int, int]:
        """Outcomes seen and all outcomes."""
        return sum(len(seen) for seen in self.branches.values()), 2 * len(self.branches)


def build_info() -> dict[str, Any]:
    """Compile with forge; the compiler's input and output."""
    folder = ROOT / ".build/audit/forge"
    subprocess.run(
        ["forge", "build", "--offline", "--force", "--ast", "--build-info", "--skip", "test", "--out", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
        env={**os.environ, "FOUNDRY_CACHE_PATH": str(folder / "cache")},
    )  # fmt: skip
    newest = max((folder / "build-info").glob("*.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, Any] = json.loads(newest.read_text())
    return found


def measure(recorded: Path) -> dict[str, FileCoverage]:
    """Coverage of each own source file, mocks and interfaces left out."""
    executed, jumps = pickle.loads(recorded.read_bytes())
    output = build_info()["output"]
    paths = {source["id"]: path for path, source in output["sources"].items()}
    own = {path for path in paths.values() if path.startswith("contracts/") and "/mocks/" not in path}
    statements, branches = {}, {}
    for path in own:
        nodes = list(_walk(output["sources"][path]["ast"]))
        statements[path] = [_range(node) for node in nodes if node.get("nodeType") in STATEMENTS]
        branches[path] = [
            (
                _range(node),
                _range(node[BRANCHES[node["nodeType"]]]) if BRANCHES[node["nodeType"]] else (-1, 0),
            )
            for node in nodes
            if node.get("nodeType") in BRANCHES
        ]
    ran: dict[str, set[tuple[int, int]]] = defaultdict(set)
    there: dict[str, set[tuple[int, int]]] = defaultdict(set)
    points: dict[str, dict[tuple[int, int], set[bool]]] = defaultdict(lambda: defaultdict(set))
    for contracts in output["contracts"].values():
        for contract in contracts.values():
            code = contract["evm"]["deployedBytecode"]
            if len(code.get("object", "0x")) > 2 and code.get("sourceMap"):
                _map_contract(code, paths, own, executed, jumps, ran, there, points)
    return {
        path: _of_file(path, statements[path], branches[path], ran[path], there[path], points[path])
        for path in own
    }


def _map_contract(
    code: dict[str, Any],
    paths: dict[int, str],
    own: set[str],
    executed: dict[bytes, set[int]],
    jumps: dict[bytes, set[tuple[int, bool]]],
    ran: dict[str, set[tuple[int, int]]],
    there: dict[str, set[tuple[int, int]]],
    points: dict[str, dict[tuple[int, int], set[bool]]],
) -> None:
    raw = bytes.fromhex(code["object"].removeprefix("0x"))
    holes = [
        (hole["start"], hole["length"])
        for holes in code.get("immutableReferences", {}).values()
        for hole in holes
    ]
    wanted = _masked(raw, holes)
    matching = [seen for seen in executed if len(seen) == len(raw) and _masked(seen, holes) == wanted]
    hit = set().union(*(executed[seen] for seen in matching)) if matching else set()
    outcomes: dict[int, set[bool]] = defaultdict(set)
    for seen in matching:
        for position, taken in jumps[seen]:
            outcomes[position].add(taken)
    for position, opcode, (start, length, file) in _instructions(raw, code["sourceMap"]):
        path = paths.get(file)
        if path not in own:
            continue
        there[path].add((start, length))
        if position in hit:
            ran[path].add((start, length))
        if opcode == 0x57:
            points[path][start, length] |= outcomes.get(position, set())


def _of_file(
    path: str,
    statements: list[tuple[int, int]],
    branches: list[tuple[tuple[int, int], tuple[int, int]]],
    ran: set[tuple[int, int]],
    there: set[tuple[int, int]],
    points: dict[tuple[int, int], set[bool]],
) -> FileCoverage:
    source = (ROOT / path).read_bytes()
    found = FileCoverage()
    for statement in statements:
        if any(_inside(one, statement) for one in there):
            line = source[: statement[0]].count(b"\n") + 1
            covered = any(_inside(one, statement) for one in ran)
            found.lines[line] = found.lines.get(line, True) and covered
    for point, seen in points.items():
        for whole, body in branches:
            if _inside(point, whole) and not _inside(point, body):
                found.branches[point] = seen
                break
    return found


def _instructions(raw: bytes, source_map: str) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    entries = source_map.split(";")
    current = ["0", "0", "-1"]
    position = 0
    for entry in entries:
        for index, value in enumerate(entry.split(":")[:3]):
            if value:
                current[index] = value
        if position >= len(raw) - METADATA:
            return
        opcode = raw[position]
        yield position, opcode, (int(current[0]), int(current[1]), int(current[2]))
        position += 1 + (opcode - 0x5F if 0x60 <= opcode <= 0x7F else 0)


def _masked(code: bytes, holes: list[tuple[int, int]]) -> bytes:
    masked = bytearray(code[:-METADATA])
    for start, length in holes:
        masked[start : start + length] = bytes(length)
    return bytes(masked)


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "nodeType" in node:
            yield node
        for key, value in node.items():
            if key not in ("typeDescriptions", "AST"):
                yield from _walk(value)
    elif isinstance(node, list):
        for item in node:
            yield from _walk(item)


def _range(node: dict[str, Any]) -> tuple[int, int]:
    start, length, _ = node["src"].split(":")
    return int(start), int(length)


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[0] + inner[1] <= outer[0] + outer[1]


def table(found: dict[str, FileCoverage]) -> tuple[str, float, float]:
    """A Markdown table, and the line and branch rates of all files together."""
    rows, lines, branches = [], [0, 0], [0, 0]
    for path, file in sorted(found.items()):
        if not file.lines:
            continue
        (line_hit, line_all), (branch_hit, branch_all) = file.line_rate, file.branch_rate
        lines = [lines[0] + line_hit, lines[1] + line_all]
        branches = [branches[0] + branch_hit, branches[1] + branch_all]
        missed = ", ".join(str(line) for line, covered in sorted(file.lines.items()) if not covered) or "-"
        rows.append(f"| {path} | {line_hit}/{line_all} | {branch_hit}/{branch_all} | {missed} |")
    line_rate, branch_rate = lines[0] / max(1, lines[1]), branches[0] / max(1, branches[1])
    head = "| file | lines | branch outcomes | lines not covered |\n| --- | --- | --- | --- |\n"
    foot = f"| **all** | **{100 * line_rate:.1f} %** | **{100 * branch_rate:.1f} %** | |"
    return head + "\n".join([*rows, foot]), line_rate, branch_rate


if __name__ == "__main__":
    print(table(measure(ROOT / ".build/audit/coverage.pickle"))[0])
