"""The gateway's hot path as native code, made by tools/compile.py from the very same sources (docs/adr/0087).

It lies in a folder that is named by the sources, so that native code of other sources is never found.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

VARIABLE = "PARALLELIX_INTERPRETED"
ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "parallelix__mypyc"  # what all the others are entrances to
MODULES = (
    "offchain.chain.keys",
    "offchain.dispatch.admission",
    "offchain.dispatch.answers",
    "offchain.dispatch.breaker",
    "offchain.dispatch.draw",
    "offchain.dispatch.engine",
    "offchain.dispatch.fleet",
    "offchain.dispatch.heartbeat",
    "offchain.dispatch.http1",
    "offchain.dispatch.http1_client",
    "offchain.dispatch.http1_parse",
    "offchain.dispatch.inference.plain",
    "offchain.dispatch.inference.request",
    "offchain.dispatch.inference.resume",
    "offchain.dispatch.inference.stream",
    "offchain.dispatch.lease",
    "offchain.dispatch.openai_errors",
    "offchain.dispatch.pair_mac",
    "offchain.dispatch.pick",
    "offchain.dispatch.router",
    "offchain.dispatch.signing",
    "offchain.dispatch.task",
    "offchain.dispatch.timing",
    "offchain.dispatch.transport",
    "offchain.dispatch.upstream",
    "offchain.dispatch.work",
    "offchain.domain.hashing",
    "offchain.domain.messages",
    "offchain.gateway.book",
    "offchain.gateway.dialin",
    "offchain.gateway.entropy",
    "offchain.gateway.errors",
    "offchain.gateway.inference",
    "offchain.gateway.keyring",
    "offchain.gateway.keys",
    "offchain.gateway.metrics",
    "offchain.gateway.parts",
    "offchain.gateway.recovery",
    "offchain.gateway.seal",
    "offchain.gateway.service",
    "offchain.gateway.shared",
    "offchain.telemetry.counts",
)


def source_of(module: str) -> str:
    """A module's file, from the checkout on."""
    return f"{module.replace('.', '/')}.py"


def folder(root: Path = ROOT) -> Path:
    """Where native code of these sources lies, if it was made.

    The name covers the modules and all beside them, whose types and constants are part of the native code.
    """
    digest = hashlib.sha256(f"{sys.implementation.cache_tag} {_mypy()} {MODULES}".encode())
    for package in sorted({(root / source_of(module)).parent for module in MODULES}):
        for path in sorted(package.glob("*.py")):
            digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return root / ".build/compiled" / digest.hexdigest()[:16]


def _mypy() -> str | None:
    try:
        return version("mypy")
    except PackageNotFoundError:
        return None


class _Finder(MetaPathFinder):
    def __init__(self, made: Path) -> None:
        self._files = {
            name: made / f"{name.replace('.', '/')}{EXTENSION_SUFFIXES[0]}" for name in (LIBRARY, *MODULES)
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._files.get(fullname)
        return None if file is None else spec_from_file_location(fullname, file)


def use(root: Path = ROOT) -> str | None:
    """Have the modules imported as native code from now on. Returns why not, None when they are."""
    if os.environ.get(VARIABLE, "0") != "0":
        return f"switched off by {VARIABLE}"
    imported = next((module for module in MODULES if module in sys.modules), None)
    if imported is not None:
        return f"{imported} is imported already"
    made = folder(root)
    if not made.is_dir():
        return "not made from these sources; make setup does it"
    sys.meta_path.insert(0, _Finder(made))
    return None
