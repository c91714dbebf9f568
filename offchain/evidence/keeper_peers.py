"""The other keepers, over HTTP. Their answers are not trusted: callers check signatures and content hashes."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx
import orjson
import structlog

from offchain.domain.canonical_json import content_hash
from offchain.domain.types import Epoch

log = structlog.get_logger(__name__)

MAX_BUNDLE_BYTES = 1 << 30
MAX_ANSWER_BYTES = 1 << 20
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ProposalReply:
    """A keeper's reply to a proposed report: its signature (0x-hex), or why it does not sign."""

    url: str
    signature: str | None
    error: str = ""


class Peers(Protocol):
    """What attestation asks of other keepers, by their base URLs. An unreachable peer is missing in the result."""

    def evidence(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        """Evidence documents (decoded JSON) of the keepers that answer, by URL."""

    def epoch(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        """Epoch summaries (decoded JSON) of the keepers that answer, by URL."""

    def bundle(self, urls: Sequence[str], bundle_hash: str) -> bytes | None:
        """A bundle by its content address, from the first keeper that has it; None when none has."""

    def propose(self, urls: Sequence[str], epoch: Epoch, proposal: Mapping[str, Any]) -> list[ProposalReply]:
        """Propose a report to keepers, for them to sign."""


def get_small(url: str, timeout_seconds: float) -> bytes:
    """The body of one GET from an untrusted server.

    Raises:
        httpx.HTTPError, httpx.InvalidURL: no answer, or another status than 200.
        ValueError: it is longer than `MAX_ANSWER_BYTES`.
    """
    body = bytearray()
    with httpx.stream("GET", url, timeout=timeout_seconds) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise ValueError("the answer is too long")
    return bytes(body)


class HttpPeers:
    """`Peers` over HTTP. All peers are asked at once; each answer has a time and a size limit."""

    def __init__(self, *, timeout_seconds: float = 20.0, connect_seconds: float = 2.0) -> None:
        self._client = httpx.Client(timeout=httpx.Timeout(timeout_seconds, connect=connect_seconds))

    def close(self) -> None:
        """Close pooled connections."""
        self._client.close()

    def evidence(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        return self._get_all(urls, f"/v1/epochs/{epoch}/evidence", MAX_BUNDLE_BYTES)

    def epoch(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        return self._get_all(urls, f"/v1/epochs/{epoch}", MAX_BUNDLE_BYTES)

    def bundle(self, urls: Sequence[str], bundle_hash: str) -> bytes | None:
        for url in urls:
            raw = self._get(f"{url}/v1/bundles/{bundle_hash}", MAX_BUNDLE_BYTES)
            if raw is not None and content_hash(raw) == bundle_hash.lower():
                return raw
        return None

    def fetch(self, url: str) -> bytes | None:
        """The document at a URL, None when it cannot be fetched."""
        return self._get(url, MAX_BUNDLE_BYTES)

    def propose(self, urls: Sequence[str], epoch: Epoch, proposal: Mapping[str, Any]) -> list[ProposalReply]:
        body = orjson.dumps(dict(proposal))

        def one(url: str) -> ProposalReply:
            try:
                response = self._client.post(
                    f"{url}/v1/epochs/{epoch}/proposal",
                    content=body,
                    headers={"Content-Type": "application/json"},
                )
                data = orjson.loads(response.content[:MAX_ANSWER_BYTES])
            except (httpx.HTTPError, orjson.JSONDecodeError) as error:
                return ProposalReply(url, None, type(error).__name__)
            if response.status_code == httpx.codes.OK and isinstance(data, dict):
                return ProposalReply(url, str(data.get("signature")))
            return ProposalReply(url, None, str(data.get("error") if isinstance(data, dict) else data)[:300])

        return self._all(urls, one)

    def _get_all(self, urls: Sequence[str], path: str, limit: int) -> dict[str, Any]:
        answers = self._all(urls, lambda url: self._get(url + path, limit))
        found = {}
        for url, raw in zip(urls, answers, strict=True):
            if raw is not None:
                try:
                    found[url] = orjson.loads(raw)
                except orjson.JSONDecodeError:
                    log.warning("peer_answer_malformed", url=url)
        return found

    def _get(self, url: str, limit: int) -> bytes | None:
        try:
            with self._client.stream("GET", url) as response:
                if response.status_code != httpx.codes.OK:
                    return None
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > limit:
                        return None
                return bytes(content)
        except httpx.HTTPError as error:
            log.debug("peer_unreachable", url=url, error=type(error).__name__)
            return None

    @staticmethod
    def _all(urls: Sequence[str], call: Callable[[str], _T]) -> list[_T]:
        if not urls:
            return []
        with ThreadPoolExecutor(max_workers=min(16, len(urls))) as pool:
            return list(pool.map(call, urls))
