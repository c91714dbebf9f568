"""The preflight behind `parallelix keeper verify`: checks everything that would stop a keeper or cost it money."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partialmethod
from typing import TypeVar

import httpx
import redis

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc, RpcError
from offchain.crypto.keys import TransactionSigner
from offchain.db.migrations import upgrade
from offchain.errors import ParallelixError
from offchain.keeper.operator.keys import load_signer, read_api_key
from offchain.keeper.probing.clock_check import BEHIND_MS
from offchain.keeper.settings import KeeperSettings
from offchain.runtime.clock import Clock, seconds

MAX_BLOCK_AGE_SECONDS = 60
GAS_OF_A_SUBMISSION = 600_000
SUBMISSIONS_AHEAD = 20
"""With gas for fewer submissions than this the preflight warns."""
_T = TypeVar("_T")


class Level(StrEnum):
    """How bad a finding is. A keeper with a failure should not start."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class PreflightFinding:
    """The result of one check; `text` says what was found and, if bad, what to do."""

    check: str
    level: Level
    text: str


@dataclass(eq=False)
class KeeperPreflight:
    """Runs the checks, each of which builds on the ones before."""

    settings: KeeperSettings
    clock: Clock
    findings: list[PreflightFinding] = field(default_factory=list, init=False)

    def run(self) -> list[PreflightFinding]:
        """All findings. A check that needs what an earlier check did not find is left out."""
        deployment = self._try("deployment", lambda: Deployment.load(self.settings.deployment))
        signer = self._try("key", lambda: load_signer(self.settings))
        if deployment is not None:
            self._ok("deployment", f"{deployment.network}, chain {deployment.chain_id}")
        if signer is not None:
            self._ok("key", f"signs as {signer.address}")
        if deployment is not None:
            self._chain(deployment, signer)
        self._database()
        self._broker()
        self._gateway()
        self._peers()
        return self.findings

    def _chain(self, deployment: Deployment, signer: TransactionSigner | None) -> None:
        reader = ChainReader(
            Rpc(self.settings.rpc_url), deployment, confirmations=self.settings.confirmations
        )

        if not self._passes("chain", reader.check):
            return
        self._ok("chain", f"chain id and {len(deployment.contracts)} code hashes are the deployment's")
        head = self._try("blocks", reader.head_block)
        final = self._try("finality", reader.finalized_block)
        if head is None:
            return
        age_seconds = seconds(self.clock) - head.timestamp
        if age_seconds < -BEHIND_MS // 1000:
            self._fail("clock", f"this clock is {-age_seconds} s behind the newest block; set it by NTP")
        elif age_seconds > MAX_BLOCK_AGE_SECONDS:
            self._fail(
                "clock",
                f"the newest block is {age_seconds} s old: this clock is ahead (set it by NTP), or the RPC endpoint stands still",
            )
        else:
            self._ok("clock", f"newest block {head.number} is {age_seconds} s old")
        if final is not None:
            self._ok("finality", f"block {final.number} is final, {head.number - final.number} behind")
        if signer is not None:
            self._membership(reader, deployment, signer)
            self._gas(reader, signer)

    def _membership(self, reader: ChainReader, deployment: Deployment, signer: TransactionSigner) -> None:
        reads = reader.at(reader.head_block())
        keeper_id = self._try(
            "bond", lambda: int(reads.one("KeeperRegistry", "keeperOfSigner", signer.address))
        )
        if keeper_id is None:
            return
        if keeper_id == 0:
            self._fail("bond", f"{signer.address} is no keeper's signer; join the registry with a bond first")
            return
        view = reads.one("KeeperRegistry", "keepers", keeper_id)
        minimum = int(reads.one("KeeperRegistry", "minBond"))
        epoch = deployment.clock().epoch_at(reads.block.timestamp)
        if view["bond"] < minimum:
            self._fail("bond", f"the bond of {view['bond']} wei is below the minimum of {minimum} wei")
        elif view["activeUntil"] <= epoch:
            self._fail("bond", f"keeper {keeper_id} has left at epoch {view['activeUntil']}")
        elif view["activeFrom"] > epoch:
            self._warn("bond", f"keeper {keeper_id} counts from epoch {view['activeFrom']}, now is {epoch}")
        else:
            self._ok("bond", f"keeper {keeper_id} is bonded with {view['bond']} wei")
        region = bytes(view["region"]).rstrip(b"\0").decode(errors="replace")
        if region != self.settings.region:
            self._warn(
                "region", f"settings say {self.settings.region!r}, the registry {region!r}, which counts"
            )
        listed = reads.gateway_keeper(signer.address)
        if listed is None:
            self._warn(
                "tickets",
                "the signer is not listed as a gateway, so nodes refuse its on-chain work; call setGateway",
            )
        else:
            self._ok("tickets", f"keeper {listed} lists the signer: nodes take its tickets")

    def _gas(self, reader: ChainReader, signer: TransactionSigner) -> None:
        found = self._try("gas", lambda: int(reader.rpc.call("eth_getBalance", signer.address, "latest"), 16))
        if found is None:
            return
        price = self.settings.max_fee_gwei * 10**9
        lasts = found // (GAS_OF_A_SUBMISSION * price)
        text = f"{found} wei: {lasts} submissions at the highest fee of the settings"
        if lasts == 0:
            self._fail("gas", f"{text}; send ether to {signer.address}")
        elif lasts < SUBMISSIONS_AHEAD:
            self._warn("gas", f"{text}; send ether to {signer.address}")
        else:
            self._ok("gas", text)

    def _database(self) -> None:
        def check() -> None:
            self.settings.make_data_dir()
            upgrade(self.settings.database_url)

        if self._passes("database", check):
            self._ok("database", "reachable, tables are up to date")

    def _broker(self) -> None:
        url = self.settings.redis_url
        if url is None:
            self._ok("broker", "embedded, started with the keeper")
            return
        try:
            client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
            client.ping()
            client.close()
        except (redis.RedisError, ValueError) as error:
            self._fail("broker", f"redis_url does not answer: {type(error).__name__}; start it")
        else:
            self._ok("broker", "redis_url answers")

    def _gateway(self) -> None:
        key = self._try("gateway", lambda: read_api_key(self.settings))
        if key is None:
            return
        url = f"{self.settings.gateway_url.rstrip('/')}/v1/models"
        try:
            answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=5)
        except httpx.HTTPError as error:
            self._warn("gateway", f"{url} does not answer: {type(error).__name__}; probes will abstain")
            return
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            self._fail("gateway", "the gateway refuses the API key; ask its operator for one")
        elif answer.status_code != httpx.codes.OK:
            self._warn("gateway", f"{url} answers HTTP {answer.status_code}; probes will abstain")
        elif self.settings.probe_model not in answer.text:
            self._warn("gateway", f"the gateway does not serve {self.settings.probe_model} now")
        else:
            self._ok("gateway", f"answers and serves {self.settings.probe_model}")

    def _peers(self) -> None:
        for url in self.settings.peers:
            try:
                answer = httpx.get(f"{url.rstrip('/')}/health", timeout=5)
                level, text = Level.OK, "answers"
                if answer.status_code != httpx.codes.OK:
                    level, text = Level.WARNING, f"answers HTTP {answer.status_code}"
            except httpx.HTTPError as error:
                level, text = Level.WARNING, f"does not answer: {type(error).__name__}"
            self._note(level, "peer", f"{url} {text}")

    def _try(self, check: str, call: Callable[[], _T]) -> _T | None:
        try:
            return call()
        except (ParallelixError, RpcError) as error:
            self._fail(check, str(error))
            return None

    def _passes(self, check: str, call: Callable[[], object]) -> bool:
        # `or True`: None is what `_try` gives for a failure.
        return self._try(check, lambda: call() or True) is not None

    def _note(self, level: Level, check: str, text: str) -> None:
        self.findings.append(PreflightFinding(check, level, text))

    _ok = partialmethod(_note, Level.OK)
    _warn = partialmethod(_note, Level.WARNING)
    _fail = partialmethod(_note, Level.FAILURE)
