"""What may be shown of a URL that carries a key."""

from urllib.parse import urlsplit

from offchain.errors import UserError


def endpoint_label(url: str, setting: str = "rpc_url") -> str:
    """Host and port of an endpoint: what may be shown of a URL that may hold credentials. Raises UserError."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{setting} has an entry that is not an http(s) URL; write http://host:port")
    return f"{parts.hostname}:{port}" if port else parts.hostname
