"""The capability manifest: what a node declares that it can do, as canonical JSON whose hash is on chain."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offchain.domain.canonical_json import canonical
from offchain.domain.eip712 import keccak256
from offchain.domain.tiers import Tier
from offchain.domain.types import Wei
from offchain.errors import UserError
from offchain.node.settings import NodeSettings
from offchain.protocol.manifests import MANIFEST_VERSION

_CHUNK_BYTES = 4 * 1024 * 1024
_REVISION_SUFFIXES = (".safetensors", ".bin", ".gguf", ".json", ".model", ".txt", ".jinja")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of a node.

    Attributes:
        name: the model name that requesters send.
        revision: text that names the exact weights, such as `sha256:9f86...`, see `model_revision`.
        context_length: most tokens of prompt and answer together.
    """

    name: str
    revision: str
    context_length: int

    @property
    def revision_hash(self) -> bytes:
        """keccak256 of the revision text, as receipts carry it."""
        return keccak256(self.revision.encode())

    def to_json(self) -> dict[str, object]:
        """The model as it appears in manifests and heartbeats."""
        return {"name": self.name, "revision": self.revision, "context_length": self.context_length}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a node declares. It holds no key and no address, so it stays valid when the node moves to another machine."""

    models: tuple[ServedModel, ...]
    tier: Tier
    slots: int
    region: str
    price_per_token_wei: Wei
    backend: str
    accelerators: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values; amounts as decimal text."""
        return {
            "version": MANIFEST_VERSION,
            "models": [model.to_json() for model in self.models],
            "tier": int(self.tier),
            "slots": self.slots,
            "region": self.region,
            "price_per_token_wei": str(self.price_per_token_wei),
            "backend": self.backend,
            "accelerators": list(self.accelerators),
        }

    def canonical(self) -> bytes:
        """RFC 8785 bytes."""
        return canonical(self.to_json())

    def hash(self) -> bytes:
        """keccak256 of the canonical bytes: the `capabilityHash` on chain."""
        return keccak256(self.canonical())


def model_revision(folder: Path, cache: Path | None = None) -> str:
    """`sha256:` and the hash of the index of all files that decide what a model answers.

    The index is the canonical JSON `{file name: sha256 of its content}` of weights, configuration and tokenizer, so two
    folders have the same revision exactly when they hold the same model.

    Args:
        folder: the model's folder.
        cache: JSON file of hashes by path, size and time of change; hashing tens of gigabytes takes a minute.

    Raises:
        UserError: no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist; set model_path to the folder of the weights")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _REVISION_SUFFIXES)
    if not any(path.name == "config.json" for path in files):
        raise UserError(f"{folder} holds no config.json; set model_path to the folder of the weights")
    known = _read_cache(cache)
    index: dict[str, str] = {}
    for path in files:
        status = path.stat()
        # Content that changes without size or time is not seen.
        key = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        known[key] = index[path.name] = known.get(key) or _sha256(path)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(known))
    return "sha256:" + hashlib.sha256(canonical(index)).hexdigest()


def _read_cache(cache: Path | None) -> dict[str, str]:
    if cache is None or not cache.exists():
        return {}
    try:
        found = json.loads(cache.read_text())
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def served_models(settings: NodeSettings) -> tuple[ServedModel, ...]:
    """The models in the settings. Hashes weights whose hash is not cached yet. Raises UserError."""
    found = []
    for model in settings.all_models():
        revision = model.revision
        if revision is None:
            if model.path is None:
                raise UserError(
                    f"model {model.name} names no folder: set model_path, or engine_url together with model_revision"
                )
            revision = model_revision(model.path, settings.data_dir / "revisions.json")
        found.append(ServedModel(model.name, revision, model.max_model_len))
    if len({model.name for model in found}) < len(found):
        raise UserError("two models have the same name; give each its own")
    return tuple(found)


def manifest_of(settings: NodeSettings) -> Manifest:
    """The capability manifest of these settings. Raises UserError."""
    return Manifest(
        models=served_models(settings),
        tier=Tier(settings.tier),
        slots=settings.slots,
        region=settings.region,
        price_per_token_wei=Wei(settings.price_per_token_wei),
        backend=settings.backend,
    )
