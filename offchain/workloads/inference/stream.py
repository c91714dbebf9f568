"""Streamed answers: passed on event by event, and continued on another node after a cut (see `resume`)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from offchain.dispatch.upstream import NO_HEADERS, Call
from offchain.domain.answer_text import StreamedAnswer
from offchain.domain.types import NodeId
from offchain.protocol.receipts import ReceiptVerifier, SignedReceipt
from offchain.protocol.server_sent_events import (
    CONTENT_TYPE,
    DONE,
    DONE_EVENT,
    RECEIPT,
    EventSplitter,
    read_event,
    write_event,
)
from offchain.scheduler.work import FaultKind, NodeError, NotResumableError
from offchain.workloads.inference.request import InferenceRequest, Kind
from offchain.workloads.inference.resume import TokenLedger, continuation
from offchain.workloads.inference.whole_answer import MAX_ANSWER_BYTES

# Possessive (`*+`): a long list without its bracket is given up at once, not shortened id by id.
_IDS = re.compile(rb',"(?:prompt_)?token_ids":(?:null|\[[0-9, ]*+\])')
_NO_ERROR = re.compile(rb'\{"error": ?null')


class StreamTask:
    """An answer that is a stream of server-sent events.

    The caller gets the node's events without token ids and receipt, and `[DONE]` only when the answer is whole.

    Attributes:
        receipt: receipt of the node that finished the answer, if it holds, once `verdict` has returned.
        usage: (prompt tokens, completion tokens) over all nodes, each token counted once, once `verdict` has returned.
    """

    def __init__(
        self,
        request: InferenceRequest,
        body: bytes,
        request_id: bytes,
        verifier: ReceiptVerifier,
        context_length: Callable[[NodeId], int | None],
        first_byte_seconds: float = 10.0,
        max_bytes: int = MAX_ANSWER_BYTES,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        """
        Args:
            body: the caller's body, sent in the first attempt; the node's receipt binds it.
            headers: sent to the node in every attempt.
            context_length: node id -> its context length for this model in tokens, or None.
            first_byte_seconds: wait for the first byte while too few times were measured.
        """
        self.initial_patience_seconds = first_byte_seconds
        self.receipt: SignedReceipt | None = None
        self.usage = (0, 0)
        self._request = request
        self._request_id = request_id
        self._verifier = verifier
        self._context_length = context_length
        self._max_bytes = max_bytes
        options = request.fields.get("stream_options")
        self._wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._wants_ids = bool(request.fields.get("return_token_ids"))
        self._ledger: TokenLedger | None = None
        self._template: dict[str, Any] = {}
        self._sent = 0
        self._usage_sent = False
        self._headers = headers
        self._first_call = Call(request.kind, body, request_id, headers)
        self._begin(self._first_call, NodeId(0))

    def _begin(self, call: Call, node_id: NodeId) -> None:
        self._call = call
        self._node_id = node_id
        self._splitter = EventSplitter()
        self._events: list[bytes] = []
        self._size = 0
        self._held = b""
        self._done = False
        self._answer: StreamedAnswer | None = None
        self.raw_receipt = b""
        self._fault: NodeError | None = None

    @property
    def delivered(self) -> int:
        """Number of events with output that the caller has."""
        return self._sent

    def call(self, node_id: NodeId) -> Call:
        if not self._sent:
            self._begin(self._first_call, node_id)
            return self._call
        ledger = self._account()
        body = continuation(self._request, ledger, self._context_length(node_id))
        if body is None:
            raise NotResumableError("the answer was cut between its last token and its end")
        if self._wants_usage:
            body["stream_options"] = {"include_usage": True}
        # Also for a chat: the prompt's ids hold the rendered template, which a chat would apply again.
        self._begin(Call(Kind.COMPLETION.value, orjson.dumps(body), self._request_id, self._headers), node_id)
        return self._call

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        if not headers.get("content-type", "").startswith(CONTENT_TYPE):
            raise NodeError(FaultKind.BAD_ANSWER, "a stream was asked for, and something else came")

    def feed(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size > self._max_bytes:
            raise NodeError(FaultKind.BAD_ANSWER, "the answer is too large")
        if self._fault is not None:
            raise self._fault
        events = self._splitter.feed(data)
        if len(events) == 1:  # nearly always: nodes flush after each token
            return self._event(events[0])
        out: list[bytes] = []
        for event in events:
            try:
                out.append(self._event(event))
            except NodeError as fault:  # events before the fault are counted as delivered: write them, raise at the next call
                if not any(out):
                    raise
                self._fault = fault
                break
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        name, payload = read_event(event)
        if payload[:1] == b"{" and not name:
            # vLLM says so that it failed after the head went out with 200
            if payload.startswith(b'{"error"') and not _NO_ERROR.match(payload):
                raise NodeError(FaultKind.SERVER_ERROR, payload[:200].decode("utf-8", "replace"))
            self._events.append(payload)
            if self._ledger is not None:
                return self._continued(payload)
            if len(self._events) == 1:
                return self._first(payload)
            out = payload if self._wants_ids else strip_ids(payload)
            self._sent += 1
            if self._held:
                held, self._held = self._held, b""
                return write_event(held) + write_event(out)
            return write_event(out)
        if name == RECEIPT:
            self.raw_receipt = payload
        elif payload == DONE:
            self._done = True
        return b""

    def _first(self, payload: bytes) -> bytes:
        """Handle the first event, which has the role but no output. It is held until the second: after a cut between them the whole
        request can go to another node."""
        out = payload if self._wants_ids else strip_ids(payload)
        try:
            chunk = orjson.loads(payload)
            self._template = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
            choices = chunk.get("choices") or []
            texts = [(c.get("delta") or {}).get("content") or c.get("text") for c in choices]
            has_output = any(texts) or any(c.get("token_ids") for c in choices)
        except (ValueError, AttributeError, TypeError):
            raise NodeError(FaultKind.BAD_ANSWER, "an event of the stream is malformed") from None
        if not has_output:
            self._held = out
            return b""
        self._sent += 1
        return write_event(out)

    # ------------------------------------------------------------------------------------- after a cut

    def _account(self) -> TokenLedger:
        """The ledger of all tokens so far. Made at the first cut; afterwards every event is entered as it comes."""
        if self._ledger is None:
            ledger = TokenLedger.of(self._request.fields)
            for payload in self._events:
                _enter(ledger, _chunk(payload))
            ledger.ids_given = len(ledger.ids)
            self._ledger = ledger
        return self._ledger

    def _continued(self, payload: bytes) -> bytes:
        """Turn an event of a continuation into an event of the answer that the caller is reading."""
        ledger = self._account()
        try:
            chunk = orjson.loads(payload)
        except ValueError:
            raise NodeError(FaultKind.BAD_ANSWER, "an event of the stream is not JSON") from None
        if not chunk.get("choices"):
            return self._usage_event(ledger) if self._wants_usage and chunk.get("usage") else b""
        fresh, ids = _enter(ledger, chunk, continued=True)
        finish = ledger.finish
        if not fresh and finish is None and not (self._wants_ids and ids):
            return b""
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": fresh}} if self._request.kind is Kind.CHAT else {"text": fresh}
        choice |= {"logprobs": None, "finish_reason": finish}
        if finish is not None and "stop_reason" in chunk["choices"][0]:
            choice["stop_reason"] = chunk["choices"][0]["stop_reason"]
        if self._wants_ids:
            choice["token_ids"] = ids
        self._sent += 1
        return write_event(orjson.dumps({**self._template, "choices": [choice]}))

    def _usage_event(self, ledger: TokenLedger) -> bytes:
        prompt, completion = len(ledger.prompt_ids), len(ledger.ids)
        self._usage_sent = True
        total = prompt + completion
        usage = {"prompt_tokens": prompt, "total_tokens": total, "completion_tokens": completion}
        return write_event(orjson.dumps({**self._template, "choices": [], "usage": usage}))

    def rest_if_complete(self) -> bytes | None:
        """See `Task`. A cut answer is whole when it has its finish reason, or as many tokens as `max_tokens`."""
        if not self._sent:
            return None
        try:
            ledger = self._account()
        except NotResumableError:
            return None
        limit, end = self._request.max_tokens, b""
        if ledger.finish is None:
            if limit is None or not ledger.ids or len(ledger.ids) < limit or ledger.lag:
                return None
            ledger.finish = "length"
            choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length"}
            nothing: dict[str, Any] = {"delta": {}} if self._request.kind is Kind.CHAT else {"text": ""}
            choice |= nothing
            end = write_event(orjson.dumps({**self._template, "choices": [choice]}))
        self.usage = (len(ledger.prompt_ids), len(ledger.ids))
        if self._wants_usage and not self._usage_sent and not self._has_usage():
            end += self._usage_event(ledger)
        return end + DONE_EVENT

    def _has_usage(self) -> bool:
        return any(not _chunk(event).get("choices") for event in self._events[-2:])

    # ------------------------------------------------------------------------------------- the end

    def end(self) -> bytes:
        if self._fault is not None:
            raise self._fault
        if self._splitter.unfinished or not self._done:
            raise NodeError(FaultKind.TRUNCATED, "the stream ended without [DONE]")
        # parsed only now: until here the events went to the caller as bytes
        answer = StreamedAnswer()
        try:
            for payload in self._events:
                answer.add(orjson.loads(payload))
        except ValueError as error:
            raise NodeError(FaultKind.BAD_ANSWER, f"an event of the stream is malformed: {error}") from None
        if not answer.finished:
            raise NodeError(FaultKind.TRUNCATED, "the stream ended without a finish_reason")
        self._answer = answer
        return (write_event(self._held) if self._held else b"") + DONE_EVENT

    def verdict(self) -> NodeError | None:
        fault = self._check_receipt()
        self._count()
        return fault

    def _check_receipt(self) -> NodeError | None:
        if not self.raw_receipt:
            return NodeError(FaultKind.BAD_RECEIPT, "the stream came without a receipt")
        try:
            signed = SignedReceipt.parse(self.raw_receipt)
            call = self._call
            result = None if self._answer is None else self._answer.result()
            self._verifier.check(signed, self._node_id, call.request_id, call.request_hash, result)
        except ValueError as error:
            return NodeError(FaultKind.BAD_RECEIPT, str(error))
        self.receipt = signed
        return None

    def _count(self) -> None:
        if self._ledger is not None:
            self.usage = (len(self._ledger.prompt_ids), len(self._ledger.ids))
        elif self.receipt is not None:
            self.usage = (self.receipt.receipt.prompt_tokens, self.receipt.receipt.completion_tokens)
        elif self._answer is not None:
            self.usage = (self._answer.prompt_tokens or 0, self._answer.completion_tokens or 0)


def _chunk(payload: bytes) -> dict[str, Any]:
    """An event that was passed on as it came, perhaps unread. Raises NotResumableError when it is no JSON."""
    try:
        chunk: dict[str, Any] = orjson.loads(payload)
    except ValueError:
        raise NotResumableError("an event of the stream is malformed") from None
    return chunk


def _enter(ledger: TokenLedger, chunk: dict[str, Any], continued: bool = False) -> tuple[str, list[int]]:
    """Enter a chunk into a ledger. Returns the text and the token ids that the caller lacks. Raises NotResumableError."""
    try:
        return _enter_choices(ledger, chunk, continued)
    except (AttributeError, TypeError):
        raise NotResumableError("an event of the stream is malformed") from None


def _enter_choices(ledger: TokenLedger, chunk: dict[str, Any], continued: bool) -> tuple[str, list[int]]:
    if chunk.get("prompt_token_ids") and not ledger.prompt_ids:
        ledger.prompt_ids = list(chunk["prompt_token_ids"])
    fresh = ""
    ids: list[int] = []
    for choice in chunk.get("choices") or ():
        if choice.get("index") != 0:
            raise NotResumableError("an answer of several choices cannot be continued exactly")
        delta = choice.get("delta")
        if delta is not None and any(value for key, value in delta.items() if key not in ("role", "content")):
            raise NotResumableError("an answer with tool calls or reasoning cannot be continued exactly")
        if choice.get("logprobs"):
            raise NotResumableError("an answer with log probabilities cannot be continued exactly")
        if choice.get("prompt_token_ids") and not ledger.prompt_ids:
            ledger.prompt_ids = list(choice["prompt_token_ids"])
        new_ids = list(choice.get("token_ids") or ())
        before = len(ledger.ids)
        text = (choice.get("text") if delta is None else delta.get("content")) or ""
        fresh += ledger.add(new_ids, text)
        ids += new_ids[max(0, ledger.ids_given - before) :]
        if continued:
            ledger.ids_given = max(ledger.ids_given, len(ledger.ids))
        if choice.get("finish_reason") is not None:
            ledger.finish = choice["finish_reason"]
    return fresh, ids


def strip_ids(payload: bytes) -> bytes:
    """An event's JSON without `token_ids` and `prompt_token_ids`.

    The members are cut out of the bytes: inside a JSON string a quote is escaped, so `,"token_ids":` can only be a member's name.
    """
    if b"token_ids" not in payload:
        return payload
    payload = _IDS.sub(b"", payload)
    if b'token_ids"' in payload:
        return _strip_slowly(payload)
    return payload


def _strip_slowly(payload: bytes) -> bytes:
    try:
        chunk = orjson.loads(payload)
    except ValueError:
        return payload
    if not isinstance(chunk, dict):
        return payload
    for holder in (chunk, *(c for c in chunk.get("choices") or () if isinstance(c, dict))):
        holder.pop("token_ids", None)
        holder.pop("prompt_token_ids", None)
    return orjson.dumps(chunk)
