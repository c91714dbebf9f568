"""Settings of a gateway; the fields of `parallelix gateway --config FILE`."""

from pathlib import Path

from pydantic import Field

from offchain.runtime.settings import ChainSettings


class GatewaySettings(ChainSettings):
    """The OpenAI-compatible front."""

    database_url: str
    """Index of a keeper of the same operator, read only."""
    redis_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    public_url: str | None = None
    """Address that nodes and clients use, when it is not `http://host:port`; nodes that dial in sign it."""
    keystore: Path
    password_file: Path
    """Signs tickets; listed on chain by a bonded keeper."""
    region: str = "local"
    api_keys_file: Path
    """JSON object: SHA-256 hex of an API key -> tenant name."""
    max_request_bytes: int = Field(default=4 * 1024 * 1024, gt=0)
    first_byte_timeout_seconds: float = Field(default=10.0, gt=0)
    stall_timeout_seconds: float = Field(default=5.0, gt=0)
    absence_seconds: float = Field(default=10.0, ge=0, le=60)
    """For so long after a node was last heard of a request that only it can serve waits for it; 0 refuses at once."""
    hedge_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the work that may be spent on second attempts when a first byte is late; 0 turns hedging off."""
