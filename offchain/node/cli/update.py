"""`node update`: a running node changes settings, model or version without losing a request."""
# A command imports what it needs, so that `parallelix node --help` does not load web3.
# ruff: noqa: PLC0415

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from offchain.errors import UserError
from offchain.node.cli.options import (
    PATH,
    config_option,
    echo_json,
    json_option,
    load_settings,
    node_id_of,
    open_owner,
    say,
    yes_option,
)

if TYPE_CHECKING:
    from offchain.domain.types import NodeId
    from offchain.node.machine.manifest import Manifest
    from offchain.node.machine.status import Running
    from offchain.node.settings import NodeSettings

_POLL_SECONDS = 0.1


@click.command()
@config_option
@click.option(
    "--owner-keystore",
    type=PATH,
    help="The owner's encrypted key file; needed when the manifest has changed.",
)
@click.option("--owner-password-file", type=PATH, help="File (0600) with the password of --owner-keystore.")
@click.option(
    "--wait",
    "wait_seconds",
    default=600.0,
    show_default=True,
    help="Seconds to wait until the agent serves again.",
)
@yes_option
@json_option
def update(
    config: Path,
    owner_keystore: Path | None,
    owner_password_file: Path | None,
    wait_seconds: float,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring a running agent to the settings as they are now, without losing a request.

    Checks the settings, publishes the manifest if it has changed, lets running requests end, and starts the agent again
    under the same process id.
    """
    from offchain.node.machine.manifest import manifest_of

    tell = say(as_json=as_json)
    settings = load_settings(config)
    manifest = manifest_of(settings)
    previous, pid = _agent(settings)
    owner = (owner_keystore, owner_password_file) if owner_keystore and owner_password_file else None
    node_id, tx_hash = _publish(settings, config, manifest, owner, yes=yes)
    if tx_hash is not None:
        tell(f"the manifest of node {node_id} is on chain")
    tell("draining; running answers end first")
    began = time.monotonic()
    os.kill(pid, signal.SIGUSR1)
    url = _await_agent(settings, manifest, previous, began + wait_seconds)
    seconds = round(time.monotonic() - began, 1)
    if as_json:
        hashes = {"manifest_hash": "0x" + manifest.hash().hex(), "tx_hash": tx_hash}
        echo_json(node_id=node_id, **hashes, url=url, seconds=seconds)
    else:
        click.echo(f"node {node_id} serves with the new settings after {seconds} s")


def _agent(settings: "NodeSettings") -> "tuple[Running, int]":
    """The agent that runs here, and its process. Raises UserError when none does, or its process is not known."""
    from offchain.node.machine.status import agent_state, running

    found = running(settings)
    if found is None or agent_state(settings) is None:
        raise UserError("no agent runs here with these settings; start it with `parallelix node start`")
    if found.pid is None:
        raise UserError(
            "the settings name no ready_file, so the agent's process id is not known; set ready_file and restart the agent"
        )
    return found, found.pid


def _publish(
    settings: "NodeSettings",
    config: Path,
    manifest: "Manifest",
    owner: tuple[Path, Path] | None,
    *,
    yes: bool,
) -> "tuple[NodeId, str | None]":
    """Node id, and the hash of the transaction if one was needed. Raises UserError before anything is changed."""
    from offchain.node.chain import open_reads
    from offchain.node.owner import stake

    reads = open_reads(settings)
    node_id = node_id_of(settings, reads)
    node = stake.registered_node(reads, node_id)
    if node.tier != settings.tier:
        raise UserError(
            f"node {node_id} is registered in tier {node.tier}; the tier is fixed with the stake: set tier back"
        )
    if node.capability_hash == manifest.hash():
        return node_id, None
    if owner is None:
        raise UserError(
            f"the manifest on chain is another; name --owner-keystore, or run `parallelix node register --config "
            f"{config.name} --manifest-hash 0x{manifest.hash().hex()} ...` where the owner's key is, then this again"
        )
    uri = f"{settings.public_url.rstrip('/')}/manifest" if settings.public_url else ""
    return node_id, stake.publish(open_owner(settings, *owner, yes=yes), node_id, manifest.hash(), uri)


def _await_agent(settings: "NodeSettings", manifest: "Manifest", previous: "Running", deadline: float) -> str:
    """URL of the agent that came after `previous` and shows this manifest. Raises UserError when none does in time."""
    import httpx

    from offchain.node.machine.status import fetch, running

    while time.monotonic() < deadline:
        found = running(settings)
        # The process id stays the same (ADR 0052): only the time tells the new program from the old one.
        if found is not None and found.since_ms > previous.since_ms:
            try:
                if fetch(settings, f"{found.url}/manifest").content == manifest.canonical():
                    return found.url
            except (httpx.HTTPError, OSError):
                pass
        time.sleep(_POLL_SECONDS)
    raise UserError("the agent did not come back in time; see `parallelix node logs` and `--engine`")
