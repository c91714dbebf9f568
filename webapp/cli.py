"""`parallelix dashboard ...`."""

import socket
from pathlib import Path

import click

from offchain.errors import UserError
from webapp.settings import DashboardSettings


@click.group()
def cli() -> None:
    """Run the operator dashboard."""


@cli.command()
@click.option("--config", required=True, type=click.Path(path_type=Path), help="TOML file with the settings.")
@click.option("--host", help="Address to listen on; default: `host` of the settings.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="Port to listen on; 0 takes a free one; default: `port` of the settings.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print one line of JSON, {"url", "pid"}, once the dashboard accepts requests.',
)
def start(config: Path, host: str | None, port: int | None, as_json: bool) -> None:
    """Serve the dashboard until SIGTERM."""
    from offchain.chain.deployment import Deployment  # noqa: PLC0415  --help must load none of these
    from offchain.chain.reader import ChainReader  # noqa: PLC0415
    from offchain.chain.rpc import Rpc  # noqa: PLC0415
    from webapp.server import DashboardServer  # noqa: PLC0415

    settings = DashboardSettings.load(config)
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update=changes)
    # gunicorn would try a taken port again and again for seconds; the user gets one line at once instead.
    _check_free(settings.host, settings.port)
    rpc = Rpc(settings.rpc_url, timeout_seconds=10)
    try:
        ChainReader(rpc, Deployment.load(settings.deployment)).check()
    finally:
        rpc.close()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    DashboardServer(settings, as_json).run()


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            words = f"cannot listen on {host} port {port}: {error}; choose another with --port"
            raise UserError(words) from None
