"""Reverts in words: no error of a compiled contract is without them, and one body says them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from offchain.chain.abi import AbiEntry, ContractAbi, signature
from offchain.chain.revert_words import RevertDecoder, table
from offchain.domain.eip712 import keccak256, word

ROOT = Path(__file__).resolve().parents[3]
TOO_FAR: AbiEntry = {
    "type": "error", "name": "TooFar", "inputs": [{"name": "id", "type": "uint32"}, {"name": "why", "type": "bytes"}],
}  # fmt: skip
FORMS = {None, "prlx", "utc", "percent", "seconds", "text32"}


def compiled_errors() -> dict[str, dict[str, Any]]:
    """Every custom error of every compiled contract but the mocks, by selector."""
    types = json.loads((ROOT / ".build/__local__.json").read_text())["contractTypes"].values()
    found = {
        "0x" + keccak256(signature(entry).encode())[:4].hex(): entry
        for contract in types
        if not contract["sourceId"].startswith("contracts/mocks/")
        for entry in contract["abi"]
        if entry["type"] == "error"
    }
    assert len(found) > 90, "the contracts are not compiled; run `make setup`"
    return found


def test_table__every_error_of_the_compiled_contracts__has_words_and_the_abis_arguments() -> None:
    known = table()
    for selector, entry in compiled_errors().items():
        assert selector in known, f"{signature(entry)} has no words in offchain/chain/revert_words.py"
        said = known[selector]
        inputs = [(item["name"], item["type"]) for item in entry["inputs"]]
        assert (said["name"], [(item["name"], item["type"]) for item in said["inputs"]]) == (
            entry["name"],
            inputs,
        )


def test_table__every_entry__is_a_sentence_whose_arguments_exist() -> None:
    for said in table().values():
        assert re.fullmatch(r"[A-Z{].+\.", said["words"]), said
        assert set(re.findall(r"\{(\w+)\}", said["words"])) <= {item["name"] for item in said["inputs"]}
        assert all(isinstance(item["shown_as"], list) or item["shown_as"] in FORMS for item in said["inputs"])
    json.dumps(table())


def test_table__errors_that_no_contract_has__are_gone() -> None:
    assert set(table()) == set(compiled_errors())


def test_decoder__every_compiled_error__decodes_zeros_without_a_gap() -> None:
    decoder = RevertDecoder()
    for selector, entry in compiled_errors().items():
        static = [item for item in entry["inputs"] if item["type"] != "string"]
        body = word(0) * len(static) + (word(32) + word(0)) * (len(entry["inputs"]) - len(static))
        said = decoder.decode(bytes.fromhex(selector[2:]) + body)
        assert said.code.startswith(f"{entry['name']}(")
        assert said.words
        assert "{" not in said.words


@pytest.mark.parametrize(
    ("declared", "arguments", "expected"),
    [
        ("UnknownNode(uint32)", (77,), "UnknownNode(77): There is no node 77; check the id."),
        (
            "StakeOutOfRange(uint256,uint256,uint256)",
            (5 * 10**17, 1000 * 10**18, 2**128 - 1),
            (
                f"StakeOutOfRange({5 * 10**17}, {1000 * 10**18}, {2**128 - 1}): A stake of 0.5 PRLX is not allowed; stake "
                "at least 1,000 PRLX and at most 340,282,366,920,938,463,463.374607431768211455 PRLX."
            ),
        ),
        (
            "WithinTolerance(uint16,uint16)",
            (9950, 10000),
            (
                "WithinTolerance(9950, 10000): The receipts prove 100 %, and 99.5 % are attested; an appeal must prove more "
                "than 1 % above that."
            ),
        ),
        (
            "StillCooling(uint32,uint64,uint64)",
            (3, 1_700_000_000, 1_600_000_000),
            (
                "StillCooling(3, 1700000000, 1600000000): Node 3 still cools down; withdraw its stake from 2023-11-14 22:13 "
                "UTC on."
            ),
        ),
        (
            "WrongState(uint32,uint8)",
            (3, 4),
            "WrongState(3, 4): Node 3 is retired, and the call needs another state; read the node's state again.",
        ),
        (
            "InvalidParameter(bytes32,uint256,uint256,uint256)",
            (int.from_bytes(b"cooldown".ljust(32, b"\0"), "big"), 1, 2, 3),
            (
                f"InvalidParameter(0x{b'cooldown'.ljust(32, bytes(1)).hex()}, 1, 2, 3): The parameter cooldown is 1; it must "
                "lie between 2 and 3."
            ),
        ),
    ],
)
def test_decoder__custom_error__says_code_and_words(
    declared: str, arguments: tuple[int, ...], expected: str
) -> None:
    data = keccak256(declared.encode())[:4] + b"".join(word(value) for value in arguments)
    assert str(RevertDecoder().decode(data)) == expected


def test_decoder__every_other_form__is_named() -> None:
    decoder = RevertDecoder([ContractAbi([TOO_FAR])])
    custom = keccak256(b"TooFar(uint32,bytes)")[:4] + word(7) + word(64) + word(1) + b"a".ljust(32, b"\0")
    text = keccak256(b"Error(string)")[:4] + word(32) + word(2) + b"no".ljust(32, b"\0")
    panic = keccak256(b"Panic(uint256)")[:4]
    cases = {
        custom: "TooFar(7, 0x61)",
        custom[:40]: f"reverted with malformed error 0x{custom[:4].hex()}",
        text: "reverted: no",
        panic + word(0x11): "panic 0x11: arithmetic overflow",
        panic + word(0x99): "panic 0x99: see the Solidity manual",
        b"\1\2\3\4": "reverted with unknown error 0x01020304",
        b"": "reverted without a reason",
        None: "reverted without a reason",
    }
    assert {data: str(decoder.decode(data)) for data in cases} == cases


def test_revert_words__in_the_tree__are_one_body() -> None:
    pattern = re.compile(r"Error\(string\)|Panic\(uint256\)|ERC2612InvalidSigner")
    found = {
        str(path.relative_to(ROOT))
        for room in ("offchain", "scripts", "webapp")
        for path in (ROOT / room).rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found == {"offchain/chain/revert_words.py"}
