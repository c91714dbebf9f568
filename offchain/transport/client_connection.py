"""The client's side of one HTTP/1.1 connection: one request at a time, its answer passed on as it comes.

::

    head --> length --------------------------------------> head
      +----> chunk_size --> chunk --> chunk_end --> chunk_size
      |          +--(size 0)--> trailer --> end ----------> head
      +----> until_close -----------------------------------> the connection ends
"""

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from offchain.transport.errors import ProtocolError, ResetError

if TYPE_CHECKING:
    from offchain.transport.pool import HttpExchange

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNK_LINE_BYTES = 1024
_BAD_TEXT = re.compile(r"[\x00-\x08\n-\x1f\x7f]")
"""Whoever passes such a header on would begin a line of its own in another answer (RFC 9110, section 5.5)."""
_HEX = b"0123456789abcdefABCDEF"


class _BrokenError(ValueError):
    """The server breaks HTTP/1.1 framing."""


class ClientConnection(asyncio.Protocol):
    """One connection to a node or a model server."""

    __slots__ = (
        "_buffer", "_left", "_state", "closed", "exchange", "keep", "on_free", "paused", "transport", "used",
    )  # fmt: skip

    def __init__(self, on_free: Callable[["ClientConnection"], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.exchange: HttpExchange | None = None
        self.on_free = on_free
        self.closed = False
        self.keep = True
        self.used = False
        self.paused = False
        self._buffer = b""
        self._state = "head"
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, exchange: "HttpExchange", head: bytes, body: bytes) -> None:
        """Send a request; its answer is reported to `exchange`."""
        if self.transport is None:
            raise RuntimeError("a connection was used before it was made")
        self.exchange = exchange
        self._state = "head"
        self.keep = True
        if len(body) < 65536:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.drop()
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        try:
            self._parse(data, exchange)
        except (_BrokenError, ValueError) as error:
            self.drop()
            exchange.fail(ProtocolError(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        # RFC 9112, section 6.3: without a length the end of the connection is the end of the body
        if self._state == "until_close" and exc is None:
            exchange.finish()
        elif self._state == "head" and not self._buffer:
            exchange.refused(stale=self.used)
        else:
            exchange.fail(ResetError("the connection broke in the middle of the answer"))

    def drop(self) -> None:
        """Abort the connection."""
        self.closed = True
        self.exchange = None
        if self.transport is not None:
            self.transport.abort()

    def detach(self) -> asyncio.Transport | None:
        """Let go of the connection, which speaks something else from now on."""
        transport, self.transport = self.transport, None
        self.closed = True
        self.exchange = None
        return transport

    def pause(self) -> None:
        """Stop reading until `resume`: whoever takes the answer is slow."""
        if not self.paused and self.transport is not None and not self.closed:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.paused and self.transport is not None and not self.closed:
            self.paused = False
            self.transport.resume_reading()

    def _parse(self, data: bytes, exchange: "HttpExchange") -> None:
        position = 0
        size = len(data)
        while True:
            if self._state == "head":
                end = data.find(b"\r\n\r\n", position)
                if end < 0:
                    if size - position > MAX_HEAD_BYTES:
                        raise _BrokenError("the answer's head is too long")
                    self._buffer = data[position:]
                    return
                self._head(data[position:end], exchange)
                position = end + 4
            elif self._state in ("length", "chunk"):
                take = min(self._left, size - position)
                if take:
                    exchange.push(data if take == size else data[position : position + take])
                    position += take
                    self._left -= take
                if self._left:
                    return
                if self._state == "length":
                    self._done(exchange, size - position)
                    return
                self._state = "chunk_end"
            elif self._state == "until_close":
                if position < size:
                    exchange.push(data[position:])
                return
            else:
                position = self._between_chunks(data, position)
                if self._state == "end":
                    self._done(exchange, size - position)
                    return
            if position >= size and self._state not in ("length", "chunk"):
                return

    def _between_chunks(self, data: bytes, position: int) -> int:
        """Read one line of the chunked coding (RFC 9112, section 7.1). Returns where the next begins.

        A line that is not here to its end is kept in the buffer; then the size of `data` is returned.
        """
        size = len(data)
        limit = MAX_HEAD_BYTES if self._state == "trailer" else MAX_CHUNK_LINE_BYTES
        end = data.find(b"\r\n", position, position + limit)
        if self._state == "chunk_end" and end != position and size - position >= 2:
            raise _BrokenError("a chunk does not end where it said")
        if end < 0:
            if size - position >= limit:
                raise _BrokenError("a chunk size or a trailer without end")
            self._buffer = data[position:]
            return size
        if self._state == "chunk_end":
            self._state = "chunk_size"
        elif self._state == "chunk_size":
            self._left = _hex_size(data[position:end])
            self._state = "chunk" if self._left else "trailer"
        elif end == position:  # the empty line behind the trailers
            self._state = "end"
        return end + 2

    def _head(self, head: bytes, exchange: "HttpExchange") -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status_text = first[:9], first[9:12]
        if version not in ("HTTP/1.1 ", "HTTP/1.0 ") or not status_text.isdecimal():
            raise _BrokenError("the answer is not HTTP/1.1")
        status = int(status_text)
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or _BAD_TEXT.search(line):
                raise _BrokenError("a header line without a colon or with a forbidden character")
            headers[name.lower()] = value.strip()  # of a repeated one the last
        if status == 101:  # RFC 9110, 15.2.2: what follows is no HTTP of ours, so it is passed on as it is
            self.keep = False
            self._state = "until_close"
            exchange.begin(status, headers)
            return
        if 100 <= status < 200:  # RFC 9110, section 15.2: interim, the answer's own head follows
            return
        if version == "HTTP/1.0 " or headers.get("connection", "").lower() == "close":
            self.keep = False
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None and coding.lower() == "chunked":
            self._state = "chunk_size"
        elif length is not None:
            # isdigit() alone takes other scripts, int() also "+1" and "1_0"
            if not length.isascii() or not length.isdigit() or len(length) > 15:
                raise _BrokenError("a malformed length")
            self._left = int(length)
            self._state = "length"
        elif status in (204, 304):  # RFC 9112, section 6.3: these have no body
            self._left = 0
            self._state = "length"
        else:
            self.keep = False
            self._state = "until_close"
        exchange.begin(status, headers)

    def _done(self, exchange: "HttpExchange", surplus: int) -> None:
        self.exchange = None
        self.used = True
        self._state = "head"
        exchange.finish()
        self.resume()
        if surplus or not self.keep:
            self.drop()  # surplus bytes could pass for the answer to the next request
        else:
            self.on_free(self)


def _hex_size(text: bytes) -> int:
    digits = text.partition(b";")[0].strip()
    if not digits or len(digits) > 8 or digits.strip(_HEX):  # int() also takes "-1" and "1_0"
        raise _BrokenError("a malformed chunk size")
    return int(digits, 16)
