"""The other keepers, over HTTP. Their answers are not trusted: callers check signatures and content hashes."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import httpx
import orjson
import structlog

from offchain.domain.canonical_json import content_hash
from offchain.domain.types import Epoch

log = structlog.get_logger(__name__)

MAX_BUNDLE_BYTES = 1 << 30
MAX_ANSWER_BYTES = 1 << 20
"""Of all answers but documents and bundles, unpacked."""
CONNECT_SECONDS = 2.0
DOCUMENT_SECONDS = 120.0
"""For one evidence document, epoch summary or bundle, which may have 100 MB."""
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


def get_small(url: str, seconds: float) -> bytes:
    """The body of one GET from an untrusted server.

    Args:
        seconds: for the whole exchange.

    Raises:
        httpx.HTTPError, httpx.InvalidURL: no answer in time, or another status than 200.
        ValueError: the body is longer than `MAX_ANSWER_BYTES`.
    """

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(timeout=seconds) as client:
            return await _exchange(client, "GET", url, MAX_ANSWER_BYTES, seconds)

    return asyncio.run(get()).raise_for_status().content


@dataclass(eq=False)
class HttpPeers:
    """`Peers` over HTTP. All peers are asked at once; each exchange has one time limit and one size limit.

    Attributes:
        answer_seconds: for a reply to a proposal.
        document_seconds: for each other answer.
    """

    answer_seconds: float = 20.0
    document_seconds: float = DOCUMENT_SECONDS
    # Shared by all clients: each one would read the certificate store anew.
    _ssl: ssl.SSLContext = field(default_factory=httpx.create_ssl_context, init=False)

    def evidence(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        return self._documents(urls, f"/v1/epochs/{epoch}/evidence")

    def epoch(self, urls: Sequence[str], epoch: Epoch) -> dict[str, Any]:
        return self._documents(urls, f"/v1/epochs/{epoch}")

    def bundle(self, urls: Sequence[str], bundle_hash: str) -> bytes | None:
        for url in urls:
            raw = self.fetch(f"{url}/v1/bundles/{bundle_hash}")
            if raw is not None and content_hash(raw) == bundle_hash.lower():
                return raw
        return None

    def fetch(self, url: str) -> bytes | None:
        """The document at a URL, None when it cannot be fetched."""
        [raw] = self._fetch([url])
        return raw

    def propose(self, urls: Sequence[str], epoch: Epoch, proposal: Mapping[str, Any]) -> list[ProposalReply]:
        body = orjson.dumps(dict(proposal))

        async def one(client: httpx.AsyncClient, url: str) -> ProposalReply:
            place = f"{url}/v1/epochs/{epoch}/proposal"
            try:
                response = await _exchange(client, "POST", place, MAX_ANSWER_BYTES, self.answer_seconds, body)
                data = orjson.loads(response.content)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                return ProposalReply(url, None, type(error).__name__)
            if response.status_code == httpx.codes.OK and isinstance(data, dict):
                return ProposalReply(url, str(data.get("signature")))
            return ProposalReply(url, None, str(data.get("error") if isinstance(data, dict) else data)[:300])

        return self._all(urls, one)

    def _documents(self, urls: Sequence[str], path: str) -> dict[str, Any]:
        found = {}
        for url, raw in zip(urls, self._fetch([url + path for url in urls]), strict=True):
            if raw is not None:
                try:
                    found[url] = orjson.loads(raw)
                except orjson.JSONDecodeError:
                    log.warning("peer_answer_malformed", url=url)
        return found

    def _fetch(self, urls: Sequence[str]) -> list[bytes | None]:
        """The bodies of GETs, in the order of the URLs; None where there is none."""

        async def one(client: httpx.AsyncClient, url: str) -> bytes | None:
            try:
                response = await _exchange(client, "GET", url, MAX_BUNDLE_BYTES, self.document_seconds)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                log.debug("peer_unreachable", url=url, error=type(error).__name__)
                return None
            return response.content if response.status_code == httpx.codes.OK else None

        return self._all(urls, one)

    def _all(
        self, urls: Sequence[str], call: Callable[[httpx.AsyncClient, str], Coroutine[Any, Any, _T]]
    ) -> list[_T]:
        async def run() -> list[_T]:
            timeout = httpx.Timeout(self.answer_seconds, connect=CONNECT_SECONDS)
            async with httpx.AsyncClient(timeout=timeout, verify=self._ssl) as client:
                return await asyncio.gather(*(call(client, url) for url in urls))

        return asyncio.run(run())


async def _exchange(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    max_bytes: int,
    seconds: float,
    body: bytes | None = None,
) -> httpx.Response:
    """One request, with its whole answer read. httpx alone would wait anew for each byte that comes in time.

    Raises:
        httpx.HTTPError, httpx.InvalidURL: no whole answer within `seconds`.
        ValueError: the answer is longer than `max_bytes`, unpacked.
    """
    headers = {} if body is None else {"Content-Type": "application/json"}
    content = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream(method, url, content=body, headers=headers) as response,
        ):
            async for chunk in response.aiter_bytes():
                # Already unpacked, so a small gzip cannot fill the memory.
                content += chunk
                if len(content) > max_bytes:
                    raise ValueError(f"the answer has more than {max_bytes} bytes")
    except TimeoutError:
        raise httpx.ReadTimeout(f"no whole answer within {seconds:.0f} s") from None
    return httpx.Response(response.status_code, content=bytes(content), request=response.request)
