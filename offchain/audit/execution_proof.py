"""Proves that a request's execution record is under the root of a signed report, directly or in a gateway's batch.

::

    executionRoot, signed by a quorum of keepers
      |-- record of a probe or an on-chain request, in the bundle
      `-- batch, signed by a gateway, in the bundle
            `-- record of any request that the gateway served: the gateway gives record and path, both are checked here
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from offchain.audit.verify_epoch import Audit
from offchain.domain.evidence_entries import AnswerEntry, Execution, SignedExecutionBatch
from offchain.domain.execution_tree import BATCH, ExecutionProof, verify
from offchain.domain.messages import ServiceReceipt
from offchain.errors import UserError
from offchain.evidence.execution_batches import ListedBatch
from offchain.evidence.keeper_peers import get_small
from offchain.evidence.signature_pool import account_of
from offchain.protocol.receipts import ReceiptError, check_signature

_SECONDS = 5.0
"""For one gateway's answer."""


@dataclass(frozen=True, slots=True)
class ServedRecord:
    """A gateway's answer for a request id: the record, its batch, and the record's Merkle proof in the batch."""

    execution: Execution
    batch: SignedExecutionBatch
    proof: ExecutionProof

    @classmethod
    def from_json(cls, data: Any) -> "ServedRecord":
        """Read `GET /v1/executions/<id>`. Raises ValueError when it is malformed."""
        try:
            receipt = ServiceReceipt.from_json(data["receipt"])
            execution = Execution(receipt, bytes.fromhex(data["signature"].removeprefix("0x")))
            siblings = tuple(bytes.fromhex(item.removeprefix("0x")) for item in data["siblings"])
            proof = ExecutionProof(int(data["index"]), int(data["count"]), siblings)
            return cls(execution, SignedExecutionBatch.from_json(data["batch"]), proof)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an execution record: {error!r}") from None

    def check(self, request_id: bytes) -> None:
        """Raise ValueError unless the record is of this request and its proof leads to the batch's root."""
        said = self.batch.commitment
        if self.execution.receipt.request_id != request_id:
            raise ValueError("the record is of another request")
        struct_hash = self.execution.receipt.struct_hash()
        # With the tag of gateways' trees: a path in a report's tree must not pass for one in a batch.
        if self.proof.count != said.count or not verify(
            said.root, said.epoch, struct_hash, self.proof, BATCH
        ):
            raise ValueError("the record is not under the root of its batch")


@dataclass(frozen=True, slots=True)
class RecordProof:
    """Proof that a request's execution record is under the root of a signed report.

    Attributes:
        proof: of the record, or of the batch that holds it, in the report's tree.
        struct_hash: of the record.
        batch, in_batch: the batch, and the record's proof in it; None for a record that the bundle itself holds.
    """

    audit: Audit
    receipt: ServiceReceipt
    struct_hash: bytes
    proof: ExecutionProof
    batch: ListedBatch | None = None
    in_batch: ExecutionProof | None = None

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        shown: dict[str, Any] = {
            "epoch": int(self.audit.epoch),
            "requestId": "0x" + self.receipt.request_id.hex(),
            "nodeId": int(self.receipt.node_id),
            "structHash": "0x" + self.struct_hash.hex(),
            "receipt": self.receipt.to_json(),
            **_json(self.proof),
            "executionRoot": "0x" + self.audit.report.execution_root.hex(),
        }
        if self.batch is not None and self.in_batch is not None:
            leaf = {"structHash": "0x" + self.batch.commitment.struct_hash().hex()}
            shown["batch"] = {**self.batch.to_json(), **leaf, **_json(self.in_batch)}
        return shown

    def to_text(self) -> str:
        """For people: the JSON, and one line that says what it proves."""
        place = f"record {self.proof.index} of {self.proof.count}"
        if self.batch is not None and self.in_batch is not None:
            place = (
                f"record {self.in_batch.index} of {self.in_batch.count} in the batch of gateway "
                f"0x{self.batch.gateway.hex()}, leaf {self.proof.index} of {self.proof.count}"
            )
        signed = f"signed by {len(self.audit.signers)} keepers"
        return (
            f"{json.dumps(self.to_json(), indent=2)}\n{place} in epoch {self.audit.epoch}, {signed}: proven"
        )


def record_proof(audit: Audit, request_id: bytes) -> RecordProof | None:
    """Proof of a record that the epoch's bundle itself holds; None when it holds none of this request."""
    for receipt in _receipts(audit):
        if receipt.request_id == request_id:
            struct_hash = receipt.struct_hash()
            return RecordProof(audit, receipt, struct_hash, audit.verdict.executions.proof(struct_hash))
    return None


def served_proof(audit: Audit, served: ServedRecord) -> RecordProof | None:
    """Proof of a record that a gateway gave; None when the epoch's report does not hold its batch.

    Raises:
        UserError: the node did not sign the record.
    """
    said = served.batch.commitment
    # The listed batch was checked with the bundle; the signature that the gateway gives now is not needed.
    listed = next((batch for batch in audit.verdict.batches if batch.commitment == said), None)
    if listed is None:
        return None
    receipt, struct_hash = served.execution.receipt, served.execution.receipt.struct_hash()
    # All until the epoch's end: a batch may be late, and its records older than a key's rotation.
    keys = audit.node_keys.get(receipt.node_id, frozenset())
    try:
        check_signature(
            receipt, served.execution.node_signature, audit.context.market.digest, account_of, keys
        )
    except ReceiptError:
        raise UserError(f"the record is under the root, but node {receipt.node_id} did not sign it") from None
    proof = audit.verdict.executions.proof(said.struct_hash())
    return RecordProof(audit, receipt, struct_hash, proof, listed, served.proof)


def read_record(path: Path, request_id: bytes) -> ServedRecord:
    """A record from a file. Raises UserError when the file cannot be read or the record does not hold."""
    try:
        served = ServedRecord.from_json(orjson.loads(path.read_bytes()))
        served.check(request_id)
    except OSError as error:
        raise UserError(f"record {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"record {path} does not hold: {error}") from None
    return served


def fetch_record(urls: Sequence[str], request_id: bytes) -> tuple[ServedRecord | None, list[str]]:
    """A valid record from the first gateway that has one, and for each gateway before it why it gave none."""
    why = []
    for url in urls:
        try:
            raw = get_small(f"{url.rstrip('/')}/v1/executions/0x{request_id.hex()}", _SECONDS)
            served = ServedRecord.from_json(orjson.loads(raw))
            served.check(request_id)
        except httpx.HTTPStatusError as error:
            missing = error.response.status_code == httpx.codes.NOT_FOUND
            why.append(f"{url} {'has no record of it' if missing else f'says {error.response.status_code}'}")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why.append(f"{url} cannot be asked: {type(error).__name__}")
        except ValueError as error:
            why.append(f"what {url} gives does not hold: {error}")
        else:
            return served, why
    return None, why


def _receipts(audit: Audit) -> Iterator[ServiceReceipt]:
    for document in audit.bundle.evidence:
        for text in document.answers:
            yield AnswerEntry.unpack(text).receipt
        for text in document.executions:
            yield Execution.unpack(text).receipt


def _json(proof: ExecutionProof) -> dict[str, Any]:
    return {
        "index": proof.index,
        "count": proof.count,
        "siblings": ["0x" + item.hex() for item in proof.siblings],
    }
