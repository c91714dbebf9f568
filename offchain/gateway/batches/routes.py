"""`/v1/files` and `/v1/batches`, as in OpenAI's API. Redis is called in a few threads: these routes need not be fast."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl

import orjson
from redis.exceptions import RedisError

from offchain.gateway.batches.form_data import MalformedError, read_form
from offchain.gateway.batches.store import OVER, BatchStore, StoreFullError
from offchain.gateway.errors import ApiError, invalid_value, unavailable, unknown_url, whole_number
from offchain.transport.server import Request, ServerConnection
from offchain.workloads.inference.request import Kind

FILES, BATCHES = "/v1/files", "/v1/batches"
_JSON = {"content-type": "application/json"}
_THREADS = 4
_MAX_PAGE = 100
_MAX_METADATA = 16


BatchReply = tuple[bytes, dict[str, str]]
"""Body and headers of an answer with status 200."""


def _document(document: object) -> BatchReply:
    return orjson.dumps(document), _JSON


class BatchRoutes:
    """Answers requests below `FILES` and `BATCHES`."""

    def __init__(self, store: BatchStore) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_THREADS, "batches")

    async def answer(self, request: Request, connection: ServerConnection, tenant: str) -> None:
        """Answer one request of a tenant. Raises ApiError."""
        work = self._route(request, tenant)
        try:
            body, headers = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except StoreFullError as full:
            raise ApiError(429, str(full), "rate_limit_error", code="storage_limit_exceeded") from None
        except (RedisError, OSError, TimeoutError):
            raise unavailable("files and batches cannot be reached now") from None
        connection.reply(200, headers, body)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _route(self, request: Request, tenant: str) -> Callable[[], BatchReply]:
        head, _, rest = request.path.removeprefix("/v1/").partition("/")
        name, _, what = rest.partition("/")
        key = (request.method, head, "item" if name else "all", what)
        routes: dict[tuple[str, str, str, str], Callable[[], BatchReply]] = {
            ("GET", "files", "all", ""): lambda: self._files(request, tenant),
            ("POST", "files", "all", ""): lambda: self._upload(request, tenant),
            ("GET", "files", "item", ""): lambda: _document(self._file(tenant, name)),
            ("DELETE", "files", "item", ""): lambda: self._delete(tenant, name),
            ("GET", "files", "item", "content"): lambda: self._content(tenant, name),
            ("GET", "batches", "all", ""): lambda: self._batches(request, tenant),
            ("POST", "batches", "all", ""): lambda: self._create(request, tenant),
            ("GET", "batches", "item", ""): lambda: _document(self._batch(tenant, name)),
            ("POST", "batches", "item", "cancel"): lambda: self._cancel(tenant, name),
        }
        found = routes.get(key)
        if found is not None:
            return found
        allowed = sorted(method for method, *other in routes if tuple(other) == key[1:])
        if not allowed:
            raise unknown_url(request.method, request.path)
        raise ApiError(
            405, f"{request.path[:200]} takes {' or '.join(allowed)}, not {request.method}",
            code="method_not_allowed", headers={"allow": ", ".join(allowed)},
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------- files

    def _upload(self, request: Request, tenant: str) -> BatchReply:
        try:
            fields, files = read_form(request.headers.get("content-type", ""), request.body)
        except MalformedError as error:
            raise ApiError(400, str(error), code="invalid_multipart_form") from None
        purpose, file = fields.get("purpose"), files.get("file")
        if purpose != "batch":
            raise invalid_value("purpose", "purpose must be 'batch'")
        if file is None:
            raise ApiError(400, "file is missing", param="file", code="missing_required_parameter")
        filename, content = file
        if not content:
            raise ApiError(400, "the file is empty", param="file", code="empty_file")
        return _document(self._store.put_file(tenant, content, filename[:256], purpose))

    def _files(self, request: Request, tenant: str) -> BatchReply:
        query = dict(parse_qsl(request.query))
        found = self._store.files(tenant)
        if query.get("order", "desc") == "asc":
            found.reverse()
        if "purpose" in query:
            found = [file for file in found if file["purpose"] == query["purpose"]]
        return _document(_page(query, found))

    def _file(self, tenant: str, file_id: str) -> dict[str, Any]:
        found = self._store.file(tenant, file_id)
        if found is None:
            raise ApiError(404, f"No such File object: {file_id[:80]}", param="id", code="file_not_found")
        return found

    def _content(self, tenant: str, file_id: str) -> BatchReply:
        self._file(tenant, file_id)
        content = self._store.content(tenant, file_id)
        if content is None:
            raise ApiError(404, "the file's content is gone", param="id", code="file_not_found")
        # nosniff: a tenant's file must not run as a page of this gateway
        return content, {"content-type": "application/octet-stream", "x-content-type-options": "nosniff"}

    def _delete(self, tenant: str, file_id: str) -> BatchReply:
        self._file(tenant, file_id)
        self._store.delete_file(tenant, file_id)
        return _document({"id": file_id, "object": "file", "deleted": True})

    # ----------------------------------------------------------------------------------------------- batches

    def _create(self, request: Request, tenant: str) -> BatchReply:
        try:
            fields = orjson.loads(request.body)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise ApiError(400, "The body of your request must be a JSON object.", code="invalid_json")
        endpoint, file_id, metadata = (fields.get(n) for n in ("endpoint", "input_file_id", "metadata"))
        if not isinstance(endpoint, str) or endpoint not in set(Kind):
            raise invalid_value("endpoint", f"endpoint must be one of {', '.join(Kind)}")
        if fields.get("completion_window") != "24h":
            raise invalid_value("completion_window", "completion_window must be '24h'")
        if metadata is not None and not _is_metadata(metadata):
            raise invalid_value("metadata", f"metadata must be at most {_MAX_METADATA} short texts")
        if not isinstance(file_id, str):
            raise ApiError(
                400, "input_file_id is missing", param="input_file_id", code="missing_required_parameter"
            )
        if self._file(tenant, file_id)["purpose"] != "batch":
            raise invalid_value("input_file_id", "the file's purpose is not 'batch'")
        return _document(self._store.create(tenant, endpoint, file_id, metadata).to_json())

    def _batches(self, request: Request, tenant: str) -> BatchReply:
        rows = [{"id": batch.id, "b": batch} for batch in self._store.batches(tenant)]
        page = _page(dict(parse_qsl(request.query)), rows)  # states are read of one page only
        page["data"] = [self._store.with_state(row["b"]).to_json() for row in page["data"]]
        return _document(page)

    def _batch(self, tenant: str, batch_id: str) -> dict[str, Any]:
        found = self._store.batch(tenant, batch_id)
        if found is None:
            message = f"No batch found with id '{batch_id[:80]}'."
            raise ApiError(404, message, param="id", code="batch_not_found")
        return found.to_json()

    def _cancel(self, tenant: str, batch_id: str) -> BatchReply:
        status = self._batch(tenant, batch_id)["status"]
        if status not in ("cancelling", *OVER):
            self._store.change(batch_id, {"status": "cancelling", "cancelling_at": self._store.now()})
        elif status in OVER - {"cancelled"}:
            raise ApiError(409, f"the batch is {status} already", code="batch_over")
        return _document(self._batch(tenant, batch_id))


def _is_metadata(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MAX_METADATA
        and all(isinstance(v, str) and len(v) <= 512 and len(k) <= 64 for k, v in value.items())
    )


def _page(query: dict[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One page of a list, by the query's `limit` and `after`. Raises ApiError."""
    limit = min(whole_number(query.get("limit", "20"), "limit", 10_000), _MAX_PAGE)
    if "after" in query:
        places = [place for place, row in enumerate(rows) if row["id"] == query["after"]]
        rows = rows[places[0] + 1 :] if places else []
    page = rows[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(rows) > limit,
    }
