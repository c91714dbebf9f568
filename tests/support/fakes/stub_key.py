"""What a stub node does with its key: it checks tickets, and signs and proves answers, rightly or as its mode says."""

import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from offchain.crypto.addresses import address_of
from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import ServiceReceipt, Ticket, proof_of_execution
from offchain.domain.types import NodeId, Wei
from offchain.protocol.pair_mac import PROOF_BYTES, PUBLIC_KEY_BYTES, AgreedKeys, answer_mac

if TYPE_CHECKING:
    from tests.support.fakes.stub_node import Spec


class StubKey:
    """The key, and the tickets that were used."""

    def __init__(self, spec: "Spec") -> None:
        self.spec = spec
        self.signer = Signer.from_key(bytes.fromhex(spec.key.removeprefix("0x")))
        self.nodes_domain = SigningDomain(spec.chain_id, spec.nodes_contract)
        self.market_domain = SigningDomain(spec.chain_id, spec.market_contract)
        self.agreed = AgreedKeys(self.signer.agree)
        self.used: set[bytes] = set()

    def ticket_fault(self, request: web.Request, body: bytes) -> str | None:
        """What is wrong with a request's ticket, None when it is good; it is used up then."""
        try:
            request_id = bytes.fromhex(request.headers["X-Parallelix-Request-Id"][2:])
            raw = bytes.fromhex(request.headers["X-Parallelix-Ticket"][2:])
        except (KeyError, ValueError):
            return "no ticket"
        issued, expires = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:16], "big")
        ticket = Ticket(request_id, NodeId(self.spec.node_id), keccak256(body), issued, expires)
        digest, proof = self.nodes_domain.digest(ticket.struct_hash()), raw[16:]
        message = self.nodes_domain.message(ticket.encoded())
        is_mac = len(proof) == PROOF_BYTES
        gateway = address_of(proof[:PUBLIC_KEY_BYTES]) if is_mac else recover(digest, proof)
        if gateway.lower() != self.spec.gateway_signer.lower():
            return "a stranger's ticket"
        if is_mac and not self.agreed.holds(message, proof):
            return "a forged ticket"
        if not issued - 5_000 <= time.time() * 1000 <= expires:
            return "an old ticket"
        if digest in self.used:
            return "a used ticket"
        self.used.add(digest)
        return None

    def receipt(
        self, request_id: bytes, body: bytes, result: bytes, prompt: int, output: int
    ) -> dict[str, Any]:
        """A signed receipt, as the seam's JSON."""
        spec = self.spec
        now = time.time_ns() // 1_000_000
        if spec.mode == "lying_receipt":
            result += b"!"
        made = ServiceReceipt(
            request_id, NodeId(spec.node_id), keccak256(body), keccak256(result),
            proof_of_execution(request_id, result, NodeId(spec.node_id)), keccak256(spec.revision.encode()),
            prompt, output, now, now, Wei(spec.price_per_token_wei * output),
        )  # fmt: skip
        signer = Signer.from_key(b"\x07" * 32) if spec.mode == "foreign_key" else self.signer
        signature = signer.sign_digest(self.market_domain.digest(made.struct_hash()))
        return {
            "receipt": made.to_json(),
            "signature": "0x" + signature.hex(),
            "nodeKey": self.signer.address,
        }

    def prove(self, request: web.Request, answer: web.Response) -> web.Response:
        """Put the proof under a whole answer."""
        raw = bytes.fromhex(request.headers.get("X-Parallelix-Ticket", "0x")[2:])
        if self.spec.proof != "none" and len(raw) == 16 + PROOF_BYTES and isinstance(answer.body, bytes):
            request_id = bytes.fromhex(request.headers["X-Parallelix-Request-Id"][2:])
            proved = answer.body + (b" " if self.spec.proof == "wrong" else b"")
            key = self.agreed.key(raw[16 : 16 + PUBLIC_KEY_BYTES])
            answer.headers["X-Parallelix-Proof"] = answer_mac(key, request_id, proved).hex()
        return answer
