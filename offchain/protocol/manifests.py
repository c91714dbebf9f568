"""Capability manifests: what a node declares (their hash is on chain), compared with its heartbeats and receipts."""

from collections.abc import Mapping
from typing import Any

from offchain.domain.canonical_json import parse
from offchain.domain.eip712 import keccak256
from offchain.domain.tiers import Tier

MANIFEST_VERSION = 1


def parse_manifest(data: bytes) -> dict[str, Any]:
    """A manifest fetched from a node. Raises ValueError when it is not one, or is not in canonical form (RFC 8785)."""
    found = parse(data)
    if not isinstance(found, dict) or found.get("version") != MANIFEST_VERSION:
        raise ValueError("not a capability manifest of this version")
    models = found.get("models")
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise ValueError("a manifest lists its models")
    return found


def manifest_hash(data: bytes) -> bytes:
    """keccak256 of the canonical bytes, 32 bytes: the `capabilityHash` on chain."""
    return keccak256(data)


def revision_hashes(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Model name -> the `modelRevision` that receipts of this model must carry (32 bytes)."""
    return {str(model["name"]): keccak256(str(model["revision"]).encode()) for model in manifest["models"]}


def contradictions(
    data: bytes, capability_hash: bytes, registered_tier: Tier, reported: Mapping[str, Any]
) -> tuple[str, ...]:
    """Contradictions between manifest, chain and heartbeat, each in a few words; empty when there is none.

    Args:
        data: bytes that the node serves at `GET /manifest`.
        capability_hash: the node's `capabilityHash` on chain, 32 bytes.
        registered_tier: the node's tier on chain.
        reported: body of the node's latest heartbeat.
    """
    if manifest_hash(data) != capability_hash:
        return ("the manifest is not the one whose hash is on chain",)
    try:
        manifest = parse_manifest(data)
    except ValueError as error:
        return (str(error),)
    declared = {str(model.get("name")): model for model in manifest["models"]}
    found = []
    if manifest.get("tier") != int(registered_tier):
        found.append(f"tier {manifest.get('tier')} is declared, {int(registered_tier)} is registered")
    for model in reported.get("models", ()):
        name = str(model.get("name"))
        if name not in declared:
            found.append(f"model {name} is served but not declared")
            continue
        found += [
            f"model {name}: {field} {model.get(field)} is served, {declared[name].get(field)} is declared"
            for field in ("revision", "context_length")
            if model.get(field) != declared[name].get(field)
        ]
    if int(reported.get("slots", 0)) > int(manifest.get("slots", 0)):
        found.append(f"{reported.get('slots')} slots are offered, {manifest.get('slots')} are declared")
    if str(reported.get("price_per_token_wei")) != str(manifest.get("price_per_token_wei")):
        found.append("the price is not the declared one")
    return tuple(found)
