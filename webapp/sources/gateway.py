"""Client of a gateway: models, streamed answers, route receipts, usage, and the load that pages show."""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import orjson

from offchain.errors import TransientError, UserError
from offchain.protocol.server_sent_events import EventSplitter, read_event

MAX_ANSWER_BYTES = 512 * 1024
_SAMPLE = re.compile(r"^parallelix_gateway_(\w+)(?:\{([^}]*)\})? ([0-9.e+-]+)$")


class GatewayUnavailableError(TransientError):
    """No gateway is configured, or it does not answer."""


@dataclass(frozen=True, slots=True)
class GatewayLoad:
    """The gateway's work at the moment.

    Attributes:
        per_second: requests that ended, a second, since the look before; None at the first look.
        p95_ms: 95th percentile of the time to the whole answer since the look before, as the upper bound of its bucket.
        running, waiting, nodes: number of requests in work, of requests in the queue, and of live nodes.
    """

    per_second: float | None
    p95_ms: int | None
    running: int
    waiting: int
    nodes: int


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """A node as the gateway sees it.

    Attributes:
        running: attempts that the gateway makes on the node now.
        succeeded, failed: attempts that ended, since the gateway first heard of the node.
        first_byte_ms: running mean of the time to the first byte; None before the first answer.
        obstacle: why the gateway gives the node no work now, in words; empty when it does.
    """

    running: int
    succeeded: int
    failed: int
    slots: int
    free_slots: int
    first_byte_ms: float | None
    round_trip_ms: float | None
    obstacle: str


@dataclass(frozen=True, slots=True)
class UsageLine:
    """What a tenant used in a day (UTC)."""

    day: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    price_wei: int


class GatewayApi:
    """Client of one gateway.

    Args:
        url: base URL of the gateway; None when the dashboard has none.
        key_file: file with the API key that visitors without a key of their own use.
    """

    def __init__(self, url: str | None, key_file: Path | None) -> None:
        self._url = url.rstrip("/") if url else None
        self._key_file = key_file
        self._lock = threading.Lock()
        self._seen: tuple[float, dict[str, float]] | None = None
        self._load: GatewayLoad | None = None

    @property
    def present(self) -> bool:
        """Whether a gateway is configured."""
        return self._url is not None

    @property
    def has_key(self) -> bool:
        """Whether visitors may use the dashboard's own key."""
        return self._key_file is not None

    def key(self, given: str) -> str:
        """The key that the visitor gave, else the dashboard's own. Raises UserError when there is neither."""
        if given:
            return given
        if self._key_file is None:
            raise UserError("give an API key of the gateway")
        try:
            return self._key_file.read_text().strip()
        except OSError:
            raise UserError("the dashboard's own API key cannot be read; give one") from None

    def models(self, key: str) -> list[str]:
        """Names of the models that the gateway serves. Raises GatewayUnavailableError."""
        data = self._get("/v1/models", key)
        return sorted(
            str(item["id"])[:200] for item in data.get("data", ()) if isinstance(item, dict) and "id" in item
        )

    def receipt(self, request_id: str, key: str) -> Any:
        """The route receipt of a request. Raises GatewayUnavailableError."""
        return self._get(f"/v1/receipts/{request_id}", key)

    def usage(self, key: str, days: int = 30) -> tuple[str, list[UsageLine]]:
        """Tenant of a key, and the tenant's usage of each day, newest first. Raises GatewayUnavailableError."""
        data = self._get(f"/v1/usage?days={days}", key)
        with _known_shape():
            lines = [_usage_line(item) for item in data["data"]]
            return str(data["tenant"])[:80], sorted(lines, key=lambda line: line.day, reverse=True)

    def node(self, node_id: int) -> NodeLoad | None:
        """A node's load; None when the gateway gets no heartbeat of the node. Raises GatewayUnavailableError."""
        data = self._get(f"/v1/nodes/{node_id}", None, missing=httpx.codes.NOT_FOUND)
        with _known_shape():
            return None if data is None else _node_load(data)

    @contextmanager
    def chat(self, body: dict[str, Any], key: str) -> Iterator[httpx.Response]:
        """The streamed answer to a chat request. Raises GatewayUnavailableError."""
        url = f"{self._base()}/v1/chat/completions"
        try:
            with (
                # trust_env=False: a proxy named in the environment would see visitors' API keys.
                httpx.Client(timeout=httpx.Timeout(60.0, connect=3.0), trust_env=False) as client,
                client.stream("POST", url, json=body, headers=_bearer(key)) as answer,
            ):
                yield answer
        except httpx.HTTPError as error:
            raise GatewayUnavailableError(f"the gateway does not answer: {type(error).__name__}") from None

    def load(self) -> GatewayLoad | None:
        """The load since the look before; looks at most once in two seconds. None while the gateway does not answer."""
        if self._url is None:
            return None
        with self._lock:
            now = time.monotonic()
            if self._seen is not None and now - self._seen[0] < 2:
                return self._load
            try:
                with httpx.Client(timeout=1.0, trust_env=False) as client:
                    samples = _samples(client.get(f"{self._url}/metrics").text)
            except httpx.HTTPError:
                # An empty look: a gateway that comes back counts from 0, so older counts mean nothing.
                self._seen, self._load = (now, {}), None
                return None
            previous, self._seen = self._seen, (now, samples)
            self._load = _load(samples, previous, now)
            return self._load

    def _base(self) -> str:
        if self._url is None:
            raise GatewayUnavailableError("this dashboard has no gateway")
        return self._url

    def _get(self, path: str, key: str | None, missing: int | None = None) -> Any:
        """An answer's JSON; None when its status is `missing`."""
        try:
            with httpx.Client(timeout=3.0, trust_env=False) as client:
                answer = client.get(self._base() + path, headers=_bearer(key) if key else {})
            if answer.status_code == missing:
                return None
            data = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise GatewayUnavailableError(f"the gateway does not answer: {type(error).__name__}") from None
        if answer.status_code != httpx.codes.OK:
            raise GatewayUnavailableError(error_words(data))
        return data


@contextmanager
def _known_shape() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError):
        raise GatewayUnavailableError("the gateway answers in a shape that is not known") from None


def _node_load(data: Mapping[str, Any]) -> NodeLoad:
    obstacle = ""
    if data["breaker"] != "closed":
        obstacle = "its last attempts failed: the gateway waits before it tries again"
    elif not data["models"]:
        obstacle = "it offers no model"
    elif not int(data["free_slots"]):
        obstacle = "every slot is taken"
    counts = ("attempts_running", "attempts_succeeded", "attempts_failed", "slots", "free_slots")
    times = [data[name] for name in ("first_byte_ms", "round_trip_ms")]
    took, away = (None if value is None else float(value) for value in times)
    running, succeeded, failed, slots, free = (int(data[name]) for name in counts)
    return NodeLoad(running, succeeded, failed, slots, free, took, away, obstacle)


def _usage_line(item: Mapping[str, Any]) -> UsageLine:
    day = time.strftime("%Y-%m-%d", time.gmtime(int(item["day"])))
    counts = ("requests", "prompt_tokens", "completion_tokens", "price_wei")
    return UsageLine(day, *(int(item[name]) for name in counts))


def error_words(data: Any) -> str:
    """The message of an OpenAI-shaped error."""
    error = data.get("error") if isinstance(data, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message)[:300] if message else "the gateway refuses"


def deltas(pieces: Iterator[bytes]) -> Iterator[str]:
    """Pieces of text in an OpenAI chat stream."""
    events = EventSplitter()
    for block in chain.from_iterable(map(events.feed, pieces)):
        try:
            choices = orjson.loads(read_event(block)[1]).get("choices") or [{}]
            text = (choices[0].get("delta") or {}).get("content")
        except (ValueError, AttributeError, LookupError, TypeError):
            # a comment, [DONE], an error, or what a node made up
            continue
        if isinstance(text, str) and text:
            yield text


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _samples(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := _SAMPLE.match(line):
            name, labels, value = match.groups()
            found[f"{name}{{{labels}}}" if labels else name] = float(value)
    return found


def _load(
    samples: dict[str, float], previous: tuple[float, dict[str, float]] | None, now: float
) -> GatewayLoad:
    rate = p95 = None
    if previous is not None and previous[1]:
        seen_at, earlier = previous
        buckets = []
        for name, value in samples.items():
            if name.startswith("request_seconds_bucket{"):
                edge = name.split('le="')[1].split('"')[0]
                buckets.append((float(edge), value - earlier.get(name, 0.0)))
        buckets.sort()  # counts are cumulative: the last bucket, of no upper bound, has them all
        total = buckets[-1][1] if buckets else 0.0
        rate = max(0.0, total / (now - seen_at))
        if total > 0:
            bound = next((b for b, count in buckets if count >= 0.95 * total), float("inf"))
            p95 = int(bound * 1000) if bound != float("inf") else None
    gauges = ("attempts_running", "requests_waiting", "nodes")
    return GatewayLoad(rate, p95, *(int(samples.get(name, 0)) for name in gauges))
