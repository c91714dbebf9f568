"""Server-sent events, split and written as the WHATWG standard says (https://html.spec.whatwg.org/#event-stream-interpretation).

An answer that is streamed looks like this on the wire; an empty line ends each event::

    data: {"choices":[...]}            one for each token
    event: parallelix.receipt          from a node to a gateway only
    data: {"receipt":{...}}
    data: [DONE]

Example::

    events = EventSplitter()
    while piece := await exchange.read():
        for block in events.feed(piece):
            name, data = read_event(block)
"""

from typing import Final

RECEIPT: Final = b"parallelix.receipt"
"""Name of the event that holds a node's receipt."""
DONE: Final = b"[DONE]"
"""Data of the event that ends a whole answer."""
DONE_EVENT: Final = b"data: [DONE]\n\n"
CONTENT_TYPE: Final = "text/event-stream"


class EventSplitter:
    """Cuts a stream into events, wherever its pieces end. Lines may end in LF, CRLF or CR.

    Attributes:
        unfinished: bytes held of an event whose end has not come; the caller sets a bound.
    """

    __slots__ = ("_after_return", "_last", "_pieces", "unfinished")

    def __init__(self) -> None:
        self.unfinished = 0
        self._pieces: list[bytes] = []
        self._last = b""
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take a piece. Returns the events that it completed, with LF line ends and without the empty line."""
        if self._after_return or b"\r" in data:
            data = self._with_line_feeds(data)
        if not self._pieces and data.find(b"\n\n") == len(data) - 2 >= 0:  # one whole event: nearly always
            return [data[:-2]]
        if not self._pieces:
            *events, rest = data.split(b"\n\n")
        elif b"\n\n" in data or (self._last == b"\n" and data.startswith(b"\n")):
            self._pieces.append(data)
            *events, rest = b"".join(self._pieces).split(b"\n\n")
            self._pieces.clear()
        else:  # looked for in the new piece alone, so that a long event costs O(its length)
            self._pieces.append(data)
            self.unfinished += len(data)
            self._last = data[-1:] or self._last
            return []
        if rest:
            rest = rest.lstrip(b"\n")  # an empty line too many begins no event
        self.unfinished = len(rest)
        if rest:
            self._pieces.append(rest)
            self._last = rest[-1:]
        return events

    def _with_line_feeds(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._after_return and data.startswith(b"\n"):  # the second half of a CRLF
            data = data[1:]
        self._after_return = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def read_event(block: bytes) -> tuple[bytes, bytes]:
    """The name and the data of an event from `EventSplitter`; both empty when there are none, as in a comment.

    Several `data` lines are joined by LF.
    """
    if block[:6] == b"data: " and b"\n" not in block:  # nearly every event
        return b"", block[6:]
    name = b""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return name, b"\n".join(data)


def write_event(data: bytes, name: bytes = b"") -> bytes:
    """An event as it travels. Line ends inside `data` stay inside this event."""
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: " + data + b"\n\n"
