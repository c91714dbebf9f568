"""The rows that a snapshot's queries return. Amounts in wei, times in Unix seconds unless a name says otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from offchain.domain.tiers import Tier, weight
from offchain.domain.types import BlockRef, Wei


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block that the index has read, and the newest that can no longer be reorganised away."""

    block: int
    block_hash: str
    timestamp: int
    final_block: int
    final_timestamp: int

    @property
    def ref(self) -> BlockRef:
        """The block as reads of the chain name it."""
        return BlockRef(self.block, self.block_hash, self.timestamp)


class _Activity:
    """Rows that count in the epochs from `active_from` to the one before `active_until` (None: for good)."""

    __slots__ = ()
    active_from: int
    active_until: int | None

    def counts_in(self, epoch: int) -> bool:
        """Whether the row's own interval of activity covers `epoch`."""
        return self.active_from <= epoch and (self.active_until is None or epoch < self.active_until)


class _Weighed:
    """Rows with a stake in a tier."""

    __slots__ = ()
    stake_wei: int
    tier: int

    @property
    def weight(self) -> int:
        """Stake x tier multiplier, in wei-basis-points."""
        return weight(Wei(self.stake_wei), Tier(self.tier))


class _Registered(_Activity, _Weighed):
    """Rows of registered nodes."""

    __slots__ = ()
    withdrawn: bool

    def state_at(self, epoch: int) -> str:
        """`idle` (does not count yet), `active`, `cooling` (unstake asked for) or `retired` (withdrawn)."""
        if self.withdrawn:
            return "retired"
        if self.active_until is not None:
            return "cooling"
        return "idle" if epoch < self.active_from else "active"


@dataclass(frozen=True, slots=True)
class NodeRow(_Registered):
    """A node as registered, with the earlier activity intervals that a cancelled unstake left behind."""

    node_id: int
    owner: str
    beneficiary: str
    key_address: str
    tier: int
    stake_wei: int
    active_from: int
    active_until: int | None
    unlock_at: int | None
    withdrawn: bool
    manifest_hash: str | None
    manifest_uri: str | None
    registered_block: int
    earlier: tuple[tuple[int, int], ...] = ()

    def weight_at(self, epoch: int) -> int:
        """Weight that counts in `epoch`; 0 outside the node's activity."""
        counts = self.counts_in(epoch) or any(a <= epoch < b for a, b in self.earlier)
        return self.weight if counts else 0


@dataclass(frozen=True, slots=True)
class FleetGroup(_Registered):
    """Number of nodes with the same tier, stake and activity."""

    tier: int
    stake_wei: int
    active_from: int
    active_until: int | None
    withdrawn: bool
    count: int


@dataclass(frozen=True, slots=True)
class PaidGroup(_Weighed):
    """Number of attested nodes of an epoch with the same stake, tier and uptime."""

    epoch: int
    stake_wei: int
    tier: int
    uptime_bps: int
    count: int


@dataclass(frozen=True, slots=True)
class KeeperRow(_Activity):
    """A bonded keeper."""

    keeper_id: int
    operator: str
    signer: str
    bond_wei: int
    region: str
    url: str
    active_from: int
    active_until: int | None


@dataclass(frozen=True, slots=True)
class ReportRow:
    """An accepted report of an epoch."""

    epoch: int
    uptime_root: str
    node_count: int
    execution_root: str
    bundle_hash: str
    signer_bitmap: int
    submitted_at: int
    final_at: int
    tx_hash: str

    @property
    def signers(self) -> int:
        """How many keepers signed."""
        return self.signer_bitmap.bit_count()


class ClaimRow(NamedTuple):
    """A reward that was paid. A tuple, because a year of an operator is thousands of them."""

    node_id: int
    epoch: int
    to_address: str
    amount_wei: int
    uptime_bps: int
    paid_at: int
    tx_hash: str


@dataclass(frozen=True, slots=True)
class OverrideRow(_Weighed):
    """An uptime that an appeal put in the place of the attested one, in basis points, with the node's stake and tier."""

    epoch: int
    node_id: int
    attested_bps: int
    recounted_bps: int
    at: int
    tx_hash: str
    stake_wei: int
    tier: int

    def stands(self, report: "ReportRow") -> bool:
        """Whether the appeal was against this report; a rejected report takes its overrides with it."""
        return self.at >= report.submitted_at


@dataclass(frozen=True, slots=True)
class SlotRow:
    """Slot states of a node in an attested epoch, one letter a slot: u up, m missed, n unconfirmed, a abstained."""

    epoch: int
    node_id: int
    states: str
    uptime_bps: int


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """A finished probe of this index's own keeper."""

    epoch: int
    slot: int
    node_id: int
    due_at_ms: int
    answered: bool
    latency_ms: int | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """One decoded event of our contracts."""

    block: int
    log_index: int
    timestamp: int
    tx_hash: str
    contract: str
    name: str
    args: Mapping[str, Any]
    node_id: int | None
    epoch: int | None

    @property
    def place(self) -> str:
        """Block and log index, e.g. `90040.3`; a stream resumes after a place."""
        return f"{self.block}.{self.log_index}"
