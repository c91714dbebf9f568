"""Imports the gateway's hot path as native code, which tools/compile.py makes from the same sources (docs/adr/0088).

The folder of the native code is named by a hash of the sources, so code of other sources is never loaded.
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
ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "parallelix__mypyc"  # the shared library; the module files only load it
MODULES = (
    "offchain.crypto.addresses", "offchain.crypto.keys", "offchain.crypto.recovery",
    "offchain.crypto.recovery_cache",
    "offchain.dispatch.answer_status", "offchain.dispatch.dispatcher", "offchain.dispatch.hedging",
    "offchain.dispatch.http_upstream", "offchain.dispatch.task", "offchain.dispatch.upstream",
    "offchain.domain.answer_text", "offchain.domain.eip712", "offchain.domain.messages",
    "offchain.gateway.api.inference", "offchain.gateway.api.routes", "offchain.gateway.cluster",
    "offchain.gateway.dependencies", "offchain.gateway.errors", "offchain.gateway.metrics",
    "offchain.gateway.nodes.dial_in", "offchain.gateway.records.request_log",
    "offchain.gateway.records.route_receipt", "offchain.gateway.tenants.api_keys",
    "offchain.gateway.tenants.authenticator",
    "offchain.protocol.headers", "offchain.protocol.heartbeats", "offchain.protocol.openai_errors",
    "offchain.protocol.pair_mac", "offchain.protocol.receipts", "offchain.protocol.server_sent_events",
    "offchain.protocol.tickets",
    "offchain.runtime.entropy", "offchain.runtime.metrics",
    "offchain.scheduler.breaker", "offchain.scheduler.fair_queue", "offchain.scheduler.fleet",
    "offchain.scheduler.latency", "offchain.scheduler.lease", "offchain.scheduler.pick",
    "offchain.scheduler.quotas", "offchain.scheduler.router", "offchain.scheduler.weighted_pool",
    "offchain.scheduler.work",
    "offchain.transport.client_connection", "offchain.transport.errors", "offchain.transport.pool",
    "offchain.transport.request_parser", "offchain.transport.server",
    "offchain.workloads.inference.request", "offchain.workloads.inference.resume",
    "offchain.workloads.inference.stream", "offchain.workloads.inference.whole_answer",
)  # fmt: skip


def source_of(module: str) -> str:
    """A module's file, from the checkout on."""
    return f"{module.replace('.', '/')}.py"


def folder(root: Path = ROOT) -> Path:
    """The folder of the native code of these sources, whether or not it exists.

    The hash covers all files of the modules' packages: their types and constants are compiled in.
    """
    digest = hashlib.sha256(f"{sys.implementation.cache_tag} {_mypy()} {MODULES}".encode())
    for package in sorted({(root / source_of(module)).parent for module in MODULES}):
        for path in sorted(package.glob("*.py")):
            # Names and sizes too: text that moves from one file to another changes the hash.
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
    """Import the modules as native code from now on. Returns None, or the reason why they stay interpreted."""
    if os.environ.get(VARIABLE, "0") != "0":
        return f"switched off by {VARIABLE}"
    imported = next((module for module in MODULES if module in sys.modules), None)
    if imported is not None:
        return f"{imported} is imported already"
    made = folder(root)
    if not made.is_dir():
        return "not made from these sources; make setup does it"
    # Before Python's own finders, which would find the sources.
    sys.meta_path.insert(0, _Finder(made))
    return None
