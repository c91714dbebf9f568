"""Deploys every contract of a network and wires their roles: `ape run deploy --network <n> --params <file> --out <file>`.

The order of things, and nothing else: parameters are read and checked in `_params.py`, the manifest is written in
`_manifest.py`. Everything is validated before the first transaction; the manifest appears only when all is done.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from ape import accounts, chain, networks, project
from ape.exceptions import ApeException
from ape_accounts import KeyfileAccount

from offchain.domain.eip712 import keccak256
from offchain.errors import UserError
from scripts import _compile, _manifest, _params
from scripts._cli import NetworkCommand, sender_options

ADMIN_ROLE = 0
LOCAL_CHAIN_ID = 31337


class Deployment:
    """One run of the deployment against the connected provider.

    Args:
        params: checked parameters.
        account: Ape account that sends and pays for every transaction.
        say: takes a line of progress.
    """

    def __init__(self, params: _params.Params, account: Any, say: Callable[[str], None]) -> None:
        self.params = params
        self.account = account
        self.say = say
        self.instances: dict[str, Any] = {}
        self.receipts: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Deploy, wire, hand the admin role over; the manifest."""
        total = len(self.params.contracts)
        for index, (name, arguments) in enumerate(self.params.contracts.items(), start=1):
            started = time.monotonic()
            self._deploy(name, arguments)
            seconds = time.monotonic() - started
            self.say(f"[{index}/{total}] {name} {self.instances[name].address} ({seconds:.1f} s)")
        self._wire()
        self._configure_roles()
        return self._describe()

    def _deploy(self, name: str, arguments: Any) -> None:
        values = [self._value(value) for value in arguments.values()]
        container = project.contracts.get(name)
        instance = self.account.deploy(container, *values, publish=False)
        self.instances[name] = instance
        self.receipts[name] = instance.creation_metadata.receipt

    def _wire(self) -> None:
        """What only the admin may do, done while the deployer still is the admin."""
        constants = self.params.constants
        attestation = self.instances["UptimeAttestation"]
        self.instances["KeeperRegistry"].setAttestation(attestation, sender=self.account)
        attestation.setMarket(self.instances["InferenceMarket"], sender=self.account)
        self.instances["CreditVault"].setCollector(self.instances["VoucherCollector"], sender=self.account)
        emission = constants["emission"]
        if emission:
            token, distributor = self.instances["ParallelixToken"], self.instances["RewardDistributor"]
            start = constants["emission_start"]
            if start < 0:
                start = self.instances["NodeRegistryLocker"].currentEpoch() + 1
            token.approve(distributor, emission, sender=self.account)
            distributor.scheduleEmission(emission, start, constants["emission_epochs"], sender=self.account)
            self.say(
                f"emission of {emission} wei over {constants['emission_epochs']} epochs from epoch {start}"
            )

    def _configure_roles(self) -> None:
        """All roles in one transaction; the last calls hand the admin role to the timelock."""
        manager = self.instances["NetworkAccessManager"]
        calls: list[bytes] = []

        def add(function: str, *arguments: Any) -> None:
            calls.append(getattr(manager, function).encode_input(*arguments))

        opened = self.params.constants["keeper_admission"] == "open"
        for role in self.params.roles:
            add("labelRole", role.number, role.name)
            for member in role.members:
                add("grantRole", role.number, self._value(member), 0)
            number = _params.PUBLIC_ROLE if opened and role.name == "KEEPER_ADMISSION" else role.number
            for name, functions in role.functions.items():
                target = self.instances[name]
                selectors = [_selector(target, function) for function in functions]
                add("setTargetFunctionRole", target.address, selectors, number)
        timelock = self.instances["NetworkTimelock"]
        add("grantRole", ADMIN_ROLE, timelock.address, 0)
        add("renounceRole", ADMIN_ROLE, self.account.address)
        manager.multicall(calls, sender=self.account)
        self.say(f"{len(self.params.roles)} roles granted; the admin is the timelock {timelock.address}")

    def _describe(self) -> dict[str, Any]:
        locker, attestation = self.instances["NodeRegistryLocker"], self.instances["UptimeAttestation"]
        entries = {
            name: _manifest.contract_entry(
                address=str(instance.address),
                block=self.receipts[name].block_number,
                tx_hash=str(self.receipts[name].txn_hash),
                abi=[item.model_dump(mode="json") for item in instance.contract_type.abi],
                runtime_code=bytes(chain.provider.get_code(instance.address)),
            )
            for name, instance in self.instances.items()
        }
        return {
            "version": _manifest.MANIFEST_VERSION,
            "chain_id": connected_chain_id(),
            "network": self.params.network,
            "deployed_at_block": min(entry["block"] for entry in entries.values()),
            "genesis": locker.GENESIS(),
            "epoch_length": locker.EPOCH_LENGTH(),
            "slots_per_epoch": attestation.SLOTS_PER_EPOCH(),
            "contracts": entries,
        }

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, str) and value.startswith("$"):
            return self.instances[value[1:]].address
        return value


def deploy(
    params_path: Path,
    overrides: Sequence[str],
    account: Any,
    out: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Deploy a network on the connected provider and write its manifest.

    Args:
        params_path: parameter file.
        overrides: `name=value` words over the file's constants.
        account: Ape account, with enough ether for the gas.
        out: where the manifest goes, written whole at the end.
        say: takes a line of progress.

    Returns:
        the manifest.

    Raises:
        UserError: a parameter, the chain or the account does not fit; nothing was sent.
    """
    _compile.ensure_compiled()
    params = _params.load(params_path, overrides, str(account.address), chain.pending_timestamp)
    chain_id = connected_chain_id()
    if chain_id != params.chain_id:
        raise UserError(
            f"the RPC is chain {chain_id}, {params_path} is for chain {params.chain_id}; use another --network or "
            "--params"
        )
    abis = {
        name: [item.model_dump(mode="json") for item in project.contracts.get(name).contract_type.abi]
        for name in params.contracts
        if project.contracts.get(name) is not None
    }
    _params.check_against_abis(params, abis)
    if account.balance == 0:
        raise UserError(f"the deployer {account.address} has no ether for gas; fund it first")
    manifest = Deployment(params, account, say).run()
    _manifest.write(out, manifest)
    say(f"wrote {out}")
    return manifest


def connected_chain_id() -> int:
    """The chain id that the RPC itself gives; Ape takes a local network's from its configuration."""
    return int(chain.provider.web3.eth.chain_id)


def open_account(keystore: Path | None, password_file: Path | None, alias: str | None) -> Any:
    """The deployer: a keystore file, an account of Ape's, or on a local chain Ape's first test account.

    Raises:
        UserError: none of them can be opened.
    """
    if keystore:
        if not password_file:
            raise UserError("--keystore needs --password-file")
        try:
            password = password_file.read_text().strip()
            account = KeyfileAccount(keyfile_path=keystore)
            account.unlock(passphrase=password)
            account.set_autosign(True, passphrase=password)
        except (OSError, ValueError, ApeException) as error:
            raise UserError(f"cannot open the keystore {keystore}: {error}") from None
        return account
    if alias:
        try:
            return accounts.load(alias)
        except (KeyError, ApeException) as error:
            raise UserError(f"Ape has no account {alias}: {error}") from None
    if networks.network.is_local or connected_chain_id() == LOCAL_CHAIN_ID:
        return accounts.test_accounts[0]
    raise UserError("name the deployer: --keystore FILE --password-file FILE, or --account ALIAS")


def _selector(instance: Any, function: str) -> bytes:
    method = next(item for item in instance.contract_type.mutable_methods if item.name == function)
    return bytes(keccak256(method.selector.encode())[:4])


@click.command(cls=NetworkCommand)
@click.option(
    "--params",
    "params_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("scripts/params/local.yml"),
    show_default=True,
    help="Parameter file of the network.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a constant of the file."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Manifest to write.  [default: deployments/<chain id>.json]",
)
@sender_options("Deployer")
def cli(
    params_path: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    keystore: Path | None,
    password_file: Path | None,
    alias: str | None,
) -> None:
    """Deploy a network from its parameter file and write its manifest."""
    account = open_account(keystore, password_file, alias)
    deploy(
        params_path,
        overrides,
        account,
        out or Path("deployments") / f"{connected_chain_id()}.json",
        click.echo,
    )
