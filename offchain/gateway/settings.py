"""Settings of a gateway; the fields of `parallelix gateway start --config FILE`."""

from pathlib import Path

from pydantic import Field

from offchain.runtime.settings import ChainSettings, Port, RedisUrl


class GatewaySettings(ChainSettings):
    """Settings of the OpenAI-compatible gateway."""

    database_url: str
    """Index database of a keeper of the same operator; only read."""
    redis_url: RedisUrl | None = None
    host: str = "127.0.0.1"
    port: Port = 8080
    public_url: str | None = None
    """Base URL for nodes and clients, if not `http://host:port`, e.g. `https://api.example.com`. Nodes that dial in sign it."""
    keystore: Path
    password_file: Path
    """Password of the key that signs tickets; a bonded keeper lists the key's address on chain."""
    region: str = "local"
    api_keys_file: Path
    """JSON object: SHA-256 hex of an API key -> tenant name."""
    max_request_bytes: int = Field(default=4 * 1024 * 1024, gt=0)
    first_byte_timeout_seconds: float = Field(default=10.0, gt=0)
    stall_timeout_seconds: float = Field(default=5.0, gt=0)
    absence_seconds: float = Field(default=10.0, ge=0, le=60)
    """Seconds that a silent node still counts as expected back: requests that only it can serve wait. 0: they do not."""
    hedge_share: float = Field(default=0.0, ge=0, le=1)
    """Share of all work, 0 to 1, that may be spent on second attempts when a first byte is late; 0 turns hedging off."""
