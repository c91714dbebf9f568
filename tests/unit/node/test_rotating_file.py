"""Files that are turned by size: the agent's log, its receipts, the model server's output."""

import ast
import stat
from pathlib import Path

import pytest

from offchain.node.rotating_file import RotatingFile
from tests.support.node.network import ROOT


def test_append__beyond_its_size__bounded_and_whole_lines(tmp_path: Path) -> None:
    log = RotatingFile(tmp_path / "receipts.jsonl", max_bytes=100, keep=3)
    for number in range(40):
        log.append(b'{"n":%03d}\n' % number)
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["receipts.jsonl", *(f"receipts.jsonl.{n}" for n in (1, 2, 3))]
    assert all(path.stat().st_size <= 100 for path in files)
    lines = [line for path in reversed(files) for line in path.read_text().splitlines()]
    assert lines[-1] == '{"n":039}'
    assert lines == [f'{{"n":{number:03d}}}' for number in range(40 - len(lines), 40)]


def test_append__any_bytes__arrive_unchanged_at_once_and_only_for_the_owner(tmp_path: Path) -> None:
    log = RotatingFile(tmp_path / "logs/engine.log", 1 << 20, 2)
    data = bytes(range(256)) + "ä".encode()[:1] + b"\r\n%s %d"
    log.append(data)
    assert (tmp_path / "logs/engine.log").read_bytes() == data  # before it is closed: SIGKILL loses nothing
    assert stat.S_IMODE((tmp_path / "logs/engine.log").stat().st_mode) == 0o600
    log.append(b"-")
    log.close()
    assert (tmp_path / "logs/engine.log").read_bytes() == data + b"-"


def test_append__full_disk__loses_lines_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "full.log"
    path.symlink_to("/dev/full")
    log = RotatingFile(path, 1 << 20, 2)
    for _ in range(3):
        log.append(b"lost\n")
    path.unlink()
    log.append(b"lost\n")
    log.append(b"kept\n")
    log.close()
    assert path.read_bytes().endswith(b"kept\n")
    assert capfd.readouterr().err == ""


def test_rotation__one_body__no_other_module_of_the_node_renames_older_files() -> None:
    for path in (ROOT / "offchain/node").rglob("*.py"):
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom | ast.Import)
            for alias in node.names
        }
        assert ("RotatingFileHandler" in names) is (path.name == "rotating_file.py"), path
        assert "name}.{number" not in path.read_text(), path
