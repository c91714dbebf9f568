"""What the commands of the Makefile promise that no other test runs: they are all run by CI, and they say what is missing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.smoke import STEPS

ROOT = Path(__file__).resolve().parents[3]
PART_OF_ANOTHER = {
    "setup": "demo-check, test and bench-smoke begin with it",
    "test-fast": "the first suite of test",
    "audit": "test runs what its suites do not; the rest is for whoever audits",
    "web-assets": "a step of setup",
    "pictures": "the unit tests draw them again and compare",
}
"""Commands that CI runs as a part of others."""


def commands() -> set[str]:
    """Those that `make` lists."""
    text = (ROOT / "Makefile").read_text() + (ROOT / "bench/bench.mk").read_text()
    return set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))


def test_make__alone__lists_every_command_in_its_group() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE)) == commands()
    assert re.findall(r"^[A-Z].*", listed, re.MULTILINE)[0] == "Set up and run"


def test_ci__every_command__is_run_by_it_in_some_form() -> None:
    own = set(re.findall(r"^make ([a-z-]+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    smoke = {step.target for step in STEPS}
    assert own | smoke | set(PART_OF_ANOTHER) == commands()
    assert own & smoke == set()


def test_test_one__without_a_test__says_what_to_do_in_one_line() -> None:
    done = subprocess.run(["make", "test-one"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "make test-one T=tests/unit/" in done.stderr


def test_test_one__example_in_the_help__exists() -> None:
    named = re.findall(r"T=(tests/[\w/]+\.py)", (ROOT / "Makefile").read_text())
    assert named
    assert all((ROOT / path).is_file() for path in named)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with a shell's own tools, PostgreSQL and an apt-get that only writes down what it is asked for."""
    for tool in ("bash", "dirname", "mkdir", "sed"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    for name, text in (("postgres", ""), ("apt-get", f'echo "$*" >>{tmp_path}/asked\n')):
        (tmp_path / name).write_text(f"#!{shutil.which('bash')}\n{text}")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def services(path: Path, *words: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [str(ROOT / "tools/services.sh"), *words],
        env={"PATH": str(path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_services__missing__are_said_in_a_line_each_with_the_command(bare: Path) -> None:
    code, lines = services(bare, "missing")
    assert code == 0
    assert [line.split(" is not installed")[0] for line in lines] == ["Redis", "Chromium"]
    assert all(line.endswith('"make services" as root installs it') for line in lines)
    assert not (bare / "asked").exists()


def test_services__needed_and_missing__fails(bare: Path) -> None:
    assert services(bare, "need", "postgresql") == (0, [])
    code, [line] = services(bare, "need", "chromium")
    assert (code, line.split(":")[0]) == (1, "Chromium is not installed")


def test_services__unknown_name__is_refused(bare: Path) -> None:
    code, [line] = services(bare, "need", "oracle")
    assert (code, line) == (2, "services: no service is called oracle: one of postgresql redis chromium")


def test_services__install__asks_for_the_missing_packages_or_says_who_must(bare: Path) -> None:
    code, lines = services(bare, "install")
    if os.geteuid() == 0:
        assert code == 0
        [update, install] = (bare / "asked").read_text().splitlines()
        assert update == "update"
        assert install.startswith("install --yes --no-install-recommends ")
        assert install.endswith(" redis-server chromium fonts-dejavu-core")
    else:
        assert (code, (bare / "asked").exists()) == (1, False)
        assert lines == [
            "services: run this as root: apt-get install --no-install-recommends redis-server chromium fonts-dejavu-core"
        ]
