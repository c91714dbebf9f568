"""The deployment's ABIs: encode calls, decode results, logs and custom errors, by name.

Results come as plain Python: integers, bytes, booleans, text, EIP-55 addresses; structs as dicts by field name. Events
come as JSON: integers as decimal text, bytes as 0x-hex.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError

from offchain.crypto.addresses import checksum
from offchain.domain.eip712 import keccak256

AbiEntry: TypeAlias = Mapping[str, Any]


class MalformedDataError(ValueError):
    """Bytes that do not fit the type under which they were to be decoded."""


@dataclass(frozen=True, slots=True)
class DecodedEvent:
    """An event by name, with JSON-ready arguments."""

    name: str
    args: dict[str, Any]


WordReader: TypeAlias = Callable[[bytes], Any]
"""Reads one 32-byte word into JSON. Raises ValueError when it does not fit the type."""


@dataclass(frozen=True, slots=True)
class _Event:
    """How an event's log is read.

    `words` has a reader for each 32-byte word of the data, or is None when an argument takes more than one word. Most
    events have single words only; the general decoder takes ten times as long, and an index reads millions of events.
    """

    name: str
    topics: tuple[tuple[str, WordReader], ...]
    plain: tuple[AbiEntry, ...]
    plain_types: tuple[str, ...]
    words: tuple[WordReader, ...] | None
    order: tuple[str, ...]


class ContractAbi:
    """The ABI of one contract.

    Example: `ContractAbi(ref.abi).encode("requestUnstake", [7])` gives the call data of `requestUnstake(7)`.
    """

    def __init__(self, entries: Iterable[AbiEntry]) -> None:
        self._functions: dict[str, AbiEntry] = {}
        self._events: dict[bytes, _Event] = {}
        self.errors: dict[bytes, AbiEntry] = {}
        for entry in entries:
            if entry["type"] == "function":
                self._functions[entry["name"]] = entry
            # An anonymous event has no signature among its topics to be found by.
            elif entry["type"] == "event" and not entry.get("anonymous"):
                self._events[keccak256(signature(entry).encode())] = _event(entry)
            elif entry["type"] == "error":
                # Errors have 4-byte selectors, events whole topics.
                self.errors[keccak256(signature(entry).encode())[:4]] = entry

    def encode(self, function: str, args: Sequence[Any] = ()) -> bytes:
        """Call data of a function; a struct may be a sequence or a dict by field name.

        Raises:
            ValueError: no such function, or arguments that do not fit it.
        """
        entry = self._function(function)
        inputs = entry["inputs"]
        if len(args) != len(inputs):
            raise ValueError(f"{function} takes {len(inputs)} arguments, not {len(args)}")
        ordered = [_ordered(item, value) for item, value in zip(inputs, args, strict=True)]
        try:
            body = encode([type_text(item) for item in inputs], ordered)
        except (EncodingError, TypeError, ValueError) as error:
            raise ValueError(f"arguments do not fit {signature(entry)}: {error}") from error
        return keccak256(signature(entry).encode())[:4] + body

    def decode_result(self, function: str, data: bytes) -> Any:
        """The result of a function: one value, or a tuple when it returns several.

        Raises:
            MalformedDataError: the bytes are no result of this function.
        """
        outputs = self._function(function)["outputs"]
        try:
            values = decode([type_text(item) for item in outputs], data)
        except (DecodingError, ValueError, OverflowError) as error:
            raise MalformedDataError(f"not a result of {function}: {error}") from error
        named = tuple(_named(item, value) for item, value in zip(outputs, values, strict=True))
        return named[0] if len(named) == 1 else named

    def knows(self, topics: Sequence[bytes]) -> bool:
        """Whether a log with these topics is an event of this contract."""
        return bool(topics) and topics[0] in self._events

    def decode_event(self, topics: Sequence[bytes], data: bytes) -> DecodedEvent | None:
        """The event of a log, or None when this contract's ABI does not know it.

        Raises:
            MalformedDataError: the log claims to be an event that its bytes do not fit.
        """
        event = self._events.get(topics[0]) if topics else None
        if event is None:
            return None
        if len(topics) != len(event.topics) + 1:  # topic 0 is the signature
            raise MalformedDataError(f"a log of {event.name} has {len(topics)} topics")
        try:
            found = _event_data(event, data)
            for (name, read), topic in zip(event.topics, topics[1:], strict=True):
                found[name] = read(topic)
        except (DecodingError, ValueError, OverflowError) as error:
            raise MalformedDataError(f"a log of {event.name} has malformed data: {error}") from error
        return DecodedEvent(event.name, {name: found[name] for name in event.order})

    def _function(self, name: str) -> AbiEntry:
        try:
            return self._functions[name]
        except KeyError:
            raise ValueError(f"the ABI has no function {name}") from None


@lru_cache(maxsize=65_536)  # EIP-55 hashes each address; an index meets the same ones over and over
def _address(value: str) -> str:
    return checksum(value)


def _event(entry: AbiEntry) -> _Event:
    plain = tuple(item for item in entry["inputs"] if not item["indexed"])
    readers = [_word_reader(item["type"]) for item in plain]
    return _Event(
        name=entry["name"],
        # Of an indexed dynamic value the topic is only the hash.
        topics=tuple(
            (item["name"], _word_reader(item["type"]) or _hex) for item in entry["inputs"] if item["indexed"]
        ),
        plain=plain,
        plain_types=tuple(type_text(item) for item in plain),
        words=None if None in readers else tuple(reader for reader in readers if reader is not None),
        order=tuple(item["name"] for item in entry["inputs"]),
    )


def _event_data(event: _Event, data: bytes) -> dict[str, Any]:
    if event.words is None:
        values = decode(event.plain_types, data)
        return {
            item["name"]: json_value(item, value) for item, value in zip(event.plain, values, strict=True)
        }
    if len(data) != 32 * len(event.words):  # surplus bytes would be dropped silently
        raise ValueError(f"{len(data)} bytes")
    return {
        item["name"]: read(data[32 * index : 32 * index + 32])
        for index, (item, read) in enumerate(zip(event.plain, event.words, strict=True))
    }


def _word_reader(kind: str) -> WordReader | None:
    """Reader of a type that takes one word, or None for any other type."""
    if kind in _READERS:
        return _READERS[kind]
    if kind.startswith("uint") and kind[4:].isdigit():
        limit = 1 << int(kind[4:])

        def read(word: bytes) -> str:
            value = int.from_bytes(word, "big")
            if value >= limit:
                raise ValueError(f"{value} does not fit {kind}")
            return str(value)

        return read
    return None


def _read_address(word: bytes) -> str:
    if word[:12] != bytes(12):  # a lying endpoint must not alias two addresses
        raise ValueError("an address with more than 20 bytes")
    return _address("0x" + word[12:].hex())


def _read_bool(word: bytes) -> bool:
    value = int.from_bytes(word, "big")
    if value > 1:
        raise ValueError(f"{value} is no truth value")
    return value == 1


def _hex(word: bytes) -> str:
    return "0x" + word.hex()


_READERS: Mapping[str, WordReader] = {"address": _read_address, "bool": _read_bool, "bytes32": _hex}


def type_text(item: AbiEntry) -> str:
    """The canonical type of a parameter: a struct is its fields' types in brackets."""
    kind: str = item["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(type_text(part) for part in item['components'])}){kind[5:]}"


def signature(entry: AbiEntry) -> str:
    """The canonical signature that a selector or topic is the hash of, e.g. `UnknownNode(uint32)`."""
    return f"{entry['name']}({','.join(type_text(item) for item in entry['inputs'])})"


def _ordered(item: AbiEntry, value: Any) -> Any:
    """A value with every struct in it as a tuple in the ABI's order."""
    kind: str = item["type"]
    if not kind.startswith("tuple"):
        return value
    if kind.endswith("]"):
        inner = {**item, "type": kind[: kind.rindex("[")]}
        return [_ordered(inner, element) for element in value]
    parts = item["components"]
    if isinstance(value, Mapping):
        missing = [part["name"] for part in parts if part["name"] not in value]
        if missing:
            raise ValueError(f"the struct {item['name']} lacks {', '.join(missing)}")
        value = [value[part["name"]] for part in parts]
    return tuple(_ordered(part, element) for part, element in zip(parts, value, strict=True))


def _named(item: AbiEntry, value: Any) -> Any:
    kind: str = item["type"]
    if kind.endswith("]"):
        inner = {**item, "type": kind[: kind.rindex("[")]}
        return [_named(inner, element) for element in value]
    if kind == "tuple":
        return {part["name"]: _named(part, v) for part, v in zip(item["components"], value, strict=True)}
    return _address(value) if kind == "address" else value


def json_value(item: AbiEntry, value: Any) -> Any:
    """A decoded value as JSON: integers as decimal text, bytes as 0x-hex, structs by field name."""
    return _plain(_named(item, value))


def _plain(value: Any) -> Any:
    if isinstance(value, bool | str):  # bool first: it is an int, too
        return value
    if isinstance(value, int):
        # Text, since many readers of JSON lose digits beyond 2^53 (RFC 8259, section 6).
        return str(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value]
