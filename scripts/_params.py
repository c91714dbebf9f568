"""Deployment parameters: read from `params/<network>.yml` and the wiring that it names, overridden, resolved, and checked
against the contracts' ABIs.

Everything here happens before the first transaction, so that a mistake costs one line and no gas.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from eth_utils.address import is_checksum_address, is_hex_address, to_checksum_address

from offchain.errors import UserError

PRLX = 10**18
UNITS = {"wei": 1, "PRLX": PRLX, "seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}
PUBLIC_ROLE = 2**64 - 1
LOCAL_CHAINS = (1337, 31337)
MIN_PUBLIC_DELAY = 86_400
ACCOUNTS = ("guardian", "treasurer", "proposer", "treasury", "infrastructure", "reserve")
NUMBERS = (
    "genesis", "epoch_length", "slots_per_epoch", "min_stake", "cooldown", "min_bond", "leave_delay", "submit_window",
    "challenge_window", "thaw_period", "claim_window", "emission", "emission_epochs", "emission_start", "timelock_delay",
)  # fmt: skip

Abi = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Role:
    """An AccessManager role.

    Attributes:
        number: role id, above 0 (the admin).
        name: its label on chain.
        members: references or addresses of its holders.
        functions: contract name -> names of the restricted functions that it may call.
    """

    number: int
    name: str
    members: tuple[str, ...]
    functions: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Params:
    """A network's parameters, all references to constants resolved.

    Attributes:
        network: name of the network.
        chain_id: the only chain that these parameters are for.
        constants: name -> int, address or word.
        contracts: contract name -> constructor argument name -> value, in the order of deployment. A value may still be
            `$ContractName`, which is that contract's address once it is deployed.
        roles: AccessManager roles.
    """

    network: str
    chain_id: int
    constants: Mapping[str, Any]
    contracts: Mapping[str, Mapping[str, Any]]
    roles: tuple[Role, ...]


def load(path: Path, overrides: Sequence[str], deployer: str, now: int) -> Params:
    """Read and resolve a parameter file.

    Args:
        path: YAML file.
        overrides: `name=value` words; each name must be a constant of the file.
        deployer: address that stands for `$deployer`.
        now: Unix time of the chain that stands for `now`.

    Raises:
        UserError: one line that says which entry is wrong.
    """
    raw = _read(path, {"version", "network", "chain_id", "wiring", "constants"})
    if raw["version"] != 1:
        raise UserError(f"{path} has version {raw['version']}; this script reads version 1")
    wiring = _read(path.parent / str(raw["wiring"]), {"contracts", "roles"})

    words = {name: str(value) for name, value in raw["constants"].items()}
    for override in overrides:
        name, _, value = override.partition("=")
        if name not in words or not value:
            raise UserError(f"--set {override}: write name=value; the names are {', '.join(sorted(words))}")
        words[name] = value
    missing = {*NUMBERS, *ACCOUNTS, "keeper_admission"} - set(words)
    if missing:
        raise UserError(f"{path} lacks the constants {', '.join(sorted(missing))}")

    constants: dict[str, Any] = {"deployer": deployer}
    constants.update({name: _number(name, words[name], now) for name in NUMBERS if name in words})
    constants.update({name: _account(name, words[name], deployer) for name in ACCOUNTS})
    constants["keeper_admission"] = words["keeper_admission"]
    _check_rules(constants, now)
    if int(raw["chain_id"]) not in LOCAL_CHAINS:
        _check_public(constants, now)

    contracts = {
        contract: {
            argument: _resolve(value, constants, wiring["contracts"])
            for argument, value in (arguments or {}).items()
        }
        for contract, arguments in wiring["contracts"].items()
    }
    roles = tuple(
        Role(
            number=int(number),
            name=str(role["name"]),
            members=tuple(_resolve(member, constants, wiring["contracts"]) for member in role["members"]),
            functions={contract: tuple(names) for contract, names in role["functions"].items()},
        )
        for number, role in wiring["roles"].items()
    )
    return Params(str(raw["network"]), int(raw["chain_id"]), constants, contracts, roles)


def _read(path: Path, entries: set[str]) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no parameter file {path}; see scripts/params/") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict) or set(raw) != entries:
        raise UserError(f"{path} must have exactly the entries {', '.join(sorted(entries))}")
    return raw


def check_against_abis(params: Params, abis: Mapping[str, Abi]) -> None:
    """Check names, types and ranges of every constructor argument and role function against the compiled contracts.

    Raises:
        UserError: the first mismatch.
    """
    deployed: list[str] = []
    for contract, arguments in params.contracts.items():
        if contract not in abis:
            raise UserError(f"contracts.{contract}: there is no such contract in contracts/")
        constructor: Mapping[str, Any] = next(
            (item for item in abis[contract] if item["type"] == "constructor"), {"inputs": []}
        )
        names = [item["name"] for item in constructor["inputs"]]
        if list(arguments) != names:
            raise UserError(f"contracts.{contract}: its constructor takes {', '.join(names)}, in this order")
        for item in constructor["inputs"]:
            _check_type(
                f"contracts.{contract}.{item['name']}", item["type"], arguments[item["name"]], deployed
            )
        deployed.append(contract)
    owners: dict[tuple[str, str], int] = {}
    for role in params.roles:
        if not 0 < role.number < PUBLIC_ROLE:
            raise UserError(f"roles.{role.number}: role numbers go from 1; 0 is the admin")
        for member in role.members:
            _check_type(f"roles.{role.number}.members", "address", member, deployed)
        for contract, functions in role.functions.items():
            _check_role_functions(role.number, contract, functions, abis, owners)


def _check_role_functions(
    number: int,
    contract: str,
    functions: Sequence[str],
    abis: Mapping[str, Abi],
    owners: dict[tuple[str, str], int],
) -> None:
    where = f"roles.{number}.functions.{contract}"
    if contract not in abis:
        raise UserError(f"{where}: there is no such contract in contracts/")
    writable = {
        item["name"]
        for item in abis[contract]
        if item["type"] == "function" and item["stateMutability"] in ("nonpayable", "payable")
    }
    for name in functions:
        if name not in writable:
            raise UserError(f"{where}: {contract} has no function {name} that changes anything")
        other = owners.setdefault((contract, name), number)
        if other != number:
            raise UserError(f"{where}: {name} already belongs to role {other}")


def _check_type(where: str, abi_type: str, value: Any, deployed: Sequence[str]) -> None:
    if abi_type.endswith("[]"):
        if not isinstance(value, list):
            raise UserError(f"{where} must be a list of {abi_type[:-2]}")
        for item in value:
            _check_type(where, abi_type[:-2], item, deployed)
    elif abi_type == "address":
        if isinstance(value, str) and value.startswith("$"):
            if value[1:] not in deployed:
                raise UserError(f"{where}: {value[1:]} is not deployed before it")
        elif not isinstance(value, str) or not is_hex_address(value) or int(value, 16) == 0:
            raise UserError(f"{where} must be an address that is not zero, not {value!r}")
    elif abi_type.startswith("uint"):
        bits = int(abi_type[4:])
        if not isinstance(value, int) or not 0 <= value < 2**bits:
            raise UserError(f"{where} must be a whole number below 2^{bits}, not {value!r}")
    else:
        raise UserError(f"{where}: this script knows no values of type {abi_type}")


def _check_rules(constants: Mapping[str, Any], now: int) -> None:
    """Rules between constants that the contracts enforce too, said in words here."""
    if constants["keeper_admission"] not in ("open", "approved"):
        raise UserError(f"keeper_admission must be open or approved, not {constants['keeper_admission']!r}")
    for name in ("epoch_length", "slots_per_epoch", "min_stake", "min_bond", "submit_window", "challenge_window",
                 "claim_window"):  # fmt: skip
        if constants[name] < 1:
            raise UserError(f"{name} must be at least 1")
    if constants["slots_per_epoch"] > 288:
        raise UserError("slots_per_epoch must be at most 288, so that a full appeal fits a block")
    if constants["cooldown"] < constants["epoch_length"]:
        raise UserError(
            "cooldown must be at least epoch_length: a stake outlasts every epoch that it counts in"
        )
    bound = constants["epoch_length"] + 2 * (constants["submit_window"] + constants["challenge_window"])
    if constants["leave_delay"] < bound:
        raise UserError(
            f"leave_delay must be at least {bound} (epoch_length + 2 x (submit_window + challenge_window))"
        )
    if constants["emission"] and not constants["emission_epochs"]:
        raise UserError("emission_epochs must be at least 1")
    if constants["emission"] > 100_000_000 * PRLX:
        raise UserError("emission must be at most 100_000_000 PRLX, the whole supply")
    if constants["genesis"] < now - 365 * 86_400:
        raise UserError(
            f"genesis {constants['genesis']} is more than a year ago; is it a Unix time in seconds?"
        )


def _check_public(constants: Mapping[str, Any], now: int) -> None:
    """What a network that strangers use must not be lax about; the contracts cannot know that they are on one."""
    if constants["timelock_delay"] < MIN_PUBLIC_DELAY:
        raise UserError(
            "timelock_delay must be at least 1 day on a public network, so that a change can be seen"
        )
    if constants["keeper_admission"] != "approved":
        raise UserError(
            "keeper_admission must be approved on a public network: bonds alone do not make a quorum honest"
        )
    if constants["genesis"] <= now:
        raise UserError("genesis must lie ahead on a public network; write now+3600, for example")
    for name in ACCOUNTS:
        if constants[name] == constants["deployer"]:
            raise UserError(
                f"{name} must not be the deployer on a public network: its key has touched a script"
            )
    if constants["proposer"] == constants["guardian"]:
        raise UserError("proposer and guardian must differ on a public network: one watches the other")


def _number(name: str, word: str, now: int) -> int:
    text = word.replace("_", "").strip()
    if name == "genesis" and (found := re.fullmatch(r"now(?:\+(\d+))?", text)):
        return now + int(found[1] or 0)
    if name == "emission_start" and text == "next":
        return -1
    found = re.fullmatch(r"(\d+)(?:\s+(\w+))?", text)
    if not found or found[2] not in (None, *UNITS):
        raise UserError(
            f"{name} must be a whole number, with one of the units {', '.join(UNITS)} or none, not {word!r}"
        )
    return int(found[1]) * UNITS[found[2] or "wei"]


def _account(name: str, word: str, deployer: str) -> str:
    if word == "$deployer":
        return deployer
    if not is_hex_address(word) or int(word, 16) == 0:
        raise UserError(f"{name} must be $deployer or an address that is not zero, not {word!r}")
    if not is_checksum_address(word) and word != word.lower():
        raise UserError(f"{name}: {word} has a wrong checksum; is a character mistyped?")
    return str(to_checksum_address(word))


def _resolve(value: Any, constants: Mapping[str, Any], contracts: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_resolve(item, constants, contracts) for item in value]
    if isinstance(value, str) and value.startswith("$"):
        name = value[1:]
        if name in constants:
            return constants[name]
        if name not in contracts:
            raise UserError(f"{value} is neither a constant nor a contract of the parameter file")
    return value
