"""Receipts: the node's signature under each answer."""

from collections.abc import Callable
from dataclasses import dataclass

from offchain.crypto.keys import Signer
from offchain.domain.canonical_json import canonical
from offchain.domain.eip712 import SigningDomain, keccak256, signing_prefix
from offchain.domain.messages import ServiceReceipt, Ticket, proof_of_execution
from offchain.domain.types import NodeId, Wei


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """One whole answer of the model server.

    Attributes:
        result: `result_bytes` of the answer.
        started_at_ms: when the request was admitted, Unix milliseconds.
    """

    ticket: Ticket
    revision_hash: bytes
    result: bytes
    prompt_tokens: int
    completion_tokens: int
    started_at_ms: int


@dataclass
class ReceiptMaker:
    """Signs receipts with the node key in the InferenceMarket's EIP-712 domain; `keep` gets a copy of each."""

    node_id: NodeId
    signer: Signer
    domain: SigningDomain
    price_per_token_wei: Wei
    now_ms: Callable[[], int]
    keep: Callable[[bytes], None] = lambda _receipt: None

    def __post_init__(self) -> None:
        self._prefix = signing_prefix(self.domain.separator())  # hashed once, not for each receipt

    def make(self, served: ServedAnswer) -> bytes:
        """Canonical JSON of the signed receipt: `{"nodeKey", "receipt", "signature"}`."""
        ticket = served.ticket
        receipt = ServiceReceipt(
            request_id=ticket.request_id,
            node_id=self.node_id,
            request_hash=ticket.request_hash,
            result_hash=keccak256(served.result),
            poe=proof_of_execution(ticket.request_id, served.result, self.node_id),
            model_revision=served.revision_hash,
            prompt_tokens=served.prompt_tokens,
            completion_tokens=served.completion_tokens,
            started_at_ms=served.started_at_ms,
            finished_at_ms=self.now_ms(),
            price_wei=Wei(self.price_per_token_wei * (served.prompt_tokens + served.completion_tokens)),
        )
        signature = self.signer.sign_digest(keccak256(self._prefix + receipt.struct_hash()))
        data = {
            "receipt": receipt.to_json(),
            "signature": "0x" + signature.hex(),
            "nodeKey": self.signer.address,
        }
        signed = canonical(data)
        self.keep(signed)
        return signed
