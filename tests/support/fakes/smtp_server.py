"""A mail server that speaks SMTP (RFC 5321) over a real socket, with AUTH PLAIN, STARTTLS and what tests make it refuse."""

import socketserver
import ssl
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any


@dataclass
class MailServer:
    """A running server.

    Attributes:
        got: messages taken, parsed.
        envelopes: (sender, recipients) of each.
        users: name -> password; empty means that AUTH is not offered.
        refuse: command -> reply line that is given instead of the usual one.
        secure: for each message, whether it came over TLS.
        tls: offered as STARTTLS when set.
        port: where it listens.
    """

    users: dict[str, str] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    got: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    secure: list[bool] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """For the setting `smtp_url`: at 127.0.0.1, without a user."""
        return f"smtp://127.0.0.1:{self.port}"


class _Session(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        self.host: MailServer = self.server.mail  # type: ignore[attr-defined]
        self.encrypted = self.known = False
        self.sender, self.recipients = "", list[str]()
        self._say("220 mail.test ESMTP")
        while line := self.rfile.readline(4_096):
            verb, _, rest = line.decode().strip().partition(" ")
            self.host.commands.append(verb.upper())
            if verb.upper() in self.host.refuse:
                self._say(self.host.refuse[verb.upper()])
                continue
            act: Any = getattr(self, f"_{verb.lower()}", None)
            if act is None:
                self._say("502 5.5.1 command not implemented")
            elif act(rest) is False:
                return

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # the encrypted one, where there is one

    def _say(self, *lines: str) -> None:
        for place, line in enumerate(lines):
            text = line if place == len(lines) - 1 else f"{line[:3]}-{line[4:]}"
            self.wfile.write(text.encode() + b"\r\n")
        self.wfile.flush()

    def _ehlo(self, _: str) -> None:
        offers = ["250 mail.test", "250 8BITMIME"]
        if self.host.tls is not None and not self.encrypted:
            offers.append("250 STARTTLS")
        if self.host.users:
            offers.append("250 AUTH PLAIN")
        self._say(*offers)

    def _starttls(self, _: str) -> None:
        if self.host.tls is None:
            self._say("502 5.5.1 no TLS here")
            return
        self._say("220 2.0.0 go on")
        self.connection = self.host.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb")
        self.encrypted = True

    def _auth(self, rest: str) -> None:
        kind, _, blob = rest.partition(" ")
        _, user, password = b64decode(blob).decode().split("\0") if kind == "PLAIN" and blob else ("", "", "")
        self.known = bool(user) and self.host.users.get(user) == password
        self._say("235 2.7.0 welcome" if self.known else "535 5.7.8 credentials invalid")

    def _mail(self, rest: str) -> None:
        if self.host.users and not self.known:
            self._say("530 5.7.0 authentication required")
            return
        self.sender, self.recipients = _path(rest), []
        self._say("250 2.1.0 ok")

    def _rcpt(self, rest: str) -> None:
        self.recipients.append(_path(rest))
        self._say("250 2.1.5 ok")

    def _data(self, _: str) -> None:
        if not self.recipients:
            self._say("503 5.5.1 whom for?")
            return
        self._say("354 end with a dot")
        body = b""
        while (line := self.rfile.readline(4_096)) != b".\r\n":
            assert line, "the client went in the middle of a message"
            body += line.removeprefix(b".") if line.startswith(b"..") else line
        self.host.got.append(message_from_bytes(body, policy=policy.default))
        self.host.envelopes.append((self.sender, self.recipients))
        self.host.secure.append(self.encrypted)
        self._say("250 2.0.0 taken")

    def _rset(self, _: str) -> None:
        self._say("250 2.0.0 ok")

    def _quit(self, _: str) -> bool:
        self._say("221 2.0.0 bye")
        return False


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up in a handshake is one of the cases."""


def _path(rest: str) -> str:
    return rest.partition("<")[2].partition(">")[0]


@contextmanager
def mail_server(host: str = "127.0.0.1", **options: Any) -> Iterator[MailServer]:
    """A server on a free port of a loopback address until the block ends."""
    mail = MailServer(**options)
    with _Server((host, 0), _Session) as server:
        server.mail = mail  # type: ignore[attr-defined]
        mail.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield mail
        finally:
            server.shutdown()
            thread.join()
