"""The floor below our gateway: our HTTP server in front of our HTTP client, and nothing between them.

No API key, quota, choice of node, ticket, receipt or record. A gateway on this stack cannot cost less than this.
Run as `python -m bench.gateway.floor NODE_URL`; prints its own URL.
"""

import asyncio
import json
import os
import sys

import uvloop

from offchain.dispatch.http_upstream import HttpUpstream
from offchain.dispatch.upstream import Call
from offchain.domain.types import NodeId
from offchain.transport.server import HttpLimits, HttpServer, Request, ServerConnection

REQUEST_ID = bytes(32)


async def main(node_url: str) -> None:
    """Serve until killed."""
    upstream = HttpUpstream(lambda _node_id, _request_id, _request_hash: "0x")

    async def handle(request: Request, connection: ServerConnection) -> None:
        exchange = upstream.start(NodeId(1), node_url, Call(request.path, request.body, REQUEST_ID))
        await exchange.head()
        headers = {"content-type": exchange.headers.get("content-type", "application/json")}
        if "content-length" in exchange.headers:
            connection.reply(exchange.status, headers, await exchange.read())
            await exchange.read()
            return
        connection.begin(exchange.status, headers)
        while data := await exchange.read():
            if not connection.write(data):
                await connection.drain()
        connection.finish()

    def failed(error: BaseException) -> None:
        raise error

    port = await HttpServer(handle, HttpLimits(), failed).start("127.0.0.1", 0)
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port}", "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
