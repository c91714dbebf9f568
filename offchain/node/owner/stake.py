"""What the owner does on chain: register, publish, unstake, withdraw, rotate the key, claim. Each is safe to run again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from offchain.chain.reader import EpochStatus, NodeState, NodeView, PinnedReads
from offchain.domain.amounts import prlx
from offchain.domain.payout import reward
from offchain.domain.tiers import MULTIPLIER_BPS, Tier
from offchain.domain.types import FULL_BPS, Bps, Epoch, NodeId, Wei
from offchain.domain.uptime_tree import UptimeTree
from offchain.errors import TransientError, UserError
from offchain.node.owner.node_key import address_of_key_hash
from offchain.node.owner.wallet import Owner

_LOCKER = "NodeRegistryLocker"
_PERMIT_SECONDS = 3600
_MAX_EPOCHS = 400
_DAY = 86_400


def state_name(node: NodeView) -> str:
    """A node's state as commands show it: `idle`, `active`, `cooling` or `retired`."""
    return node.state.name.lower()


def node_json(node: NodeView) -> dict[str, object]:
    """A node for `--json`: amounts as decimal text, times in Unix seconds."""
    return {
        "node_id": int(node.node_id),
        "owner": node.owner,
        "beneficiary": node.beneficiary,
        "node_key": node.key_address,
        "node_key_hash": "0x" + node.node_key_hash.hex(),
        "stake_wei": str(node.stake_wei),
        "tier": node.tier,
        "state": state_name(node),
        "active_from": node.active_from,
        "active_until": node.active_until,
        "unlock_at": node.unlock_at,
        "capability_hash": "0x" + node.capability_hash.hex(),
    }


def registered_node(reads: PinnedReads, node_id: NodeId) -> NodeView:
    """A node by id. Raises UserError when there is none."""
    node = reads.node(node_id)
    if node.state is NodeState.NONE:
        raise UserError(f"there is no node {node_id} on this network")
    return node


@dataclass(frozen=True, slots=True)
class Registration:
    """What `register` came to.

    Attributes:
        tx_hashes: of the transactions sent now; empty when everything had been done before.
    """

    node_id: NodeId
    tx_hashes: tuple[str, ...]


def register(
    owner: Owner,
    node_key_hash: bytes,
    stake_wei: Wei,
    tier: Tier,
    manifest_hash: bytes | None,
    manifest_uri: str,
    say: Callable[[str], None],
) -> Registration:
    """Register a node with stake by permit, then its manifest; what is done already is not done again.

    Args:
        node_key_hash: keccak256 of the node key's 64-byte public key.
        manifest_hash: None leaves the manifest as it is.
        say: told of each step that is done.

    Raises:
        UserError: the key belongs to another owner's node, the stake is below the minimum or the owner does not hold
            it, or the owner did not confirm.
    """
    sent: list[str] = []
    node_id = _own_node_of(owner, node_key_hash)
    if node_id is None:
        sent.append(_lock_stake(owner, node_key_hash, stake_wei, tier))
        node_id = owner.now().node_of_key(address_of_key_hash(node_key_hash))
        if node_id is None:
            raise TransientError(
                f"{sent[0]} is mined, but the RPC endpoint does not show its node yet; run it again"
            )
        say(f"node {node_id} is registered with {prlx(stake_wei)}")
    else:
        say(f"node {node_id} is registered already")
    if manifest_hash is not None:
        tx_hash = publish(owner, node_id, manifest_hash, manifest_uri)
        if tx_hash is not None:
            sent.append(tx_hash)
            say(f"the manifest of node {node_id} is on chain")
    return Registration(node_id, tuple(sent))


def _own_node_of(owner: Owner, node_key_hash: bytes) -> NodeId | None:
    """The owner's node that a key is bound to, or None. Raises UserError when the node is somebody else's."""
    reads, key = owner.now(), address_of_key_hash(node_key_hash)
    node_id = reads.node_of_key(key)
    if node_id is not None and (other := reads.node(node_id).owner) != owner.signer.address:
        raise UserError(
            f"node key {key} is already bound to node {node_id} of {other}; make another with `parallelix node keygen`"
        )
    return node_id


def _lock_stake(owner: Owner, node_key_hash: bytes, stake_wei: Wei, tier: Tier) -> str:
    """Register a node that is not there yet; the transaction's hash."""
    address, reads = owner.signer.address, owner.now()
    if address_of_key_hash(node_key_hash) == address:
        raise UserError("the node key is the owner's own key; make another with `parallelix node keygen`")
    least = reads.min_stake()
    if stake_wei < least:
        raise UserError(
            f"a stake of {prlx(stake_wei)} is below the minimum of {prlx(least)}; stake at least that"
        )
    balance = reads.token_balance(address)
    if balance < stake_wei:
        raise UserError(
            f"{address} holds {prlx(balance)} and the stake is {prlx(stake_wei)}; send it the difference first"
        )
    deadline = owner.time() + _PERMIT_SECONDS
    permit = owner.permit(owner.chain.deployment.contract(_LOCKER).address, stake_wei, deadline)
    effect = (
        f"Locks {prlx(stake_wei)} of {address} for a new tier {int(tier)} node "
        f"(weight x{MULTIPLIER_BPS[tier] / FULL_BPS:g}); the node counts from the next epoch, and the stake comes back "
        f"in full, {reads.cooldown() / _DAY:g} days after you unstake."
    )
    return owner.send(
        _LOCKER, "registerNodeWithPermit", (stake_wei, int(tier), node_key_hash, deadline, *permit), effect
    )


def publish(owner: Owner, node_id: NodeId, manifest_hash: bytes, manifest_uri: str) -> str | None:
    """Put a manifest's hash on chain; the transaction's hash, or None when the hash is there already."""
    if registered_node(owner.now(), node_id).capability_hash == manifest_hash:
        return None
    effect = (
        f"Publishes the capability manifest 0x{manifest_hash.hex()[:8]}... of node {node_id}; costs gas only."
    )
    return owner.send(_LOCKER, "setCapabilities", (node_id, manifest_hash, manifest_uri), effect)


def _owned(owner: Owner, node_id: NodeId) -> NodeView:
    """A node that this owner may manage. Raises UserError for somebody else's."""
    node = registered_node(owner.now(), node_id)
    if node.owner != owner.signer.address:
        raise UserError(
            f"node {node_id} belongs to {node.owner}, not to {owner.signer.address}; name its owner's keystore"
        )
    return node


def unstake(owner: Owner, node_id: NodeId) -> str:
    """Ask for the stake back; returns the transaction's hash."""
    node = _owned(owner, node_id)
    if node.state is NodeState.COOLING:
        raise UserError(
            f"node {node_id} is cooling down already; withdraw after Unix second {node.unlock_at}"
        )
    days = owner.now().cooldown() / _DAY
    effect = f"Node {node_id} stops earning after this epoch; {prlx(node.stake_wei)} can be withdrawn {days:g} days later."
    return owner.send(_LOCKER, "requestUnstake", (node_id,), effect)


def cancel_unstake(owner: Owner, node_id: NodeId) -> str:
    """Keep the stake locked after all; returns the transaction's hash."""
    node = _owned(owner, node_id)
    if node.state is not NodeState.COOLING:
        raise UserError(f"node {node_id} is {state_name(node)}, not cooling down; there is nothing to cancel")
    effect = f"Node {node_id} keeps its {prlx(node.stake_wei)} locked and earns again from the next epoch."
    return owner.send(_LOCKER, "cancelUnstake", (node_id,), effect)


def withdraw(owner: Owner, node_id: NodeId) -> str:
    """Take the stake back after the cooldown; returns the transaction's hash."""
    node = _owned(owner, node_id)
    if node.state is not NodeState.COOLING:
        raise UserError(
            f"node {node_id} is {state_name(node)}; ask for the stake with `parallelix node unstake` first"
        )
    now = owner.time()
    if now < node.unlock_at:
        raise UserError(
            f"the stake of node {node_id} unlocks in {(node.unlock_at - now) / 3600:.1f} hours; withdraw then"
        )
    effect = f"Returns {prlx(node.stake_wei)} to {node.owner}; node {node_id} is retired for good."
    return owner.send(_LOCKER, "withdrawStake", (node_id,), effect)


def rotate_key(owner: Owner, node_id: NodeId, key_hash: bytes) -> str | None:
    """Bind a node to another key; the transaction's hash, or None when the node is bound to that key already.

    Raises:
        UserError: the node is another owner's, the key is bound to another node or is the owner's own.
    """
    node = _owned(owner, node_id)
    if node.node_key_hash == key_hash:
        return None
    key = address_of_key_hash(key_hash)
    other = owner.now().node_of_key(key)
    if other is not None:
        raise UserError(
            f"key {key} is bound to node {other} already; make another with `parallelix node keygen`"
        )
    effect = f"Node {node_id} signs with key {key} from now on; the agent with key {node.key_address} drains and ends."
    return owner.send(_LOCKER, "setNodeKey", (node_id, key_hash), effect)


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
    amount_wei: Wei | None
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
    reads: PinnedReads, node_id: NodeId, epoch: Epoch, uptimes_of: Callable[[Epoch], dict[NodeId, Bps]]
) -> Earning:
    """What a node earned in an epoch; the keeper's table is believed only if it hashes to the root on chain.

    Args:
        uptimes_of: a keeper's uptime table of an epoch.

    Raises:
        UserError: the table is not the one that the quorum signed.
    """
    report = reads.report(epoch)
    if report.status in (EpochStatus.OPEN, EpochStatus.LAPSED):
        return Earning(epoch, report.status.name.lower(), None, None)
    # The report's tree has leaves for ids up to `node_count` only.
    if not 1 <= node_id <= report.node_count:
        return Earning(epoch, "lapsed", Bps(0), Wei(0))
    tree = UptimeTree(epoch, report.node_count, uptimes_of(epoch))
    if tree.root != report.uptime_root:  # the keeper may lie: only the root counts
        raise UserError(
            f"the uptime table of epoch {epoch} does not hash to the root on chain; ask another keeper with --keeper-url"
        )
    uptime = tree.uptime(node_id)
    if reads.claimed([(node_id, epoch)])[node_id, epoch]:
        status = "claimed"
    else:
        status = "claimable" if report.status is EpochStatus.FINAL else "pending"
    weight = reads.weights(epoch, [node_id])[node_id]
    amount = reward(reads.pool(epoch), weight, reads.total_weight(epoch), uptime)
    return Earning(epoch, status, uptime, amount, (tree.leaf(node_id), tuple(tree.proof(node_id))))


def earning_epochs(reads: PinnedReads, node_id: NodeId, limit: int = _MAX_EPOCHS) -> list[Epoch]:
    """Epochs that have ended since the node became active and can still be claimed, oldest first, the last `limit`."""
    node = registered_node(reads, node_id)
    # The registry says 2^32 - 1, the greatest epoch, while no exit was asked for.
    end = min(reads.current_epoch(), node.active_until or 2**32 - 1)
    epochs = [Epoch(epoch) for epoch in range(max(node.active_from, end - limit), end)]
    deadlines = reads.claim_deadlines(epochs)
    # The block's time, not this machine's: the contract compares with that.
    return [epoch for epoch in epochs if deadlines[epoch] > reads.block.timestamp]


def claim(owner: Owner, node_id: NodeId, earnings: Sequence[Earning]) -> dict[str, Any]:
    """Claim epochs in one transaction. Raises UserError when none of them can be claimed."""
    due = [found for found in earnings if found.status == "claimable" and found.amount_wei and found.proof]
    if not due:
        states = (
            ", ".join(f"{found.epoch} {found.status}" for found in earnings) or "no epoch has a report yet"
        )
        raise UserError(
            f"node {node_id} has nothing to claim now ({states}); try again when an epoch is final"
        )
    total = sum(found.amount_wei or 0 for found in due)
    claims = [(node_id, int(found.epoch), *(found.proof or ())) for found in due]
    to = owner.now().payout_address(node_id)
    function, args = ("claim", claims[0]) if len(claims) == 1 else ("claimMany", (claims,))
    epochs = [int(found.epoch) for found in due]
    effect = f"Pays {prlx(total)} for epoch {', '.join(map(str, epochs))} of node {node_id} to {to}."
    tx_hash = owner.send("RewardDistributor", function, args, effect)
    return {"node_id": int(node_id), "epochs": epochs, "amount_wei": str(total), "to": to, "tx_hash": tx_hash}
