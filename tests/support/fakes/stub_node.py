"""A node without a model: the whole HTTP seam of a node agent, in a process of its own that tests may kill or stop.

Tickets are checked, receipts and heartbeats are signed for real. What it answers comes from `stub_model.py`.

    python tests/support/fakes/stub_node.py --spec FILE      (FILE: JSON of `Spec`)

`POST /stub {"mode": ...}` changes its behaviour, `GET /stub` tells what it is doing.
"""

import argparse
import asyncio
import base64
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from offchain.domain.eip712 import keccak256
from offchain.domain.messages import Heartbeat, result_bytes
from offchain.domain.types import NodeId
from tests.support.fakes.stub_key import StubKey
from tests.support.fakes.stub_model import Bundler, Generation, prompt_ids


@dataclasses.dataclass
class Spec:
    """What a stub node is. `key` is its private key in hex."""

    node_id: int
    key: str
    gateway_signer: str
    chain_id: int
    nodes_contract: str
    market_contract: str
    fronts: list[str]
    model: str = "stub-model"
    revision: str = "r1"
    context_length: int = 4096
    region: str = "local"
    tier: int = 1
    slots: int = 8
    port: int = 0
    token_ms: float = 2.0
    first_ms: float = 5.0
    beat_seconds: float = 0.3
    price_per_token_wei: int = 10
    mode: str = "ok"
    check_tickets: bool = True
    advertised_url: str = ""
    engine_url: str = ""
    cut_after: int = 0
    bundle: int = 1
    """Events of the model server that become one, as its own do when it is ahead of its reader."""
    manifest: str = ""
    """What /manifest serves, canonical JSON; empty for nothing."""
    proof: str = "right"
    """Under whole answers to tickets proved by MAC: `right` (also over a receipt that is not), `wrong` or `none`."""


class StubNode:
    """The server."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.key = StubKey(spec)
        self.running = 0
        self.served = 0
        self.cancelled = 0
        self.seen: list[dict[str, Any]] = []
        self.beats = 0
        self.url = ""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self.infer)
        app.router.add_post("/v1/completions", self.infer)
        app.router.add_post("/v1/embeddings", self.infer)
        app.router.add_get("/health", self.health)
        app.router.add_get("/manifest", self.manifest)
        app.router.add_get("/stub", self.state)
        app.router.add_post("/stub", self.control)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def manifest(self, request: web.Request) -> web.Response:
        return web.Response(text=self.spec.manifest, status=200 if self.spec.manifest else 404)

    async def state(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "running": self.running,
                "served": self.served,
                "cancelled": self.cancelled,
                "beats": self.beats,
                "seen": self.seen[-50:],
            }
        )

    async def control(self, request: web.Request) -> web.Response:
        for name, value in (await request.json()).items():
            setattr(self.spec, name, value)
        return web.json_response(dataclasses.asdict(self.spec))

    def refuse(self, status: int, code: str) -> web.Response:
        return web.json_response(
            {"error": {"message": code, "type": code, "param": None, "code": code}}, status=status
        )

    # ---------------------------------------------------------------------------------------- inference

    async def infer(self, request: web.Request) -> web.StreamResponse:
        spec = self.spec
        body = await request.read()
        if spec.check_tickets and (fault := self.key.ticket_fault(request, body)):
            return self.refuse(401, f"invalid_ticket: {fault}")
        if spec.mode == "no_slot" or self.running >= spec.slots:
            return self.refuse(429, "no_slot")
        if spec.mode == "error500":
            return self.refuse(500, "boom")
        fields = json.loads(body)
        if fields.get("temperature", 1) is not None and fields.get("temperature", 1) > 2:
            return web.json_response(
                {
                    "error": {
                        "message": "temperature must be at most 2",
                        "type": "BadRequestError",
                        "code": 400,
                    }
                },
                status=400,
            )
        self.running += 1
        self.seen.append(
            {
                "path": request.path,
                "stream": bool(fields.get("stream")),
                "fields": _short(fields),
                "salt": request.headers.get("X-Parallelix-Cache-Salt"),
            }
        )
        try:
            if spec.mode == "hang":
                await asyncio.sleep(3600)
            if spec.mode == "garbage":
                return web.Response(body=b"\x00garbage", content_type="application/json")
            if spec.engine_url:
                return await self.relay(request, fields, body)
            if request.path.endswith("embeddings"):
                return await self.embed(request, fields, body)
            return await self.generate(request, fields, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def relay(self, request: web.Request, fields: dict[str, Any], body: bytes) -> web.StreamResponse:
        """Pass a streamed request to a real model server; with `cut_after` the connection breaks after so many events."""
        spec = self.spec
        sent = {**fields, "return_token_ids": True, "stream_options": {"include_usage": True}}
        sent.pop("cache_salt", None)
        wants_usage = (fields.get("stream_options") or {}).get("include_usage")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        texts, ids, prompt, events, head = [], 0, 0, 0, False
        bundler = Bundler(spec.bundle)
        async with (
            aiohttp.ClientSession() as session,
            session.post(spec.engine_url + request.path, json=sent) as answer,
        ):
            if answer.status != 200:
                return web.Response(
                    body=await answer.read(), status=answer.status, content_type="application/json"
                )
            buffer = b""
            async for piece in answer.content.iter_any():
                *frames, buffer = (buffer + piece).split(b"\n\n")
                for frame in frames:
                    if not head:
                        head = True
                        await response.prepare(request)
                    if frame == b"data: [DONE]":
                        continue
                    chunk = bundler.add(json.loads(frame[6:]))
                    if chunk is None:
                        continue
                    for choice in chunk["choices"]:
                        texts.append(
                            (choice["delta"].get("content") if "delta" in choice else choice["text"]) or ""
                        )
                        ids += len(choice.get("token_ids") or ())
                    prompt = (chunk.get("usage") or {}).get("prompt_tokens", prompt)
                    if chunk["choices"] or wants_usage:
                        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                    events += 1
                    if spec.cut_after and events >= spec.cut_after:
                        spec.cut_after = 0
                        await asyncio.sleep(0.02)
                        if request.transport is not None:
                            request.transport.abort()
                        return response
        request_id = bytes.fromhex(request.headers.get("X-Parallelix-Request-Id", "0x" + "00" * 32)[2:])
        receipt = self.key.receipt(request_id, body, result_bytes(["".join(texts)]), prompt, ids)
        await response.write(b"event: parallelix.receipt\ndata: " + json.dumps(receipt).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        self.served += 1
        return response

    async def embed(self, request: web.Request, fields: dict[str, Any], body: bytes) -> web.Response:
        texts = fields["input"] if isinstance(fields["input"], list) else [fields["input"]]
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": [b / 255 for b in hashlib.sha256(str(t).encode()).digest()[:8]],
            }
            for i, t in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return web.json_response({"object": "list", "data": data, "model": fields["model"], "usage": usage})

    async def steps(
        self, generation: Generation, skip_first_wait: bool = False
    ) -> AsyncIterator[tuple[int, str]]:
        await asyncio.sleep(self.spec.first_ms / 1000)
        while generation.finish is None:
            yield generation.step()
            if generation.finish is None and self.spec.token_ms:
                await asyncio.sleep(self.spec.token_ms / 1000)

    async def generate(self, request: web.Request, fields: dict[str, Any], body: bytes) -> web.StreamResponse:
        spec = self.spec
        chat = request.path.endswith("chat/completions")
        prompt = prompt_ids(fields, chat)
        limit = fields.get("max_completion_tokens") or fields.get("max_tokens") or (64 if chat else 16)
        limit = min(limit, spec.context_length - len(prompt))
        if limit <= 0:
            return web.json_response({"error": {"message": "prompt is too long", "code": 400}}, status=400)
        request_id = bytes.fromhex(request.headers.get("X-Parallelix-Request-Id", "0x" + "00" * 32)[2:])
        if spec.mode == "lie":  # a cheaper model in the place of the declared one
            prompt = [*prompt, 7]
        generation = Generation(prompt, fields, limit)
        made_id = ("chatcmpl-" if chat else "cmpl-") + request_id.hex()[:12]
        if not fields.get("stream"):
            async for _ in self.steps(generation):
                pass
            choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": generation.finish}
            if chat:
                choice["message"] = {"role": "assistant", "content": generation.text}
            else:
                choice["text"] = generation.text
            document = {
                "id": made_id, "object": "chat.completion" if chat else "text_completion", "created": 1,
                "model": fields["model"], "choices": [choice], "usage": _usage(generation),
            }  # fmt: skip
            receipt = self.key.receipt(
                request_id, body, result_bytes([generation.text]), len(prompt), len(generation.ids)
            )
            self.served += 1
            header = base64.urlsafe_b64encode(json.dumps(receipt).encode()).decode().rstrip("=")
            if spec.mode == "short":
                document["choices"] = []
            headers = {} if spec.mode == "no_receipt" else {"X-Parallelix-Receipt": header}
            return self.key.prove(request, web.json_response(document, headers=headers))
        return await self.stream(request, fields, body, chat, prompt, request_id, generation, made_id)

    async def stream(
        self, request: web.Request, fields: dict[str, Any], body: bytes, chat: bool, prompt: list[int],
        request_id: bytes, generation: Generation, made_id: str,
    ) -> web.StreamResponse:  # fmt: skip
        spec = self.spec
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        base = {
            "id": made_id, "object": "chat.completion.chunk" if chat else "text_completion", "created": 1,
            "model": fields["model"],
        }  # fmt: skip

        async def send(document: dict[str, Any]) -> None:
            await response.write(
                b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
            )

        first = True
        async for token, shown in self.steps(generation):
            if first and chat:
                choice = {
                    "index": 0,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
                await send({**base, "choices": [choice], "prompt_token_ids": prompt})
            if spec.mode == "stall" and len(generation.ids) > 3:
                await asyncio.sleep(3600)
            if spec.mode == "error_event" and len(generation.ids) > 3:
                await send({"error": {"message": "engine died", "type": "InternalServerError", "code": 500}})
                await response.write(b"data: [DONE]\n\n")
                return response
            choice = {"index": 0, "logprobs": None, "finish_reason": generation.finish, "token_ids": [token]}
            if chat:
                choice["delta"] = {"content": shown}
            else:
                choice["text"] = shown
                if first:
                    choice["prompt_token_ids"] = prompt
            first = False
            await send({**base, "choices": [choice]})
            if spec.mode == "short" and len(generation.ids) > 3:
                await response.write(b"data: [DONE]\n\n")
                return response
            if spec.mode == "exit_after" and len(generation.ids) > 3:
                os._exit(9)
        if (fields.get("stream_options") or {}).get("include_usage"):
            await send({**base, "choices": [], "usage": _usage(generation)})
        receipt = self.key.receipt(
            request_id, body, result_bytes([generation.text]), len(prompt), len(generation.ids)
        )
        if spec.mode != "no_receipt":
            await response.write(
                b"event: parallelix.receipt\ndata: " + json.dumps(receipt).encode() + b"\n\n"
            )
        await response.write(b"data: [DONE]\n\n")
        self.served += 1
        return response

    # --------------------------------------------------------------------------------------- heartbeats

    async def beat(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                spec = self.spec
                if spec.mode != "silent":
                    await asyncio.gather(*(self.beat_once(session, front) for front in spec.fronts))
                    self.beats += 1
                await asyncio.sleep(spec.beat_seconds)

    async def beat_once(self, session: aiohttp.ClientSession, front: str) -> None:
        spec = self.spec
        body = json.dumps(
            {
                "node_id": spec.node_id, "url": spec.advertised_url or self.url, "slots": spec.slots,
                "models": [{"name": spec.model, "revision": spec.revision, "context_length": spec.context_length}],
                "free_slots": max(0, spec.slots - self.running), "queue": 0, "region": spec.region, "tier": spec.tier,
                "versions": {"agent": "stub"}, "price_per_token_wei": str(spec.price_per_token_wei),
            }
        ).encode()  # fmt: skip
        sent = time.time_ns() // 1_000_000
        digest = self.key.nodes_domain.digest(
            Heartbeat(NodeId(spec.node_id), keccak256(body), sent).struct_hash()
        )
        header = "0x" + sent.to_bytes(8, "big").hex() + self.key.signer.sign_digest(digest).hex()
        try:
            async with session.post(
                f"{front}/internal/heartbeat", data=body, headers={"X-Parallelix-Heartbeat": header}
            ) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return


def _usage(generation: Generation) -> dict[str, int]:
    prompt, output = len(generation.prompt), len(generation.ids)
    return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}


def _short(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if not isinstance(v, list | dict) or len(str(v)) < 200}


async def main(spec: Spec) -> None:
    """Serve until killed; prints one line of JSON when ready."""
    node = StubNode(spec)
    runner = web.AppRunner(node.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", spec.port)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    node.url = f"http://127.0.0.1:{port}"
    sys.stdout.write(json.dumps({"url": node.url, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    await node.beat()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", required=True)
    asyncio.run(main(Spec(**json.loads(Path(parser.parse_args().spec).read_text()))))
