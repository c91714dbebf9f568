"""Finds the tenant of a request: by the API keys in the gateway's file and in Redis."""

import contextlib
import hmac
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from offchain.errors import UserError
from offchain.gateway.tenants.api_keys import hash_of, read_keys
from offchain.gateway.tenants.registry import Tenant
from offchain.scheduler.work import Priority

BATCH_SECRET = "parallelix:batch_secret"  # noqa: S105  a name
"""Redis key of 32 random bytes that gateways and batch workers share. Whoever has them may send requests for any tenant."""
_BATCH_PREFIX = "plx-batch."


def batch_token(secret: bytes, tenant: str, expires: int) -> str:
    """The bearer token of a batch worker: `plx-batch.<tenant>.<expiry, Unix seconds>.<MAC>`."""
    claim = f"{tenant}.{expires}"
    return f"{_BATCH_PREFIX}{claim}.{hmac.new(secret, claim.encode(), 'sha256').hexdigest()}"


class Authenticator:
    """API keys and tenants in memory. Lookups are dictionary reads; changes come in through `refresh` and `take_shared`.

    Args:
        path: the API key file.
        salt_secret: secret of this operator's gateways, from which cache salts are derived.
        now: Unix seconds.

    Attributes:
        batch_secret: see `BATCH_SECRET`; None until it was read, and until then every batch token is refused.
    """

    def __init__(self, path: Path, salt_secret: bytes, now: Callable[[], float] = time.time) -> None:
        """Raises UserError when the file cannot be used."""
        self._path = path
        self._secret = salt_secret
        self._stamp = self._stat()
        self._file_keys = read_keys(path)
        self._shared_keys: dict[str, str] = {}
        self._tenants: dict[str, Tenant] = {}
        self._salts: dict[str, str] = {}
        self._now = now
        self.batch_secret: bytes | None = None

    def tenant_of(self, authorization: str | None) -> Tenant | None:
        """The tenant of an `Authorization: Bearer ...` header; None for an unknown key or a disabled tenant."""
        if authorization is None or authorization[:7].lower() != "bearer ":
            return None
        key = authorization[7:].strip()
        if key.startswith(_BATCH_PREFIX):
            return self._tenant_of_batch(key)
        digest = hash_of(key)
        # Hashes are looked up, not keys: how long a look-up takes tells nothing about a key.
        name = self._file_keys.get(digest) or self._shared_keys.get(digest)
        if name is None:
            return None
        tenant = self._tenants.get(name)
        if tenant is None:
            if digest not in self._file_keys:
                return None  # a key in Redis without its tenant there: deleted, or malformed
            tenant = self._tenants[name] = Tenant(name)
        return None if tenant.disabled else tenant

    def _tenant_of_batch(self, token: str) -> Tenant | None:
        """The tenant in a batch worker's token, with priority `BATCH`; None for a bad token."""
        name, _, rest = token.removeprefix(_BATCH_PREFIX).rpartition(".")[0].rpartition(".")
        # bounded before int(), which strangers could make slow
        if self.batch_secret is None or not rest.isascii() or not rest.isdigit() or len(rest) > 12:
            return None
        # As bytes: compare_digest refuses text that is not ASCII with a TypeError.
        if not hmac.compare_digest(token.encode(), batch_token(self.batch_secret, name, int(rest)).encode()):
            return None
        tenant = self._tenants.get(name)
        if tenant is None and name in self._file_keys.values():
            tenant = Tenant(name)
        if tenant is None or tenant.disabled or int(rest) < self._now():
            return None
        # The tenant's own limits hold; only the class is that of batches (ADR 0010).
        return replace(tenant, limits=replace(tenant.limits, priority=Priority.BATCH))

    def salt_of(self, tenant: str, wish: object = None) -> str:
        """Prefix-cache salt of a tenant: others cannot guess it, and all gateways with this secret compute the same.

        Args:
            wish: the `cache_salt` of the caller's request, which divides the tenant's own cache further.
        """
        if wish is not None:
            return hmac.new(self._secret, f"{tenant}\0{wish}".encode(), "sha256").hexdigest()[:32]
        salt = self._salts.get(tenant)
        if salt is None:
            salt = self._salts[tenant] = hmac.new(self._secret, tenant.encode(), "sha256").hexdigest()[:32]
        return salt

    def take_shared(self, keys: dict[str, str], tenants: dict[str, Tenant]) -> None:
        """Replace the keys (hash -> tenant) and tenants that were read from Redis."""
        self._shared_keys = keys
        self._tenants = tenants

    def credited(self) -> list[str]:
        """Names of tenants with a limited credit."""
        return [name for name, tenant in self._tenants.items() if tenant.limits.credit_wei is not None]

    def refresh(self) -> None:
        """Read the file again if it changed; a file that cannot be read changes nothing."""
        stamp = self._stat()
        if stamp != self._stamp:
            with contextlib.suppress(UserError):
                # The stamp follows only a good read, so a half-edited file is tried again each time.
                self._file_keys = read_keys(self._path)
                self._stamp = stamp

    def _stat(self) -> tuple[int, int]:
        with contextlib.suppress(OSError):
            status = self._path.stat()
            return (status.st_mtime_ns, status.st_size)
        return (0, 0)
