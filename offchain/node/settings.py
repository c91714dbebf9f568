"""Settings of a node: the fields of the TOML file that `parallelix node ... --config FILE` names."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from offchain.runtime.settings import ChainSettings, Port


class ModelSettings(BaseModel):
    """One model of a node, and the servers that serve it."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str
    """Name that requesters use."""
    path: Path | None = None
    """Folder of the weights. None: no server is started, the one at `engine_url` is used."""
    revision: str | None = None
    """Content hash that the manifest names. None: computed from the files in `path`."""
    engine_url: str | None = None
    engine_api_key_file: Path | None = None
    """API key of the server at `engine_url`. A server that the agent starts gets a random one."""
    max_model_len: int = 512
    kv_cache_bytes: int = 64 * 1024 * 1024
    extra_vllm_args: list[str] = []
    replicas: int = Field(default=1, ge=1, le=64)
    """Servers of this model on this machine."""
    devices: list[str] = []
    """For each replica the accelerators that it sees, such as "0,1". Empty: the server chooses."""


class NodeSettings(ChainSettings):
    """One node: the agent and the model server behind it."""

    # The environment's names of an alias, too, begin with PARALLELIX_.
    model_config = SettingsConfigDict(env_prefix_target="all")

    node_id: int | None = None
    """None or 0: the registry says which node the key is bound to."""
    keystore: Path
    password_file: Path
    """Of the node key; the owner's key is never needed here."""
    host: str = "127.0.0.1"
    port: Port = 0
    public_url: str | None = None
    """URL at which gateways connect to this agent. None means `http(s)://host:port`, or no inbound way while dialling out."""
    heartbeat_receivers: list[str] = Field(validation_alias=AliasChoices("heartbeat_receivers", "fronts"))
    """Base URLs of the gateways and keepers that this node tells what it can take. Older files say `fronts`."""
    dial_out: bool = True
    """Connect outward to the gateways that take connections, so that requests reach a node behind NAT. False: inbound only."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    """PEM files for inbound connections, read again when they change; heartbeats name the certificate's fingerprint."""
    keeper_url: str | None = None
    """A keeper's API, for the uptime table of an epoch; commands check the table against the chain."""
    region: str = "local"
    tier: int = Field(default=1, ge=1, le=4)
    slots: int = Field(default=4, gt=0)
    price_per_token_wei: int = Field(default=10**12, ge=0)
    served_model: str
    """Name that requesters use."""
    model_path: Path | None = None
    """Folder of the weights. None: no server is started, the one at `engine_url` is used."""
    model_revision: str | None = None
    """Content hash that the manifest names. None: computed from the files in `model_path`."""
    engine_url: str | None = None
    engine_api_key_file: Path | None = None
    """API key of the server at `engine_url`. A server that the agent starts gets a random one."""
    backend: Literal["cpu", "nvidia", "amd"] = "cpu"
    vllm_command: list[str] = ["vllm"]
    max_model_len: int = 512
    kv_cache_bytes: int = 64 * 1024 * 1024
    extra_vllm_args: list[str] = []
    replicas: int = Field(default=1, ge=1, le=64)
    devices: list[str] = []
    models: list[ModelSettings] = []
    """Further models. The fields above, from `served_model` on, are the first model's."""
    engine_start_seconds: float = Field(default=300.0, gt=0)
    """A model server that is not healthy this long after its start is started again."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """After SIGTERM, running requests get this long to end."""
    max_request_bytes: int = Field(default=8 * 1024 * 1024, gt=0)

    @property
    def engine_access_file(self) -> Path:
        """Where the agent leaves URL and key of its first model server (0600), for commands of the same user."""
        return self.data_dir / "engine.json"

    def all_models(self) -> tuple[ModelSettings, ...]:
        """Every model of the node; the first one's fields stand at the top level."""
        named = {"name": self.served_model, "path": self.model_path, "revision": self.model_revision}
        same = {name: getattr(self, name) for name in ModelSettings.model_fields if name not in named}
        return (ModelSettings(**named, **same), *self.models)
