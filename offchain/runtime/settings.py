"""Settings of each process: a TOML file, overridden by `PARALLELIX_*` in the environment. Nothing is read at import."""

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from offchain.errors import UserError


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PARALLELIX_", extra="forbid", frozen=True)

    data_dir: Path
    """Folder of this process alone: database, logs, embedded services."""
    ready_file: Path | None = None
    """Written atomically as {"url", "pid"} once traffic is accepted."""
    log_level: str = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @classmethod
    def load(cls, path: Path) -> Self:
        """Settings from a TOML file; relative paths in it are relative to the working directory.

        Raises:
            UserError: the file is missing, is not TOML, or has a wrong, missing or unknown field.
        """
        try:
            fields = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"settings file {path} does not exist; name one with --config") from None
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"settings file {path} cannot be read: {error}") from None
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            where = f"{field}: " if field else ""
            raise UserError(f"settings file {path}: {where}{first['msg']}") from None


class _ChainSettings(_Settings):
    rpc_url: str
    deployment: Path
    """deployments/<chain_id>.json of the network."""
    confirmations: int = Field(default=0, ge=0)
    """Depth that counts as final; 0 means the chain's own `finalized` tag."""


class KeeperSettings(_ChainSettings):
    """One keeper: an independent party with a bonded key and its own workers."""

    database_url: str
    redis_url: str | None = None
    """None starts an embedded Valkey in `data_dir`."""
    host: str = "127.0.0.1"
    port: int = 0
    keystore: Path | None = None
    password_file: Path | None = None
    """The key that signs evidence, reports and tickets, and pays gas."""
    web3signer_url: str | None = None
    web3signer_address: str | None = None
    """Instead of a keystore: a Web3Signer service that holds the key, and the key's address."""
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
    """OpenAI-compatible server with the probed model that the operator trusts; None asks other nodes for a majority."""
    reference_api_key_file: Path | None = None
    reference_revision: str | None = None
    """Revision text of the model behind `reference_url`; None lets it speak for any."""
    max_fee_gwei: int = Field(default=200, gt=0)
    worker_concurrency: int = Field(default=8, gt=0)

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        keystore, remote = (self.keystore, self.password_file), (self.web3signer_url, self.web3signer_address)
        complete = all(keystore) + all(remote)
        if complete != 1 or any(keystore) + any(remote) != 1:
            raise PydanticCustomError(
                "key", "set keystore and password_file, or else web3signer_url and web3signer_address"
            )
        return self


class GatewaySettings(_ChainSettings):
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


class ModelSettings(BaseModel):
    """One model of a node, and the servers that serve it."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str
    """Name that requesters use."""
    path: Path | None = None
    """Folder of the weights; None attaches to `engine_url` instead of starting a server."""
    revision: str | None = None
    """Content hash that the manifest names; None computes it from `path`."""
    engine_url: str | None = None
    engine_api_key_file: Path | None = None
    """Key of a server that is attached to; one that is started gets a random key."""
    max_model_len: int = 512
    kv_cache_bytes: int = 64 * 1024 * 1024
    extra_vllm_args: list[str] = []
    replicas: int = Field(default=1, ge=1, le=64)
    """Servers of this model on this machine."""
    devices: list[str] = []
    """For each replica the accelerators it sees, such as "0,1"; empty leaves the choice to the server."""


class NodeSettings(_ChainSettings):
    """One node: the agent and the model server behind it."""

    node_id: int | None = None
    """None (or 0) asks the registry which node the key belongs to."""
    keystore: Path
    password_file: Path
    """The node key; never the owner's."""
    host: str = "127.0.0.1"
    port: int = 0
    public_url: str | None = None
    """How fronts reach this agent inbound; None means `http(s)://host:port`, and nobody but this machine while dialling."""
    fronts: list[str]
    """Base URLs of gateways and keepers that get heartbeats."""
    dial_out: bool = True
    """Connect outward to the fronts that take it, so that requests reach a node behind NAT; False serves inbound only."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    """PEM files for inbound connections, read again when they change; heartbeats name the certificate's fingerprint."""
    keeper_url: str | None = None
    """A keeper's API, from which views and commands take the uptime table that they check against the chain."""
    region: str = "local"
    tier: int = Field(default=1, ge=1, le=4)
    slots: int = Field(default=4, gt=0)
    price_per_token_wei: int = Field(default=10**12, ge=0)
    served_model: str
    """Name that requesters use."""
    model_path: Path | None = None
    """Folder of the weights; None attaches to `engine_url` instead of starting a server."""
    model_revision: str | None = None
    """Content hash that the manifest names; None computes it from `model_path`."""
    engine_url: str | None = None
    engine_api_key_file: Path | None = None
    """Key of a server that is attached to; one that is started gets a random key."""
    backend: Literal["cpu", "nvidia", "amd"] = "cpu"
    vllm_command: list[str] = ["vllm"]
    max_model_len: int = 512
    kv_cache_bytes: int = 64 * 1024 * 1024
    extra_vllm_args: list[str] = []
    replicas: int = Field(default=1, ge=1, le=64)
    devices: list[str] = []
    models: list[ModelSettings] = []
    """Further models; the fields above are the first one's."""
    engine_start_seconds: float = Field(default=300.0, gt=0)
    """A model server that is not healthy after this long is started again."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """Upon SIGTERM, running requests get this long to finish."""
    max_request_bytes: int = Field(default=8 * 1024 * 1024, gt=0)

    def all_models(self) -> tuple[ModelSettings, ...]:
        """Every model of the node, the first one's fields gathered from the top level."""
        first = ModelSettings(
            name=self.served_model,
            path=self.model_path,
            revision=self.model_revision,
            engine_url=self.engine_url,
            engine_api_key_file=self.engine_api_key_file,
            max_model_len=self.max_model_len,
            kv_cache_bytes=self.kv_cache_bytes,
            extra_vllm_args=self.extra_vllm_args,
            replicas=self.replicas,
            devices=self.devices,
        )
        return (first, *self.models)


class DashboardSettings(_ChainSettings):
    """The operator dashboard."""

    database_url: str
    """Index of a keeper, read only."""
    gateway_url: str | None = None
    keeper_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
