"""Files that are replaced whole: content, permissions, failure, and one body in the tree."""

import os
import re
from pathlib import Path

import pytest

from offchain.runtime.files import replacing, write_atomically

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("mode", [0o600, 0o644])
@pytest.mark.parametrize("data", ["ä\n", b"\xff\0"])
def test_write_atomically__new_or_existing_file__has_content_and_mode(
    tmp_path: Path, data: bytes | str, mode: int
) -> None:
    path = tmp_path / "new folder" / "file"
    for _ in range(2):
        write_atomically(path, data, mode=mode)
        assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
        assert path.stat().st_mode & 0o777 == mode
    assert list(path.parent.iterdir()) == [path]


def test_replacing__block_fails__the_old_content_stays_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_text() == "old"
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing__content__is_on_the_disk_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        steps.append("fsync")
        fsync(handle)

    def replaced(path: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomically(tmp_path / "file", "x")
    assert steps == ["fsync", "replace"]


def test_atomic_write__in_the_tree__has_one_body() -> None:
    pattern = re.compile(
        r"mkstemp|NamedTemporaryFile|os\.replace\(|\b(part|fresh|temporary|tmp)\.(replace|rename)\("
    )
    found = {
        str(path.relative_to(ROOT))
        for room in ("offchain", "scripts", "webapp")
        for path in (ROOT / room).rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found == {"offchain/runtime/files.py"}
