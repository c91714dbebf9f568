"""JSON-RPC over HTTP with time limits, size limits and failover; every failure is one of our three kinds.

Endpoints are tried in order; one that fails rests for a while, longer each time. Errors and logs name an endpoint by
host and port only, because its path and query often hold a key.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import orjson

from offchain.errors import FatalError, ParallelixError, TransientError, UserError
from offchain.runtime.redaction import endpoint_label

Call: TypeAlias = tuple[str, Sequence[Any]]

DEFAULT_TIMEOUT_SECONDS = 10.0
MAX_RESPONSE_BYTES = 256 * 1024 * 1024
MAX_BATCH = 100
_REST_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)
_SECOND_TRY_SECONDS = 0.1
_TOO_LARGE_WORDS = (
    "limit exceeded", "too many results", "query returned more than", "response size", "block range",
    "too large", "query timeout", "range is too",
)  # fmt: skip
# Clients agree on no error code for this, so their words must do.
_NOT_THERE_WORDS = (
    "header not found", "block not found", "unknown block", "missing trie node", "not canonical", "blockoutofrange",
    "block hash not found", "hash is not currently canonical", "resource not found",
)  # fmt: skip


class RpcError(ParallelixError):
    """The endpoint answered with a JSON-RPC error; `data` is the revert data of a failed call, if any."""

    def __init__(self, code: int, message: str, data: bytes | None) -> None:
        super().__init__(f"RPC error {code}: {message}")
        self.code = code
        self.message = message
        self.data = data


class RangeTooLargeError(TransientError):
    """The endpoint refuses this many blocks or logs at once; ask for fewer."""


class BlockUnknownError(TransientError):
    """The endpoint has no such block (any more): it lags, or the chain reorganised."""


class DisagreementError(TransientError):
    """Two endpoints answered one pinned question differently; at least one of them is wrong."""


class TimedOutError(TransientError):
    """The endpoint did not answer in time; asking at once again would double the wait."""


_ANSWERED = RangeTooLargeError | BlockUnknownError


@dataclass(slots=True)
class _Endpoint:
    label: str
    url: str
    failures: int = 0
    rests_until: float = 0.0


class Rpc:
    """Client of one or several endpoints of the same chain. Thread-safe; make one for each process."""

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            urls: endpoints in order of preference; text is split at commas.
            timeout_seconds: limit of one HTTP exchange.
            monotonic: clock for the rests of failed endpoints.
            pause: waits before the second try of a call that every endpoint failed.

        Raises:
            UserError: a URL is not http(s).
        """
        listed = endpoint_urls(urls) if isinstance(urls, str) else list(urls)
        self._endpoints = [_Endpoint(endpoint_label(url), url) for url in listed]
        if not self._endpoints:
            raise UserError("rpc_url is empty; name at least one http(s) endpoint")
        timeout = httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, 5.0))
        # No proxy of the environment: it would see RPC keys.
        self._http = httpx.Client(
            timeout=timeout, trust_env=False, headers={"content-type": "application/json"}
        )
        self._monotonic = monotonic
        self._pause = pause
        self._lock = threading.Lock()
        self._next_id = 0

    @property
    def endpoints(self) -> list[str]:
        """Names (host:port) of the endpoints, without credentials."""
        return [endpoint.label for endpoint in self._endpoints]

    def call(self, method: str, *params: Any) -> Any:
        """The result of one call.

        Raises:
            RpcError: the endpoint understood and refused (a revert, for example).
            TransientError: no endpoint answered properly.
        """
        result = self.batch([(method, params)])[0]
        if isinstance(result, RpcError):
            raise result
        return result

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Results of many calls, in order, all from one endpoint; a refused call gives its `RpcError` as a value.

        Raises:
            TransientError: no endpoint answered properly.
        """
        problems: list[TransientError] = []
        for wait in (_SECOND_TRY_SECONDS, None):
            for endpoint in self._usable():
                try:
                    return self._ask(endpoint, calls)
                except TransientError as error:
                    problems.append(error)
            # All that we ask may be asked twice: reads, and transactions that the chain takes once by their nonce.
            if wait is None or any(isinstance(problem, _ANSWERED | TimedOutError) for problem in problems):
                break
            self._pause(wait)
        raise problems[0]

    def batch_each(self, calls: Sequence[Call], *, at_most: int = 2) -> dict[str, list[Any]]:
        """Results of the same calls from several endpoints, by endpoint name, to compare them.

        Endpoints that fail are left out.

        Raises:
            TransientError: no endpoint answered properly.
        """
        answers: dict[str, list[Any]] = {}
        problems: list[TransientError] = []
        for endpoint in self._usable():
            try:
                answers[endpoint.label] = self._ask(endpoint, calls)
            except TransientError as error:
                problems.append(error)
            if len(answers) >= at_most:
                break
        if not answers:
            raise problems[0]
        return answers

    def close(self) -> None:
        """Close pooled connections."""
        self._http.close()

    # ------------------------------------------------------------------------------------------------ one endpoint

    def _usable(self) -> list[_Endpoint]:
        """Endpoints that do not rest, in order of preference; when all rest, all of them, soonest first."""
        now = self._monotonic()
        awake = [endpoint for endpoint in self._endpoints if endpoint.rests_until <= now]
        # When all rest, asking one is better than giving up.
        return awake or sorted(self._endpoints, key=lambda endpoint: endpoint.rests_until)

    def _ask(self, endpoint: _Endpoint, calls: Sequence[Call]) -> list[Any]:
        results: list[Any] = []
        try:
            for start in range(0, len(calls), MAX_BATCH):
                # All parts from one endpoint: two might answer from two views of the chain.
                results += self._exchange(endpoint, calls[start : start + MAX_BATCH])
        except (RangeTooLargeError, BlockUnknownError):
            raise  # the endpoint works; only this question was wrong for it
        except TransientError:
            rest = _REST_SECONDS[min(endpoint.failures, len(_REST_SECONDS) - 1)]
            endpoint.failures += 1
            endpoint.rests_until = self._monotonic() + rest
            raise
        endpoint.failures = 0
        return results

    def _exchange(self, endpoint: _Endpoint, calls: Sequence[Call]) -> list[Any]:
        with self._lock:
            first_id = self._next_id + 1
            self._next_id += len(calls)
        requests = [
            {"jsonrpc": "2.0", "id": first_id + offset, "method": method, "params": list(params)}
            for offset, (method, params) in enumerate(calls)
        ]
        body = orjson.dumps(requests if len(requests) > 1 else requests[0])
        answer = self._post(endpoint, body)
        listed = answer if isinstance(answer, list) else [answer]
        # JSON-RPC 2.0: a batch may be answered in any order.
        by_id = {item.get("id"): item for item in listed if isinstance(item, dict)}
        if len(requests) > 1 and not isinstance(answer, list):
            error = answer.get("error") if isinstance(answer, dict) else None
            message = error.get("message") if isinstance(error, dict) else "a single answer"
            raise TransientError(f"RPC endpoint {endpoint.label} answered a batch with {message}")
        results: list[Any] = []
        for request in requests:
            item = by_id.get(request["id"])
            if item is None:
                raise TransientError(f"RPC endpoint {endpoint.label} left a call of a batch unanswered")
            results.append(_result(endpoint, item))
        return results

    def _post(self, endpoint: _Endpoint, body: bytes) -> Any:
        try:
            with self._http.stream("POST", endpoint.url, content=body) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    # Counted after decompression: 400 KB of gzip can be 400 MB.
                    if len(content) > MAX_RESPONSE_BYTES:
                        raise RangeTooLargeError(f"RPC endpoint {endpoint.label} answers with too many bytes")
                status = response.status_code
        except httpx.TimeoutException:
            raise TimedOutError(f"RPC endpoint {endpoint.label} did not answer in time") from None
        except httpx.HTTPError as error:
            raise TransientError(
                f"RPC endpoint {endpoint.label} cannot be reached: {type(error).__name__}"
            ) from None
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise RangeTooLargeError(f"RPC endpoint {endpoint.label} refuses so large a request")
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            raise TransientError(
                f"RPC endpoint {endpoint.label} answered HTTP {status} without JSON"
            ) from None
        # Some send JSON-RPC errors with status 400 or 500.
        if status >= httpx.codes.BAD_REQUEST and not (isinstance(answer, dict) and "error" in answer):
            raise TransientError(f"RPC endpoint {endpoint.label} answered HTTP {status}")
        return answer


def endpoint_urls(rpc_url: str) -> list[str]:
    """The endpoints of a setting such as `http://one:8545, https://two/key`; commas separate them."""
    return [part.strip() for part in rpc_url.split(",") if part.strip()]


def _result(endpoint: _Endpoint, item: dict[str, Any]) -> Any:
    error = item.get("error")
    if error is None:
        if "result" not in item:
            raise TransientError(f"RPC endpoint {endpoint.label} answered without a result")
        return item["result"]
    if not isinstance(error, dict):
        raise TransientError(f"RPC endpoint {endpoint.label} answered with a malformed error")
    code = error.get("code")
    message = str(error.get("message", ""))[:300]
    lower = message.lower()
    if any(words in lower for words in _NOT_THERE_WORDS):
        raise BlockUnknownError(f"RPC endpoint {endpoint.label} does not have the block: {message}")
    if code == -32005 or any(words in lower for words in _TOO_LARGE_WORDS):  # EIP-1474: limit exceeded
        raise RangeTooLargeError(f"RPC endpoint {endpoint.label} refuses the range: {message}")
    if code == -32601:  # method not found
        raise FatalError(f"RPC endpoint {endpoint.label} does not offer a method that is needed: {message}")
    return RpcError(code if isinstance(code, int) else 0, message, _revert_data(error.get("data")))


def _revert_data(data: Any) -> bytes | None:
    if isinstance(data, dict):  # some endpoints wrap it
        data = data.get("data") or data.get("result")
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return None
    return None
