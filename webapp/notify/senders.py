"""Delivery of a message: a signed POST to a webhook, or an e-mail by SMTP.

A webhook call follows no redirect and, unless settings allow it, reaches no private network.
"""

import hashlib
import hmac
import json
import smtplib
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from offchain.protocol import headers as header_names
from webapp.sources.outbound_hosts import UnreachableHostError, exchange
from webapp.store import Channel, Delivery

TIMEOUT_SECONDS = 5.0
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class DeliveryError(Exception):
    """The message did not arrive; the text is shown in the operator's delivery record."""


def webhook_url_problem(url: str) -> str | None:
    """What is wrong with a webhook URL, as a sentence; None when nothing is."""
    try:
        parts = urlsplit(url)
        # urlsplit takes any port; only reading it raises, e.g. for 99999.
        port = parts.port
    except ValueError:
        return "That is not a URL."
    good = parts.scheme in ("https", "http") and parts.hostname and not parts.username
    if not good or port == 0 or len(url) > 500:
        return "A webhook is an http(s) URL without a password in it."
    return None


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """Value of X-Parallelix-Signature: `t=<unix>,v1=<HMAC-SHA256 of "t.body", hex>`."""
    # The moment is signed, too, so that a receiver can refuse the replay of an old call.
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"t={timestamp},v1={mac.hexdigest()}"


class Webhook:
    """Sends signed webhooks, to private addresses only if `allow_private`; `time` gives the Unix seconds that are signed."""

    def __init__(self, allow_private: bool, time: Callable[[], float]) -> None:
        self._allow_private = allow_private
        self._time = time

    def send(self, channel: Channel, delivery: Delivery) -> str:
        """Deliver. Returns the text for the delivery record, e.g. `answered 204`. Raises DeliveryError."""
        body = json.dumps(message_of(delivery), sort_keys=True, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "parallelix-dashboard",
            header_names.WEBHOOK_EVENT: delivery.event,
            # The same id at each attempt: a receiver whose answer was lost knows the repetition by it.
            header_names.WEBHOOK_DELIVERY: str(delivery.id),
            header_names.WEBHOOK_SIGNATURE: sign(channel.secret, int(self._time()), body),
        }
        call = exchange(
            "POST", channel.target, self._allow_private, TIMEOUT_SECONDS, headers=headers, content=body
        )
        try:
            with call as answer:
                status = answer.status_code
        except UnreachableHostError as error:
            raise DeliveryError(str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DeliveryError(type(error).__name__) from None
        if not 200 <= status < 300:
            raise DeliveryError(f"answered {status}")
        return f"answered {status}"


class Mail:
    """Sends e-mail by SMTP.

    Args:
        url: smtp://[user:password@]host[:port] with STARTTLS where offered, or smtps://.
        sender: the From header.
        ca_file: certificates to trust instead of the system's.
    """

    def __init__(self, url: str, sender: str, ca_file: Path | None = None) -> None:
        self._url = url
        self._sender = sender
        self._ca_file = ca_file

    def send(self, channel: Channel, delivery: Delivery) -> str:
        """Deliver. Returns the text for the delivery record, e.g. `answered 204`. Raises DeliveryError."""
        message = EmailMessage()
        message["From"], message["To"] = self._sender, channel.target
        message["Subject"] = f"ParalleliX: {delivery.body['text'][:120]}"
        message.set_content(f"{delivery.body['text']}\n\n{json.dumps(message_of(delivery), indent=2)}\n")
        try:
            with self._connect() as smtp:
                smtp.send_message(message)
        # Before its base class SMTPException. The code tells the operator that the address itself is wrong.
        except smtplib.SMTPRecipientsRefused as error:
            code, _ = error.recipients[channel.target]
            raise DeliveryError(f"the mail server refuses the address ({code})") from None
        # Only the class's name: a mail server's words may repeat the user name or the password.
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryError(type(error).__name__) from None
        return "accepted by the mail server"

    def _connect(self) -> smtplib.SMTP:
        """A session that is logged in and, where the server offers TLS, encrypted with its certificate checked.

        Raises:
            OSError, smtplib.SMTPException: the network or the server failed.
            DeliveryError: the password would travel without TLS.
        """
        parts = urlsplit(self._url)
        host, encrypted = parts.hostname or "", parts.scheme == "smtps"
        context = ssl.create_default_context(cafile=self._ca_file)
        smtp: smtplib.SMTP
        if encrypted:
            smtp = smtplib.SMTP_SSL(host, parts.port or 465, timeout=TIMEOUT_SECONDS, context=context)
        else:
            smtp = smtplib.SMTP(host, parts.port or 25, timeout=TIMEOUT_SECONDS)
        with ExitStack() as on_error:
            on_error.callback(smtp.close)
            smtp.ehlo_or_helo_if_needed()
            if not encrypted and smtp.has_extn("starttls"):
                # What the server said before TLS no longer counts (RFC 3207); `login` says EHLO again.
                smtp.starttls(context=context)
                encrypted = True
            if parts.username:
                if not encrypted and host not in _LOOPBACK:
                    raise DeliveryError("the mail server offers no TLS; the password was not sent")
                smtp.login(unquote(parts.username), unquote(parts.password or ""))
            on_error.pop_all()
        return smtp


def message_of(delivery: Delivery) -> dict[str, Any]:
    """The JSON that a webhook gets, and that an e-mail ends with."""
    return {"id": delivery.id, "event": delivery.event, "created_at": delivery.created_at, **delivery.body}
