"""A server with Web3Signer's own eth1 API and a real key; the Java service is not to be had from a package registry.

Written from its handlers and its OpenAPI document: `GET /api/v1/eth1/publicKeys` lists keys as 0x-hex of 64 bytes,
`POST /api/v1/eth1/sign/{public key}` takes `{"data": "0x.."}`, signs the Keccak-256 of the data and answers with plain text.
"""

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from coincurve import PrivateKey
from coincurve._libsecp256k1 import ffi

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import keccak256


class Web3SignerServer:
    """A running service. `fault` spoils its signatures: "status", "text", "drawn", "other"."""

    def __init__(self, *keys: bytes) -> None:
        self.fault = ""
        self.signed = 0
        self._keys = {
            "0x" + PrivateKey(key).public_key.format(compressed=False)[1:].hex(): key for key in keys
        }
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path != "/api/v1/eth1/publicKeys":
                    return self._answer(404, "")
                return self._answer(200, json.dumps(list(service._keys)), "application/json")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                key = service._keys.get(self.path.removeprefix("/api/v1/eth1/sign/"))
                if key is None:
                    return self._answer(404, "")
                try:
                    data = bytes.fromhex(json.loads(body)["data"].removeprefix("0x"))
                except (ValueError, KeyError, AttributeError):
                    return self._answer(400, "")
                status, text = service._sign(key, data)
                return self._answer(status, text)

            def _answer(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _sign(self, key: bytes, data: bytes) -> tuple[int, str]:
        self.signed += 1
        if self.fault == "status":
            return 500, ""
        if self.fault == "text":
            return 200, "no signature"
        if self.fault == "drawn":  # as by a vault that draws its nonce: valid, and another one each time
            entropy = ffi.new("unsigned char[32]", secrets.token_bytes(32))
            drawn = PrivateKey(key).sign_recoverable(
                keccak256(data), hasher=None, custom_nonce=(ffi.NULL, entropy)
            )
            return 200, "0x" + (drawn[:64] + bytes((drawn[64] + 27,))).hex()
        if self.fault == "other":
            return 200, "0x" + Signer.from_key(b"\7" * 32).sign(data).hex()
        return 200, "0x" + Signer.from_key(key).sign(data).hex()


@contextmanager
def start_web3signer(*keys: bytes) -> Iterator[Web3SignerServer]:
    """Run a service with these private keys until the block ends."""
    service = Web3SignerServer(*keys)
    thread = threading.Thread(target=service.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        service.server.shutdown()
        service.server.server_close()
        thread.join()
