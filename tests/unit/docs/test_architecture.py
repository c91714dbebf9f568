"""Documents name files, functions and classes: each of them must exist, and the pictures must fit the code."""

import re
from pathlib import Path

import pytest

from tests.support.references import REFERENCE, ROOT, missing
from tools.docs import draw

DOCS = ROOT / "docs"
CHECKED = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "adr").glob("*.md")),
    *sorted((DOCS / "bench").glob("*.md")),
]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_document__files_and_names_in_it__exist(path: Path) -> None:
    assert missing(path.read_text(), path.parent) == []


def test_missing__file_name_or_link_that_is_not_there__is_noticed() -> None:
    assert missing("`offchain/domain/nothing.py`") == ["offchain/domain/nothing.py"]
    assert missing("`offchain/domain/payout.py:no_such`") == ["offchain/domain/payout.py:no_such"]
    assert missing("`contracts/RewardDistributor.sol:noSuch`") == ["contracts/RewardDistributor.sol:noSuch"]
    assert missing("[here](nowhere.md)") == ["nowhere.md"]
    assert missing("[here](wire.md#ticket) [there](wire.md#no-such)") == ["wire.md#no-such"]
    assert missing("## A word\n\n[here](#a-word) [there](#another)") == ["#another"]


def test_missing__function_method_field_and_contract_function__are_found() -> None:
    text = (
        "`offchain/domain/payout.py:reward` `offchain/domain/epochs.py:EpochClock.start` `offchain/domain/` "
        "`offchain/domain/epochs.py:EpochClock.genesis` `contracts/RewardDistributor.sol:claim` [adr](adr/README.md)"
    )
    assert missing(text) == []


def test_architecture__each_of_at_least_ten_answers__names_a_function() -> None:
    section = (DOCS / "architecture.md").read_text().partition("## Where is ...?")[2].partition("\n## ")[0]
    answers = [line for line in section.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(answers) >= 10
    assert all(any(name for _, name in REFERENCE.findall(line)) for line in answers)


def test_architecture__every_room_of_the_layers__has_a_row() -> None:
    text = (DOCS / "architecture.md").read_text()
    rooms = [room for layer, _ in draw.layers() for room in layer if (ROOT / room.replace(".", "/")).is_dir()]
    assert [room for room in rooms if f"`{room.replace('.', '/')}/`" not in text] == []


@pytest.mark.parametrize("name", sorted(draw.DRAWINGS))
def test_picture__drawn_again_from_the_code__is_the_committed_one(name: str) -> None:
    assert draw.DRAWINGS[name]() == (draw.PICTURES / name).read_text(), "run: python -m tools.docs.draw"
