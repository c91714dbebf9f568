"""Compiles the contracts when their sources have changed.

Ape compares each file with its cache, but a file whose imports changed, a run that was interrupted, or two runs at once can
leave a contract behind as it was compiled before. Nothing may be deployed from that, so a digest over all sources and all
compiled code decides for all.
"""

import json
from pathlib import Path

from ape import project

from offchain.domain.eip712 import keccak256

STAMP = ".build/contracts.keccak"


def ensure_compiled() -> None:
    """Compile everything unless the sources are those of the last complete compilation."""
    root = Path(project.path)
    stamp, manifest = root / STAMP, root / ".build/__local__.json"
    sources = _digest_of_sources(root)
    if stamp.is_file() and manifest.is_file() and stamp.read_text() == sources + _digest_of_code(manifest):
        return
    project.load_contracts(use_cache=False)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(sources + _digest_of_code(manifest))


def _digest_of_sources(root: Path) -> str:
    files = [root / "ape-config.yaml", *sorted((root / "contracts").rglob("*.sol"))]
    parts = [
        str(file.relative_to(root)).encode() + b"\0" + keccak256(file.read_bytes())
        for file in files
        if ".cache" not in file.parts
    ]
    return keccak256(b"".join(parts)).hex()


def _digest_of_code(manifest: Path) -> str:
    types = json.loads(manifest.read_text()).get("contractTypes", {})
    code = {name: [one.get("abi"), one.get("deploymentBytecode")] for name, one in types.items()}
    return keccak256(json.dumps(code, sort_keys=True).encode()).hex()
