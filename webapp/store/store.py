"""Queries and writes of the dashboard's own database."""

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.orm import InstrumentedAttribute

from offchain.db.database import Database, open_database
from webapp.store.models import Channel, DashboardBase, Delivery, ManifestCopy, Nonce, SignIn, Watch

NONCE_SECONDS = 300
SIGN_IN_SECONDS = 12 * 3_600
MAX_CHANNELS = 10
BACK_OFF_SECONDS = (10, 60, 300, 1_800, 7_200, 21_600)
"""Wait after each failed attempt; a delivery whose attempt after the last wait fails is given up."""


class Store:
    """The dashboard's database in a folder, both made when they are first needed; `time` gives Unix seconds."""

    def __init__(self, folder: Path, time: Callable[[], float]) -> None:
        self._folder = folder
        self._time = time
        self._database: Database | None = None

    @property
    def database(self) -> Database:
        """The database, opened at the first use."""
        # Not in the constructor: gunicorn forks after it, and SQLite connections must not cross a fork.
        if self._database is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            database = open_database(f"sqlite:///{self._folder / 'dashboard.db'}")
            DashboardBase.metadata.create_all(database.engine)
            self._database = database
        return self._database

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @property
    def now(self) -> int:
        """Unix seconds."""
        return int(self._time())

    # ------------------------------------------------------------------------------------------------------ sign in

    def give_nonce(self, nonce: str, browser: str, address: str, message: str) -> None:
        """Keep a message that the browser's wallet is asked to sign."""
        with self.database.write() as session:
            session.execute(delete(Nonce).where(Nonce.expires_at < self.now))
            ends = self.now + NONCE_SECONDS
            found = Nonce(
                nonce=nonce, browser_hash=_hash(browser), address=address, message=message, expires_at=ends
            )
            session.add(found)

    def take_nonce(self, nonce: str, browser: str) -> tuple[str, str] | None:
        """Address and message of a nonce given to this browser, once; None when unknown, used, or too old."""
        with self.database.write() as session:
            found = session.get(Nonce, nonce)
            # Another browser's guess must not use the nonce up for the one that asked.
            if found is None or found.browser_hash != _hash(browser):
                return None
            session.delete(found)  # also when it is too old: a nonce works once
            return (found.address, found.message) if found.expires_at >= self.now else None

    def sign_in(self, address: str) -> str:
        """A new token for a browser whose wallet proved an address."""
        token, ends = secrets.token_urlsafe(32), self.now + SIGN_IN_SECONDS
        with self.database.write() as session:
            session.execute(delete(SignIn).where(SignIn.expires_at < self.now))
            session.add(SignIn(token_hash=_hash(token), address=address, expires_at=ends))
        return token

    def signed_in(self, token: str | None) -> str | None:
        """The address that signed in with a token; None when the token is unknown or too old."""
        if not token:
            return None
        with self.database.read() as session:
            found = session.get(SignIn, _hash(token))
            return found.address if found and found.expires_at >= self.now else None

    def sign_out(self, token: str) -> None:
        """Delete a token."""
        with self.database.write() as session:
            session.execute(delete(SignIn).where(SignIn.token_hash == _hash(token)))

    # ------------------------------------------------------------------------------------------------------ channels

    def channels(self, address: str | None = None) -> list[Channel]:
        """Channels of an address, or all."""
        query = select(Channel).order_by(Channel.id)
        if address is not None:
            query = query.where(Channel.address == address)
        with self.database.read() as session:
            return list(session.scalars(query))

    def add_channel(self, address: str, kind: str, target: str, events: Sequence[str]) -> Channel | None:
        """A new channel; None when the address has MAX_CHANNELS already."""
        with self.database.write() as session:
            # Counted under the session's write lock: two forms sent at once make no eleventh channel.
            if (
                session.scalar(select(func.count(Channel.id)).where(Channel.address == address)) or 0
            ) >= MAX_CHANNELS:
                return None
            channel = Channel(
                address=address, kind=kind, target=target, events=list(events), created_at=self.now
            )
            channel.secret = secrets.token_hex(32)
            session.add(channel)
            session.flush()
            return channel

    def remove_channel(self, address: str, channel_id: int) -> bool:
        """Remove a channel of this address with its deliveries; False when the address has no such channel."""
        with self.database.write() as session:
            channel = session.get(Channel, channel_id)
            if channel is None or channel.address != address:
                return False
            session.execute(delete(Delivery).where(Delivery.channel_id == channel_id))
            session.delete(channel)
            return True

    # ---------------------------------------------------------------------------------------------------- deliveries

    def enqueue(self, channel_id: int, key: str, event: str, body: Mapping[str, Any]) -> bool:
        """Queue a message for a channel; False when the channel has one with this key already."""
        with self.database.write() as session:
            known = select(Delivery.id).where(Delivery.channel_id == channel_id, Delivery.key == key)
            if session.scalar(known) is not None:
                return False
            delivery = Delivery(
                channel_id=channel_id, key=key, event=event, body=dict(body), status="pending"
            )
            delivery.next_at = delivery.created_at = self.now
            session.add(delivery)
            return True

    def due(self, limit: int = 20) -> list[tuple[Delivery, Channel]]:
        """Deliveries whose time has come, oldest first."""
        waiting = and_(Delivery.status == "pending", Delivery.next_at <= self.now)
        return self._deliveries(waiting, Delivery.next_at, limit)

    def delivered(self, delivery_id: int, result: str) -> None:
        """Record that a delivery arrived."""
        self._record(delivery_id, status="delivered", last_result=result)

    def missed(self, delivery_id: int, attempts: int, result: str) -> None:
        """Record a failed attempt: try again later, or give up after the last wait."""
        if attempts > len(BACK_OFF_SECONDS):
            self._record(delivery_id, status="failed", last_result=result)
        else:
            self._record(delivery_id, next_at=self.now + BACK_OFF_SECONDS[attempts - 1], last_result=result)

    def _record(self, delivery_id: int, **values: Any) -> None:
        with self.database.write() as session:
            changed = update(Delivery).where(Delivery.id == delivery_id)
            session.execute(changed.values(attempts=Delivery.attempts + 1, **values))

    def deliveries(self, address: str, limit: int = 30) -> list[tuple[Delivery, Channel]]:
        """The newest deliveries of an address."""
        return self._deliveries(Channel.address == address, Delivery.id.desc(), limit)

    def _deliveries(
        self, which: ColumnElement[bool], order: ColumnElement[Any] | InstrumentedAttribute[int], limit: int
    ) -> list[tuple[Delivery, Channel]]:
        query = select(Delivery, Channel).join(Channel, Channel.id == Delivery.channel_id).where(which)
        with self.database.read() as session:
            return [
                (delivery, channel)
                for delivery, channel in session.execute(query.order_by(order).limit(limit))
            ]

    # ------------------------------------------------------------------------------------------------------ manifests

    def manifests(self) -> dict[str, ManifestCopy]:
        """All copies of manifests, by hash."""
        with self.database.read() as session:
            return {copy.hash: copy for copy in session.scalars(select(ManifestCopy))}

    def manifest(self, manifest_hash: str) -> ManifestCopy | None:
        """The copy of the manifest with this hash."""
        with self.database.read() as session:
            return session.get(ManifestCopy, manifest_hash.lower())

    def keep_manifest(self, manifest_hash: str, body: dict[str, Any] | None, problem: str | None) -> None:
        """Keep what was fetched for a manifest hash, or why nothing could be used."""
        with self.database.write() as session:
            copy = ManifestCopy(hash=manifest_hash.lower(), body=body, problem=problem, looked_at=self.now)
            session.merge(copy)

    # ------------------------------------------------------------------------------------------------------- watches

    def turned(self, node_id: int, online: bool) -> int | None:
        """Record whether a node is online. Returns the present Unix second when that changed; None when it did not, or for
        a node that was never recorded before."""
        with self.database.write() as session:
            known = session.get(Watch, node_id)
            # A first sight is no turn: a new dashboard would otherwise report every node to everybody.
            if known is None:
                session.add(Watch(node_id=node_id, online=online, changed_at=self.now))
                return None
            if known.online == online:
                return None
            known.online, known.changed_at = online, self.now
            return self.now


def secret_key(folder: Path) -> bytes:
    """Key of the session cookies, made once; its file has mode 0600."""
    path = folder / "session.key"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # O_EXCL: of two servers that start together only one makes the key.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _hash(token: str) -> str:
    # No slow hash is needed: tokens have at least 192 random bits, which nobody can guess.
    return hashlib.sha256(token.encode()).hexdigest()
