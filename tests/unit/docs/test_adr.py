"""Decision records have one form, and the list of them is complete and right."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "docs/adr"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
FORM = re.compile(
    r"# (?P<number>\d{4}) (?P<title>[^\n]+)\n\n\*\*Status:\*\* (?P<status>accepted|proposed)\n\n"
    r"## Context\n\n.+?\n## Decision\n\n.+?\n## Consequences\n\n.+",
    re.DOTALL,
)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record__its_form__is_status_context_decision_consequences(path: Path) -> None:
    found = FORM.fullmatch(path.read_text())
    assert found is not None
    assert path.name.startswith(found["number"] + "-")
    assert len(re.findall(r"^#+ ", path.read_text(), re.MULTILINE)) == 4


def test_list__every_record__stands_in_it_once_with_title_and_status() -> None:
    text = (FOLDER / "README.md").read_text()
    for path in RECORDS:
        found = FORM.fullmatch(path.read_text())
        assert found is not None
        row = f"| [{found['number']}]({path.name}) | {found['title']} | {found['status']} |"
        assert text.count(row) == 1, row


def test_list__a_number_that_another_took_over__has_no_file() -> None:
    taken = (FOLDER / "README.md").read_text().partition("## Numbers that another took over")[2]
    numbers = re.findall(r"^\| (\d{4}) \|", taken, re.MULTILINE)
    assert numbers
    assert [number for number in numbers if any(FOLDER.glob(f"{number}-*"))] == []


def test_code__decisions_that_it_cites__exist() -> None:
    root = FOLDER.parents[1]
    cited: dict[str, str] = {}
    for folder in ("offchain", "webapp", "contracts", "scripts", "tools", "bench", "tests", "deploy", "docs"):
        for path in (root / folder).rglob("*"):
            if (
                path.suffix in (".py", ".sol", ".sh", ".md", ".yml", ".js")
                and "node_modules" not in path.parts
            ):
                for number in re.findall(r"(?:adr/|ADR )(\d{4})", path.read_text(errors="replace")):
                    cited[number] = str(path.relative_to(root))
    assert {number: where for number, where in cited.items() if not any(FOLDER.glob(f"{number}-*"))} == {}
