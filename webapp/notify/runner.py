"""The notifier's thread. Every server process has one; only the process that holds the lock file looks for news."""

import fcntl
import logging
import threading

from offchain.errors import TransientError
from webapp.notify.news import news_of
from webapp.notify.senders import DeliveryError, Mail, Webhook
from webapp.settings import DashboardSettings
from webapp.sources.manifests import ManifestFetcher
from webapp.sources.sources import Sources
from webapp.store import Channel, Delivery, Store

_LOG = logging.getLogger(__name__)


class Notifier:
    """Finds news, queues it for the channels that want it, and delivers what is due."""

    def __init__(self, sources: Sources, store: Store, settings: DashboardSettings) -> None:
        self._sources = sources
        self._store = store
        self._webhook = Webhook(settings.webhook_private_hosts, sources.time)
        server = settings.smtp_url
        self._mail = Mail(server, settings.mail_from, settings.smtp_ca_file) if server else None
        self._manifests = ManifestFetcher(sources, store, settings.manifest_private_hosts)
        self._stop = threading.Event()
        self._lock_path = settings.data_dir / "notifier.lock"

    def start(self, seconds: float) -> None:
        """Run a round every `seconds`, in a thread that ends with the process."""
        threading.Thread(target=self._run, args=(seconds,), name="notifier", daemon=True).start()

    def stop(self) -> None:
        """End the thread after the round that runs."""
        self._stop.set()

    def once(self) -> int:
        """Run one round. Returns the number of deliveries that were attempted. Raises TransientError."""
        by_address: dict[str, list[tuple[int, set[str], int]]] = {}
        for channel in self._store.channels():
            entry = (channel.id, set(channel.events), channel.created_at)
            by_address.setdefault(channel.address, []).append(entry)
        for address, channels in by_address.items():
            for item in news_of(self._sources, self._store, address):
                for channel_id, events, created_at in channels:
                    # A new channel is not told the past: each round finds the news of fourteen epochs again.
                    if item.event in events and item.at >= created_at:
                        body = {"text": item.text, "at": item.at, "operator": address, "data": item.data}
                        self._store.enqueue(channel_id, item.key, item.event, body)
        due = self._store.due()
        for delivery, channel in due:
            try:
                result = self._send(channel, delivery)
            except DeliveryError as error:
                self._store.missed(delivery.id, delivery.attempts + 1, str(error))
            else:
                self._store.delivered(delivery.id, result)
        return len(due)

    def _send(self, channel: Channel, delivery: Delivery) -> str:
        if channel.kind == "webhook":
            return self._webhook.send(channel, delivery)
        if self._mail is None:
            raise DeliveryError("this dashboard has no mail server")
        return self._mail.send(channel, delivery)

    def _run(self, seconds: float) -> None:
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        # Opened in the worker: flock belongs to the open file, which processes share when one inherited it.
        with self._lock_path.open("w") as lock:
            while not self._stop.wait(seconds):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # another process holds the lock
                try:
                    self._manifests.once()
                    self.once()
                except TransientError as error:
                    _LOG.warning("notifications wait: %s", error)
