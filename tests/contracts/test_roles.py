"""Roles x functions: who may call what, on every state-changing function of every contract."""

from typing import Any

import pytest

from offchain.domain.eip712 import keccak256
from tests.support.contracts.factory import World, error_of

ADMIN, GUARDIAN, TREASURER, PARAMETERS = range(4)
PUBLIC = 2**64 - 1
RESTRICTED = {
    "NodeRegistryLocker": {
        "pause": GUARDIAN,
        "unpause": GUARDIAN,
        "setMinStake": PARAMETERS,
        "setCooldown": PARAMETERS,
    },
    "KeeperRegistry": {
        "join": PUBLIC,
        "joinWithPermit": PUBLIC,
        "vetoSlash": GUARDIAN,
        "collectSlashed": TREASURER,
        "setMinBond": PARAMETERS,
        "setVetoWindow": PARAMETERS,
        "setAttestation": ADMIN,
    },
    "UptimeAttestation": {
        "pause": GUARDIAN,
        "unpause": GUARDIAN,
        "rejectReport": GUARDIAN,
        "setMarket": ADMIN,
    },
    "RewardDistributor": {"scheduleEmission": TREASURER, "setReserve": TREASURER},
    "InferenceMarket": {
        "pause": GUARDIAN,
        "unpause": GUARDIAN,
        "setRecipients": TREASURER,
        "setFeeSplit": PARAMETERS,
    },
    "CreditVault": {
        "pause": GUARDIAN,
        "unpause": GUARDIAN,
        "setRecipients": TREASURER,
        "setCollector": ADMIN,
        "setFeeSplit": PARAMETERS,
    },
    "VoucherCollector": {},
}
# Anybody may call these; what they do is bound to msg.sender, to a signature, or harms nobody.
OPEN = {
    "NodeRegistryLocker": {
        "registerNode", "registerNodeWithPermit", "requestUnstake", "cancelUnstake", "withdrawStake", "setNodeKey",
        "setBeneficiary", "setCapabilities",
    },
    "KeeperRegistry": {
        "requestLeave", "withdrawBond", "setGateway", "removeGateway", "proposeSlash", "executeSlash",
    },
    "UptimeAttestation": {"submit", "appeal", "proveEquivocation"},
    "RewardDistributor": {"claim", "claimMany", "fund", "rollover", "sweep"},
    "InferenceMarket": {"request", "fulfil", "refund"},
    "CreditVault": {
        "deposit", "depositWithPermit", "requestWithdrawal", "cancelWithdrawal", "withdraw", "authorizeSigner",
        "setSignerCap", "collect", "payFees",
    },
    "VoucherCollector": {"redeem", "redeemMany"},
}  # fmt: skip
CASES = [(name, function) for name, functions in RESTRICTED.items() for function in functions]


def dummy(item: Any) -> Any:
    """Some value of an ABI type."""
    kind = item.canonical_type
    if kind.endswith("[]"):
        return []
    if kind.endswith("[13]"):
        return [bytes(32)] * 13
    if item.components:
        return tuple(dummy(component) for component in item.components)
    if kind == "address":
        return "0x" + "11" * 20
    if kind == "bytes":
        return b""
    if kind.startswith("bytes"):
        return bytes(int(kind[5:]))
    return "" if kind == "string" else 0


def call_as(world: World, contract: str, function: str, caller: Any) -> str:
    """Name of the error with which a call of a function reverts for this caller; empty if it does not."""
    instance = world.contracts[contract]
    abi = next(item for item in instance.contract_type.mutable_methods if item.name == function)
    arguments = [dummy(item) for item in abi.inputs]
    return error_of(world, lambda: getattr(instance, function)(*arguments, sender=caller))[0]


@pytest.mark.parametrize("contract", list(RESTRICTED))
def test_functions__of_each_contract__are_all_in_this_table(world: World, contract: str) -> None:
    mutable = {item.name for item in world.contracts[contract].contract_type.mutable_methods}
    inherited = {"setAuthority"} if RESTRICTED[contract] else set()
    assert mutable == set(RESTRICTED[contract]) | OPEN[contract] | inherited


@pytest.mark.parametrize(("contract", "function"), CASES)
def test_restricted__each_function__belongs_to_its_role(world: World, contract: str, function: str) -> None:
    instance = world.contracts[contract]
    abi = next(item for item in instance.contract_type.mutable_methods if item.name == function)
    role = world.manager.getTargetFunctionRole(instance, keccak256(abi.selector.encode())[:4])
    assert role == RESTRICTED[contract][function]


@pytest.mark.parametrize(
    ("contract", "function"), [case for case in CASES if RESTRICTED[case[0]][case[1]] != PUBLIC]
)
def test_restricted__caller_without_the_role__is_refused(world: World, contract: str, function: str) -> None:
    assert call_as(world, contract, function, world.users[0]) == "AccessManagedUnauthorized"


@pytest.mark.parametrize(
    ("contract", "function"),
    [case for case in CASES if RESTRICTED[case[0]][case[1]] in (PARAMETERS, ADMIN)],
)
def test_restricted__guardian_and_treasurer__may_not_change_parameters(
    world: World, contract: str, function: str
) -> None:
    assert call_as(world, contract, function, world.deployer) == "AccessManagedUnauthorized"


@pytest.mark.parametrize(
    ("contract", "function"),
    [case for case in CASES if RESTRICTED[case[0]][case[1]] in (GUARDIAN, TREASURER)],
)
def test_restricted__caller_with_the_role__passes_the_check(
    world: World, contract: str, function: str
) -> None:
    assert call_as(world, contract, function, world.deployer) != "AccessManagedUnauthorized"


@pytest.mark.parametrize(
    ("contract", "function"),
    [(name, function) for name, functions in OPEN.items() for function in sorted(functions)],
)
def test_open__anybody__is_never_refused_for_lack_of_a_role(
    world: World, contract: str, function: str
) -> None:
    assert call_as(world, contract, function, world.users[0]) != "AccessManagedUnauthorized"


def test_admin__after_the_deployment__is_the_timelock_alone(world: World) -> None:
    assert world.manager.hasRole(ADMIN, world.timelock) == (True, 0)
    assert world.manager.hasRole(ADMIN, world.deployer) == (False, 0)
    assert world.manager.hasRole(PARAMETERS, world.timelock) == (True, 0)
    assert not world.timelock.hasRole(world.timelock.DEFAULT_ADMIN_ROLE(), world.deployer)


@pytest.mark.parametrize("contract", [name for name, functions in RESTRICTED.items() if functions])
def test_set_authority__by_anybody__is_refused(world: World, contract: str) -> None:
    assert call_as(world, contract, "setAuthority", world.deployer) == "AccessManagedUnauthorized"
