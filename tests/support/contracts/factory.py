"""A deployed network in a test's hands: accounts, clock, registrations, signed reports, receipts and proofs.

The contracts are deployed by the real deployment script with the real parameter file, so that roles and wiring are under
test as well.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ape
from ape import chain, project
from ape.exceptions import ContractLogicError
from eth_abi import decode
from eth_account import Account
from eth_account.signers.local import LocalAccount

from offchain.domain.eip712 import SigningDomain, keccak256
from offchain.domain.messages import EpochReport, ServiceReceipt, SlotReceipt, proof_of_execution
from offchain.domain.uptime_tree import UptimeTree
from scripts import _compile, _params
from scripts.deploy import Deployment

ROOT = Path(__file__).resolve().parents[3]
PRLX = 10**18
CHAIN_SECONDS_AHEAD = 1_000
EPOCH = 1_000
SUBMIT_WINDOW = 300
CHALLENGE_WINDOW = 200
COOLDOWN = 2_500
CLAIM_WINDOW = 5_000
SLOTS = 288
MIN_STAKE = 50_000 * PRLX
MIN_BOND = 10_000 * PRLX
THAW = 700
LEAVE_DELAY = EPOCH + 2 * (SUBMIT_WINDOW + CHALLENGE_WINDOW)
EMISSION = 7_300_003  # not a multiple of the term, so that rounding shows
EMISSION_EPOCHS = 10
OPEN = 2**32 - 1
ZERO = "0x" + "00" * 20
OVERRIDES = {
    "epoch_length": EPOCH,
    "slots_per_epoch": SLOTS,
    "cooldown": COOLDOWN,
    "leave_delay": LEAVE_DELAY,
    "submit_window": SUBMIT_WINDOW,
    "challenge_window": CHALLENGE_WINDOW,
    "claim_window": CLAIM_WINDOW,
    "thaw_period": THAW,
    "emission": EMISSION,
    "emission_epochs": EMISSION_EPOCHS,
    "emission_start": 2,
}


def key_of(index: int) -> LocalAccount:
    """A signing key that no Ape account uses."""
    return Account.from_key(keccak256(b"parallelix test key" + index.to_bytes(4, "big")))


def key_hash(key: LocalAccount) -> bytes:
    """nodeKeyHash of a key: keccak256 of its 64-byte public key."""
    return keccak256(key._key_obj.public_key.to_bytes())


def sign(key: LocalAccount, digest: bytes) -> bytes:
    """65 bytes r, s, v over a digest."""
    return bytes(key.unsafe_sign_hash(digest).signature)


def error_of(world: "World", call: Callable[[], Any]) -> tuple[str, Any]:
    """Name of the custom error with which a call reverts, or empty, and what it returns otherwise.

    Ape names most errors; where it does not (some on the in-process chain), the selector in its message does.
    """
    try:
        return "", call()
    except ContractLogicError as error:
        name, message = type(error).__name__, str(error)
    if name == "ContractLogicError":
        for contract in world.contracts.values():
            for item in contract.contract_type.errors:
                selector = keccak256(item.selector.encode())[:4]
                if repr(selector)[2:-1] in message or message.startswith("0x" + selector.hex()):
                    return str(item.name), None
    return name, None


def compact(signature: bytes) -> tuple[bytes, bytes]:
    """r and vs of EIP-2098."""
    vs = int.from_bytes(signature[32:64], "big") | (signature[64] - 27) << 255
    return signature[:32], vs.to_bytes(32, "big")


def now() -> int:
    """Timestamp of the last block."""
    return int(chain.blocks.head.timestamp)


def warp(timestamp: int) -> None:
    """Mine a block at `timestamp`, so that views see it; the next transaction may come in the same second or later."""
    chain.mine(timestamp=timestamp)


def constructor_error(world: "World", name: str, *args: Any) -> tuple[str, dict[str, Any]]:
    """Name and values of the custom error with which a contract's constructor reverts for these arguments."""
    probe = deploy_mock("ConstructorProbe", sender=world.deployer)
    container = project.contracts.get(name)
    code = bytes(container.constructor.serialize_transaction(*args).data)
    data = bytes(probe.revertData.call(code))
    for error in container.contract_type.errors:
        if keccak256(error.selector.encode())[:4] == data[:4]:
            values = decode([item.canonical_type for item in error.inputs], data[4:])
            return error.name, dict(zip((item.name for item in error.inputs), values, strict=True))
    raise AssertionError(f"{name} was deployed, or reverted with unknown data 0x{data.hex()}")


@dataclass
class World:
    """Every contract of a network, and what a test does with them.

    Attributes:
        deployer: deploys; holds the guardian and treasurer roles and all tokens.
        users: accounts with no role.
        keeper_keys: signing keys of the keepers that joined, in the order of joining.
    """

    contracts: Mapping[str, Any]
    deployer: Any
    users: Sequence[Any]
    keeper_keys: list[LocalAccount] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        names = {
            "token": "ParallelixToken",
            "locker": "NodeRegistryLocker",
            "keepers": "KeeperRegistry",
            "attestation": "UptimeAttestation",
            "distributor": "RewardDistributor",
            "market": "InferenceMarket",
            "vault": "CreditVault",
            "collector": "VoucherCollector",
            "manager": "NetworkAccessManager",
            "timelock": "NetworkTimelock",
        }
        if name not in names:
            raise AttributeError(name)
        return self.contracts[names[name]]

    def view(self) -> "World":
        """The same network for a test of its own, so that keys that join in one test are not there in the next."""
        return World(self.contracts, self.deployer, self.users, list(self.keeper_keys))

    # ------------------------------------------------------------------------------------------------- clock

    @property
    def genesis(self) -> int:
        """Unix time of epoch 0."""
        return int(self.locker.GENESIS())

    def start_of(self, epoch: int) -> int:
        """Unix time at which an epoch begins."""
        return self.genesis + epoch * EPOCH

    def enter(self, epoch: int, offset: int = 0) -> None:
        """Go to `offset` seconds after the beginning of an epoch."""
        warp(self.start_of(epoch) + offset)

    # ------------------------------------------------------------------------------------------------- actors

    def give(self, account: Any, amount: int) -> None:
        """Give tokens of the deployer's."""
        self.token.transfer(account, amount, sender=self.deployer)

    def register(self, owner: Any, stake: int = MIN_STAKE, tier: int = 2, key: int | None = None) -> int:
        """Register a node with tokens given for it; its id. Its key is `key_of(1000 + id)` unless told."""
        node_id = int(self.locker.nodeCount()) + 1
        self.give(owner, stake)
        self.token.approve(self.locker, stake, sender=owner)
        self.locker.registerNode(stake, tier, key_hash(key_of(key or 1000 + node_id)), sender=owner)
        return node_id

    def join_keepers(self, count: int, bond: int = MIN_BOND) -> list[LocalAccount]:
        """Let `count` keepers join, operated by the users in turn; their signing keys."""
        for _ in range(count):
            index = len(self.keeper_keys)
            operator = self.users[index % len(self.users)]
            self.give(operator, bond)
            self.token.approve(self.keepers, bond, sender=operator)
            region = f"region-{index}".encode().ljust(32, b"\0")
            key = key_of(index + 1)
            self.keepers.join(bond, key.address, region, f"http://keeper-{index}", sender=operator)
            self.keeper_keys.append(key)
        return self.keeper_keys

    # ------------------------------------------------------------------------------------------------ reports

    @property
    def report_domain(self) -> SigningDomain:
        """EIP-712 domain of reports and slot receipts."""
        return SigningDomain(chain.chain_id, str(self.attestation.address))

    @property
    def receipt_domain(self) -> SigningDomain:
        """EIP-712 domain of service receipts."""
        return SigningDomain(chain.chain_id, str(self.market.address))

    def report(self, tree: UptimeTree, **changes: Any) -> EpochReport:
        """The report of a tree."""
        fields: dict[str, Any] = {
            "epoch": tree.epoch,
            "uptime_root": tree.root,
            "node_count": tree.node_count,
            "execution_root": keccak256(b"execution"),
            "bundle_hash": keccak256(b"bundle"),
            "keeper_set_digest": bytes(self.keepers.setDigestAt(tree.epoch)),
        }
        return EpochReport(**{**fields, **changes})

    def signatures(self, report: EpochReport, keys: Iterable[LocalAccount]) -> bytes:
        """Signatures of the keys under a report, one after the other."""
        digest = self.report_domain.digest(report.struct_hash())
        return b"".join(sign(key, digest) for key in keys)

    def submit(self, report: EpochReport, signers: Sequence[int] | None = None, sender: Any = None) -> Any:
        """Submit a report signed by the keepers at these indices (all, unless told)."""
        chosen = range(len(self.keeper_keys)) if signers is None else signers
        bitmap = sum(1 << index for index in chosen)
        signatures = self.signatures(report, [self.keeper_keys[index] for index in chosen])
        return self.attestation.submit(as_tuple(report), bitmap, signatures, sender=sender or self.deployer)

    def finalize(self, epoch: int, uptimes: Mapping[int, int], node_count: int | None = None) -> UptimeTree:
        """Go through an epoch, submit its report and pass the challenge window; its tree."""
        covered = int(self.locker.nodeCount()) if node_count is None else node_count
        tree = UptimeTree(epoch, covered, uptimes)
        if now() < self.start_of(epoch + 1):
            self.enter(epoch + 1)
        self.submit(self.report(tree))
        warp(int(self.attestation.finalAt(epoch)))
        return tree

    # ----------------------------------------------------------------------------------------------- receipts

    def receipt(
        self, request_id: bytes, node_id: int, payload: bytes, result: bytes, **changes: Any
    ) -> ServiceReceipt:
        """A node's receipt over a result."""
        fields: dict[str, Any] = {
            "request_id": request_id,
            "node_id": node_id,
            "request_hash": keccak256(payload),
            "result_hash": keccak256(result),
            "poe": proof_of_execution(request_id, result, node_id),
            "model_revision": keccak256(b"revision"),
            "prompt_tokens": 12,
            "completion_tokens": 7,
            "started_at_ms": 1,
            "finished_at_ms": 2,
            "price_wei": 1_000,
        }
        return ServiceReceipt(**{**fields, **changes})

    def sign_receipt(self, receipt: ServiceReceipt, key: LocalAccount) -> bytes:
        """The node's signature under a receipt."""
        return sign(key, self.receipt_domain.digest(receipt.struct_hash()))

    def evidence(
        self, epoch: int, node_id: int, slots: Iterable[int], keeper: int = 0
    ) -> list[tuple[Any, ...]]:
        """Dual-signed receipts of a node for these slots, as `appeal` takes them."""
        node_key, keeper_key = key_of(1000 + node_id), self.keeper_keys[keeper]
        entries = []
        for slot in slots:
            receipt = self.receipt(keccak256(b"probe" + slot.to_bytes(2, "big")), node_id, b"{}", b"ok")
            struct_hash = receipt.struct_hash()
            node_r, node_vs = compact(self.sign_receipt(receipt, node_key))
            keeper_r, keeper_vs = compact(
                self.sign_slot(SlotReceipt(epoch, slot, node_id, struct_hash), keeper_key)
            )
            entries.append((slot, keeper, struct_hash, node_r, node_vs, keeper_r, keeper_vs))
        return entries

    def sign_slot(self, slot: SlotReceipt, key: LocalAccount) -> bytes:
        """A keeper's signature under a slot receipt."""
        return sign(key, self.report_domain.digest(slot.struct_hash()))


def as_tuple(message: Any) -> tuple[Any, ...]:
    """A message's fields in order, as the ABI takes a struct."""
    if isinstance(message, tuple):
        return tuple(message)
    return tuple(getattr(message, name) for name in type(message).__dataclass_fields__)


def claim_args(tree: UptimeTree, node_id: int) -> tuple[int, int, bytes, list[bytes]]:
    """Arguments of `claim` for a node of a tree."""
    return node_id, tree.epoch, tree.leaf(node_id), tree.proof(node_id)


def deploy_world(overrides: Mapping[str, Any] | None = None) -> World:
    """Deploy a network on the connected provider with the deployment script."""
    _compile.ensure_compiled()
    accounts = ape.accounts.test_accounts
    deployer = accounts[0]
    words = {**OVERRIDES, "genesis": chain.pending_timestamp + CHAIN_SECONDS_AHEAD, **(overrides or {})}
    params = _params.load(
        ROOT / "scripts/params/local.yml",
        [f"{name}={value}" for name, value in words.items()],
        str(deployer.address),
        chain.pending_timestamp,
    )
    deployment = Deployment(params, deployer, lambda _: None)
    deployment.run()
    return World(deployment.instances, deployer, [accounts[i] for i in range(1, 10)])


def deploy_mock(name: str, *args: Any, sender: Any) -> Any:
    """Deploy a contract of contracts/mocks."""
    return sender.deploy(project.contracts.get(name), *args)
