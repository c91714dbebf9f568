"""Manifests: only what has the hash of the chain is shown, and every string of it as text."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import rfc8785
from sqlalchemy import create_engine, update

from offchain.db.models import Node
from offchain.domain.eip712 import keccak256
from tests.support.webapp.seed import app_of, seed
from tests.support.webapp.serving import answering
from webapp.sources.manifests import ManifestFetcher, capabilities_of

EVIL = '"><script>alert(1)</script>'
MANIFEST = {
    "version": 1,
    "models": [{"name": EVIL, "revision": "r", "context_length": 512}],
    "tier": 4,
    "slots": 4,
    "region": EVIL + "eu",
    "price_per_token_wei": "1000000000000",
    "backend": "javascript:alert(1)",
    "accelerators": ["<img src=x onerror=alert(1)>"],
}


@contextmanager
def served(body: bytes, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        yield f"{url}/manifest"


def show(
    tmp_path: Path, body: bytes, *, declared: bytes | None = None, private: bool = True, status: int = 200
) -> str:
    """The pages of a network whose node 1 declares a manifest that is served as `body`."""
    net = seed(tmp_path, nodes=4, epochs=4, owners=1, evidence=False)
    with served(body, status) as uri, net.chain() as rpc:
        engine = create_engine(net.url)
        with engine.begin() as db:
            found = "0x" + keccak256(declared if declared is not None else body).hex()
            db.execute(update(Node).where(Node.node_id == 1).values(manifest_hash=found, manifest_uri=uri))
        engine.dispose()
        app = app_of(net, rpc)
        fetcher = ManifestFetcher(app.extensions["sources"], app.extensions["store"], private)
        assert fetcher.once() == 1
        assert fetcher.once() == 0
        client = app.test_client()
        return client.get("/nodes/1").text + client.get("/").text


def test_manifest__hostile_strings__stay_text(tmp_path: Path, built_assets: Path) -> None:
    page = show(tmp_path, rfc8785.dumps(MANIFEST))
    assert "matches the hash on chain" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;eu" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "It declares tier 4 but is registered in tier" in page


def test_manifest__not_canonical_but_same__is_shown(tmp_path: Path, built_assets: Path) -> None:
    assert "matches the hash" in show(
        tmp_path, json.dumps(MANIFEST, indent=2).encode(), declared=rfc8785.dumps(MANIFEST)
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"region": "eu"}', "does not have the hash"),
        (b"not json", "is not JSON"),
        (b"[" * 70_000, "too large"),
        (b"[" * 5_000, "is not JSON"),
        (b"[]", "does not have the hash"),
    ],
)
def test_manifest__anything_else__is_not_shown(
    tmp_path: Path, built_assets: Path, body: bytes, words: str
) -> None:
    page = show(tmp_path, body, declared=b"another")
    assert words in page
    assert "Declares" not in page


def test_manifest__private_host__is_not_asked(tmp_path: Path, built_assets: Path) -> None:
    assert "the host lies in a private network" in show(tmp_path, rfc8785.dumps(MANIFEST), private=False)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"models": 5, "tier": "x", "slots": True, "region": 7, "accelerators": {}},
        {"models": [1, None, {"name": []}]},
    ],
)
def test_capabilities__odd_types__are_no_error(body: dict) -> None:
    assert capabilities_of(body).region == "not declared"
