"""Settings of the dashboard; the fields of `parallelix dashboard --config FILE`."""

from pathlib import Path

from pydantic import Field

from offchain.runtime.settings import ChainSettings


class DashboardSettings(ChainSettings):
    """The operator dashboard. Each field but the index has a default that suits one machine."""

    database_url: str
    """Index of a keeper, read only."""
    gateway_url: str | None = None
    keeper_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = Field(default=2, ge=1, le=64)
    """Server processes."""
    threads: int = Field(default=16, ge=2, le=512)
    """Requests that one process serves at once; an open activity feed holds one."""
    rpc_timeout_seconds: float = Field(default=2.0, gt=0, le=30)
    public_url: str | None = None
    """Origin under which browsers reach the dashboard, e.g. https://app.example; an https one turns HSTS and secure
    cookies on. None means the address that it listens on."""
    explorer_url: str | None = None
    """Block explorer, e.g. https://explorer.example; None shows hashes without links."""
    public_rpc_url: str | None = None
    """RPC endpoint that wallets are offered when they do not know the chain; None offers none."""
    chain_name: str | None = None
    """Name of the chain in wallets; None uses the deployment's network name."""
    currency_symbol: str = "ETH"
    assets_dir: Path | None = None
    """Folder of the built assets; None means `webapp/static/dist`."""
    gateway_api_key_file: Path | None = None
    """Key with which the playground calls the gateway; None asks the visitor for one."""
    manifest_private_hosts: bool = False
    """Whether manifests may be fetched from loopback and private addresses, as on one machine."""
    smtp_url: str | None = None
    """smtp://user:password@host:port or smtps://...; None means that e-mail is not offered."""
    smtp_ca_file: Path | None = None
    """Certificates that the mail server is trusted by instead of the system's."""
    mail_from: str = "ParalleliX <parallelix@localhost>"
    notify_seconds: float = Field(default=5.0, gt=0)
    """How often to look for news to tell operators."""
    webhook_private_hosts: bool = False
    """Whether webhooks may call loopback and private addresses."""
