"""E-mail through a mail server that speaks SMTP over a real socket."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from tests.support.fakes.smtp_server import MailServer, mail_server
from tests.support.services.ports import free_port
from tests.support.webapp.account import OWNER, add_channel, reported, sign_in
from tests.support.webapp.seed import SeededNetwork, app_of


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one PEM file."""
    path = tmp_path_factory.mktemp("tls") / "mail.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=mail.test"
    made = subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", "-"],
        capture_output=True,
        check=True,
        timeout=30,
    )
    path.write_bytes(made.stdout)
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """The server's side of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def mail() -> Iterator[MailServer]:
    """A server that takes everything."""
    with mail_server() as running:
        yield running


def told(net: SeededNetwork, app: Flask) -> tuple[str, str]:
    """Let an operator ask for mail, and a slot be lost; status and result of the delivery."""
    client = app.test_client()
    sign_in(client)
    assert add_channel(client, "ops@example.org", "slot.missed", kind="email").status_code == 302
    net.now += 5
    reported(net, net.epoch - 1)
    assert app.extensions["notifier"].once() == 1
    delivery, _ = app.extensions["store"].deliveries(OWNER.address)[0]
    assert delivery.last_result in client.get("/account").text
    return delivery.status, delivery.last_result


def test_mail__lost_slots__arrives_once_and_is_recorded(net: SeededNetwork, mail: MailServer) -> None:
    with net.chain() as rpc:
        app = app_of(net, rpc, smtp_url=mail.url, mail_from="ParalleliX <alerts@plx.example>")
        assert told(net, app) == ("delivered", "accepted by the mail server")
        assert app.extensions["notifier"].once() == 0
    [message] = mail.got
    assert mail.envelopes == [("alerts@plx.example", ["ops@example.org"])]
    assert message["Subject"].startswith("ParalleliX: Node 1 lost 29 slots in epoch 11")
    assert message["To"] == "ops@example.org"
    words, _, data = message.get_content().replace("\r\n", "\n").partition("\n\n")
    assert "29 slots" in words
    assert json.loads(data)["data"] == {"node_id": 1, "epoch": 11, "missed": 29, "uptime_bps": 9000}


def test_mail__server_away__waits_and_arrives_when_it_is_back(net: SeededNetwork, mail: MailServer) -> None:
    mail.refuse["MAIL"] = "451 4.3.0 try again later"
    with net.chain() as rpc:
        app = app_of(net, rpc, smtp_url=mail.url)
        assert told(net, app) == ("pending", "SMTPSenderRefused")
        mail.refuse.clear()
        net.now += 11
        assert app.extensions["notifier"].once() == 1
    assert len(mail.got) == 1


def test_mail__unknown_address__the_record_says_so(net: SeededNetwork, mail: MailServer) -> None:
    mail.refuse["RCPT"] = "550 5.1.1 no such user"
    with net.chain() as rpc:
        app = app_of(net, rpc, smtp_url=mail.url)
        assert told(net, app) == ("pending", "the mail server refuses the address (550)")
    assert mail.got == []


def test_mail__no_server_there__the_record_says_so(net: SeededNetwork) -> None:
    with net.chain() as rpc:
        app = app_of(net, rpc, smtp_url=f"smtp://127.0.0.1:{free_port()}")
        assert told(net, app) == ("pending", "ConnectionRefusedError")


def test_mail__starttls_and_password__both_are_used(
    net: SeededNetwork, certificate: Path, tls: ssl.SSLContext
) -> None:
    with mail_server(users={"plx": "p@ss"}, tls=tls) as mail, net.chain() as rpc:
        url = f"smtp://plx:p%40ss@127.0.0.1:{mail.port}"
        app = app_of(net, rpc, smtp_url=url, smtp_ca_file=certificate)
        assert told(net, app) == ("delivered", "accepted by the mail server")
    assert mail.secure == [True]
    assert mail.commands.index("STARTTLS") < mail.commands.index("AUTH")


def test_mail__wrong_password__the_record_says_so_without_it(net: SeededNetwork) -> None:
    with mail_server(users={"plx": "right"}) as mail, net.chain() as rpc:
        app = app_of(net, rpc, smtp_url=f"smtp://plx:wrong@127.0.0.1:{mail.port}")
        assert told(net, app) == ("pending", "SMTPAuthenticationError")


def test_mail__certificate_that_nobody_vouches_for__nothing_is_sent(
    net: SeededNetwork, tls: ssl.SSLContext
) -> None:
    with mail_server(users={"plx": "p"}, tls=tls) as mail, net.chain() as rpc:
        app = app_of(net, rpc, smtp_url=f"smtp://plx:p@127.0.0.1:{mail.port}")
        assert told(net, app) == ("pending", "SSLCertVerificationError")
    assert "AUTH" not in mail.commands
    assert mail.got == []


def test_mail__password_without_tls_to_another_host__is_not_sent(net: SeededNetwork) -> None:
    # 127.0.0.2 is this machine, too, but none of the names that stand for it
    with mail_server("127.0.0.2", users={"plx": "p"}) as mail, net.chain() as rpc:
        app = app_of(net, rpc, smtp_url=f"smtp://plx:p@127.0.0.2:{mail.port}")
        assert told(net, app) == ("pending", "the mail server offers no TLS; the password was not sent")
    assert "AUTH" not in mail.commands
