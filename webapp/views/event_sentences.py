"""The contracts' events in words, for the activity feed and for transactions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offchain.domain.amounts import prlx

_SENTENCES = {
    "NodeRegistered": "Node {nodeId} is registered in tier {tier} with {stake:prlx}; it counts from epoch {activeFrom} on.",
    "UnstakeRequested": "Node {nodeId} asked for its stake; it counts until epoch {activeUntil} begins.",
    "UnstakeCancelled": "Node {nodeId} stays; it counts from epoch {activeFrom} on.",
    "StakeWithdrawn": "Node {nodeId} is retired; {stake:prlx} went back to its owner.",
    "RewardClaimed": "Node {nodeId} was paid {amount:prlx} for epoch {epoch}.",
    "BeneficiarySet": "Node {nodeId} is paid to {beneficiary} from now on.",
    "CapabilitiesSet": "Node {nodeId} declared its capabilities.",
    "NodeKeyRotated": "Node {nodeId} has another node key.",
    "UptimeOverridden": "Node {nodeId} is paid by {recounted:percent} uptime for epoch {epoch}, not by {attested:percent}.",
    "Deposited": "{amount:prlx} of credits for {payer}.",
    "WithdrawalRequested": "{amount:prlx} of credits thaw and can be withdrawn afterwards.",
    "WithdrawalCancelled": "The credits stay; nothing thaws any more.",
    "Withdrawn": "{amount:prlx} of credits went back to {payer}.",
    "ReportSubmitted": "The report of epoch {epoch} was accepted.",
    "Approval": "The locker may take {value:prlx} of the owner's tokens.",
    "Transfer": "{value:prlx} moved.",
    "Funded": "{amount:prlx} of fees went into the pool of epoch {epoch}.",
    "PoolRolledOver": "{amount:prlx} of epoch {fromEpoch} were carried to epoch {toEpoch}.",
    "EpochSwept": "{amount:prlx} of epoch {epoch} went back to the reserve.",
    "InferenceRequested": "A request came in with up to {priceCeiling:prlx} in escrow.",
    "InferenceFulfilled": "Node {nodeId} answered a request for {priceWei:prlx}.",
    "InferenceRefunded": "A request went unanswered; {amount:prlx} went back.",
    "KeeperJoined": "Keeper {keeperId} joined with a bond of {bond:prlx}.",
    "KeeperLeaving": "Keeper {keeperId} leaves.",
    "TotalWeightChanged": "The total weight changed from epoch {epoch} on.",
}
"""By event. `{stake:prlx}` shows wei as PRLX with all digits, `{attested:percent}` basis points as per cent."""


def sentence(name: str, args: Mapping[str, Any]) -> str:
    """One event in words; an event without a sentence is shown by its name.

    Example: `sentence("KeeperLeaving", {"keeperId": 3})` gives `Keeper 3 leaves.`
    """
    if name not in _SENTENCES:
        return name
    return _SENTENCES[name].format_map({key: _Argument(value) for key, value in args.items()})


@dataclass(frozen=True, slots=True)
class _Argument:
    value: Any

    def __format__(self, form: str) -> str:
        match form:
            case "prlx":
                return prlx(int(self.value))
            case "percent":
                return f"{int(self.value) / 100:g} %"
        return str(self.value)
