"""What attackers would try beside sign-in: cross-site posts, foreign redirects, script in operators' strings, floods."""

from urllib.parse import urljoin, urlsplit

import pytest
from flask import Flask
from sqlalchemy import create_engine, update

from offchain.db.models import Node
from tests.support.webapp.account import OWNER, csrf, sign_in
from tests.support.webapp.seed import SeededNetwork


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/account/message", {"address": OWNER.address}),
        ("/account/sign-in", {"nonce": "x", "signature": "0x"}),
        ("/account/sign-out", {}),
        ("/account/channels", {}),
        ("/account/channels/1/remove", {}),
        ("/playground/chat", {"model": "m", "prompt": "p"}),
        ("/api/v1/nodes/1/epochs/1/appeal", {"answers": []}),
    ],
)
def test_csrf__post_without_token__is_refused(app: Flask, path: str, body: dict) -> None:
    client = app.test_client()
    sign_in(client)
    assert client.post(path, json=body).status_code == 400
    assert client.post(path, data=body).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/operators?address=//evil.example",
        "/operators?address=https://evil.example",
        "/tx/0x?then=//evil.example",
    ],
)
def test_redirects__foreign_target__never(app: Flask, path: str) -> None:
    answer = app.test_client().get(path)
    assert answer.status_code == 400
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    "path", ["//evil.example", "//evil.example/%2e%2e", "/operators/../..//evil.example"]
)
def test_redirects__odd_paths__stay_here(app: Flask, path: str) -> None:
    answer = app.test_client().get("/", environ_overrides={"PATH_INFO": path})
    target = urljoin("http://localhost/", answer.headers.get("Location", "/"))
    assert urlsplit(target).netloc == "localhost"


@pytest.mark.parametrize(
    "text_",
    ['"><script>alert(1)</script>', "javascript:alert(1)", "' onmouseover='alert(1)", "</script><script>"],
)
def test_xss__manifest_uri__stays_text(net: SeededNetwork, app: Flask, text_: str) -> None:
    engine = create_engine(net.url)
    with engine.begin() as db:
        db.execute(
            update(Node).where(Node.node_id == 1).values(manifest_uri=text_, manifest_hash="0x" + "ab" * 32)
        )
    engine.dispose()
    page = app.test_client().get("/nodes/1").text
    assert "<script>alert" not in page
    assert " onmouseover=" not in page.replace("&#39; onmouseover=", "")
    assert 'href="javascript' not in page


def test_limits__too_many_sign_ins__wait(app: Flask) -> None:
    client = app.test_client()
    token = csrf(client)
    codes = [
        client.post(
            "/account/message", json={"address": OWNER.address}, headers={"X-CSRFToken": token}
        ).status_code
        for _ in range(31)
    ]
    assert codes[:30] == [200] * 30
    assert codes[30] == 429
