"""Hands the admin role of a network from its timelock to another, in two steps: `ape run rotate_admin ... propose|execute|accept`.

1. `propose`: the old timelock schedules that the new admin gets the role, next to itself. Everybody can see it for the delay.
2. `execute`: after the delay, the old timelock grants it. Now both hold it, and nothing is lost if the new one is wrong.
3. `accept`: the new timelock proves that it works by scheduling, and after its own delay executing, that the old one loses
   the role. Only this ends the old admin's power.
"""

import json
from pathlib import Path
from typing import Any

import click
from ape import project

from offchain.errors import UserError
from scripts import _compile
from scripts._cli import NetworkCommand, sender_options
from scripts.deploy import connected_chain_id, open_account

ADMIN_ROLE = 0
PARAMETERS_ROLE = 3
NO_PREDECESSOR = bytes(32)


def batch(
    manager: Any, grant_to: Any = None, revoke_from: Any = None
) -> tuple[list[str], list[int], list[bytes]]:
    """Targets, values and calls that grant or revoke what a network's admin holds: the admin and the parameters role."""
    calls: list[bytes] = []
    for role in (ADMIN_ROLE, PARAMETERS_ROLE):
        if grant_to is not None:
            calls.append(manager.grantRole.encode_input(role, grant_to, 0))
        if revoke_from is not None:
            calls.append(manager.revokeRole.encode_input(role, revoke_from))
    return [str(manager.address)] * len(calls), [0] * len(calls), calls


def propose(manager: Any, old: Any, new: Any, sender: Any) -> Any:
    """Schedule on the old timelock that the new one gets the roles."""
    return old.scheduleBatch(
        *batch(manager, grant_to=new.address), NO_PREDECESSOR, _salt(new), old.getMinDelay(), sender=sender
    )


def execute(manager: Any, old: Any, new: Any, sender: Any) -> Any:
    """After the delay: the new timelock holds the roles beside the old one."""
    return old.executeBatch(*batch(manager, grant_to=new.address), NO_PREDECESSOR, _salt(new), sender=sender)


def propose_end(manager: Any, old: Any, new: Any, sender: Any) -> Any:
    """Schedule on the new timelock that the old one loses the roles."""
    return new.scheduleBatch(
        *batch(manager, revoke_from=old.address), NO_PREDECESSOR, _salt(old), new.getMinDelay(), sender=sender
    )


def accept(manager: Any, old: Any, new: Any, sender: Any) -> Any:
    """After the new timelock's delay: the old one holds nothing any more."""
    return new.executeBatch(
        *batch(manager, revoke_from=old.address), NO_PREDECESSOR, _salt(old), sender=sender
    )


def _salt(timelock: Any) -> bytes:
    return bytes(12) + bytes.fromhex(str(timelock.address)[2:])


def _contracts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no deployment manifest {path}; name it with --deployment")
    contracts: dict[str, Any] = json.loads(path.read_text())["contracts"]
    return contracts


STEPS = {"propose": propose, "execute": execute, "propose-end": propose_end, "accept": accept}


@click.command(cls=NetworkCommand)
@click.argument("step", type=click.Choice(list(STEPS)))
@click.option("--new-timelock", required=True, help="Address of the timelock that takes over.")
@click.option(
    "--deployment", type=click.Path(path_type=Path, dir_okay=False), help="Manifest of the network."
)
@sender_options("Proposer")
def cli(
    step: str,
    new_timelock: str,
    deployment: Path | None,
    keystore: Path | None,
    password_file: Path | None,
    alias: str | None,
) -> None:
    """Take one step of handing the admin role to another timelock."""
    _compile.ensure_compiled()
    contracts = _contracts(deployment or Path("deployments") / f"{connected_chain_id()}.json")
    account = open_account(keystore, password_file, alias)
    manager = project.NetworkAccessManager.at(contracts["NetworkAccessManager"]["address"])
    old = project.NetworkTimelock.at(contracts["NetworkTimelock"]["address"])
    receipt = STEPS[step](manager, old, project.NetworkTimelock.at(new_timelock), account)
    click.echo(f"{step}: done in {receipt.txn_hash}")
