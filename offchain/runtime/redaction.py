"""What may be shown of a URL: never a user, a password or a key. The only redactor of the house."""

import re
from urllib.parse import urlsplit

from offchain.errors import UserError

REDACTED = "[redacted]"

# A quote may belong to a password; what `requests` says of a failure holds the path alone.
_URL = re.compile(
    r"(?i)[a-z][a-z0-9+.-]{0,30}://(?:(?:[^\s/'\"<>]|'(?![,)\]}:]))*@)?[^\s'\"<>]+|(?<=with url: )/[^\s'\"<>]+"
)
# A password may hold any sign but these, so user and password reach to the last @ before a slash.
_USERINFO = re.compile(r"(?<=://)[^\s/\"]*@")
# RPC vendors put the key in the path (/v3/<key>) or the query. 0x-hex is an address or a hash, which is public.
_PATH_KEY = re.compile(
    r"(?<=/)(?<!//)(?!0x[0-9a-fA-F]+(?![\w-]))(?:eyJ[\w.-]{16,}|(?=[\w%~-]*\d|[A-Za-z]{24})[\w%~-]{16,})"
    r"(?=[/?#,;)\]}!:\\]|\.*(?:$|,))"
)
_QUERY_KEY = re.compile(
    r"(?i)(?<=[?&;#])(?P<name>[\w-]*(?:key|token|auth|secret|pass|password|passwd|pwd|sig|signature|jwt|project_?id))="
    r"(?:[^&#,;]|,(?![a-z][a-z0-9+.-]{0,30}://))+"
)
_LONG_QUERY_VALUE = re.compile(r"(?<=[?&])(?P<name>[^=&#,]+)=(?!0x)(?=[\w-]*\d)[A-Za-z0-9_-]{16,}")


def redact_urls(text: str) -> str:
    """The text, with users, passwords and keys taken out of every URL in it.

    Commas separate URLs, as in `rpc_url`. Example: `https://u:p@a.example/v3/0123456789abcdef,http://b?apikey=x`
    becomes `https://a.example/v3/[redacted],http://b?apikey=[redacted]`.
    """
    return _URL.sub(lambda found: _redacted(found[0]), text)


def _redacted(url: str) -> str:
    url = _USERINFO.sub("", url)
    url = _PATH_KEY.sub(REDACTED, url)
    for pattern in (_QUERY_KEY, _LONG_QUERY_VALUE):
        url = pattern.sub(rf"\g<name>={REDACTED}", url)
    return url


def endpoint_label(url: str, setting: str = "rpc_url") -> str:
    """Host and port of an endpoint, for errors and logs: `node.example:8545`. Commas separate endpoints.

    Args:
        url: one http(s) URL or several.
        setting: name of the setting that holds the URL, for the error.

    Raises:
        UserError: an entry is not an http(s) URL; the message does not show the entry.
    """
    entries = [entry.strip() for entry in url.split(",") if entry.strip()]
    return ", ".join(_label(entry, setting) for entry in entries or [url])


def _label(url: str, setting: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UserError(
            f"{setting} has an entry with a malformed host or port; write http://host:port"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{setting} has an entry that is not an http(s) URL; write http://host:port")
    return f"{parts.hostname}:{port}" if port else parts.hostname
