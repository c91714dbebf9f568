"""Reads HTTP/1.1 requests strictly. Where two programs can read one request differently, it can be smuggled past a check."""

import re
from dataclasses import dataclass, field

# possessive quantifiers (`++`, `*+`) do not backtrack: any head takes time linear in its length
_REQUEST_LINE = r"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.([01])"
_HEADER_LINE = r"\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\x00-\x08\n-\x1f\x7f]*+"
_HEAD = re.compile(f"{_REQUEST_LINE}(?:{_HEADER_LINE})*+")
_BAD_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
_SIZE_LINE = re.compile(rb"[0-9A-Fa-f]{1,8}(?:;[^\x00-\x08\n-\x1f\x7f]*)?")
_SINGLE = frozenset({"host", "content-length", "transfer-encoding", "authorization", "content-type"})


class Request:
    """A request. Header names are in lower case; values of a repeated header are joined with commas (RFC 9110, section 5.3)."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: dict[str, str],
        body: bytes = b"",
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive


class RequestRefusedError(Exception):
    """A request that is refused, with the HTTP status to answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_head(head: bytes | bytearray, max_headers: int) -> Request:
    """Read the head of a request. Raises RequestRefusedError."""
    text = head.decode("latin-1")
    whole = _HEAD.fullmatch(text)
    if whole is None:
        raise RequestRefusedError(400, _fault_of(text))
    del (lines := text.split("\r\n"))[0]
    if len(lines) > max_headers:
        raise RequestRefusedError(431, "there are too many headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" \t")
    if len(headers) != len(lines):
        headers = _joined(lines)
    method, target, minor = whole.groups()
    if minor == "1" and "host" not in headers:
        raise RequestRefusedError(400, "the Host header is missing")
    path, _, query = target.partition("?")
    connection = headers.get("connection", "").lower()
    keep = connection != "close" if minor == "1" else connection == "keep-alive"  # RFC 9112, section 9.3
    return Request(method, path, query, headers, b"", keep)


def _joined(lines: list[str]) -> dict[str, str]:
    """Headers of which some are repeated. Raises RequestRefusedError for one that may occur only once."""
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            if name in _SINGLE:
                raise RequestRefusedError(400, f"the header {name} is repeated")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _fault_of(text: str) -> str:
    """The reason why a head does not match `_HEAD`."""
    if _BAD_TEXT.search(text):
        return "the request's head holds a forbidden character"
    if not re.fullmatch(_REQUEST_LINE, text.partition("\r\n")[0]):
        return "the request line is malformed"
    return "a header line is malformed"


@dataclass(slots=True)
class Chunks:
    """Decodes a chunked body (RFC 9112, section 7.1)."""

    limit: int
    body: bytearray = field(default_factory=bytearray)
    _left: int = -1  # -1: a size line comes next; -2: trailers

    def feed(self, buffer: bytearray) -> bool:
        """Take complete chunks out of `buffer`. Returns whether the body is whole. Raises RequestRefusedError."""
        while True:
            if self._left >= 0:
                if len(buffer) < self._left + 2:
                    return False
                if buffer[self._left : self._left + 2] != b"\r\n":
                    raise RequestRefusedError(400, "a chunk does not end where it said")
                self.body += buffer[: self._left]
                del buffer[: self._left + 2]
                self._left = -1
                continue
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > 1024:
                    raise RequestRefusedError(400, "a chunk size without end")
                return False
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            if self._left == -2:
                if not line:  # an empty line ends the trailers, which are dropped (RFC 9112, section 7.1.2)
                    return True
                if b"\n" in line or b"\r" in line:
                    raise RequestRefusedError(400, "a trailer is malformed")
                continue
            # RFC 9112, section 7.1.1: extensions that we do not know are ignored
            digits = line.partition(b";")[0]
            if not _SIZE_LINE.fullmatch(line):
                raise RequestRefusedError(400, "a chunk size is malformed")
            self._left = int(digits, 16)
            if len(self.body) + self._left > self.limit:
                message = f"the request is larger than the {self.limit} bytes that are accepted"
                raise RequestRefusedError(413, message)
            if self._left == 0:
                self._left = -2
