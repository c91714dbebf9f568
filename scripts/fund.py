"""Gives PRLX, and ether if asked, to accounts of a test network: `ape run fund --network <n> --to ADDRESS --prlx 60000`."""

import json
from pathlib import Path

import click
from ape import project
from eth_utils.address import is_address

from offchain.domain.amounts import parse_prlx
from offchain.domain.amounts import prlx as in_words
from offchain.errors import UserError
from scripts import _compile
from scripts._cli import NetworkCommand, sender_options
from scripts.deploy import connected_chain_id, open_account


@click.command(cls=NetworkCommand)
@click.option("--to", "receivers", multiple=True, required=True, help="Address; may be given several times.")
@click.option("--prlx", default="0", show_default=True, help="PRLX for each.")
@click.option("--ether", default="0", show_default=True, help="Ether for each.")
@click.option(
    "--deployment", type=click.Path(path_type=Path, dir_okay=False), help="Manifest of the network."
)
@sender_options("Sender")
def cli(
    receivers: tuple[str, ...],
    prlx: str,
    ether: str,
    deployment: Path | None,
    keystore: Path | None,
    password_file: Path | None,
    alias: str | None,
) -> None:
    """Give PRLX and ether to accounts."""
    for receiver in receivers:
        if not is_address(receiver):
            raise UserError(f"--to {receiver} is not an address")
    tokens_wei, ether_wei = to_wei("--prlx", prlx), to_wei("--ether", ether)
    path = deployment or Path("deployments") / f"{connected_chain_id()}.json"
    if not path.is_file():
        raise UserError(f"there is no deployment manifest {path}; deploy first, or name it with --deployment")
    _compile.ensure_compiled()
    token = project.ParallelixToken.at(
        json.loads(path.read_text())["contracts"]["ParallelixToken"]["address"]
    )
    sender = open_account(keystore, password_file, alias)
    for receiver in receivers:
        if tokens_wei:
            token.transfer(receiver, tokens_wei, sender=sender)
        if ether_wei:
            sender.transfer(receiver, ether_wei)
        click.echo(f"{receiver}: {in_words(token.balanceOf(receiver))}")


def to_wei(option: str, text: str) -> int:
    """Wei of an option's amount, to the last digit: PRLX and ether both have 18 decimals. Raises UserError."""
    try:
        return parse_prlx(text)
    except UserError:
        raise UserError(
            f"{option} {text!r} is not an amount; write it like 50000 or 0.5, with at most 18 decimals"
        ) from None
