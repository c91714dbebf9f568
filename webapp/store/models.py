"""Tables of the dashboard's own database. Times are Unix seconds."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

EVENTS = {
    "node.offline": "A node’s probe was missed",
    "node.online": "A node answers again",
    "slot.missed": "An attested epoch lost slots",
    "uptime.low": "An attested uptime is below 95 %",
    "epoch.paid": "A reward was paid",
    "claim.expiring": "A reward is about to expire",
    "cooldown.started": "An unstake was asked for",
    "stake.withdrawable": "A cooldown is over",
}


class DashboardBase(DeclarativeBase):
    """Base of the dashboard's tables."""


class SignIn(DashboardBase):
    """A browser that proved an address. The cookie holds the token, this row only its hash."""

    __tablename__ = "sign_ins"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    address: Mapped[str] = mapped_column(String(42))
    expires_at: Mapped[int] = mapped_column(BigInteger)


class Nonce(DashboardBase):
    """A sign-in message that waits for its signature; it can be used once."""

    __tablename__ = "nonces"

    nonce: Mapped[str] = mapped_column(String(40), primary_key=True)
    browser_hash: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(42))
    message: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[int] = mapped_column(BigInteger)


class Channel(DashboardBase):
    """Where an operator is notified: `target` is the URL of a webhook or an e-mail address; `kind` webhook or email."""

    __tablename__ = "channels"

    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(String(42), index=True)
    kind: Mapped[str] = mapped_column(String(8))
    target: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(64))
    """Key of the HMAC-SHA256 that signs webhooks."""
    events: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)


class Delivery(DashboardBase):
    """One message to one channel, with the outcome of its latest attempt. `status`: pending, delivered, failed."""

    __tablename__ = "deliveries"
    __table_args__ = (UniqueConstraint("channel_id", "key"), Index("ix_deliveries_due", "status", "next_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    channel_id: Mapped[int] = mapped_column(index=True)
    key: Mapped[str] = mapped_column(String(120))
    """Names the news, e.g. `epoch.paid:7:41`; a channel gets each key once."""
    event: Mapped[str] = mapped_column(String(32))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(12))
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[int] = mapped_column(BigInteger)
    last_result: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)


class ManifestCopy(DashboardBase):
    """The manifest fetched from a URI. `body` is null while nothing fetched had the hash that is on chain."""

    __tablename__ = "manifests"

    hash: Mapped[str] = mapped_column(String(66), primary_key=True)
    body: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    problem: Mapped[str | None] = mapped_column(Text)
    looked_at: Mapped[int] = mapped_column(BigInteger)


class Watch(DashboardBase):
    """The notifier's last knowledge of a node, to notice when it goes offline or online."""

    __tablename__ = "watches"

    node_id: Mapped[int] = mapped_column(primary_key=True)
    online: Mapped[bool]
    changed_at: Mapped[int] = mapped_column(BigInteger)
