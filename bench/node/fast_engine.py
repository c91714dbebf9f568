"""A model server that costs next to nothing, so that what is measured is the agent: raw HTTP/1.1 with fixed answers.

`python -m bench.node.fast_engine PORT`. A body with `"stream":true` gets 32 frames at once, or, with `"user":"slow"`, one each 5 ms.
"""

import asyncio
import json
import sys

import uvloop

FRAMES = 32


def _head(status: str, kind: str, extra: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{extra}\r\n".encode()


_USAGE = {"prompt_tokens": 12, "completion_tokens": FRAMES, "total_tokens": 12 + FRAMES}
_WHOLE = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "word " * 32}, "finish_reason": "stop"}
        ],
        "usage": _USAGE,
    }
).encode()
WHOLE = _head("200 OK", "application/json", f"content-length: {len(_WHOLE)}\r\n") + _WHOLE
OK = _head("200 OK", "application/json", "content-length: 2\r\n") + b"{}"
STREAM_HEAD = _head("200 OK", "text/event-stream", "transfer-encoding: chunked\r\n")


def _chunk(data: object) -> bytes:
    raw = f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
    return f"{len(raw):x}\r\n".encode() + raw + b"\r\n"


STREAM = [
    _chunk(
        {
            "id": "x",
            "object": "chat.completion.chunk",
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "delta": {"content": f"w{i} "},
                    "finish_reason": "stop" if i == FRAMES - 1 else None,
                    "token_ids": [i],
                }
            ],
        }
    )
    for i in range(FRAMES)
]
END = _chunk({"id": "x", "choices": [], "usage": _USAGE}) + _chunk("[DONE]") + b"0\r\n\r\n"


class Server(asyncio.Protocol):
    """A caller's connection: answers each request when it is whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            mark = head.find(b"content-length: ")
            length = int(head[mark + 16 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get"):
            self.transport.write(OK)
        elif b'"stream":true' not in body.replace(b" ", b""):
            if b'"slow"' in body:
                asyncio.get_running_loop().call_later(0.1, self.late)
            else:
                self.transport.write(WHOLE)
        elif b"slow" in body:
            self.transport.write(STREAM_HEAD)
            self.slow(0)
        else:
            self.transport.write(STREAM_HEAD + b"".join(STREAM) + END)

    def late(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(WHOLE)

    def slow(self, position: int) -> None:
        if self.transport.is_closing():
            return
        if position == FRAMES:
            self.transport.write(END)
            return
        self.transport.write(STREAM[position])
        asyncio.get_running_loop().call_later(0.005, self.slow, position + 1)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
