"""A small OpenAI-compatible model server that starts in a third of a second: `engine_stub.py serve FOLDER --port N ...`.

It takes vLLM's command line and like it is more than one process. The last message of a request steers it:
`tokens=8 delay_ms=5 cut=3` streams eight tokens, five milliseconds apart, and breaks off after three. Real vLLM is used by the tests marked `vllm`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys

from aiohttp import web

SEEN = {"running": 0, "served": 0, "aborted": 0, "bodies": []}


def _steer(body: dict) -> dict:
    text = str(body["messages"][-1]["content"] if "messages" in body else body.get("prompt", ""))
    words = (word.split("=") for word in text.split() if "=" in word)
    return {"tokens": 4, "delay_ms": 0, "cut": 0, "status": 200} | {key: int(value) for key, value in words}


def _word(position: int) -> str:
    return f" w{position}é"


async def complete(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    SEEN["bodies"] = [*SEEN["bodies"][-9:], body]
    steer = _steer(body)
    key = os.environ.get("VLLM_API_KEY")
    if key and request.headers.get("Authorization") != f"Bearer {key}":
        return web.json_response({"error": {"message": "no key", "type": "auth"}}, status=401)
    if steer["status"] != 200:
        return web.json_response({"error": {"message": "steered", "type": "steered"}}, status=steer["status"])
    SEEN["running"] += 1
    try:
        answer = await (_stream if body.get("stream") else _whole)(request, body, steer)
        SEEN["served"] += 1
        return answer
    except (asyncio.CancelledError, ConnectionResetError):
        SEEN["aborted"] += 1
        raise
    finally:
        SEEN["running"] -= 1


async def _whole(request: web.Request, body: dict, steer: dict) -> web.Response:
    await asyncio.sleep(steer["delay_ms"] * steer["tokens"] / 1000)
    text = "".join(_word(i) for i in range(steer["tokens"]))
    choice = {"index": 0, "finish_reason": "stop"}
    choice |= {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    usage = {"prompt_tokens": 7, "completion_tokens": steer["tokens"]}
    return web.json_response({"id": "x", "model": body["model"], "choices": [choice], "usage": usage})


async def _stream(request: web.Request, body: dict, steer: dict) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    chat = "messages" in body
    for i in range(steer["tokens"]):
        if steer["cut"] and i == steer["cut"]:
            request.transport.abort()
            return response
        if steer["delay_ms"]:
            await asyncio.sleep(steer["delay_ms"] / 1000)
        choice = {"index": 0, "finish_reason": "stop" if i == steer["tokens"] - 1 else None}
        choice |= {"delta": {"content": _word(i)}} if chat else {"text": _word(i)}
        if body.get("return_token_ids"):
            choice["token_ids"] = [i]
        chunk = {"id": "x", "model": body["model"], "choices": [choice]}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": 7, "completion_tokens": steer["tokens"]}
        await response.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


async def embed(request: web.Request) -> web.Response:
    body = await request.json()
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [{"index": i, "embedding": [0.5, -1.25, float(len(text))]} for i, text in enumerate(inputs)]
    return web.json_response(
        {"data": data, "model": body["model"], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    )


async def _answer(data: object) -> web.Response:
    return web.json_response(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", default="m")
    parser.add_argument("--max-model-len", type=int, default=512)
    known, _ = parser.parse_known_args()
    served = {"id": known.served_model_name, "max_model_len": known.max_model_len}
    if known.folder.endswith("broken"):
        print("cannot load this model", flush=True)
        sys.exit(3)
    core = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(f"stub engine {os.getpid()} core {core.pid}", flush=True)
    app = web.Application()
    app.router.add_get("/health", lambda _request: _answer({}))
    app.router.add_get("/version", lambda _request: _answer({"version": "stub"}))
    app.router.add_get("/v1/models", lambda _request: _answer({"object": "list", "data": [served]}))
    app.router.add_get("/seen", lambda _request: _answer({**SEEN, "pid": os.getpid(), "core": core.pid}))
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_post("/v1/completions", complete)
    app.router.add_post("/v1/embeddings", embed)
    runner = web.AppRunner(app, handler_cancellation=True)

    async def serve() -> None:
        await runner.setup()
        await web.TCPSite(runner, known.host, known.port).start()
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
