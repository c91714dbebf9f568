"""An answer that is one JSON document.

::

    node's last byte -- whole? -- x-parallelix-proof? -- right --> to the caller, then: does the receipt hold?
                                        | none                     (if not, the node is charged, the answer stands)
                                        +--> does the receipt hold? --> to the caller

A proof (a MAC, see `pair_mac`) takes 1 us to check, a receipt's signature 40 us. The next node is tried when the answer is cut
short, when its proof is wrong, and, without a proof, when its receipt does not hold.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from offchain.dispatch.upstream import NO_HEADERS, Call
from offchain.domain.answer_text import answer_result, tokens_of
from offchain.domain.types import NodeId
from offchain.protocol import headers as header_names
from offchain.protocol.receipts import MAX_RECEIPT_BYTES, ReceiptVerifier, SignedReceipt, decode_header
from offchain.scheduler.work import FaultKind, NodeError
from offchain.workloads.inference.request import InferenceRequest, Kind

PLAIN_PATIENCE_SECONDS = 120.0
"""Wait for the first byte of a whole answer, which a node sends only after its last token."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_EMBEDDING = Kind.EMBEDDING

Proved = Callable[[NodeId, bytes, bytes, str], bool | None]
"""(node, request id, body, proof header) -> whether the proof is right; None when the node's public key is not known."""


def cannot_tell(_node: NodeId, _request_id: bytes, _body: bytes, _proof: str) -> bool | None:
    """A `Proved` for callers without such keys: every receipt is then checked before its answer is delivered."""
    return None


class PlainTask:
    """An answer that is one JSON document. It reaches the caller when it is whole and the node's proof or receipt holds.

    Attributes:
        answer: the document's bytes, once `end` has returned.
        receipt: the node's receipt if it holds, once `verdict` has returned. An embedding may have none.
        raw_receipt: JSON of the receipt as it came.
        usage: (prompt tokens, completion tokens).
    """

    initial_patience_seconds = PLAIN_PATIENCE_SECONDS
    delivered = 0

    def __init__(
        self,
        request: InferenceRequest,
        body: bytes,
        request_id: bytes,
        verifier: ReceiptVerifier,
        max_bytes: int = MAX_ANSWER_BYTES,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        proved: Proved = cannot_tell,
    ) -> None:
        self._request = request
        self._call = Call(request.kind, body, request_id, headers)
        self._verifier = verifier
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._proved = proved
        self._node_id = NodeId(0)
        self._proof: str | None = None
        self._result: bytes | None = None
        self._unchecked = False
        self.receipt_header: str | None = None
        self.answer = b""
        self.document: dict[str, Any] = {}
        self.receipt: SignedReceipt | None = None
        self.raw_receipt = b""
        self.usage = (0, 0)

    def call(self, node_id: NodeId) -> Call:
        self._node_id = node_id
        self._parts.clear()
        self._size = 0
        return self._call

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.receipt_header = headers.get(header_names.RECEIPT)
        self._proof = headers.get(header_names.PROOF)

    def feed(self, data: bytes) -> bytes:
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._max_bytes:
            raise NodeError(FaultKind.BAD_ANSWER, "the answer is too large")
        return b""

    def rest_if_complete(self) -> bytes | None:
        return None

    def end(self) -> bytes:
        answer = b"".join(self._parts)
        try:
            # The shape before the proof, which says who wrote these bytes, not that they are an answer.
            document = orjson.loads(answer)
            result = None
            if self._request.kind is not _EMBEDDING:
                _expect_finished(document["choices"])
                result = answer_result(document)
            elif not document["data"]:
                raise NodeError(FaultKind.BAD_ANSWER, "the answer holds no embedding")
            tokens = tokens_of(document.get("usage") or {})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"the answer is not what was asked for: {error!r}"
            raise NodeError(FaultKind.BAD_ANSWER, message) from None
        self._result = result
        self._unchecked = self._is_proved(answer)
        if not self._unchecked:
            self.receipt = self._checked_receipt()
        self.answer, self.document, self.usage = answer, document, tokens
        return answer

    def verdict(self) -> NodeError | None:
        if self._unchecked:
            self._unchecked = False
            try:
                self.receipt = self._checked_receipt()
            except NodeError as fault:
                return fault
        return None

    def result(self) -> bytes:
        """The bytes that the receipt binds, see `domain.answer_text`."""
        return b"" if self._result is None else self._result

    def _is_proved(self, answer: bytes) -> bool:
        """Whether a right proof came, with a receipt to check later. Raises NodeError when the proof is wrong."""
        if self._proof is None or self.receipt_header is None:
            return False
        if (
            len(self.receipt_header) * 3 // 4 > MAX_RECEIPT_BYTES
        ):  # many clients, a keeper's too, refuse so long a header
            raise NodeError(FaultKind.BAD_RECEIPT, "a receipt too long to be one")
        proved = self._proved(self._node_id, self._call.request_id, answer, self._proof)
        # None: we cannot tell, so the receipt decides before the caller gets a byte
        if proved is False:
            raise NodeError(FaultKind.BAD_RECEIPT, "the answer's proof is wrong")
        return proved is True

    def _checked_receipt(self) -> SignedReceipt | None:
        if self.receipt_header is None:
            if self._request.kind is _EMBEDDING:
                return None
            raise NodeError(FaultKind.BAD_RECEIPT, "the answer came without a receipt")
        try:
            self.raw_receipt = decode_header(self.receipt_header)
            signed = SignedReceipt.parse(self.raw_receipt)
            call = self._call
            self._verifier.check(signed, self._node_id, call.request_id, call.request_hash, self._result)
        except ValueError as error:
            raise NodeError(FaultKind.BAD_RECEIPT, str(error)) from None
        return signed


def _expect_finished(choices: list[dict[str, Any]]) -> None:
    """Raise ValueError unless there are choices and each has a `finish_reason`."""
    if not choices:
        raise ValueError("no choices")
    if any(choice.get("finish_reason") is None for choice in choices):
        raise ValueError("a choice without finish_reason")
