"""`parallelix node ...`: each command parses, calls a service and prints."""

import click

from offchain.node.cli.machine import init, models, probe, service, setup, verify
from offchain.node.cli.owner import cancel, claim, earnings, register, rotate_key, unstake, withdraw
from offchain.node.cli.serve import keygen, logs, start, status
from offchain.node.cli.update import update


@click.group()
def cli() -> None:
    """Run a node and manage its stake.

    The path of a new operator: probe, init, models, verify, register, start (or setup for all of them), then status and
    earnings. docs/operators.md walks through it.
    """


for _command in (
    *(setup, probe, init, models, verify, keygen, register, start, update, service, status, logs),
    *(earnings, claim, unstake, cancel, withdraw, rotate_key),
):
    cli.add_command(_command)
