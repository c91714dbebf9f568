"""What one keeper saw in one epoch: answers that the node and the keeper both signed, and signed misses.

An evidence document is canonical JSON; its entries are packed as `offchain.domain.evidence_entries` says. Answers and
misses are ordered by (slot, node), and no pair occurs twice; batches are ordered by their text. Documents of version 2,
which had no batches, can still be read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from offchain.domain.canonical_json import canonical
from offchain.domain.eip712 import SigningDomain, hex_bytes, keccak256
from offchain.domain.evidence_entries import EvidenceError
from offchain.domain.types import Address, Epoch
from offchain.evidence.epoch_context import SeedBlock

VERSION, WITHOUT_BATCHES = 3, 2
_REGION = re.compile(r"[A-Za-z0-9._-]{1,32}")
_TAG = keccak256(b"parallelix.evidence.v1")


class MessageSigner(Protocol):
    """A key that signs messages: a keystore's or a Web3Signer's."""

    @property
    def address(self) -> Address:
        """Account of the key."""

    def sign(self, message: bytes) -> bytes:
        """65 bytes over the Keccak-256 of a message, the same at every call."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One keeper's document about one epoch.

    Attributes:
        signer: the keeper.
        seed_block, seed_signature: determine the keeper's probe schedule.
        answers, misses, executions, batches: packed entries, in the order of the module's rules.
        regions: ids of the epoch's nodes by the region that their heartbeats name, ascending, each at most once.
        signature: the keeper's, over all other fields; empty before `sign`.
    """

    domain: SigningDomain
    epoch: Epoch
    signer: Address
    seed_block: SeedBlock
    seed_signature: bytes
    answers: tuple[str, ...]
    misses: tuple[str, ...]
    executions: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    batches: tuple[str, ...] = ()
    version: int = VERSION
    signature: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """The document; `canonical` gives its bytes."""
        return self._body() | {"signature": "0x" + self.signature.hex()}

    def digest(self) -> bytes:
        """The 32 bytes that the keeper signs; they depend on chain, contract and the whole content."""
        return keccak256(self._message())

    def sign(self, signer: MessageSigner) -> "Evidence":
        """The same document with its signature."""
        return replace(self, signature=signer.sign(self._message()))

    def _message(self) -> bytes:
        # Not EIP-712, as no contract reads documents; tag and separator bind use, chain and contract.
        return _TAG + self.domain.separator() + keccak256(canonical(self._body()))

    def _body(self) -> dict[str, Any]:
        # The signature of a document of version 2 is over a body without this field.
        batches = {} if self.version == WITHOUT_BATCHES else {"batches": list(self.batches)}
        return {
            "version": self.version,
            "chainId": self.domain.chain_id,
            "attestation": self.domain.verifying_contract.lower(),
            "epoch": int(self.epoch),
            "signer": self.signer.lower(),
            "seed": {
                "blockNumber": self.seed_block.number,
                "blockHash": self.seed_block.hash,
                "signature": "0x" + self.seed_signature.hex(),
            },
            "answers": list(self.answers),
            "misses": list(self.misses),
            "executions": list(self.executions),
            "regions": {region: list(nodes) for region, nodes in self.regions.items()},
            **batches,
        }

    @classmethod
    def from_json(cls, data: Any, domain: SigningDomain) -> "Evidence":
        """Read a document of this chain and contract; signatures are not checked here. Raises EvidenceError."""
        try:
            if data["version"] not in (VERSION, WITHOUT_BATCHES):
                raise EvidenceError(f"evidence version {data['version']!r} is unknown")
            if data["chainId"] != domain.chain_id or data["attestation"] != domain.verifying_contract.lower():
                raise EvidenceError("evidence is of another chain or contract")
            seed = data["seed"]
            found = cls(
                domain=domain,
                epoch=Epoch(_natural(data["epoch"])),
                signer=Address(_hex(data["signer"], 20)),
                seed_block=SeedBlock(_natural(seed["blockNumber"]), _hex(seed["blockHash"], 32)),
                seed_signature=bytes.fromhex(_hex(seed["signature"], 65)[2:]),
                answers=_texts(data["answers"]),
                misses=_texts(data["misses"]),
                executions=_texts(data["executions"]),
                regions=_regions(data["regions"]),
                batches=() if data["version"] == WITHOUT_BATCHES else _texts(data["batches"]),
                version=data["version"],
                signature=bytes.fromhex(_hex(data["signature"], 65)[2:]),
            )
        except KeyError as missing:
            raise EvidenceError(f"evidence lacks {missing}") from None
        except (TypeError, AttributeError):
            raise EvidenceError("evidence is malformed") from None
        if found.to_json() != data:  # the signature is over `to_json`: it would not cover other fields
            raise EvidenceError("evidence holds fields that it must not")
        return found


def _natural(value: Any) -> int:
    # `True` is an int here and `true` in JSON; RFC 8785 has no integers from 2^53 on.
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise EvidenceError(f"{value!r} is not a natural number")
    return value


def _hex(value: Any, size: int) -> str:
    try:
        # Against its own rendering: with two spellings of a value a document would have two hashes.
        if isinstance(value, str) and value == "0x" + hex_bytes(value, size).hex():
            return value
    except ValueError:
        pass
    raise EvidenceError(f"{value!r} is not {size} bytes of lower-case 0x-hex")


def _regions(value: Any) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for region, nodes in value.items():
        ids = tuple(_natural(node) for node in nodes)
        if not _REGION.fullmatch(region) or not ids or list(ids) != sorted(set(ids)):
            raise EvidenceError(f"the nodes of region {region[:32]!r} are not in order, or its name is none")
        found[region] = ids
    if len({node for ids in found.values() for node in ids}) != sum(map(len, found.values())):
        raise EvidenceError("a node stands in two regions")
    return found


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise EvidenceError("entries are a list of text")
    return tuple(value)
