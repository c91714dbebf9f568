"""The API key file of a gateway. Only hashes are stored; a key is shown once, when it is made.

The file is a JSON object: SHA-256 hex of a key -> tenant name. A running gateway reads it again within a second of a change.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from offchain.errors import UserError
from offchain.runtime.files import write_atomically

PREFIX = "sk-plx-"
_TENANT = re.compile(r"[a-z0-9][a-z0-9._\-]{0,63}")


def hash_of(key: str) -> str:
    """SHA-256 hex of a key. No slow hash is needed: a key has 256 random bits, so it cannot be guessed."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A random API key."""
    return PREFIX + secrets.token_urlsafe(32)


def check_tenant_name(name: str) -> str:
    """The name, if it may be a tenant's. Raises UserError."""
    if not _TENANT.fullmatch(name):
        raise UserError(
            f"tenant name {name!r} must be 1 to 64 of a-z, 0-9, '.', '_', '-', not starting with a sign"
        )
    return name


def read_keys(path: Path) -> dict[str, str]:
    """Key hash -> tenant name. Raises UserError when the file is missing or malformed."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        hint = "make a key with `parallelix gateway key create`"
        raise UserError(f"API key file {path} does not exist; {hint}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"API key file {path} cannot be read: {error}") from None
    if not isinstance(data, dict) or not all(
        isinstance(tenant, str) and re.fullmatch(r"[0-9a-f]{64}", digest) for digest, tenant in data.items()
    ):
        raise UserError(f"API key file {path} must be a JSON object of SHA-256 hex -> tenant name")
    return data


def create_key(path: Path, tenant: str) -> str:
    """Make a key for a tenant, add its hash to the file (created with mode 0600 if missing), and return the key.

    Raises:
        UserError: a bad name, or the file cannot be read or written.
    """
    key = new_key()
    check_tenant_name(tenant)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            keys = read_keys(path) if path.exists() else {}
            keys[hash_of(key)] = tenant
            write_atomically(path, json.dumps(keys, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"API key file {path} cannot be written: {error}") from None
    return key


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time edit. The lock is on the folder, because the file itself is replaced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
