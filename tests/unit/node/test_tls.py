"""Inbound with a certificate that only the node's own heartbeat vouches for, and its replacement while it serves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from offchain.dispatch.http_upstream import HttpUpstream
from offchain.dispatch.upstream import Call
from offchain.domain.types import NodeId
from offchain.errors import UserError
from offchain.node.agent.agent import Agent
from offchain.node.machine import tls
from offchain.node.machine.tls import Certificate
from offchain.protocol.heartbeats import HeartbeatRefusedError
from offchain.scheduler.work import NodeError
from offchain.transport.certificate_pins import pinned, unpinned
from offchain.transport.server import HttpLimits, HttpServer, Request, ServerConnection
from tests.support.node.requests import eventually
from tests.support.services.certificates import self_signed
from tests.unit.node.test_machine import _settings
from tests.unit.protocol.test_heartbeats import body, header, verifier

IDS = iter(range(1, 1 << 30))


@contextlib.asynccontextmanager
async def listening(certificate: Certificate) -> AsyncIterator[str]:
    """URL of a server that shows the certificate and answers `ok`."""

    async def ok(_request: Request, connection: ServerConnection) -> None:
        connection.reply(200, {}, b"ok")

    server = HttpServer(ok, HttpLimits(), lambda error: None)
    port = await server.start("127.0.0.1", 0, certificate.context)
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        await server.stop(0.1)


async def ask(upstream: HttpUpstream, url: str) -> bytes:
    exchange = upstream.start(
        NodeId(7), url, Call("/v1/chat/completions", b"{}", next(IDS).to_bytes(32, "big"))
    )
    try:
        await exchange.head()
        return await exchange.read()
    finally:
        exchange.close()


@pytest.fixture
def upstream() -> HttpUpstream:
    return HttpUpstream(lambda node_id, request_id, request_hash: "0x")


async def test_pin__certificate_of_the_heartbeat__is_answered(tmp_path: Path, upstream: HttpUpstream) -> None:
    certificate = Certificate(*self_signed(tmp_path))
    async with listening(certificate) as url:
        assert await ask(upstream, certificate.pinned(url)) == b"ok"
        upstream.close()


async def test_pin__another_certificate__nothing_is_sent(tmp_path: Path, upstream: HttpUpstream) -> None:
    """Somebody sits between: the request must not reach him."""
    seen: list[bytes] = []

    async def spy(request: Request, connection: ServerConnection) -> None:
        seen.append(request.body)
        connection.reply(200, {}, b"ok")

    genuine, other = Certificate(*self_signed(tmp_path, "a")), Certificate(*self_signed(tmp_path, "b"))
    server = HttpServer(spy, HttpLimits(), lambda error: None)
    port = await server.start("127.0.0.1", 0, other.context)
    with pytest.raises(NodeError, match="certificate"):
        await ask(upstream, genuine.pinned(f"https://127.0.0.1:{port}"))
    assert seen == []
    await server.stop(0.1)


async def test_pin__none__self_signed_is_not_believed(tmp_path: Path, upstream: HttpUpstream) -> None:
    async with listening(Certificate(*self_signed(tmp_path))) as url:
        with pytest.raises(NodeError):
            await ask(upstream, url)


async def test_certificate__replaced_while_serving__no_request_fails(
    tmp_path: Path, upstream: HttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_ANNOUNCE_SECONDS", 0.2)
    certificate = Certificate(*self_signed(tmp_path))
    told: list[tuple[str, ...]] = []
    watching = asyncio.create_task(certificate.watch(lambda: told.append(certificate.announced), 0.02))
    first = certificate.announced[0]
    async with listening(certificate) as url:
        # a gateway hears of a change a moment after the node has decided on it
        heard = certificate.pinned(url)
        for turn in range(200):
            assert await ask(upstream, heard) == b"ok"
            upstream.close()
            if turn == 20:
                await asyncio.to_thread(self_signed, tmp_path)
            await asyncio.sleep(0.005)
            heard = certificate.pinned(url)
        await eventually(lambda: len(told) >= 2)
        assert told[0][0] == first
        assert told[-1] == (told[0][1],)
        assert told[0][1] != first
        assert await ask(upstream, certificate.pinned(url)) == b"ok"
        with pytest.raises(NodeError, match="certificate"):
            await ask(upstream, pinned(url, first))
    watching.cancel()


async def test_certificate__key_arrives_before_its_certificate__only_whole_pairs_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_ANNOUNCE_SECONDS", 0.1)
    certificate = Certificate(*self_signed(tmp_path))
    fresh = Certificate(*self_signed(tmp_path, "fresh")).announced[0]
    first = certificate.announced[0]
    told: list[tuple[str, ...]] = []
    with capture_logs() as logs:
        watching = asyncio.create_task(certificate.watch(lambda: told.append(certificate.announced), 0.02))
        (tmp_path / "node.key").write_bytes((tmp_path / "fresh.key").read_bytes())
        await eventually(lambda: any(line["event"] == "the certificate stays" for line in logs))
        (tmp_path / "node.crt").write_bytes((tmp_path / "fresh.crt").read_bytes())
        await eventually(lambda: len(told) >= 2)
    assert told == [(first, fresh), (fresh,)]
    watching.cancel()


async def test_certificate__replaced_again_while_announced__what_was_announced_is_shown(
    tmp_path: Path, upstream: HttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_ANNOUNCE_SECONDS", 0.1)
    certificate = Certificate(*self_signed(tmp_path))
    told: list[tuple[str, ...]] = []
    async with listening(certificate) as url:

        def changed() -> None:
            told.append(certificate.announced)
            if len(told) == 1:
                self_signed(tmp_path)

        self_signed(tmp_path)
        watching = asyncio.create_task(certificate.watch(changed, 0.02))
        await eventually(lambda: len(told) >= 2)
        assert told[1] == (told[0][1],)
        assert await ask(upstream, pinned(url, *told[1])) == b"ok"
        upstream.close()
        await eventually(lambda: len(told) >= 4)
        assert told[3] == (told[2][1],) != told[1]
    watching.cancel()


async def test_certificate__replaced_by_one_that_does_not_fit_its_key__stays(
    tmp_path: Path, upstream: HttpUpstream
) -> None:
    certificate = Certificate(*self_signed(tmp_path, "a"))
    before = certificate.announced
    self_signed(tmp_path, "b")
    (tmp_path / "a.crt").write_text((tmp_path / "b.crt").read_text())
    with capture_logs() as logs:
        watching = asyncio.create_task(certificate.watch(lambda: None, 0.02))
        await eventually(lambda: any(line["event"] == "the certificate stays" for line in logs))
    async with listening(certificate) as url:
        assert certificate.announced == before
        assert await ask(upstream, certificate.pinned(url)) == b"ok"
        upstream.close()
    watching.cancel()


def test_heartbeat__pinned_address__is_kept_and_a_pin_on_plain_http_refused() -> None:
    good = pinned("https://node.example:8443", "ab" * 32, "cd" * 32)
    raw = body(url=good)
    assert verifier().verify(raw, header(raw)).url == good
    assert unpinned(good) == ("https://node.example:8443", {"ab" * 32, "cd" * 32})
    assert unpinned("http://node.example") == ("http://node.example", frozenset())
    for bad in (
        pinned("http://node.example", "ab" * 32),
        "https://node.example#sha256=xyz",
        "https://node.example#x",
    ):
        raw = body(url=bad)
        with pytest.raises(HeartbeatRefusedError, match="url"):
            verifier().verify(raw, header(raw))


def test_settings__half_a_certificate_or_a_plain_address__one_line(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with pytest.raises(UserError, match="belong together"):
        Agent(_settings(tmp_path, tls_certificate=certificate), lambda url: None)
    both = {"tls_certificate": certificate, "tls_key": key}
    with pytest.raises(UserError, match="must begin with https"):
        Agent(_settings(tmp_path, **both, public_url="http://x"), lambda url: None)
    with pytest.raises(UserError, match="cannot be used"):
        Agent(_settings(tmp_path, tls_certificate=key, tls_key=key), lambda url: None)
