"""Named places between two persisted steps at which a test has the process killed, as by power loss.

`PARALLELIX_CRASH_POINTS` names a folder. Whoever reaches point `x` while the folder holds a file `x` removes it and is
killed: each file kills once, at whatever repetition and by whichever process gets there first.

In production nothing is set, and reaching a point does nothing. Set by mistake it does nothing either, but stop the
process before it starts: the switch works only on the chain ids of local test chains.
"""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from offchain.errors import UserError

VARIABLE = "PARALLELIX_CRASH_POINTS"
LOCAL_CHAINS = (1337, 31337)
SENDER_POINTS = (
    "lease-taken", "settled", "simulated", "stored", "broadcast", "marked", "mined", "finalized",
    "replacement-stored", "replacement-broadcast", "lease-kept",
)  # fmt: skip
"""Of the outbox's sender, in the order in which a run passes them."""
REQUEST_POINTS = (
    "range-read", "range-written", "final-moved", "job-enqueued", "job-announced", "job-leased", "job-answered",
    "job-finished",
)  # fmt: skip
"""From a block with a request to the intent that pays it."""
EPOCH_POINTS = (
    "epoch-planned", "probe-leased", "probe-answered", "probe-recorded", "report-signed", "report-endorsed",
    "signatures-kept", "report-enqueued", "slots-saved", "rollover-enqueued", "epoch-closed",
)  # fmt: skip
"""Of an epoch, from its planning to its account; `report-endorsed` is a follower's, `rollover-enqueued` a lapsed epoch's."""
VALIDATION_POINTS = ("validation-drawn", "validation-leased", "validation-compared")
"""From a paid answer to the finding about it."""

CrashPoint = Callable[[str], None]


def nowhere(point: str) -> None:
    """Go on."""


def from_environment(environment: Mapping[str, str], chain_id: int) -> CrashPoint:
    """What the services call at each point: `nowhere`, unless `PARALLELIX_CRASH_POINTS` names a folder.

    Raises:
        UserError: it does, and the chain is not a local test chain.
    """
    folder = environment.get(VARIABLE)
    if not folder:
        return nowhere
    if chain_id not in LOCAL_CHAINS:
        raise UserError(f"{VARIABLE} is for tests on a local chain, and this is chain {chain_id}; unset it")

    def reach(point: str) -> None:
        try:
            # Atomic: of several processes one removes it, and only that one is killed.
            (Path(folder) / point).unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return reach
