"""From a key to a registered node to its earnings: what the owner does, each step safe to run again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from web3 import Web3

from offchain.domain.amounts import prlx
from offchain.domain.payout import reward
from offchain.domain.tiers import MULTIPLIER_BPS, Tier
from offchain.domain.types import FULL_BPS, Address, Bps, Epoch, NodeId, Wei, Weight
from offchain.domain.uptime_tree import UptimeTree
from offchain.errors import UserError
from offchain.node.owner.wallet import Chain, Owner

_PERMIT_SECONDS = 3600
_MAX_EPOCHS = 400
NODE_STATES = ("none", "idle", "active", "cooling", "retired")


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A node as the registry has it. Amounts in wei, times in Unix seconds, `capability_hash` 32 bytes."""

    node_id: NodeId
    owner: Address
    beneficiary: Address
    node_key_hash: bytes
    stake_wei: int
    tier: int
    state: str
    active_from: int
    active_until: int
    unlock_at: int
    capability_hash: bytes

    @property
    def key(self) -> Address:
        """The node key's address."""
        return Address(Web3.to_checksum_address(self.node_key_hash[12:]))

    def to_json(self) -> dict[str, object]:
        """For `--json`: amounts as decimal text."""
        return {
            "node_id": int(self.node_id),
            "owner": self.owner,
            "beneficiary": self.beneficiary,
            "node_key": self.key,
            "node_key_hash": "0x" + self.node_key_hash.hex(),
            "stake_wei": str(self.stake_wei),
            "tier": self.tier,
            "state": self.state,
            "active_from": self.active_from,
            "active_until": self.active_until,
            "unlock_at": self.unlock_at,
            "capability_hash": "0x" + self.capability_hash.hex(),
        }


def view(chain: Chain, node_id: int) -> RegisteredNode:
    """A node by id. Raises UserError when there is none."""
    raw = chain.call(chain.contract("NodeRegistryLocker").functions.nodes(node_id))
    fields = tuple(raw.values()) if isinstance(raw, dict) else tuple(raw)
    if int(fields[5]) == 0:
        raise UserError(f"there is no node {node_id} on this network")
    return RegisteredNode(
        NodeId(node_id),
        fields[0],
        fields[1],
        bytes(fields[2]),
        int(fields[3]),
        int(fields[4]),
        NODE_STATES[int(fields[5])],
        int(fields[6]),
        int(fields[7]),
        int(fields[8]),
        bytes(fields[9]),
    )


def node_of_key(chain: Chain, key: str) -> int:
    """Id of the node that a node key speaks for; 0 for none."""
    registry = chain.contract("NodeRegistryLocker")
    return int(chain.call(registry.functions.nodeOfKey(Web3.to_checksum_address(key))))


@dataclass(frozen=True, slots=True)
class Registration:
    """What `register` came to.

    Attributes:
        tx_hashes: sent now; empty when all had been done before.
    """

    node_id: NodeId
    tx_hashes: tuple[str, ...]


def register(
    owner: Owner,
    node_key_hash: bytes,
    stake_wei: int,
    tier: Tier,
    manifest_hash: bytes | None,
    manifest_uri: str,
    say: Callable[[str], None],
) -> Registration:
    """Register a node with stake by permit, then its manifest; what is done already is not done again.

    Args:
        node_key_hash: keccak256 of the node key's 64-byte public key.
        manifest_hash: None leaves the manifest as it is.

    Raises:
        UserError: the key belongs to another owner's node, the stake is below the floor or not there, or the owner
            did not confirm.
    """
    chain = owner.chain
    registry, token = chain.contract("NodeRegistryLocker"), chain.contract("ParallelixToken")
    address = Web3.to_checksum_address(owner.signer.address)
    key = Web3.to_checksum_address(node_key_hash[12:])
    sent: list[str] = []
    node_id = node_of_key(chain, key)
    if node_id:
        found = view(chain, node_id)
        if str(found.owner) != address:
            raise UserError(
                f"node key {key} is already bound to node {node_id} of {found.owner}; make another with `node keygen`"
            )
        say(f"node {node_id} is registered already")
    else:
        if key == address:
            raise UserError("the node key is the owner's own key; make another with `parallelix node keygen`")
        floor = int(chain.call(registry.functions.minStake()))
        if stake_wei < floor:
            raise UserError(
                f"a stake of {prlx(stake_wei)} is below the floor of {prlx(floor)}; stake at least that"
            )
        balance = int(chain.call(token.functions.balanceOf(address)))
        if balance < stake_wei:
            raise UserError(
                f"{address} holds {prlx(balance)} and the stake is {prlx(stake_wei)}; send it the difference first"
            )
        deadline = owner.chain_time() + _PERMIT_SECONDS
        permit = owner.permit(token, registry.address, stake_wei, deadline)
        cooldown_days = int(chain.call(registry.functions.cooldown())) / 86_400
        receipt = owner.send(
            registry.functions.registerNodeWithPermit(stake_wei, int(tier), node_key_hash, deadline, *permit),
            f"Locks {prlx(stake_wei)} of {address} for a new tier {int(tier)} node "
            f"(weight x{MULTIPLIER_BPS[tier] / FULL_BPS:g}); it counts from the next epoch and comes back in full, "
            f"{cooldown_days:g} days after you unstake.",
        )
        sent.append("0x" + bytes(receipt["transactionHash"]).hex())
        node_id = node_of_key(chain, key)
        say(f"node {node_id} is registered with {prlx(stake_wei)}")
    if manifest_hash is not None:
        tx_hash = publish(owner, node_id, manifest_hash, manifest_uri)
        if tx_hash is not None:
            sent.append(tx_hash)
            say(f"the manifest of node {node_id} is on chain")
    return Registration(NodeId(node_id), tuple(sent))


def publish(owner: Owner, node_id: int, manifest_hash: bytes, manifest_uri: str) -> str | None:
    """Put a manifest's hash on chain; the transaction's hash, or None when it is there already."""
    if view(owner.chain, node_id).capability_hash == manifest_hash:
        return None
    receipt = owner.send(
        owner.chain.contract("NodeRegistryLocker").functions.setCapabilities(
            node_id, manifest_hash, manifest_uri
        ),
        f"Publishes the capability manifest 0x{manifest_hash.hex()[:8]}... of node {node_id}; costs gas only.",
    )
    return "0x" + bytes(receipt["transactionHash"]).hex()


def owned(owner: Owner, node_id: int) -> RegisteredNode:
    """A node that this owner may manage. Raises UserError for somebody else's."""
    found = view(owner.chain, node_id)
    if str(found.owner) != Web3.to_checksum_address(owner.signer.address):
        raise UserError(
            f"node {node_id} belongs to {found.owner}, not to {owner.signer.address}; name its owner's keystore"
        )
    return found


def unstake(owner: Owner, node_id: int) -> str:
    """Ask for the stake back; returns the transaction's hash."""
    found = owned(owner, node_id)
    if found.state == "cooling":
        raise UserError(
            f"node {node_id} is cooling down already; withdraw after Unix second {found.unlock_at}"
        )
    registry = owner.chain.contract("NodeRegistryLocker")
    days = int(owner.chain.call(registry.functions.cooldown())) / 86_400
    receipt = owner.send(
        registry.functions.requestUnstake(node_id),
        f"Node {node_id} stops earning after this epoch; {prlx(found.stake_wei)} can be withdrawn {days:g} days later.",
    )
    return "0x" + bytes(receipt["transactionHash"]).hex()


def cancel_unstake(owner: Owner, node_id: int) -> str:
    """Keep the stake after all; returns the transaction's hash."""
    found = owned(owner, node_id)
    if found.state != "cooling":
        raise UserError(f"node {node_id} is {found.state}, not cooling down; there is nothing to cancel")
    receipt = owner.send(
        owner.chain.contract("NodeRegistryLocker").functions.cancelUnstake(node_id),
        f"Node {node_id} keeps its {prlx(found.stake_wei)} locked and earns again from the next epoch.",
    )
    return "0x" + bytes(receipt["transactionHash"]).hex()


def withdraw(owner: Owner, node_id: int) -> str:
    """Take the stake back after the cooldown; returns the transaction's hash."""
    found = owned(owner, node_id)
    if found.state != "cooling":
        raise UserError(
            f"node {node_id} is {found.state}; ask for the stake with `parallelix node unstake` first"
        )
    now = owner.chain_time()
    if now < found.unlock_at:
        raise UserError(
            f"the stake of node {node_id} unlocks in {(found.unlock_at - now) / 3600:.1f} hours; withdraw then"
        )
    receipt = owner.send(
        owner.chain.contract("NodeRegistryLocker").functions.withdrawStake(node_id),
        f"Returns {prlx(found.stake_wei)} to {found.owner}; node {node_id} is retired for good.",
    )
    return "0x" + bytes(receipt["transactionHash"]).hex()


def rotate_key(owner: Owner, node_id: int, key_hash: bytes) -> str | None:
    """Bind a node to another key; the transaction's hash, or None when it is bound to it already.

    Raises:
        UserError: the node is another's, the key speaks for another node or is the owner's own.
    """
    found = owned(owner, node_id)
    if found.node_key_hash == key_hash:
        return None
    key = Web3.to_checksum_address(key_hash[12:])
    other = node_of_key(owner.chain, key)
    if other:
        raise UserError(
            f"key {key} is bound to node {other} already; make another with `parallelix node keygen`"
        )
    receipt = owner.send(
        owner.chain.contract("NodeRegistryLocker").functions.setNodeKey(node_id, key_hash),
        f"Node {node_id} speaks with key {key} from now on; the agent with key {found.key} drains and ends.",
    )
    return "0x" + bytes(receipt["transactionHash"]).hex()


@dataclass(frozen=True, slots=True)
class Earning:
    """One epoch of one node, provable against the root on chain.

    Attributes:
        status: `open`, `pending`, `claimable`, `claimed`, `lapsed`.
        amount_wei: what the contract pays or paid; None until a report stands.
        proof: packed leaf and its 13 siblings, when there is a report.
    """

    epoch: Epoch
    status: str
    uptime_bps: Bps | None
    amount_wei: int | None
    proof: tuple[bytes, tuple[bytes, ...]] | None = None

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "epoch": int(self.epoch),
            "status": self.status,
            "uptime_bps": self.uptime_bps,
            "amount_wei": None if self.amount_wei is None else str(self.amount_wei),
        }


def earning(
    chain: Chain, node_id: int, epoch: int, uptimes_of: Callable[[int], dict[NodeId, Bps]]
) -> Earning:
    """What a node earned in an epoch; the keeper's table is believed only if it hashes to the root on chain.

    Raises:
        UserError: the table is not the one that the quorum signed.
    """
    attestation, distributor = chain.contract("UptimeAttestation"), chain.contract("RewardDistributor")
    status = int(chain.call(attestation.functions.status(epoch)))
    if status in (0, 3):
        return Earning(Epoch(epoch), "open" if status == 0 else "lapsed", None, None)
    raw = chain.call(attestation.functions.reports(epoch))
    report = tuple(raw.values()) if isinstance(raw, dict) else tuple(raw)
    root, node_count = bytes(report[0]), int(report[1])
    if not 1 <= node_id <= node_count:
        return Earning(Epoch(epoch), "lapsed", Bps(0), 0)
    tree = UptimeTree(Epoch(epoch), node_count, uptimes_of(epoch))
    if tree.root != root:
        raise UserError(
            f"the uptime table of epoch {epoch} does not hash to the root on chain; ask another keeper with --keeper-url"
        )
    leaf, siblings = tree.leaf(NodeId(node_id)), tuple(tree.proof(NodeId(node_id)))
    uptime = tree.uptime(NodeId(node_id))
    if chain.call(distributor.functions.claimed(node_id, epoch)):
        state = "claimed"
    else:
        state = "claimable" if chain.call(attestation.functions.isFinal(epoch)) else "pending"
    registry = chain.contract("NodeRegistryLocker")
    pool = int(chain.call(distributor.functions.poolOf(epoch)))
    weight = int(chain.call(registry.functions.weightAt(node_id, epoch)))
    total = int(chain.call(registry.functions.totalWeightAt(epoch)))
    amount = reward(Wei(pool), Weight(weight), Weight(total), Bps(uptime))
    return Earning(Epoch(epoch), state, uptime, amount, (leaf, siblings))


def epochs_of(chain: Chain, node_id: int, most: int = _MAX_EPOCHS) -> list[Epoch]:
    """The last `most` epochs that have ended since the node became active and can still be claimed, oldest first."""
    registry, distributor = chain.contract("NodeRegistryLocker"), chain.contract("RewardDistributor")
    found = view(chain, node_id)
    now = int(chain.web3.eth.get_block("latest")["timestamp"])
    last = min(int(chain.call(registry.functions.currentEpoch())), found.active_until or 2**32 - 1)
    return [
        Epoch(epoch)
        for epoch in range(max(found.active_from, last - most), last)
        if int(chain.call(distributor.functions.claimDeadline(epoch))) > now
    ]


def claim(owner: Owner, node_id: int, earnings: Sequence[Earning]) -> dict[str, Any]:
    """Claim epochs in one transaction. Raises UserError when none of them can be claimed."""
    chain = owner.chain
    due = [found for found in earnings if found.status == "claimable" and found.amount_wei and found.proof]
    if not due:
        states = (
            ", ".join(f"{found.epoch} {found.status}" for found in earnings) or "no epoch has a report yet"
        )
        raise UserError(
            f"node {node_id} has nothing to claim now ({states}); try again when an epoch is final"
        )
    total = sum(found.amount_wei or 0 for found in due)
    distributor = chain.contract("RewardDistributor")
    claims = [(node_id, int(found.epoch), *(found.proof or ())) for found in due]
    to = chain.call(chain.contract("NodeRegistryLocker").functions.payoutAddress(node_id))
    epochs = ", ".join(str(found.epoch) for found in due)
    receipt = owner.send(
        distributor.functions.claim(*claims[0])
        if len(claims) == 1
        else distributor.functions.claimMany(claims),
        f"Pays {prlx(total)} for epoch {epochs} of node {node_id} to {to}.",
    )
    return {
        "node_id": node_id,
        "epochs": [int(found.epoch) for found in due],
        "amount_wei": str(total),
        "to": to,
        "tx_hash": "0x" + bytes(receipt["transactionHash"]).hex(),
    }
