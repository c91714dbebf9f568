"""Acting as the timelock: schedules and executes a call, as proposer and executor would."""

import itertools
from typing import Any

from tests.support.contracts.factory import World

_salts = itertools.count(1)


def through_timelock(world: World, contract: Any, function: str, *args: Any) -> Any:
    """Schedule and execute one call of the timelock's (delay 0 on the local network); the execution's receipt."""
    data = getattr(contract, function).encode_input(*args)
    salt = next(_salts).to_bytes(32, "big")
    timelock, sender = world.timelock, world.deployer
    timelock.schedule(contract.address, 0, data, bytes(32), salt, timelock.getMinDelay(), sender=sender)
    return timelock.execute(contract.address, 0, data, bytes(32), salt, sender=sender)
