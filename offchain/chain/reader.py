"""Typed reads of the contracts, pinned to one block.

Every call of a decision is made at the same block hash: `reads = chain.at(chain.finalized_block())`. If that block is
reorganised away, the call fails instead of answering from another history.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

from offchain.chain.abi import ContractAbi, MalformedDataError
from offchain.chain.blocks import Blocks
from offchain.chain.deployment import Deployment
from offchain.chain.revert_words import RevertDecoder
from offchain.chain.rpc import Rpc, RpcError
from offchain.domain.eip712 import keccak256
from offchain.domain.types import Address, BlockRef, Epoch, KeeperId, NodeId, Wei, Weight
from offchain.errors import FatalError, SkipError, TransientError


class EpochStatus(IntEnum):
    """State of an epoch's report, as UptimeAttestation numbers it."""

    OPEN = 0
    PENDING = 1
    FINAL = 2
    LAPSED = 3


class NodeState(IntEnum):
    """State of a node, as NodeRegistryLocker numbers it."""

    NONE = 0
    IDLE = 1
    ACTIVE = 2
    COOLING = 3
    RETIRED = 4


class RequestStatus(IntEnum):
    """State of an on-chain request, as InferenceMarket numbers it."""

    NONE = 0
    OPEN = 1
    FULFILLED = 2
    REFUNDED = 3


@dataclass(frozen=True, slots=True)
class Read:
    """One contract call to be made in a batch."""

    contract: str
    function: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class KeeperSet:
    """The frozen signers of an epoch; a signer's index is its position in a report's bitmap."""

    epoch: Epoch
    signers: tuple[Address, ...]
    quorum: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class OnChainReport:
    """An accepted report, as far as the contract keeps it; the rest is in its event.

    Attributes:
        uptime_root: 32 bytes.
        digest: the first 14 bytes of the report's EIP-712 digest, which bind all that the event says.
        final_at: Unix seconds, 0 when there is no report.
    """

    epoch: Epoch
    status: EpochStatus
    uptime_root: bytes
    node_count: int
    digest: bytes
    final_at: int
    signer_bitmap: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the registry shows it. Addresses are EIP-55; `unlock_at` Unix seconds.

    Attributes:
        node_key_hash: keccak256 of the node key's 64-byte public key; its last 20 bytes are `key_address`.
    """

    node_id: NodeId
    owner: Address
    beneficiary: Address
    key_address: Address
    stake_wei: Wei
    tier: int
    state: NodeState
    active_from: int
    active_until: int
    unlock_at: int
    capability_hash: bytes
    node_key_hash: bytes


@dataclass(frozen=True, slots=True)
class RequestView:
    """An on-chain request as the market shows it."""

    requester: Address
    escrow_wei: Wei
    deadline: int
    status: RequestStatus
    request_hash: bytes
    callback: Address


class ChainReader:
    """The chain of one deployment. Thread-safe; make one for each process."""

    def __init__(self, rpc: Rpc, deployment: Deployment, *, confirmations: int = 0) -> None:
        """Read `deployment` through `rpc`; `confirmations` as in `Blocks`."""
        self.rpc = rpc
        self.deployment = deployment
        self.blocks = Blocks(rpc, confirmations)
        self._abis = {name: ContractAbi(ref.abi) for name, ref in deployment.contracts.items()}

    def abi(self, contract: str) -> ContractAbi:
        """The ABI of a contract by name. Raises UserError when the deployment has none such."""
        self.deployment.contract(contract)
        return self._abis[contract]

    @cached_property
    def errors(self) -> RevertDecoder:
        """Decoder of every revert of the deployment's contracts."""
        return RevertDecoder(self._abis.values())

    def head_block(self) -> BlockRef:
        """The newest block, which may still be reorganised away."""
        return self.blocks.head()

    def finalized_block(self) -> BlockRef:
        """The newest block that decisions about money may be read from."""
        return self.blocks.finalized()

    def at(self, block: BlockRef) -> "PinnedReads":
        """Reads at one block."""
        return PinnedReads(self, block)

    def newest(self) -> "NewestReads":
        """Reads that are not pinned: each call is answered at the newest block of the endpoint that answers."""
        return NewestReads(self)

    def check(self) -> None:
        """Make sure that the endpoint serves this very deployment.

        Raises:
            FatalError: another chain id, or a contract whose code is missing or not the recorded one.
            TransientError: no endpoint answered.
        """
        path = self.deployment.path
        refs = list(self.deployment.contracts.values())
        calls: list[tuple[str, Sequence[Any]]] = [("eth_chainId", [])]
        # Code says more than an address: a chain started anew has the addresses.
        calls += [("eth_getCode", [ref.address, "latest"]) for ref in refs]
        # All endpoints, not two: after a failure any of them may be the one that answers.
        for name, answers in self.rpc.batch_each(calls, at_most=len(self.rpc.endpoints)).items():
            chain_id, *codes = (_text(answer) for answer in answers)
            if int(chain_id, 16) != self.deployment.chain_id:
                raise FatalError(
                    f"RPC endpoint {name} serves chain {int(chain_id, 16)}, but {path} is of chain "
                    f"{self.deployment.chain_id}; point rpc_url at the right chain or name its deployment file"
                )
            for ref, code in zip(refs, codes, strict=True):
                if code in ("", "0x"):
                    raise FatalError(
                        f"there is no code at {ref.name} {ref.address}; {path} is not of this chain's state"
                    )
                if "0x" + keccak256(bytes.fromhex(code[2:])).hex() != ref.code_hash:
                    raise FatalError(
                        f"the code at {ref.name} {ref.address} is not the one that {path} records"
                    )


class PinnedReads:
    """All reads of one decision, at one block."""

    def __init__(self, chain: ChainReader, block: BlockRef) -> None:
        self._chain = chain
        self.block = block

    def many(self, reads: Iterable[Read]) -> list[Any]:
        """Results of several calls, in order.

        Raises:
            SkipError: a call reverted; the reason is decoded.
            BlockUnknownError: the block is gone or not there yet.
            TransientError: no endpoint answered properly.
        """
        listed = list(reads)
        where = self._where()
        calls: list[tuple[str, Sequence[Any]]] = []
        for read in listed:
            data = self._chain.abi(read.contract).encode(read.function, read.args)
            to = self._chain.deployment.contract(read.contract).address
            calls.append(("eth_call", [{"to": to, "data": "0x" + data.hex()}, where]))
        answers = self._chain.rpc.batch(calls)
        return [self._decode(read, answer) for read, answer in zip(listed, answers, strict=True)]

    def one(self, contract: str, function: str, *args: Any) -> Any:
        """Result of one call; errors as in `many`."""
        return self.many([Read(contract, function, args)])[0]

    def _where(self) -> object:
        """The block parameter of `eth_call` (EIP-1898)."""
        # EIP-1898; without requireCanonical a block that was reorganised away would answer, too.
        return {"blockHash": self.block.hash, "requireCanonical": True}

    # --------------------------------------------------------------------------------------------------- keepers

    def keeper_set(self, epoch: Epoch) -> KeeperSet:
        """Signers, quorum and digest of an epoch's frozen keeper set."""
        signers, quorum, digest = self.many(
            Read("KeeperRegistry", name, (epoch,)) for name in ("signersAt", "quorumAt", "setDigestAt")
        )
        return KeeperSet(epoch, tuple(Address(signer) for signer in signers), quorum, digest)

    def gateway_keeper(self, signer: str) -> KeeperId | None:
        """The keeper that lists a ticket signer, or None."""
        # Ids begin at 1; the contract says 0 for none.
        return KeeperId(self.one("KeeperRegistry", "gatewayKeeper", signer)) or None

    def is_gateway(self, signer: str) -> bool:
        """Whether a bonded keeper lists a ticket signer."""
        return bool(self.one("KeeperRegistry", "isGateway", signer))

    # ----------------------------------------------------------------------------------------------------- nodes

    def node_count(self) -> int:
        """Highest node id ever given."""
        return int(self.one("NodeRegistryLocker", "nodeCount"))

    def node(self, node_id: NodeId) -> NodeView:
        """One node. A node that was never registered has state NONE."""
        view, key = self.many(
            Read("NodeRegistryLocker", name, (node_id,)) for name in ("nodes", "nodeKeyAddress")
        )
        return NodeView(
            node_id=node_id, owner=view["owner"], beneficiary=view["beneficiary"], key_address=key,
            stake_wei=Wei(view["stake"]), tier=view["tier"], state=NodeState(view["state"]),
            active_from=view["activeFrom"], active_until=view["activeUntil"], unlock_at=view["unlockAt"],
            capability_hash=view["capabilityHash"], node_key_hash=view["nodeKeyHash"],
        )  # fmt: skip

    def node_key(self, node_id: NodeId) -> Address:
        """Address of the key that a node signs with."""
        return Address(self.one("NodeRegistryLocker", "nodeKeyAddress", node_id))

    def node_of_key(self, key_address: str) -> NodeId | None:
        """The node that a key serves, or None."""
        return NodeId(self.one("NodeRegistryLocker", "nodeOfKey", key_address)) or None

    def weights(self, epoch: Epoch, nodes: Iterable[NodeId]) -> dict[NodeId, Weight]:
        """Weight of each node in an epoch, 0 for one that is not active in it."""
        ids = list(nodes)
        values = self.many(Read("NodeRegistryLocker", "weightAt", (node, epoch)) for node in ids)
        return {node: Weight(value) for node, value in zip(ids, values, strict=True)}

    def total_weight(self, epoch: Epoch) -> Weight:
        """Sum of the weights of all nodes that are active in an epoch."""
        return Weight(self.one("NodeRegistryLocker", "totalWeightAt", epoch))

    # --------------------------------------------------------------------------------------------- reports, money

    def report(self, epoch: Epoch) -> OnChainReport:
        """Status and accepted report of an epoch."""
        status, view = self.many(Read("UptimeAttestation", name, (epoch,)) for name in ("status", "reports"))
        return OnChainReport(
            epoch=epoch, status=EpochStatus(status), uptime_root=view["uptimeRoot"], node_count=view["nodeCount"],
            digest=view["digest"], final_at=view["finalAt"], signer_bitmap=view["signerBitmap"],
        )  # fmt: skip

    def submit_deadline(self, epoch: Epoch) -> int:
        """Unix seconds after which a report of `epoch` is refused."""
        return int(self.one("UptimeAttestation", "submitDeadline", epoch))

    def pool(self, epoch: Epoch) -> Wei:
        """What an epoch has to pay at most; frozen once it has begun."""
        return Wei(self.one("RewardDistributor", "poolOf", epoch))

    def paid(self, epoch: Epoch) -> Wei:
        """What was claimed of an epoch's pool."""
        return Wei(self.one("RewardDistributor", "paidOf", epoch))

    def claimed(self, pairs: Iterable[tuple[NodeId, Epoch]]) -> dict[tuple[NodeId, Epoch], bool]:
        """Whether each (node, epoch) was paid."""
        listed = list(pairs)
        values = self.many(Read("RewardDistributor", "claimed", pair) for pair in listed)
        return dict(zip(listed, values, strict=True))

    def request(self, request_id: bytes) -> RequestView:
        """An on-chain inference request; status NONE when there is none with this id."""
        view = self.one("InferenceMarket", "requests", request_id)
        return RequestView(
            requester=view["requester"], escrow_wei=Wei(view["escrow"]), deadline=view["deadline"],
            status=RequestStatus(view["status"]), request_hash=view["requestHash"], callback=view["callback"],
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------- stake, token

    def current_epoch(self) -> Epoch:
        """The epoch that runs at this block."""
        return Epoch(self.one("NodeRegistryLocker", "currentEpoch"))

    def min_stake(self) -> Wei:
        """The least stake that a new node needs."""
        return Wei(self.one("NodeRegistryLocker", "minStake"))

    def cooldown(self) -> int:
        """Seconds between an unstake request and the stake's withdrawal."""
        return int(self.one("NodeRegistryLocker", "cooldown"))

    def payout_address(self, node_id: NodeId) -> Address:
        """Where a node's rewards are paid to: its beneficiary, else its owner."""
        return Address(self.one("NodeRegistryLocker", "payoutAddress", node_id))

    def claim_deadlines(self, epochs: Iterable[Epoch]) -> dict[Epoch, int]:
        """Unix seconds after which the rewards of each epoch can no longer be claimed."""
        listed = list(epochs)
        values = self.many(Read("RewardDistributor", "claimDeadline", (epoch,)) for epoch in listed)
        return dict(zip(listed, values, strict=True))

    def token_balance(self, holder: str) -> Wei:
        """PRLX of an account."""
        return Wei(self.one("ParallelixToken", "balanceOf", holder))

    def permit_nonce(self, holder: str) -> int:
        """The nonce of the next EIP-2612 permit that an account signs."""
        return int(self.one("ParallelixToken", "nonces", holder))

    def _decode(self, read: Read, answer: Any) -> Any:
        if isinstance(answer, RpcError):
            # A rate limit, not the contract.
            if answer.data is None and "revert" not in answer.message.lower():
                raise TransientError(
                    f"the RPC endpoint refuses {read.contract}.{read.function}: {answer.message}"
                )
            raise SkipError(f"{read.contract}.{read.function}: {self._chain.errors.decode(answer.data)}")
        try:
            return self._chain.abi(read.contract).decode_result(
                read.function, bytes.fromhex(_text(answer)[2:])
            )
        except (MalformedDataError, ValueError) as error:
            raise TransientError(
                f"the RPC endpoint gave a malformed result of {read.contract}.{read.function}"
            ) from error


class NewestReads(PinnedReads):
    """Reads for one question at a time whose answer need not fit another's, e.g. whether a gateway is listed now.

    A pinned read fails at an endpoint that has not seen the block yet; this one does not, and asks once instead of twice.
    """

    def __init__(self, chain: ChainReader) -> None:
        # No block: `_where` below never reads it.
        super().__init__(chain, BlockRef(0, "", 0))

    def _where(self) -> object:
        return "latest"


def _text(answer: Any) -> str:
    if isinstance(answer, RpcError):
        raise TransientError(f"the RPC endpoint refuses: {answer.message}")
    if not isinstance(answer, str):
        raise TransientError("the RPC endpoint gave a malformed answer")
    return answer
