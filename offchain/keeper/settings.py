"""Settings of a keeper; the fields of `parallelix keeper start --config FILE`."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from offchain.runtime.settings import ChainSettings, Port, RedisUrl


class KeeperSettings(ChainSettings):
    """One keeper: an independent party with a bonded key and its own workers."""

    database_url: str
    redis_url: RedisUrl | None = None
    """None: the keeper starts an embedded Valkey in `data_dir`."""
    host: str = "127.0.0.1"
    port: Port = 0
    keystore: Path | None = None
    password_file: Path | None = None
    """The encrypted key that signs evidence, reports and tickets, and pays gas."""
    web3signer_url: str | None = None
    web3signer_address: str | None = None
    """Instead of a keystore: a Web3Signer service that holds the key, and the address of the key."""
    region: str
    peers: list[str] = []
    """Base URLs of the other keepers' APIs; empty means those that the registry names."""
    gateway_url: str
    """Gateway through which this keeper's probes travel."""
    gateway_api_key_file: Path
    probe_model: str
    probe_timeout_seconds: float = Field(default=4.0, gt=0)
    probe_check_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the probes' answers that are compared with a reference."""
    reference_url: str | None = None
    """OpenAI-compatible server that the operator trusts, with the probed model; None: the majority of other nodes decides."""
    reference_api_key_file: Path | None = None
    reference_revision: str | None = None
    """Revision text of the model behind `reference_url`; None: it is the reference for every revision."""
    max_fee_gwei: int = Field(default=200, gt=0)
    worker_concurrency: int = Field(default=8, gt=0)

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        keystore, remote = (self.keystore, self.password_file), (self.web3signer_url, self.web3signer_address)
        # One pair, and whole: half of the other pair is a mistake, not a spare.
        complete = all(keystore) + all(remote)
        if complete != 1 or any(keystore) + any(remote) != 1:
            raise PydanticCustomError(
                "key", "set keystore and password_file, or else web3signer_url and web3signer_address"
            )
        return self
