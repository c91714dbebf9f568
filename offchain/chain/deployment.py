"""The deployment file: which chain, which contracts, and from which block on. `ChainReader.check` compares a chain with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from offchain.crypto.addresses import checksum
from offchain.domain.eip712 import SigningDomain
from offchain.domain.epochs import EpochClock
from offchain.domain.types import Address
from offchain.errors import UserError

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ContractRef:
    """One deployed contract.

    Attributes:
        name: the Solidity contract's name.
        address: EIP-55.
        block: height at which it was deployed; scans begin there.
        tx_hash, abi_hash, code_hash: 32 bytes as 0x-hex; `code_hash` is keccak256 of the runtime code.
        abi: the JSON ABI.
    """

    name: str
    address: Address
    block: int
    tx_hash: str
    abi_hash: str
    code_hash: str
    abi: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A network as its deployment script left it."""

    path: Path
    chain_id: int
    network: str
    deployed_at_block: int
    genesis: int
    epoch_length: int
    slots_per_epoch: int
    contracts: Mapping[str, ContractRef]

    @classmethod
    def load(cls, path: Path) -> "Deployment":
        """Read a deployment file.

        Raises:
            UserError: it is missing, not such a file, of another format version, or malformed.
        """
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(
                f"deployment file {path} does not exist; deploy the contracts first, or name another file"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"deployment file {path} cannot be read: {error}") from None
        if not isinstance(data, dict) or "contracts" not in data or "chain_id" not in data:
            raise UserError(f"{path} is not a deployment file of this network")
        if data.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {data.get('version')!r}; this program reads {FORMAT_VERSION}"
            )
        try:
            return cls._parse(path, data)
        except KeyError as missing:
            raise UserError(f"deployment file {path} is malformed: {missing} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"deployment file {path} is malformed: {error}") from None

    @classmethod
    def _parse(cls, path: Path, data: dict[str, Any]) -> "Deployment":
        contracts = {
            name: ContractRef(
                name=name,
                address=checksum(entry["address"]),
                block=_natural(entry["block"]),
                tx_hash=_bytes32(entry["tx_hash"]),
                abi_hash=_bytes32(entry["abi_hash"]),
                code_hash=_bytes32(entry["code_hash"]),
                abi=tuple(MappingProxyType(item) for item in entry["abi"]),
            )
            for name, entry in data["contracts"].items()
        }
        deployment = cls(
            path=path,
            chain_id=_natural(data["chain_id"]),
            network=str(data["network"]),
            deployed_at_block=_natural(data["deployed_at_block"]),
            genesis=_natural(data["genesis"]),
            epoch_length=_natural(data["epoch_length"]),
            slots_per_epoch=_natural(data["slots_per_epoch"]),
            contracts=MappingProxyType(contracts),
        )
        deployment.clock()  # raises now, not in the middle of an epoch, when the numbers are no clock
        return deployment

    def contract(self, name: str) -> ContractRef:
        """A contract by name. Raises UserError when the file has none such."""
        try:
            return self.contracts[name]
        except KeyError:
            raise UserError(f"deployment file {self.path} has no contract {name}") from None

    def clock(self) -> EpochClock:
        """The epoch arithmetic of this network."""
        return EpochClock(self.genesis, self.epoch_length, self.slots_per_epoch)

    def signing_domain(self, contract_name: str) -> SigningDomain:
        """EIP-712 domain whose verifying contract is the one named."""
        return SigningDomain(self.chain_id, self.contract(contract_name).address)


def _natural(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:  # JSON true is an int in Python
        raise ValueError(f"{value!r} is not a natural number")
    return value


def _bytes32(value: object) -> str:
    if not isinstance(value, str) or len(value) != 66 or not value.startswith("0x"):
        raise ValueError(f"{value!r} is not 32 bytes of 0x-hex")
    bytes.fromhex(value[2:])
    return value.lower()
