"""Capability manifests: fetched from the URIs that operators registered, kept only with the hash that is on chain.

Operators choose every string in a manifest; the dashboard cuts strings to a length and shows them as text only.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from offchain.domain.canonical_json import canonical
from offchain.domain.eip712 import keccak256
from webapp.index import Snapshot
from webapp.sources.outbound_hosts import UnreachableHostError, exchange
from webapp.sources.sources import Sources
from webapp.store import Store

MAX_BYTES = 64 * 1024
LOOK_AGAIN_SECONDS = 600
"""Wait before a manifest that could not be used is fetched again."""
MAX_FETCHES = 10
"""Manifests that one round fetches at most."""
_TEXT = 80
_PRICE = re.compile(r"[0-9]{1,39}")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The fields of a manifest that pages show; None or empty where the manifest has no usable value."""

    region: str
    models: tuple[tuple[str, int | None], ...]
    tier: int | None
    slots: int | None
    backend: str
    accelerators: tuple[str, ...]
    price_per_token_wei: int | None


def capabilities_of(body: Mapping[str, Any]) -> Capabilities:
    """The fields of a manifest's JSON; a field of a wrong type counts as missing."""
    models = [item for item in _list(body.get("models")) if isinstance(item, Mapping)]
    price = body.get("price_per_token_wei")
    return Capabilities(
        region=_text(body.get("region")) or "not declared",
        models=tuple((_text(item.get("name")), _natural(item.get("context_length"))) for item in models),
        tier=_natural(body.get("tier")),
        slots=_natural(body.get("slots")),
        backend=_text(body.get("backend")),
        accelerators=tuple(map(_text, _list(body.get("accelerators")))),
        price_per_token_wei=int(price) if isinstance(price, str) and _PRICE.fullmatch(price) else None,
    )


def regions(snapshot: Snapshot, store: Store, present: int) -> dict[str, int]:
    """Present nodes by the region of their manifest, most nodes first."""
    copies = store.manifests()
    counts: Counter[str] = Counter()
    for manifest_hash, _, count in snapshot.manifests():
        copy = copies.get(manifest_hash.lower())
        if copy is not None and copy.body is not None:
            counts[capabilities_of(copy.body).region] += count
    unknown = present - sum(counts.values())
    found = dict(counts.most_common())
    return found | ({"not declared": found.get("not declared", 0) + unknown} if unknown > 0 else {})


class ManifestFetcher:
    """Fetches the declared manifests that the store has no copy of; private addresses only if `allow_private`."""

    def __init__(self, sources: Sources, store: Store, allow_private: bool) -> None:
        self._sources = sources
        self._store = store
        self._allow_private = allow_private

    def once(self) -> int:
        """Run one round. Returns the number of manifests that it tried to fetch. Raises IndexUnavailableError."""
        with self._sources.open() as (snapshot, _, _):
            declared = snapshot.manifests()
        known = self._store.manifests()
        looked = 0
        for manifest_hash, uri, _ in declared:
            copy = known.get(manifest_hash.lower())
            # A body with the right hash never changes; only failures are looked at again.
            if copy and (copy.body is not None or self._store.now - copy.looked_at < LOOK_AGAIN_SECONDS):
                continue
            body, problem = self._fetch(uri, manifest_hash)
            self._store.keep_manifest(manifest_hash, body, problem)
            looked += 1
            if looked >= MAX_FETCHES:
                break
        return looked

    def _fetch(self, uri: str, manifest_hash: str) -> tuple[dict[str, Any] | None, str | None]:
        try:
            parts = urlsplit(uri)
            _ = parts.port  # raises for a port that is no number
        except ValueError:
            return None, "its URI is malformed"
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return None, "its URI is not http(s)"
        try:
            with exchange("GET", uri, self._allow_private, timeout=3.0) as answer:
                raw = _body_of(answer)
        except (UnreachableHostError, httpx.HTTPError, httpx.InvalidURL) as error:
            return None, str(error) or type(error).__name__
        if raw is None:
            return None, "it is not served there, or too large"
        try:
            body = json.loads(raw)
            # The chain has the hash of the canonical form; a server may keep the file in another one.
            hashes = {"0x" + keccak256(raw).hex(), "0x" + keccak256(canonical(body)).hex()}
        except (ValueError, RecursionError):
            return None, "what is served there is not JSON"  # RecursionError: a few KB of brackets
        if not isinstance(body, dict) or manifest_hash.lower() not in hashes:
            return None, "what is served there does not have the hash of the chain"
        return body, None


def _body_of(answer: httpx.Response) -> bytes | None:
    if answer.status_code != httpx.codes.OK:
        return None
    raw = b""
    for chunk in answer.iter_bytes():
        raw += chunk
        if len(raw) > MAX_BYTES:  # counted after decompression: a small gzip body may hold gigabytes
            return None
    return raw


def _text(value: object) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _natural(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _list(value: object) -> list[Any]:
    return value[:20] if isinstance(value, list) else []
