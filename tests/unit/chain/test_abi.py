"""ABI codec, adaptive ranges: encode and decode are inverses, malformed bytes are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain.chain.abi import ContractAbi, MalformedDataError
from offchain.chain.ranges import AdaptiveRange
from offchain.domain.eip712 import keccak256, word

OWNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
POINT = [
    {"name": "x", "type": "uint32"},
    {"name": "tag", "type": "bytes32"},
    {"name": "who", "type": "address"},
]
ABI: list[dict[str, Any]] = [
    {
        "type": "function", "name": "echo", "inputs": [
            {"name": "one", "type": "tuple", "components": POINT},
            {"name": "many", "type": "tuple[]", "components": POINT},
            {"name": "text", "type": "string"},
        ],
        "outputs": [
            {"name": "one", "type": "tuple", "components": POINT},
            {"name": "many", "type": "tuple[]", "components": POINT},
            {"name": "text", "type": "string"},
        ],
    },
    {
        "type": "event", "name": "Moved", "inputs": [
            {"name": "id", "type": "uint32", "indexed": True},
            {"name": "to", "type": "address", "indexed": False},
            {"name": "data", "type": "bytes", "indexed": False},
            {"name": "note", "type": "string", "indexed": True},
        ],
    },
]  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32), st.text(max_size=40))
def test_abi__structs_by_name_or_order__encode_alike_and_decode_back(x: int, tag: bytes, text: str) -> None:
    abi = ContractAbi(ABI)
    named = {"who": OWNER, "x": x, "tag": tag}
    by_name = abi.encode("echo", (named, [named, named], text))
    by_order = abi.encode("echo", ((x, tag, OWNER), [(x, tag, OWNER)] * 2, text))
    assert by_name == by_order
    assert by_name[:4] == keccak256(b"echo((uint32,bytes32,address),(uint32,bytes32,address)[],string)")[:4]
    assert abi.decode_result("echo", by_name[4:]) == (named, [named, named], text)


def test_abi__arguments_that_do_not_fit__are_refused() -> None:
    abi = ContractAbi(ABI)
    good = {"who": OWNER, "x": 1, "tag": bytes(32)}
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((), "takes 3 arguments"),
        (({"who": OWNER, "x": 1}, [], ""), "lacks tag"),
        (({**good, "x": 2**32}, [], ""), "do not fit echo"),
        (({**good, "x": "1"}, [], ""), "do not fit echo"),
    ]
    for args, line in cases:
        with pytest.raises(ValueError, match=line):
            abi.encode("echo", args)
    with pytest.raises(ValueError, match="no function other"):
        abi.encode("other", ())


def test_abi__event__is_json_in_the_abis_order() -> None:
    abi = ContractAbi(ABI)
    topics = [keccak256(b"Moved(uint32,address,bytes,string)"), word(7), keccak256(b"hello")]
    data = word(int(OWNER, 16)) + word(64) + word(3) + b"abc".ljust(32, b"\0")
    event = abi.decode_event(topics, data)
    assert event is not None
    assert list(event.args.items()) == [
        ("id", "7"), ("to", OWNER), ("data", "0x616263"), ("note", "0x" + keccak256(b"hello").hex()),
    ]  # fmt: skip
    assert abi.knows(topics)
    assert abi.decode_event([bytes(32)], data) is None
    assert abi.decode_event([], b"") is None
    for bad_topics, bad_data in [
        (topics[:2], data),
        (topics, data[:40]),
        ([*topics[:1], b"\xff" * 32, topics[2]], data),
    ]:
        with pytest.raises(MalformedDataError):
            abi.decode_event(bad_topics, bad_data)


def test_adaptive_range__quick_slow_large_failed__doubles_and_halves_within_bounds() -> None:
    ranges = AdaptiveRange(size=100, largest=300)
    ranges.succeeded(0.1, 10)
    assert ranges.size == 200
    ranges.succeeded(0.1, 10)
    assert ranges.size == 300
    ranges.succeeded(1.0, 10)
    assert ranges.size == 300
    ranges.succeeded(0.1, 1_000_000)
    ranges.succeeded(9.0, 1)
    assert ranges.size == 75
    for _ in range(10):
        ranges.failed()
    assert ranges.size == 1


@given(st.integers(1, 5_000))
def test_adaptive_range__endpoint_with_a_limit__settles_at_the_limit_with_few_refusals(limit: int) -> None:
    ranges, refusals, read = AdaptiveRange(), 0, 0
    for _ in range(60):
        if ranges.size > limit:
            refusals += 1
            ranges.refused(ranges.size)
        else:
            read += ranges.size
            ranges.succeeded(0.01, 0)
    assert refusals <= 20
    assert read >= 20 * limit
