"""Notifications: signed webhooks with back-off, and what becomes news."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from flask import Flask
from sqlalchemy import create_engine, update

from offchain.db.models import Node, Probe
from tests.support.webapp.account import OWNER, add_channel, csrf, reported, sign_in
from tests.support.webapp.seed import SeededNetwork
from tests.support.webapp.serving import answering
from webapp.notify.senders import DeliveryError, Webhook, webhook_url_problem
from webapp.sources.outbound_hosts import UnreachableHostError, resolve
from webapp.store import Channel, Delivery
from webapp.store.store import BACK_OFF_SECONDS


class Hook:
    """A receiver of webhooks."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.url = ""


@contextmanager
def receiver() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.got.append((dict(self.headers), body))
            self.send_response(hook.status)
            if hook.status == 302:
                self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        hook.url = f"{url}/hook"
        yield hook


def test_webhook__lost_slots__signed_once_and_recorded(net: SeededNetwork, app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    notifier = app.extensions["notifier"]
    with receiver() as hook:
        assert add_channel(client, hook.url, "slot.missed", "uptime.low").status_code == 302
        assert notifier.once() == 0  # nothing from before the channel
        net.now += 5
        reported(net, net.epoch - 1)
        assert notifier.once() == 2
        assert notifier.once() == 0
        secret = app.extensions["store"].channels(OWNER.address)[0].secret
        for headers, body in hook.got:
            stamp, mac = (part.split("=")[1] for part in headers["X-Parallelix-Signature"].split(","))
            expected = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
            assert mac == expected
            assert json.loads(body)["data"] == {"node_id": 1, "epoch": 11, "missed": 29, "uptime_bps": 9000}
        assert {headers["X-Parallelix-Event"] for headers, _ in hook.got} == {"slot.missed", "uptime.low"}
    page = client.get("/account").text
    assert "answered 204" in page
    assert "Node 1 lost 29 slots in epoch 11" in page


def test_webhook__that_fails__backs_off_and_gives_up(net: SeededNetwork, app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    notifier, store = app.extensions["notifier"], app.extensions["store"]
    with receiver() as hook:
        add_channel(client, hook.url, "slot.missed")
        net.now += 5
        reported(net, net.epoch - 1)
        hook.status = 500
        assert notifier.once() == 1
        for number, wait in enumerate(BACK_OFF_SECONDS, start=2):
            net.now += wait - 1
            assert notifier.once() == 0
            net.now += 1
            assert notifier.once() == 1, number
        net.now += 10**6
        assert notifier.once() == 0
        assert len(hook.got) == len(BACK_OFF_SECONDS) + 1
    delivery, _ = store.deliveries(OWNER.address)[0]
    assert (delivery.status, delivery.last_result) == ("failed", "answered 500")


def test_webhook__redirect__is_not_followed(net: SeededNetwork, app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    with receiver() as hook:
        add_channel(client, hook.url, "slot.missed")
        net.now += 5
        reported(net, net.epoch - 1)
        hook.status = 302
        app.extensions["notifier"].once()
        assert len(hook.got) == 1
    assert app.extensions["store"].deliveries(OWNER.address)[0][0].last_result == "answered 302"


def test_news__node_goes_off_and_comes_back__each_once(net: SeededNetwork, app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    notifier = app.extensions["notifier"]
    engine = create_engine(net.url)

    def turn(outcome: str) -> None:
        with engine.begin() as db:
            db.execute(update(Probe).where(Probe.node_id == 1).values(outcome=outcome))

    with receiver() as hook:
        turn("answered")
        add_channel(client, hook.url, "node.offline", "node.online")
        notifier.once()
        net.now += 5
        turn("missed")
        notifier.once()
        notifier.once()
        net.now += 5
        turn("answered")
        notifier.once()
        assert [headers["X-Parallelix-Event"] for headers, _ in hook.got] == ["node.offline", "node.online"]
    engine.dispose()


def test_news__cooldown__started_then_withdrawable(net: SeededNetwork, app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    notifier = app.extensions["notifier"]
    engine = create_engine(net.url)
    with receiver() as hook:
        add_channel(client, hook.url, "cooldown.started", "stake.withdrawable")
        net.now += 5
        with engine.begin() as db:
            db.execute(
                update(Node)
                .where(Node.node_id == 2)
                .values(active_until=net.epoch + 1, unlock_at=net.now + 100)
            )
        notifier.once()
        net.now += 101
        notifier.once()
        events = [headers["X-Parallelix-Event"] for headers, _ in hook.got]
    engine.dispose()
    assert events == ["cooldown.started", "stake.withdrawable"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x",
        "http://",
        "https://user:pw@host/",
        "file:///etc/passwd",
        "http://h:0/",
        "http://h:x/",
        "x" * 9,
    ],
)
def test_channels__bad_webhook__is_refused_with_words(app: Flask, url: str) -> None:
    client = app.test_client()
    sign_in(client)
    assert webhook_url_problem(url)
    assert add_channel(client, url, "slot.missed").status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "::1", "0.0.0.0"])
def test_webhook__private_host__is_not_called(host: str) -> None:
    with pytest.raises(UnreachableHostError, match="private"):
        resolve(host, 80, allow_private=False)


@pytest.mark.parametrize(
    "url", ["http://a..b/", f"http://{'a' * 64}.example/", "http://[::1]x/", "http://h/\x00"]
)
def test_webhook__host_that_cannot_be_looked_up__is_a_failed_delivery(url: str) -> None:
    channel = Channel(target=url, secret="s")
    delivery = Delivery(id=1, event="slot.missed", created_at=1, body={"text": "t"})
    with pytest.raises(DeliveryError):
        Webhook(allow_private=True, time=lambda: 1.0).send(channel, delivery)


def test_channels__of_others__cannot_be_removed(app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    add_channel(client, "https://hooks.example/x", "slot.missed")
    store = app.extensions["store"]
    channel = store.channels()[0]
    assert store.remove_channel("0x" + "0" * 40, channel.id) is False
    stranger = app.test_client()
    answer = stranger.post(f"/account/channels/{channel.id}/remove", data={"csrf_token": csrf(stranger)})
    assert answer.status_code == 403
    assert (
        client.post(f"/account/channels/{channel.id}/remove", data={"csrf_token": csrf(client)}).status_code
        == 302
    )
    assert store.channels() == []


def test_channels__eleventh__is_refused(app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    for number in range(10):
        assert add_channel(client, f"https://hooks.example/{number}", "slot.missed").status_code == 302
    assert add_channel(client, "https://hooks.example/x", "slot.missed").status_code == 400
