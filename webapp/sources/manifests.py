"""Capability manifests: fetched from the URIs that operators registered, kept only with the hash that is on chain.

Operators choose every string in a manifest; the dashboard cuts strings to a length and shows them as text only.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from offchain.domain.canonical_json import canonical
from offchain.domain.eip712 import keccak256
from webapp.index import Snapshot
from webapp.sources.outbound_hosts import UnreachableHostError, resolve
from webapp.sources.sources import Sources
from webapp.store import Store

MAX_BYTES = 64 * 1024
LOOK_AGAIN_SECONDS = 600
"""Wait before a manifest that could not be used is fetched again."""
MAX_FETCHES = 10
"""Manifests that one round fetches at most."""
_TEXT = 80


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
    models = [
        (_text(item.get("name")), _natural(item.get("context_length")))
        for item in _list(body.get("models"))
        if isinstance(item, Mapping)
    ]
    price = body.get("price_per_token_wei")
    digits = (
        price if isinstance(price, str) and price.isascii() and price.isdigit() and len(price) < 40 else None
    )
    return Capabilities(
        _text(body.get("region")) or "not declared",
        tuple(models),
        _natural(body.get("tier")),
        _natural(body.get("slots")),
        _text(body.get("backend")),
        tuple(_text(item) for item in _list(body.get("accelerators"))),
        int(digits) if digits else None,
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
    """Fetches the declared manifests that the store has no copy of.

    Args:
        sources: gives the index, which knows the declared manifests.
        store: keeps the copies.
        allow_private: whether loopback and private addresses may be called.
    """

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
            if copy is not None and (
                copy.body is not None or self._store.now - copy.looked_at < LOOK_AGAIN_SECONDS
            ):
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
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            return None, "its URI is malformed"
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return None, "its URI is not http(s)"
        try:
            address = resolve(parts.hostname, port, self._allow_private)
            raw = _get(uri, address, parts.netloc.rpartition("@")[2], parts.hostname)
        except (UnreachableHostError, httpx.HTTPError, httpx.InvalidURL) as error:
            return None, str(error) or type(error).__name__
        if raw is None:
            return None, "it is not served there, or too large"
        try:
            body = json.loads(raw)
            hashes = {"0x" + keccak256(raw).hex(), "0x" + keccak256(canonical(body)).hex()}
        except (ValueError, RecursionError):
            return None, "what is served there is not JSON"
        if not isinstance(body, dict) or manifest_hash.lower() not in hashes:
            return None, "what is served there does not have the hash of the chain"
        return body, None


def _get(uri: str, address: str, host_header: str, host: str) -> bytes | None:
    literal = f"[{address}]" if ":" in address else address
    url = httpx.URL(uri).copy_with(host=literal)
    with (
        httpx.Client(timeout=3.0, follow_redirects=False, trust_env=False) as client,
        client.stream("GET", url, headers={"Host": host_header}, extensions={"sni_hostname": host}) as answer,
    ):
        if answer.status_code != httpx.codes.OK:
            return None
        raw = b""
        for chunk in answer.iter_bytes():
            raw += chunk
            if len(raw) > MAX_BYTES:
                return None
        return raw


def _text(value: object) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _natural(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _list(value: object) -> list[Any]:
    return value[:20] if isinstance(value, list) else []
