"""Settings of the dashboard: the fields of the TOML file that `parallelix dashboard start --config FILE` reads."""

from pathlib import Path

from pydantic import Field

from offchain.runtime.settings import ChainSettings, Port


class DashboardSettings(ChainSettings):
    """The operator dashboard. Every field but `database_url` has a default that suits one machine."""

    database_url: str
    """SQLAlchemy URL of a keeper's index, e.g. sqlite:///run/keeper-1/keeper.db; it is opened read only."""
    gateway_url: str | None = None
    """Base URL of a gateway, e.g. http://127.0.0.1:8080; None shows no playground and no live load."""
    keeper_url: str | None = None
    host: str = "127.0.0.1"
    port: Port = 8000
    workers: int = Field(default=2, ge=1, le=64)
    """Server processes."""
    threads: int = Field(default=16, ge=2, le=512)
    """Requests that one process serves at once; an open activity feed holds one."""
    rpc_timeout_seconds: float = Field(default=2.0, gt=0, le=30)
    """Bound of one exchange with the RPC endpoint."""
    public_url: str | None = None
    """Origin under which browsers reach the dashboard, e.g. https://app.example; an https origin turns HSTS and secure
    cookies on. None means the address that the dashboard listens on."""
    explorer_url: str | None = None
    """Block explorer, e.g. https://explorer.example; None shows hashes without links."""
    public_rpc_url: str | None = None
    """RPC endpoint offered to a wallet that does not know the chain; None offers none."""
    chain_name: str | None = None
    """Name of the chain in wallets; None means ParalleliX and the deployment's network name."""
    currency_symbol: str = "ETH"
    assets_dir: Path | None = None
    """Folder of the built assets; None means `webapp/static/dist`."""
    gateway_api_key_file: Path | None = None
    """Key with which the playground calls the gateway; None asks the visitor for one."""
    manifest_private_hosts: bool = False
    """Whether manifests may be fetched from loopback and private addresses; for networks on one machine."""
    smtp_url: str | None = None
    """Mail server, smtp://user:password@host:port or smtps://...; None offers no e-mail notifications."""
    smtp_ca_file: Path | None = None
    """Certificate authorities to trust for the mail server instead of the system's."""
    mail_from: str = "ParalleliX <parallelix@localhost>"
    """From header of e-mails."""
    notify_seconds: float = Field(default=5.0, gt=0)
    """Seconds between two searches for news to notify operators of."""
    webhook_private_hosts: bool = False
    """Whether webhooks may call loopback and private addresses."""
