"""A node that costs little: answers at once (or in chunks at a fixed pace) and signs a receipt for every answer.

Every contender talks to the same process; a caller that sends no request id still gets a signed answer, so that the
node's work is the same for all. Run as `python -m bench.gateway.stub --spec FILE`.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import DigestMaker, SigningDomain, keccak256
from offchain.domain.messages import Heartbeat, ServiceReceipt, proof_of_execution, result_bytes
from offchain.domain.types import NodeId, Wei
from offchain.protocol.pair_mac import PROOF_BYTES, PUBLIC_KEY_BYTES, AgreedKeys, answer_mac

KEY_BEGINS = len("0x") + 2 * (8 + 8)
KEY_ENDS = KEY_BEGINS + 2 * PUBLIC_KEY_BYTES
MAC_TICKET = KEY_BEGINS + 2 * PROOF_BYTES
WORDS = [f" tok{i:03d}" for i in range(512)]


@dataclass
class StubSpec:
    """Settings of a bench stub, as JSON in the file of `--spec`."""

    node_id: int
    key: str
    chain_id: int
    nodes_contract: str
    market_contract: str
    fronts: list[str] = field(default_factory=list)
    model: str = "bench-model"
    slots: int = 512
    port: int = 0
    chunk_ms: float = 5.0
    reply_ms: float = 0.0
    reply_spread: float = 0.0
    """Share of `reply_ms` by which answers take longer or shorter: with equal times all slots would be free at the same moments."""
    sign: bool = True


class Stub:
    """State shared by all connections of the process."""

    def __init__(self, spec: StubSpec) -> None:
        self.spec = spec
        self.signer = Signer.from_key(bytes.fromhex(spec.key))
        self.market = DigestMaker(SigningDomain(spec.chain_id, spec.market_contract))
        self.nodes = DigestMaker(SigningDomain(spec.chain_id, spec.nodes_contract))
        self.agreed = AgreedKeys(self.signer.agree)
        self.running = 0
        self.served = 0
        self.cut = 0
        self.beats = 0
        self.chance = random.Random(spec.node_id)
        self.slow = 1.0
        self.url = ""

    def receipt(self, request_id: bytes, body: bytes, result: bytes, prompt: int, output: int) -> bytes:
        now = time.time_ns() // 1_000_000
        node_id = NodeId(self.spec.node_id)
        made = ServiceReceipt(
            request_id, node_id, keccak256(body), keccak256(result), proof_of_execution(request_id, result, node_id),
            bytes(32), prompt, output, now, now, Wei(output),
        )  # fmt: skip
        signature = self.signer.sign_digest(self.market(made.struct_hash())) if self.spec.sign else bytes(65)
        return orjson.dumps(
            {"receipt": made.to_json(), "signature": "0x" + signature.hex(), "nodeKey": self.signer.address}
        )

    def proof(self, ticket: str, request_id: bytes, body: bytes) -> str:
        """The header line with the MAC that proves an answer, as the agent sends it; empty without a ticket, or with a signed one."""
        if len(ticket) != MAC_TICKET:
            return ""
        key = self.agreed.key(bytes.fromhex(ticket[KEY_BEGINS:KEY_ENDS]))
        return f"x-parallelix-proof: {answer_mac(key, request_id, body).hex()}\r\n"


class StubConnection(asyncio.Protocol):
    """Keep-alive HTTP/1.1, one request at a time."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.buffer = b""
        self.transport: Any = None
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            stop = self.buffer.find(b"0\r\n\r\n", end + 4)
            if stop < 0:
                return
            body, rest = _dechunk(self.buffer[end + 4 :])
        else:
            length = int(headers.get("content-length", "0"))
            if len(self.buffer) < end + 4 + length:
                if headers.get("expect"):
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body, rest = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
        self.buffer = rest
        path = first.split(" ")[1]
        if path.startswith(("/v1/chat", "/v1/completions")):
            self.infer(path, headers, body)
        elif path == "/v1/models":
            models = [{"id": self.stub.spec.model, "object": "model", "created": 1, "owned_by": "stub"}]
            self.reply(orjson.dumps({"object": "list", "data": models}))
        elif path == "/stub":
            stub = self.stub
            if body:
                changes = json.loads(body)
                stub.slow = float(changes.get("slow", stub.slow))
                stub.url = changes.get("url", stub.url)
            names = ("running", "served", "cut", "beats")
            self.reply(orjson.dumps({name: getattr(stub, name) for name in names}))
        else:
            info = {"model_path": self.stub.spec.model, "model_id": self.stub.spec.model, "status": "ok"}
            self.reply(orjson.dumps(info))

    def reply(self, body: bytes, extra: str = "") -> None:
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{extra}content-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)

    def infer(self, path: str, headers: dict[str, str], body: bytes) -> None:
        fields = orjson.loads(body)
        if fields.get("stream") or self.stub.spec.reply_ms:
            self.task = asyncio.get_running_loop().create_task(self.slowly(path, headers, body, fields))
        else:
            self.whole(path, headers, body, fields)

    def whole(self, path: str, headers: dict[str, str], body: bytes, fields: dict[str, Any]) -> None:
        count = _limit(fields, 16)
        text = "".join(WORDS[:count])
        request_id = bytes.fromhex(headers.get("x-parallelix-request-id", "0x" + "00" * 32)[2:])
        receipt = self.stub.receipt(request_id, body, result_bytes([text]), 8, count)
        chat = "chat" in path
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        document = {
            "id": "chatcmpl-1", "object": "chat.completion" if chat else "text_completion", "created": 1,
            "model": fields["model"], "choices": [choice],
            "usage": {"prompt_tokens": 8, "completion_tokens": count, "total_tokens": 8 + count},
        }  # fmt: skip
        header = base64.urlsafe_b64encode(receipt).decode().rstrip("=")
        self.stub.served += 1
        answer = orjson.dumps(document)
        proof = self.stub.proof(headers.get("x-parallelix-ticket", ""), request_id, answer)
        self.reply(answer, f"x-parallelix-receipt: {header}\r\n{proof}")

    async def slowly(self, path: str, headers: dict[str, str], body: bytes, fields: dict[str, Any]) -> None:
        stub = self.stub
        stub.running += 1
        try:
            if not fields.get("stream"):
                spread = 1 + stub.spec.reply_spread * stub.chance.uniform(-1, 1)
                await asyncio.sleep(stub.spec.reply_ms * spread * stub.slow / 1000)
                self.whole(path, headers, body, fields)
                return
            await self.stream(path, headers, body, fields)
        except asyncio.CancelledError:
            stub.cut += 1
        finally:
            stub.running -= 1
            self.task = None

    async def stream(self, path: str, headers: dict[str, str], body: bytes, fields: dict[str, Any]) -> None:
        stub, loop = self.stub, asyncio.get_running_loop()
        count = _limit(fields, 32)
        prompt = fields.get("prompt")
        given = len(prompt) - 8 if isinstance(prompt, list) else 0
        chat = "chat" in path
        base = {
            "id": "chatcmpl-1", "object": "chat.completion.chunk" if chat else "text_completion", "created": 1,
            "model": fields["model"],
        }  # fmt: skip
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        if chat:
            self.event({**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""},
                        "logprobs": None, "finish_reason": None}], "prompt_token_ids": list(range(8))})  # fmt: skip
        begun = loop.time()
        for index in range(count):
            token = given + index
            choice: dict[str, Any] = {"index": 0, "logprobs": None, "token_ids": [token % 512]}
            choice["finish_reason"] = "length" if index == count - 1 else None
            text = WORDS[token % 512]
            if chat:
                choice["delta"] = {"content": text}
            else:
                choice["text"] = text
                if index == 0:
                    choice["prompt_token_ids"] = prompt if isinstance(prompt, list) else list(range(8))
            self.event({**base, "choices": [choice]})
            wait = begun + (index + 1) * stub.spec.chunk_ms * stub.slow / 1000 - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
        request_id = bytes.fromhex(headers.get("x-parallelix-request-id", "0x" + "00" * 32)[2:])
        text = "".join(WORDS[(given + i) % 512] for i in range(count))
        if "x-parallelix-request-id" in headers:
            receipt = stub.receipt(request_id, body, result_bytes([text]), 8, count)
            self.chunk(b"event: parallelix.receipt\ndata: " + receipt + b"\n\n")
        else:  # a rival would pass the receipt's event on to its client
            stub.receipt(request_id, body, result_bytes([text]), 8, count)
        self.chunk(b"data: [DONE]\n\n")
        self.transport.write(b"0\r\n\r\n")
        stub.served += 1

    def event(self, document: dict[str, Any]) -> None:
        self.chunk(b"data: " + orjson.dumps(document) + b"\n\n")

    def chunk(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


def _limit(fields: dict[str, Any], default: int) -> int:
    """Tokens asked for; some routers rename the field."""
    return int(fields.get("max_tokens") or fields.get("max_completion_tokens") or default)


def _dechunk(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        end = data.find(b"\r\n")
        size = int(data[:end], 16)
        if size == 0:
            return body, data[end + 4 :]
        body += data[end + 2 : end + 2 + size]
        data = data[end + 4 + size :]


async def beat(stub: Stub) -> None:
    """Heartbeats to our own gateways; foreign routers need none."""
    spec = stub.spec
    async with aiohttp.ClientSession() as session:
        while True:
            for front in spec.fronts:
                body = orjson.dumps(
                    {
                        "node_id": spec.node_id, "url": stub.url, "slots": spec.slots, "queue": 0, "region": "local",
                        "models": [{"name": spec.model, "revision": "r1", "context_length": 1 << 20}],
                        "free_slots": max(0, spec.slots - stub.running), "tier": 1, "versions": {},
                        "price_per_token_wei": "1",
                    }
                )  # fmt: skip
                sent = time.time_ns() // 1_000_000
                digest = stub.nodes(Heartbeat(NodeId(spec.node_id), keccak256(body), sent).struct_hash())
                header = "0x" + sent.to_bytes(8, "big").hex() + stub.signer.sign_digest(digest).hex()
                try:
                    async with session.post(
                        f"{front}/internal/heartbeat", data=body, headers={"X-Parallelix-Heartbeat": header}
                    ) as answer:
                        await answer.read()
                except aiohttp.ClientError:
                    continue
            stub.beats += 1
            await asyncio.sleep(2.0)


async def main(spec: StubSpec) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stub = Stub(spec)
    server = await loop.create_server(lambda: StubConnection(stub), "127.0.0.1", spec.port, backlog=1024)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sys.stdout.write(json.dumps({"url": stub.url, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    task = loop.create_task(beat(stub))
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", required=True)
    spec_file = Path(parser.parse_args().spec)
    uvloop.run(main(StubSpec(**json.loads(spec_file.read_text()))))
