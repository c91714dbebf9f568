"""The cache in front of the chain: each question is asked once a block, and final answers are asked once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from offchain.chain.reader import EpochStatus, Read
from offchain.domain.epochs import EpochClock
from offchain.domain.types import BlockRef
from webapp.index import Head
from webapp.sources.chain import ChainEpoch, ChainSource, ChainUnavailableError
from webapp.sources.epoch_facts import EpochFacts

CLOCK = EpochClock(1_000, 100, 10)
HEAD = Head(block=9, block_hash="0x09", timestamp=1_550, final_block=5, final_timestamp=1_250)
"""Epochs 0 to 2 began at final blocks, epochs 3 to 5 did not."""


class Chain:
    """Answers every read; epoch 1 lapsed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.down = False

    def read(self, reads: Sequence[Read], block: BlockRef | None = None) -> list[Any]:
        if self.down:
            raise ChainUnavailableError("no answer")
        assert block is not None
        self.asked += [(read.function, read.args[0]) for read in reads]
        values = {"poolOf": 70, "totalWeightAt": 7}
        return [
            values.get(read.function, EpochStatus.LAPSED if read.args[0] == 1 else EpochStatus.OPEN)
            for read in reads
        ]


def test_load__same_block__asks_nothing_twice() -> None:
    chain = Chain()
    facts = EpochFacts(cast("ChainSource", chain), CLOCK)
    first = facts.load(HEAD, [2, 1], [1, 2])
    assert first.epochs == {1: ChainEpoch(70, 7), 2: ChainEpoch(70, 7)}
    assert first.lapsed == {1}
    chain.asked.clear()
    assert facts.load(HEAD, [2, 1], [1, 2]) == first
    assert chain.asked == []


def test_load__next_block__asks_what_may_have_changed_once() -> None:
    chain = Chain()
    facts = EpochFacts(cast("ChainSource", chain), CLOCK)
    facts.load(HEAD, [4, 1], [1])
    chain.asked.clear()
    later = replace(HEAD, block=10, block_hash="0x0a")
    for _ in range(2):
        assert facts.load(later, [4, 1], [1]).lapsed == {1}
    assert sorted(chain.asked) == [("poolOf", 4), ("status", 1), ("totalWeightAt", 4)]


def test_load__chain_down__says_why_and_rests() -> None:
    chain, now = Chain(), [0.0]
    facts = EpochFacts(cast("ChainSource", chain), CLOCK, monotonic=lambda: now[0])
    chain.down = True
    assert facts.load(HEAD, [1]).error == "no answer"
    chain.down = False
    assert facts.load(HEAD, [1]).error == "no answer"
    now[0] = 4.0
    assert facts.load(HEAD, [1]).epochs == {1: ChainEpoch(70, 7)}
