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


class ReceiptMaker:
    """Signs receipts with the node key in the InferenceMarket's EIP-712 domain."""

    def __init__(
        self,
        node_id: NodeId,
        signer: Signer,
        domain: SigningDomain,
        price_per_token_wei: Wei,
        now_ms: Callable[[], int],
        keep: Callable[[bytes], None] = lambda _receipt: None,
    ) -> None:
        """
        Args:
            keep: gets a copy of each receipt, for the node's own file.
        """
        self._node_id = node_id
        self._signer = signer
        self._prefix = signing_prefix(domain.separator())
        self._price_per_token_wei = price_per_token_wei
        self._now_ms = now_ms
        self._keep = keep

    def make(self, served: ServedAnswer) -> bytes:
        """Canonical JSON of the signed receipt: `{"nodeKey", "receipt", "signature"}`."""
        ticket = served.ticket
        receipt = ServiceReceipt(
            request_id=ticket.request_id,
            node_id=self._node_id,
            request_hash=ticket.request_hash,
            result_hash=keccak256(served.result),
            poe=proof_of_execution(ticket.request_id, served.result, self._node_id),
            model_revision=served.revision_hash,
            prompt_tokens=served.prompt_tokens,
            completion_tokens=served.completion_tokens,
            started_at_ms=served.started_at_ms,
            finished_at_ms=self._now_ms(),
            price_wei=Wei(self._price_per_token_wei * (served.prompt_tokens + served.completion_tokens)),
        )
        signature = self._signer.sign_digest(keccak256(self._prefix + receipt.struct_hash()))
        data = {
            "receipt": receipt.to_json(),
            "signature": "0x" + signature.hex(),
            "nodeKey": self._signer.address,
        }
        signed = canonical(data)
        self._keep(signed)
        return signed
