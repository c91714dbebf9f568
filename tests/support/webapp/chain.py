"""The chain that belongs to a seeded network: it answers the dashboard's views over HTTP, from memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode

from offchain.crypto.addresses import checksum
from offchain.domain.eip712 import keccak256
from tests.support.webapp.serving import answering

PRLX = 10**18
GENESIS = 1_780_000_000
POOL = 1_712_328_767_123_287_671_232
CLAIM_WINDOW = 90 * 86_400
_VIEWS = {
    "NodeRegistryLocker": {
        "totalWeightAt": (["uint32"], ["uint256"]),
        "nodeOfKey": (["address"], ["uint32"]),
        "minStake": ([], ["uint128"]),
        "cooldown": ([], ["uint32"]),
    },
    "RewardDistributor": {
        "poolOf": (["uint32"], ["uint256"]),
        "paidOf": (["uint32"], ["uint256"]),
        "CLAIM_WINDOW": ([], ["uint32"]),
    },
    "UptimeAttestation": {
        "status": (["uint32"], ["uint8"]),
        "SUBMIT_WINDOW": ([], ["uint32"]),
        "CHALLENGE_WINDOW": ([], ["uint32"]),
    },
    "ParallelixToken": {"balanceOf": (["address"], ["uint256"])},
    "CreditVault": {
        "accounts": (["address"], ["uint128", "uint128", "uint64"]),
        "THAW_PERIOD": ([], ["uint32"]),
        "signerCount": (["address"], ["uint32"]),
    },
    "KeeperRegistry": {},
    "InferenceMarket": {},
}
_STRUCTS = {"accounts": ("balance", "thawing", "thawedAt")}
"""Views that answer with a struct, and its members."""


def address_of(name: str) -> str:
    """A stable address for a name."""
    return checksum("0x" + keccak256(name.encode())[12:].hex())


def hash_of(name: str) -> str:
    """A stable 32-byte hash for a name."""
    return "0x" + keccak256(name.encode()).hex()


@dataclass(slots=True)
class SeededNetwork:
    """What was seeded.

    Attributes:
        url: database.
        deployment: its file.
        now: Unix second at which the network stands.
        owners: operators, in order.
        pools, totals, paid: the chain's answers by epoch.
    """

    url: str
    deployment: Path
    folder: Path
    length: int
    slots: int
    now: int
    epoch: int
    owners: list[str] = field(default_factory=list)
    pools: dict[int, int] = field(default_factory=dict)
    totals: dict[int, int] = field(default_factory=dict)
    paid: dict[int, int] = field(default_factory=dict)
    lapsed: set[int] = field(default_factory=set)
    reported: dict[int, int] = field(default_factory=dict)
    chain_down: bool = False
    calls: int = 0

    @contextmanager
    def chain(self) -> Iterator[str]:
        """Serves the chain's views as JSON-RPC over HTTP; gives its URL."""
        net = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                net.calls += 1
                listed = body if isinstance(body, list) else [body]
                answers: Any = [net.answer(call) for call in listed]
                data = json.dumps(answers if isinstance(body, list) else answers[0]).encode()
                self.send_response(503 if net.chain_down else 200)
                self.send_header("Content-Length", str(0 if net.chain_down else len(data)))
                self.end_headers()
                if not net.chain_down:
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        with answering(Handler) as url:
            yield url

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        """One JSON-RPC answer."""
        if call["method"] == "eth_getBlockByNumber":
            block = {"number": "0x1", "hash": hash_of("head"), "parentHash": hash_of("parent")}
            block |= {"timestamp": hex(self.now), "logsBloom": "0x" + "00" * 256}
            return {"jsonrpc": "2.0", "id": call["id"], "result": block}
        data = bytes.fromhex(call["params"][0]["data"][2:])
        return {"jsonrpc": "2.0", "id": call["id"], "result": "0x" + self._view(data).hex()}

    def _view(self, data: bytes) -> bytes:
        for functions in _VIEWS.values():
            for name, (inputs, outputs) in functions.items():
                if data[:4] == keccak256(f"{name}({','.join(inputs)})".encode())[:4]:
                    value = self._value(name, *decode(inputs, data[4:]))
                    return encode(outputs, value if isinstance(value, tuple) else [value])
        raise AssertionError(f"unknown selector {data[:4].hex()}")

    def _value(self, name: str, epoch: Any = 0) -> int | tuple[int, ...]:
        match name:
            case "accounts":
                return 1_840 * PRLX, 400 * PRLX, self.now + 2 * 86_400
            case "balanceOf":
                return 12_500 * PRLX + PRLX // 4
            case "THAW_PERIOD":
                return 7 * 86_400
            case "signerCount":
                return 2
            case "nodeOfKey":
                return 0
            case "poolOf":
                return self.pools.get(epoch, 0)
            case "totalWeightAt":
                return self.totals.get(epoch, 0)
            case "paidOf":
                return self.paid.get(epoch, 0)
            case "status":
                if epoch in self.reported:
                    return 2 if self.now >= self.reported[epoch] else 1
                return 3 if epoch in self.lapsed else 0
            case "minStake":
                return 50_000 * PRLX
            case "cooldown":
                return 7 * 86_400
            case "CLAIM_WINDOW":
                return CLAIM_WINDOW
            case "SUBMIT_WINDOW" | "CHALLENGE_WINDOW":
                return self.length // 4
        raise AssertionError(name)


def _outputs(function: str, kinds: list[str]) -> list[dict[str, Any]]:
    members = _STRUCTS.get(function)
    if members is None:
        return [{"name": "", "type": kind} for kind in kinds]
    named = [{"name": name, "type": kind} for name, kind in zip(members, kinds, strict=True)]
    return [{"name": "", "type": "tuple", "components": named}]


def write_deployment(path: Path, length: int, slots: int, chain_id: int = 31337) -> None:
    """A deployment file with the views that the dashboard calls."""
    contracts: dict[str, Any] = {}
    for name, functions in _VIEWS.items():
        abi = [
            {
                "type": "function",
                "name": function,
                "stateMutability": "view",
                "inputs": [{"name": "", "type": kind} for kind in inputs],
                "outputs": _outputs(function, outputs),
            }
            for function, (inputs, outputs) in functions.items()
        ]
        contracts[name] = {
            "address": address_of(name),
            "block": 1,
            "tx_hash": hash_of(name),
            "abi_hash": hash_of(name + "abi"),
            "code_hash": hash_of(name + "code"),
            "abi": abi,
        }
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "chain_id": chain_id,
                "network": "local",
                "deployed_at_block": 1,
                "genesis": GENESIS,
                "epoch_length": length,
                "slots_per_epoch": slots,
                "contracts": contracts,
            }
        )
    )
