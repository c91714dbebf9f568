"""The one console command. Each group is imported when it is used, so that `--help` is quick."""

import importlib
import sys

import click

from offchain import __version__
from offchain.errors import ParallelixError
from offchain.runtime.redaction import redact_urls

_GROUPS = {
    "node": ("offchain.node.cli.main", "Run a node and manage its stake."),
    "keeper": ("offchain.keeper.cli", "Run a keeper: index, probe, attest, fulfil."),
    "gateway": ("offchain.gateway.cli", "Run the OpenAI-compatible gateway."),
    "epoch": ("offchain.audit.cli", "Verify what an epoch paid, from public data."),
    "dashboard": ("webapp.cli", "Run the operator dashboard."),
    "demo": ("offchain.demo.cli", "A whole network on this machine."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _GROUPS:
            return None
        command: click.Command = importlib.import_module(_GROUPS[cmd_name][0]).cli
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _GROUPS.items()])


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="parallelix")
def cli() -> None:
    """ParalleliX: a staked inference network."""


def main() -> None:
    """Entry point: every error that we raise on purpose becomes one line without credentials, and exit status 2."""
    try:
        cli()
    except ParallelixError as error:
        click.echo(f"error: {redact_urls(str(error))}", err=True)
        sys.exit(2)
