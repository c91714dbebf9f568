"""Which code the gateway runs: native code of exactly these sources, or the sources."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from offchain.runtime.native_code import MODULES, VARIABLE, folder, source_of

USE = "import sys, pathlib; from offchain.runtime import native_code; print(native_code.use(pathlib.Path(sys.argv[1])));"
ORIGINS = "from importlib.util import find_spec; print(*{find_spec(name).origin for name in native_code.MODULES}, sep='\\n')"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One with all of the sources, each empty."""
    for module in MODULES:
        path = tmp_path / source_of(module)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def said(program: str, *words: object, **variables: str) -> list[str]:
    """What a Python of its own prints."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env={**os.environ, VARIABLE: "0", **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def test_folder__a_source_changes__is_another(checkout: Path) -> None:
    names = {folder(checkout)}
    (checkout / source_of(MODULES[0])).write_text("A = 1")
    names.add(folder(checkout))
    (checkout / "offchain/gateway/not_compiled.py").write_text("A = 1")
    names.add(folder(checkout))
    assert len(names) == 3
    assert all(name.parent == checkout / ".build/compiled" for name in names)


def test_folder__nothing_that_counts_changes__is_the_same(checkout: Path) -> None:
    before = folder(checkout)
    (checkout / "offchain/keeper/process").mkdir(parents=True)
    (checkout / "offchain/keeper/process/tasks.py").write_text("A = 1")
    assert folder(checkout) == before


@pytest.mark.parametrize(
    "change", [("sys.implementation.cache_tag", "x"), ("offchain.runtime.native_code._mypy", lambda: "0")]
)
def test_folder__another_python_or_mypy__is_another(
    checkout: Path, change: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folder(checkout)
    monkeypatch.setattr(*change)
    assert folder(checkout) != before


def test_use__made__all_come_from_there(checkout: Path) -> None:
    made = folder(checkout)
    made.mkdir(parents=True)
    answer, *origins = said(USE + ORIGINS, checkout)
    assert answer == "None"
    assert len(origins) == len(MODULES)
    assert all(Path(origin).is_relative_to(made) for origin in origins)


def test_use__not_made__says_so(checkout: Path) -> None:
    answer, *origins = said(USE + ORIGINS, checkout)
    assert "not made from these sources" in answer
    assert all(origin.endswith(".py") for origin in origins)


def test_use__made_and_a_source_changed__says_that_it_is_not_made(checkout: Path) -> None:
    folder(checkout).mkdir(parents=True)
    (checkout / source_of(MODULES[-1])).write_text("A = 1")
    assert "not made from these sources" in said(USE, checkout)[0]


def test_use__no_checkout__says_that_it_is_not_made(tmp_path: Path) -> None:
    assert "not made from these sources" in said(USE, tmp_path)[0]


def test_use__switched_off__says_so(checkout: Path) -> None:
    folder(checkout).mkdir(parents=True)
    assert said(USE, checkout, **{VARIABLE: "1"}) == [f"switched off by {VARIABLE}"]


def test_use__one_was_imported__refuses(checkout: Path) -> None:
    folder(checkout).mkdir(parents=True)
    answer, *origins = said("import offchain.scheduler.work;" + USE + ORIGINS, checkout)
    assert answer == "offchain.scheduler.work is imported already"
    assert all(origin.endswith(".py") for origin in origins)


def test_command_line__before_a_gateway_starts__has_imported_none() -> None:
    program = (
        "import sys, offchain.cli, offchain.gateway.cli; from offchain.runtime.native_code import MODULES;"
    )
    assert said(program + "print({*MODULES} & {*sys.modules})") == ["set()"]
