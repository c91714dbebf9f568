"""Streams of server-sent events, cut anywhere, with every line end that the standard allows."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain.protocol.server_sent_events import (
    DONE,
    DONE_EVENT,
    RECEIPT,
    EventSplitter,
    read_event,
    write_event,
)

STREAM = b'data: {"a":1}\n\nevent: parallelix.receipt\ndata: {"r":2}\n\n: still here\n\ndata: [DONE]\n\n'
EVENTS = [(b"", b'{"a":1}'), (RECEIPT, b'{"r":2}'), (b"", b""), (b"", DONE)]


def read(pieces: list[bytes]) -> list[tuple[bytes, bytes]]:
    events = EventSplitter()
    return [read_event(block) for piece in pieces for block in events.feed(piece)]


@given(st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(0, 120), max_size=8))
def test_splitter__any_line_end_cut_anywhere__same_events(line_end: bytes, cuts: list[int]) -> None:
    stream = STREAM.replace(b"\n", line_end)
    edges = [0, *sorted(cuts), len(stream)]
    assert read([stream[a:b] for a, b in itertools.pairwise(edges)]) == EVENTS


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_splitter__one_byte_a_piece__same_events(line_end: bytes) -> None:
    stream = STREAM.replace(b"\n", line_end)
    assert read([stream[i : i + 1] for i in range(len(stream))]) == EVENTS


def test_splitter__event_without_end__counts_what_it_holds() -> None:
    events = EventSplitter()
    assert events.feed(b"data: a\n\ndata: ") == [b"data: a"]
    assert events.feed(b"b") == []
    assert events.unfinished == len(b"data: b")
    assert events.feed(b"\n") == []
    assert events.feed(b"\n") == [b"data: b"]
    assert events.unfinished == 0


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"data:x", (b"", b"x")),
        (b"data:  x", (b"", b" x")),
        (b"data: a\ndata: b", (b"", b"a\nb")),
        (b"data: b\nevent: n\nid: 3\nretry: 5", (b"n", b"b")),
        (b"data", (b"", b"")),
        (b": comment", (b"", b"")),
        (b"\ndata: after an empty line too many", (b"", b"after an empty line too many")),
        (b"", (b"", b"")),
    ],
)
def test_read_event__fields__as_the_standard_says(block: bytes, expected: tuple[bytes, bytes]) -> None:
    assert read_event(block) == expected


@given(st.binary().map(lambda data: data.replace(b"\r", b"")), st.sampled_from([b"", RECEIPT]))
def test_write_event__any_data__reads_back_as_one_event(data: bytes, name: bytes) -> None:
    assert read([write_event(data, name)]) == [(name, data)]


@pytest.mark.parametrize("pieces", [[DONE_EVENT + b"\n"], [DONE_EVENT, b"\r\n"], [DONE_EVENT, b"\n", b"\n"]])
def test_splitter__empty_lines_at_the_end__are_no_unfinished_event(pieces: list[bytes]) -> None:
    events = EventSplitter()
    found = [block for piece in pieces for block in events.feed(piece)]
    assert [read_event(block) for block in found if block] == [(b"", DONE)]
    assert events.unfinished == 0


def test_done_event__reads_as_done() -> None:
    assert write_event(DONE) == DONE_EVENT
