"""Commands of the owner: stake, earnings, and the key that a node is bound to."""
# A command imports what it needs, so that `parallelix node --help` does not load web3.
# ruff: noqa: PLC0415

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from offchain.node.cli.options import (
    config_option,
    echo_json,
    json_option,
    keeper_url_of,
    keeper_url_option,
    load_settings,
    node_id_of,
    owner_command,
    say,
    yes_option,
)

if TYPE_CHECKING:
    from offchain.chain.reader import PinnedReads
    from offchain.domain.types import NodeId
    from offchain.node.owner.stake import Earning
    from offchain.node.owner.wallet import Owner
    from offchain.node.settings import NodeSettings


@click.command()
@owner_command
@click.option("--stake", required=True, help="PRLX to lock, e.g. 50000.")
@click.option(
    "--node-key-hash", help="Hash that `node keygen` printed; by default that of the settings' keystore."
)
@click.option(
    "--manifest-hash", help="Hash that `node models` printed, when the weights are on another machine."
)
@click.option("--manifest-uri", default="", help="URL of the manifest; by default /manifest at public_url.")
@yes_option
@json_option
def register(
    settings: "NodeSettings",
    owner: "Callable[[], Owner]",
    stake: str,
    node_key_hash: str | None,
    manifest_hash: str | None,
    manifest_uri: str,
    *,
    as_json: bool,
) -> None:
    """Lock the stake and register the node, then publish its manifest.

    Safe to run again: what is done already is skipped, and a changed manifest is published.
    """
    from offchain.crypto.keys import Signer
    from offchain.domain.amounts import parse_prlx
    from offchain.domain.tiers import Tier
    from offchain.domain.types import Wei
    from offchain.node.machine.manifest import manifest_of
    from offchain.node.owner import node_key
    from offchain.node.owner import stake as lifecycle

    stake_wei = Wei(parse_prlx(stake))
    if node_key_hash is None:
        key_hash = node_key.node_key_hash(Signer.load(settings.keystore, settings.password_file))
    else:
        key_hash = node_key.parse_key_hash(node_key_hash)
    given_hash = None if manifest_hash is None else node_key.parse_key_hash(manifest_hash)
    manifest = given_hash or manifest_of(settings).hash()
    uri = manifest_uri or (f"{settings.public_url.rstrip('/')}/manifest" if settings.public_url else "")
    tier, tell = Tier(settings.tier), say(as_json=as_json)
    done = lifecycle.register(owner(), key_hash, stake_wei, tier, manifest, uri, tell)
    if as_json:
        hashes = {"node_key_hash": "0x" + key_hash.hex(), "manifest_hash": "0x" + manifest.hex()}
        echo_json(node_id=int(done.node_id), tx_hashes=list(done.tx_hashes), **hashes)
    else:
        click.echo(f"node id {done.node_id}")


@click.command()
@owner_command
@click.option(
    "--epoch",
    "epochs",
    type=click.IntRange(0, 2**32 - 1),
    multiple=True,
    help="Epoch to claim, may be given several times; by default all that can be claimed.",
)
@keeper_url_option
@yes_option
@json_option
def claim(
    settings: "NodeSettings",
    owner: "Callable[[], Owner]",
    epochs: tuple[int, ...],
    keeper_url: str | None,
    *,
    as_json: bool,
) -> None:
    """Claim the node's earnings; the contract checks the proof and pays to the payout address."""
    from offchain.node.owner import stake as lifecycle

    keeper, wallet = keeper_url_of(settings, keeper_url), owner()
    reads = wallet.now()
    node_id = node_id_of(settings, reads)
    found = _earnings(reads, node_id, epochs or lifecycle.earning_epochs(reads, node_id), keeper)
    done = lifecycle.claim(wallet, node_id, found)
    if as_json:
        echo_json(**done)
    else:
        from offchain.domain.amounts import prlx

        click.echo(f"claimed {prlx(int(done['amount_wei']))} for epoch {done['epochs']} to {done['to']}")


@click.command()
@config_option
@keeper_url_option
@click.option(
    "--epoch",
    "epochs",
    type=click.IntRange(0, 2**32 - 1),
    multiple=True,
    help="Epoch to show, may be given several times; by default the latest ten.",
)
@json_option
def earnings(config: Path, keeper_url: str | None, epochs: tuple[int, ...], *, as_json: bool) -> None:
    """Show uptime and earnings of each epoch, computed from the chain and a keeper's uptime table."""
    from offchain.domain.amounts import prlx
    from offchain.node.chain import open_reads
    from offchain.node.owner import stake as lifecycle

    settings = load_settings(config)
    keeper = keeper_url_of(settings, keeper_url)
    reads = open_reads(settings)
    node_id = node_id_of(settings, reads)
    found = _earnings(reads, node_id, epochs or lifecycle.earning_epochs(reads, node_id)[-10:], keeper)
    if as_json:
        echo_json(node_id=node_id, epochs=[earned.to_json() for earned in found])
        return
    for earned in found:
        uptime = "" if earned.uptime_bps is None else f"{earned.uptime_bps / 100:.2f} %"
        amount = "" if earned.amount_wei is None else prlx(earned.amount_wei)
        click.echo(f"epoch {earned.epoch:>6}  {earned.status:<10} {uptime:>9}  {amount}")


def _earnings(
    reads: "PinnedReads", node_id: "NodeId", epochs: Sequence[int], keeper_url: str
) -> "list[Earning]":
    from offchain.domain.types import Epoch
    from offchain.node.owner import stake as lifecycle
    from offchain.node.owner.keeper_client import epoch_uptimes

    return [
        lifecycle.earning(reads, node_id, Epoch(epoch), lambda e: epoch_uptimes(keeper_url, e))
        for epoch in epochs
    ]


def _stake_command(name: str, help_text: str) -> click.Command:
    @click.command(name, help=help_text)
    @owner_command
    @yes_option
    @json_option
    def command(settings: "NodeSettings", owner: "Callable[[], Owner]", *, as_json: bool) -> None:
        from offchain.node.owner import stake as lifecycle

        wallet = owner()
        node_id = node_id_of(settings, wallet.now())
        changes = {
            "unstake": lifecycle.unstake,
            "cancel": lifecycle.cancel_unstake,
            "withdraw": lifecycle.withdraw,
        }
        tx_hash = changes[name](wallet, node_id)
        node = lifecycle.registered_node(wallet.now(), node_id)
        if as_json:
            echo_json(**lifecycle.node_json(node), tx_hash=tx_hash)
        else:
            click.echo(f"node {node_id} is {lifecycle.state_name(node)} now ({tx_hash})")

    return command


unstake = _stake_command(
    "unstake",
    "Ask for the stake back. The node stops earning after this epoch; the stake unlocks after the cooldown.",
)
cancel = _stake_command("cancel", "Cancel an unstake request. The node earns again from the next epoch.")
withdraw = _stake_command("withdraw", "Take the stake back after the cooldown. The node is retired for good.")


@click.command("rotate-key")
@owner_command
@click.option(
    "--new-key-hash", required=True, help="Hash that `node keygen` or `node init` printed on the new machine."
)
@yes_option
@json_option
def rotate_key(
    settings: "NodeSettings", owner: "Callable[[], Owner]", new_key_hash: str, *, as_json: bool
) -> None:
    """Bind the node to another key, which moves the node to the machine that holds that key.

    First run `node start --standby` there: it loads the model and serves as soon as its key is bound.
    """
    from offchain.node.owner import node_key
    from offchain.node.owner import stake as lifecycle

    key_hash = node_key.parse_key_hash(new_key_hash)
    wallet = owner()
    reads = wallet.now()
    # After the rotation the settings' own key is bound to no node, and the command may be run again.
    rotated = reads.node_of_key(node_key.address_of_key_hash(key_hash))
    own = settings.node_id or reads.node_of_key(node_key.keystore_address(settings.keystore))
    node_id = rotated if rotated and not own else node_id_of(settings, reads)
    tx_hash = lifecycle.rotate_key(wallet, node_id, key_hash)
    if as_json:
        echo_json(node_id=node_id, node_key_hash="0x" + key_hash.hex(), tx_hash=tx_hash)
    else:
        click.echo(f"node {node_id} speaks with the new key now" + (f" ({tx_hash})" if tx_hash else ""))
