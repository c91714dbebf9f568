"""Tenants and their API keys in Redis, shared by all gateways.

    parallelix:tenant:<name>   JSON: limits, whether disabled
    parallelix:apikeys         hash: SHA-256 hex of a key -> tenant
    parallelix:tenants:version counter; gateways read everything again when it has changed

The API key file of a gateway is a second, static source: its tenants have no limits unless Redis knows them by name.
"""

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from offchain.errors import UserError
from offchain.gateway.tenants.api_keys import PREFIX, check_tenant_name, hash_of, new_key
from offchain.scheduler.quotas import TenantLimits
from offchain.scheduler.work import Priority

TENANT = "parallelix:tenant:"
KEYS = "parallelix:apikeys"
VERSION = "parallelix:tenants:version"
_NUMBERS = ("requests_per_minute", "tokens_per_minute", "max_concurrent", "credit_wei")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the gateway."""

    name: str
    limits: TenantLimits = field(default_factory=TenantLimits)
    disabled: bool = False
    created_ms: int = 0

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {
            "name": self.name,
            "priority": self.limits.priority.name.lower(),
            **{name: getattr(self.limits, name) for name in _NUMBERS},
            "disabled": self.disabled,
            "created_ms": self.created_ms,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Tenant":
        """Inverse of `to_json`. Raises ValueError when it is malformed."""
        try:
            if "most_concurrent" in data:  # stored by version 0.1
                data = {"max_concurrent": data["most_concurrent"], **data}
            numbers = {name: None if data.get(name) is None else int(data[name]) for name in _NUMBERS}
            limits = TenantLimits(Priority[data["priority"].upper()], **numbers)
            return cls(str(data["name"]), limits, bool(data["disabled"]), int(data["created_ms"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a tenant: {error!r}") from None


def decode_tenants(values: list[bytes | None]) -> dict[str, Tenant]:
    """Tenants by name. Malformed ones are left out, so their keys are refused."""
    found: dict[str, Tenant] = {}
    for raw in values:
        with contextlib.suppress(ValueError):
            tenant = Tenant.from_json(json.loads(raw or b"null"))  # None: deleted since its name was read
            found[tenant.name] = tenant
    return found


class TenantAdmin:
    """What `parallelix gateway tenant` does. Every method raises UserError when Redis cannot be reached."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    def save(self, tenant: Tenant) -> None:
        """Create or replace a tenant."""
        check_tenant_name(tenant.name)
        # The version comes last, here and below: a gateway that sees a new one must find what is new.
        self._do("set", TENANT + tenant.name, json.dumps(tenant.to_json()))
        self._do("incr", VERSION)

    def get(self, name: str) -> Tenant:
        """A tenant by name. Raises UserError when there is none."""
        raw = self._do("get", TENANT + name)
        if raw is None:
            raise UserError(f"there is no tenant {name!r}; `parallelix gateway tenant list` shows all")
        return Tenant.from_json(json.loads(raw))

    def list(self) -> list[Tenant]:
        """All tenants by name."""
        keys = sorted(self._do("keys", TENANT + "*"))
        return list(decode_tenants(self._do("mget", keys)).values()) if keys else []

    def create(self, name: str, limits: TenantLimits) -> Tenant:
        """A new tenant. Raises UserError when the name is taken or impossible."""
        check_tenant_name(name)
        tenant = Tenant(name, limits, created_ms=time.time_ns() // 1_000_000)
        if not self._do("set", TENANT + name, json.dumps(tenant.to_json()), nx=True):
            raise UserError(f"there is a tenant {name!r} already; change it with `tenant update`")
        self._do("incr", VERSION)
        return tenant

    def add_key(self, name: str) -> str:
        """A new API key of a tenant; only its hash is stored."""
        self.get(name)
        key = new_key()
        self._do("hset", KEYS, hash_of(key), name)
        self._do("incr", VERSION)
        return key

    def revoke_key(self, key_or_hash: str) -> str:
        """Revoke a key, given itself or its SHA-256. Returns its tenant. Raises UserError when no tenant has the key."""
        digest = hash_of(key_or_hash) if key_or_hash.startswith(PREFIX) else key_or_hash
        tenant: bytes | None = self._do("hget", KEYS, digest)
        if tenant is None:
            raise UserError("no tenant has this key")
        self._do("hdel", KEYS, digest)
        self._do("incr", VERSION)
        return tenant.decode()

    def delete(self, name: str) -> int:
        """Remove a tenant and all of its keys. Returns the number of keys."""
        self.get(name)
        # keys first: if we die between, nobody is let in
        digests = [digest for digest, owner in self._do("hgetall", KEYS).items() if owner.decode() == name]
        if digests:
            self._do("hdel", KEYS, *digests)
        self._do("delete", TENANT + name)
        self._do("incr", VERSION)
        return len(digests)

    def _do(self, command: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._redis, command)(*arguments, **options)
        except (RedisError, OSError) as error:
            raise UserError(f"Redis cannot be used ({type(error).__name__}); check redis_url") from None
