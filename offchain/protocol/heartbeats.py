"""Heartbeats: how gateways and keepers learn that a node is up, what it serves and how full it is.

A heartbeat receiver (a gateway, or a keeper's API) does this for `POST /internal/heartbeat`::

    try:
        report = verifier.verify(raw_body, request.headers.get("X-Parallelix-Heartbeat"))
    except HeartbeatRefusedError as refused:
        return refused.to_json(), refused.status
    fleet_store.write(report)              # for all processes on this Redis, see dispatch/fleet_store.py
    return "", 204

A heartbeat is accepted only if the node's current key (from the receiver's index) signed it over the hash of its body, its time
is within 30 s of our clock, and it is later than the node's last one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from offchain.domain.eip712 import DigestMaker, SigningDomain, keccak256
from offchain.domain.messages import Heartbeat
from offchain.domain.types import NodeId
from offchain.errors import SkipError
from offchain.protocol.receipts import Recover
from offchain.scheduler.fleet import NodeReport, Offer
from offchain.transport.certificate_pins import FRAGMENT

MAX_SKEW_MS = 30_000
MAX_BODY_BYTES = 64 * 1024
MAX_MODELS = 256
MAX_SLOTS = 1 << 20
_TIME_BYTES, _SIGNATURE_BYTES = 8, 65
_PLACE = r"://[A-Za-z0-9.\-\[\]:]{1,255}(?:/[A-Za-z0-9._~/\-]{0,255})?"
_URL = re.compile(f"http{_PLACE}|https{_PLACE}(?:{FRAGMENT})?")
_NAME = re.compile(r"[ -~]{1,256}")
_REGION = re.compile(r"[A-Za-z0-9._\-]{1,32}")


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node as registered on chain.

    Attributes:
        key_address: EIP-55 address of its current key.
        tier: 1 to 4.
        routable: whether it may get work: not withdrawn, and before the end of its activity.
    """

    node_id: NodeId
    key_address: str
    tier: int
    routable: bool


class HeartbeatRefusedError(SkipError):
    """A heartbeat that is refused, with the HTTP status and the body (in OpenAI's shape) to answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def to_json(self) -> dict[str, object]:
        """Body of the answer."""
        error = {"message": str(self), "type": "invalid_request_error", "param": None, "code": self.code}
        return {"error": error}


def _malformed(error: Exception) -> HeartbeatRefusedError:
    return HeartbeatRefusedError(400, "malformed_heartbeat", f"the heartbeat is malformed: {error}")


class HeartbeatVerifier:
    """Verifies heartbeats and reads them.

    Args:
        nodes_domain: EIP-712 domain of NodeRegistryLocker.
        recover: (digest, signature) -> address of the signer; raises ValueError.
        lookup: a node's record, or None when it is not registered.
        now_ms: Unix milliseconds.
    """

    def __init__(
        self,
        nodes_domain: SigningDomain,
        recover: Recover,
        lookup: Callable[[NodeId], NodeRecord | None],
        now_ms: Callable[[], int],
    ) -> None:
        self._digest = DigestMaker(nodes_domain)
        self._recover = recover
        self._lookup = lookup
        self._now_ms = now_ms
        self._last: dict[NodeId, int] = {}

    def verify(self, body: bytes, header: str | None) -> NodeReport:
        """The report in a heartbeat. Its tier is the registered one, whatever the node says.

        Args:
            body: the raw JSON bytes that came.
            header: value of `x-parallelix-heartbeat`, see `write_header`.

        Raises:
            HeartbeatRefusedError: with the status and body to answer.
        """
        try:
            sent_at_ms, signature = read_header(header)
        except ValueError as error:
            raise HeartbeatRefusedError(401, "missing_signature", str(error)) from None
        if len(body) > MAX_BODY_BYTES:
            message = f"a heartbeat has at most {MAX_BODY_BYTES} bytes"
            raise HeartbeatRefusedError(413, "heartbeat_too_large", message)
        try:
            data = orjson.loads(body)
            node_id = NodeId(_number(data, "node_id", 1, 0xFFFFFFFF))
        except (ValueError, TypeError, AttributeError) as error:
            raise _malformed(error) from None
        record = self._lookup(node_id)
        if record is None:
            message = f"node {node_id} is not registered, or not indexed yet"
            raise HeartbeatRefusedError(404, "unknown_node", message)
        digest = self._digest(Heartbeat(node_id, keccak256(body), sent_at_ms).struct_hash())
        try:
            signer = self._recover(digest, signature)
        except ValueError:
            signer = ""
        if signer.lower() != record.key_address.lower():
            message = f"the heartbeat is not signed with node {node_id}'s current key"
            raise HeartbeatRefusedError(401, "invalid_signature", message)
        skew = sent_at_ms - self._now_ms()
        if abs(skew) > MAX_SKEW_MS:
            message = f"the heartbeat is {skew / 1000:+.1f} s from our clock; set the node's clock"
            raise HeartbeatRefusedError(401, "stale_heartbeat", message)
        if sent_at_ms <= self._last.get(node_id, 0):
            message = "a later heartbeat of this node is known already"
            raise HeartbeatRefusedError(409, "replayed_heartbeat", message)
        if not record.routable:
            raise HeartbeatRefusedError(403, "inactive_node", f"node {node_id} has left the network")
        try:
            report = _read_report(data, record)
        except (ValueError, TypeError, AttributeError) as error:
            raise _malformed(error) from None
        self._last[node_id] = sent_at_ms  # only now: one that was refused is not the last
        return report


def write_header(sent_at_ms: int, signature: bytes) -> str:
    """Value of `x-parallelix-heartbeat`: 0x-hex of uint64 Unix milliseconds and the signature (65 bytes)."""
    return f"0x{sent_at_ms:016x}{signature.hex()}"


def read_header(header: str | None) -> tuple[int, bytes]:
    """Inverse of `write_header`. Raises ValueError, also when there is no header."""
    try:
        raw = bytes.fromhex((header or "").removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != _TIME_BYTES + _SIGNATURE_BYTES:
        raise ValueError("X-Parallelix-Heartbeat must be 0x-hex of 8 bytes of time and 65 of signature")
    return int.from_bytes(raw[:_TIME_BYTES], "big"), raw[_TIME_BYTES:]


def _read_report(data: dict[str, object], record: NodeRecord) -> NodeReport:
    url, region = data.get("url", ""), data.get("region", "")
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise ValueError("url must be http(s)://host[:port][/path], with https also #sha256=<fingerprint>")
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise ValueError("region must be 1 to 32 letters, digits, '.', '_' or '-'")
    models = data.get("models")
    if not isinstance(models, list) or len(models) > MAX_MODELS:
        raise ValueError(f"models must be a list of at most {MAX_MODELS}")
    offers: dict[str, Offer] = {}
    for model in models:
        name = model.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError("a model's name must be 1 to 256 printable ASCII characters")
        context_size = _number(model, "context_length", 1, 1 << 31)
        offers[name] = Offer(str(model.get("revision", ""))[:256], context_size)
    slots = _number(data, "slots", 1, MAX_SLOTS)
    price_wei = int(str(data.get("price_per_token_wei", 0)))
    if price_wei < 0:
        raise ValueError("price_per_token_wei must not be negative")
    return NodeReport(
        node_id=record.node_id,
        url=url.rstrip("/"),
        region=region,
        tier=record.tier,
        offers=offers,
        slots=slots,
        free_slots=_number(data, "free_slots", 0, slots),
        queue=_number(data, "queue", 0, MAX_SLOTS) if "queue" in data else 0,
        price_per_token_wei=price_wei,
    )


def _number(data: dict[str, object], name: str, low: int, high: int) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in {low}..{high}")
    return value
