"""What the chain says of an epoch, for verifying evidence. Every keeper and auditor must arrive at the same context."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from offchain.domain.eip712 import SigningDomain, address_bytes
from offchain.domain.epochs import EpochClock
from offchain.domain.tiers import Tier, weight
from offchain.domain.types import Address, Epoch, KeeperId, NodeId, Wei, Weight

LATE_EPOCHS = 3
"""A gateway's batch may stand in the report of its epoch or of one of this many later epochs."""
SEED_LEAD_DIVISOR, SEED_LEAD_MAX_SECONDS = 10, 3_600


def seed_time(clock: EpochClock, epoch: Epoch) -> int:
    """Unix second of an epoch's seed block: the last block at or before it gives the schedule its randomness.

    ::

        ... block  block |<- lead ->| epoch e
                     ^ seed          start(e)

    The lead is a tenth of an epoch, an hour at most, so that the block is final when the epoch begins.
    """
    return clock.start(epoch) - max(1, min(SEED_LEAD_MAX_SECONDS, clock.length_seconds // SEED_LEAD_DIVISOR))


@dataclass(frozen=True, slots=True)
class SeedBlock:
    """The block whose hash every keeper signs for its schedule."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class KeeperInfo:
    """A keeper of the epoch's signer set, in the frozen order of the contract.

    Attributes:
        index: position in the set and in the signature bitmap.
        signer: key that signs evidence and reports.
        operator: account that bonded; its keeper gives no evidence about its own nodes.
        region: free label in the registry.
        url: base URL of its API, may be empty.
    """

    index: int
    keeper_id: KeeperId
    signer: Address
    operator: Address
    region: str
    url: str


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node that has weight in the epoch.

    Attributes:
        owner: account that staked.
        tier: declared hardware tier.
        stake_wei: locked principal.
        keys: 20-byte addresses of all keys that the node had at some time in the epoch.
    """

    node_id: NodeId
    owner: Address
    tier: int
    keys: frozenset[bytes]
    stake_wei: Wei

    @property
    def weight(self) -> Weight:
        """Weight in the epoch, as the registry checkpoints it."""
        return weight(self.stake_wei, Tier(self.tier))


@dataclass(frozen=True)
class EpochContext:
    """The chain's facts about one epoch, from finalized blocks only.

    Attributes:
        clock, epoch: the time that evidence is about.
        node_count: highest node id registered before the epoch's end.
        nodes: nodes with weight in the epoch, by id.
        keepers: the signer set, in order.
        quorum: signatures that a report needs.
        set_digest: the contract's digest of the signer set, 32 bytes.
        seed_block: see `seed_time`.
        attestation, market: EIP-712 domains of the two contracts whose types evidence uses.
        gateways: 20-byte addresses of all ticket signers that a bonded keeper listed at some time in the epoch or in
            the `LATE_EPOCHS` epochs before.
    """

    clock: EpochClock
    epoch: Epoch
    node_count: int
    nodes: Mapping[NodeId, NodeInfo]
    keepers: tuple[KeeperInfo, ...]
    quorum: int
    set_digest: bytes
    seed_block: SeedBlock
    attestation: SigningDomain
    market: SigningDomain
    gateways: frozenset[bytes] = frozenset()

    @cached_property
    def by_signer(self) -> Mapping[bytes, KeeperInfo]:
        """Keepers of the set by the 20 bytes of their signer."""
        return {address_bytes(keeper.signer): keeper for keeper in self.keepers}

    def keeper(self, signer: str) -> KeeperInfo | None:
        """The keeper with this signer, if it is in the set."""
        return self.by_signer.get(address_bytes(signer))

    def evidence_counts(self, keeper: KeeperInfo, node: NodeInfo) -> bool:
        """Whether evidence of `keeper` about `node` counts: not if both belong to one operator."""
        return keeper.operator != node.owner
