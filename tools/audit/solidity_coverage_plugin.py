"""pytest plugin: notes which instructions the in-process chain executes, and which way each conditional jump goes.

`pytest -p tools.audit.solidity_coverage_plugin --network ethereum:local:test` writes COVERAGE_OUT (a pickle) that
`solidity_coverage.py` maps to source lines. Ape itself has no coverage for Solidity.
"""

import os
import pickle
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eth.vm.code_stream import CodeStream

JUMPI = 0x57
STOP = 0x00
_executed: dict[bytes, set[int]] = defaultdict(set)
_jumps: dict[bytes, set[tuple[int, bool]]] = defaultdict(set)


def _recording_iter(self: CodeStream) -> Iterator[int]:
    code = self._raw_code_bytes
    executed, jumps = _executed[code], _jumps[code]
    jump = -1
    while True:
        position = self.program_counter
        if jump >= 0:
            jumps.add((jump, position != jump + 1))
            jump = -1
        if position >= len(code):
            break
        opcode = code[position]
        executed.add(position)
        if opcode == JUMPI:
            jump = position
        self.program_counter = position + 1
        yield opcode
    yield STOP


def pytest_configure(config: Any) -> None:
    """Begin to record."""
    CodeStream.__iter__ = _recording_iter  # type: ignore[method-assign]


def pytest_sessionfinish(session: Any) -> None:
    """Write what was seen."""
    path = Path(os.environ.get("COVERAGE_OUT", ".build/audit/coverage.pickle"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps((dict(_executed), dict(_jumps))))
