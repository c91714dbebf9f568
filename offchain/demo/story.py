"""What the demo tells, each step asserted: a claim that does not hold ends the demo with one line and status 2."""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import OpenAI, OpenAIError

from offchain.chain.reader import EpochStatus, RequestStatus
from offchain.demo.narrator import Narrator
from offchain.demo.network import MODEL, DemoNode, LocalNetwork
from offchain.demo.processes import marked, memory_mib
from offchain.demo.waiting import until
from offchain.demo.wallets import ETHER
from offchain.domain.eip712 import keccak256
from offchain.domain.payout import reward
from offchain.domain.types import FULL_BPS, Bps, Epoch, Wei, Weight
from offchain.errors import UserError
from offchain.protocol import headers as header_names

QUESTION = "What is the capital of France?"
LONG_PROMPT = "Write a long story about a lighthouse keeper and the sea."
LONG_TOKENS = 96
KILL_AFTER_TOKENS = 8


@dataclass
class Figures:
    """What the demo measured; seconds since its start, MiB."""

    first_answer_s: float = 0.0
    total_s: float = 0.0
    peak_memory_mib: int = 0
    node_restart_s: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class MemoryWatch:
    """Samples the memory of a run's processes every five seconds and keeps the highest sum."""

    def __init__(self, run_id: str) -> None:
        self.peak_mib = 0
        self._run_id = run_id
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """End sampling; the peak in MiB."""
        self._done.set()
        self._thread.join(timeout=10)
        return self.peak_mib

    def _watch(self) -> None:
        while not self._done.wait(5):
            self.peak_mib = max(self.peak_mib, memory_mib(marked(self._run_id)))


class Story:
    """Tells the life of a network once, from an empty chain to a balanced epoch."""

    def __init__(self, network: LocalNetwork, narrator: Narrator) -> None:
        self.net = network
        self.say = narrator
        self.figures = Figures()
        self._watch = MemoryWatch(network.run_id)

    def tell(self) -> Figures:
        """The whole story. Raises UserError at the first step that does not hold."""
        try:
            self._build()
            self._serve()
            self._kill()
            self._earn()
        finally:
            self.figures.peak_memory_mib = self._watch.stop()
            self.figures.total_s = round(self.say.elapsed(), 1)
        return self.figures

    # ------------------------------------------------------------------------------------------------- build

    def _build(self) -> None:
        net = self.net
        self.say.chapter("A chain, contracts, and people who stake")
        with self.say.waiting("starting anvil and deploying the contracts with Ape"):
            net.start_chain()
        self.say.step(f"{len(net.deployment.contracts)} contracts deployed on {net.rpc_url}")
        with self.say.waiting("making keys, giving ether and PRLX"):
            net.create_actors()
            net.bond_keepers()
        self.say.step("three keepers posted their bonds, in three regions")
        with self.say.waiting("operators register their nodes"):
            net.register_nodes()
        for node in net.nodes:
            view = net.chain.read("NodeRegistryLocker", "nodes", node.node_id)
            self._hold(node.owner.address == view["owner"], f"{node.name} is not registered to its owner")
            self.say.step(
                f"{node.name} is node {node.node_id}: stake by permit, one transaction, from {node.owner.address}"
            )

    # ------------------------------------------------------------------------------------------------- serve

    def _serve(self) -> None:
        net = self.net
        self.say.chapter("Nodes, keepers, a gateway, a dashboard")
        for node in net.nodes:
            net.start_node(node)
        net.start_services()
        with self.say.waiting(
            "two vLLM servers load SmolLM2-135M-Instruct, three keepers start their workers"
        ):
            for name in ("gateway", "node-1", "node-2", "keeper-1", "keeper-2", "keeper-3", "dashboard"):
                url = until(name, net.child(name).ready_url, 120)
                self.say.step(f"{name} serves at {url}")
            until("both nodes in the gateway's fleet", self._both_nodes_routed, 30)
        self._hold(self._ways() == ["dialled", "inbound"], f"the nodes are reached {self._ways()}")
        self.say.step(
            "node-1 dialled the gateway and requests come down that connection; node-2 is connected to"
        )
        # Without retries: those of the client would hide failures of the gateway.
        self.client = OpenAI(base_url=f"{net.gateway_url}/v1", api_key=net.api_key, timeout=60, max_retries=0)
        answer = self._ask(QUESTION, 16)
        self.figures.first_answer_s = round(self.say.elapsed(), 1)
        self._hold("Paris" in answer, f"the model answered {answer!r}, without Paris")
        self.say.step(f"the official openai client asked: {QUESTION!r} -> {answer!r}")
        self._wait_for_epoch()
        self._on_chain_request()
        self._stream()

    def _both_nodes_routed(self) -> bool:
        served = []
        for node in self.net.nodes:
            headers = {header_names.NODE: str(node.node_id), "Authorization": f"Bearer {self.net.api_key}"}
            url = f"{self.net.gateway_url}/v1/chat/completions"
            served.append(
                httpx.post(url, json=_chat("Hi", 1), headers=headers, timeout=20).status_code == 200
            )
        return all(served)

    def _ways(self) -> list[str]:
        """How the gateway reaches each node, as its agent says."""
        found = []
        for node in self.net.nodes:
            ready = httpx.get(f"{self.net.child(node.name).ready_url()}/ready", timeout=5).json()
            fronts = {front["url"]: front["way"] for front in ready["fronts"]}
            found.append(fronts[self.net.gateway_url])
        return found

    def _wait_for_epoch(self) -> None:
        """The story's epoch is the first whole one in which the stakes count and everything runs."""
        now = self._chain_time()
        clock = self.net.clock
        self.epoch = Epoch(clock.epoch_at(now) + 1)
        wait = clock.start(self.epoch) - now
        with self.say.waiting(f"epoch {self.epoch}, in which the stakes count, begins in {wait} s"):
            until(f"epoch {self.epoch}", lambda: self._chain_time() >= clock.start(self.epoch), wait + 20)
        total = self.net.chain.read("NodeRegistryLocker", "totalWeightAt", self.epoch)
        self._hold(total > 0, "no stake counts in the epoch")
        self.say.step(f"epoch {self.epoch} began: {clock.length_seconds} s, {clock.slots} probe slots a node")

    def _on_chain_request(self) -> None:
        net, chain = self.net, self.net.chain
        market = net.deployment.contract("InferenceMarket").address
        payload = json.dumps(_chat(QUESTION, 16), separators=(",", ":")).encode()
        ceiling = ETHER
        chain.send(net.requester, "ParallelixToken", "approve", market, ceiling)
        started = time.monotonic()
        arguments = (keccak256(MODEL.encode()), payload, ceiling, chain.time() + 300, "0x" + "00" * 20)
        block = chain.transact(net.requester, "InferenceMarket", "request", *arguments)
        asked, *_ = chain.events("InferenceMarket", "InferenceRequested", block)
        request_id: str = asked["requestId"]
        self.say.step(f"on-chain request {request_id[:18]}… in escrow with {ceiling // ETHER} PRLX")

        def answer() -> Any:
            fulfilled = chain.events("InferenceMarket", "InferenceFulfilled", block, requestId=request_id)
            return fulfilled[0] if fulfilled else None

        with self.say.waiting("keepers dispatch it and settle the answer"):
            done = until("the on-chain answer", answer, 45)
        text = bytes.fromhex(done["result"][2:]).decode()
        self._hold("Paris" in text, f"the chain carries {text!r}, without Paris")
        request = chain.read("InferenceMarket", "requests", bytes.fromhex(request_id[2:]))
        self._hold(request["status"] == RequestStatus.FULFILLED, "the request is not settled")
        self.figures.facts["on_chain_answer_s"] = round(time.monotonic() - started, 1)
        self.say.step(
            f"answered on chain by node {done['nodeId']} for {done['priceWei']} wei: {text!r}; "
            "split 85/10/5, the rest returned"
        )

    def _stream(self) -> None:
        pieces = []
        raw = self.client.chat.completions.with_raw_response.create(
            **_chat("Name three colours.", 24), stream=True
        )
        self.streamed_id = raw.headers["x-request-id"]
        for chunk in raw.parse():
            if chunk.choices and chunk.choices[0].delta.content:
                pieces.append(chunk.choices[0].delta.content)
                self.say.stream(pieces[-1])
        self.say.end_stream()
        self._hold(len(pieces) > 3, "the answer came in one piece, not as a stream")
        self.say.step(f"a chat streamed through the gateway in {len(pieces)} pieces")

    # -------------------------------------------------------------------------------------------------- kill

    def _kill(self) -> None:
        self.say.chapter("A node dies while it serves")
        before, pieces, finish = self._stream_and_kill()
        self.say.step(
            f"SIGKILL to {self.victim.name} (agent and vLLM) after {before} pieces; "
            f"the client got {len(pieces)} pieces in one unbroken stream, finish_reason {finish!r}"
        )
        self._hold(finish in ("length", "stop"), f"the stream ended with {finish!r}")
        self._hold(len(pieces) > before, "nothing came after the kill")
        survivor = next(node for node in self.net.nodes if node is not self.victim)
        # The victim is still down, so only the survivor can answer.
        again = self._ask(LONG_PROMPT, LONG_TOKENS)
        self._hold(
            again == "".join(pieces), "the rescued stream differs from the survivor's uninterrupted answer"
        )
        self.say.step(f"the same question to {survivor.name} alone gives the same text, byte for byte")
        epoch = self.epoch
        clock = self.net.clock
        # long enough down for some slots to be lost, seen by the keepers and not by a stopwatch
        down_until = min(self._chain_time() + 2 * clock.length_seconds // clock.slots, clock.end(epoch))
        with self.say.waiting(f"{self.victim.name} stays down for two slots"):
            until("two slots to pass", lambda: self._chain_time() >= down_until, 60)
        restart = time.monotonic()
        self.net.start_node(self.victim)
        agent = self.victim.agent
        if agent is None:
            raise RuntimeError("the victim has no agent")
        with self.say.waiting(f"{self.victim.name} comes back"):
            until(self.victim.name, agent.ready_url, 120)
            until("it to be routed to again", lambda: self._pinned_ok(self.victim), 30)
        self.figures.node_restart_s = round(time.monotonic() - restart, 1)
        self.say.step(
            f"{self.victim.name} is back and serves, {self.figures.node_restart_s} s after its start"
        )

    def _stream_and_kill(self) -> tuple[int, list[str], str | None]:
        raw = self.client.chat.completions.with_raw_response.create(
            **_chat(LONG_PROMPT, LONG_TOKENS), stream=True
        )
        serving = int(raw.headers[header_names.NODE])
        self.victim = next(node for node in self.net.nodes if node.node_id == serving)
        if self.victim.agent is None:
            raise RuntimeError("the serving node has no agent")
        pieces: list[str] = []
        before, finish = 0, None
        for chunk in raw.parse():
            if not chunk.choices:
                continue
            if chunk.choices[0].delta.content:
                pieces.append(chunk.choices[0].delta.content)
                self.say.stream(pieces[-1])
            finish = chunk.choices[0].finish_reason or finish
            if len(pieces) == KILL_AFTER_TOKENS and not before:
                before = len(pieces)
                self.victim.agent.kill_all()  # agent and vLLM at once, as by power loss
        self.say.end_stream()
        self._hold(bool(before), "the answer ended before the node could be killed")
        return before, pieces, finish

    def _pinned_ok(self, node: DemoNode) -> bool:
        headers = {header_names.NODE: str(node.node_id)}
        try:
            self.client.chat.completions.create(**_chat("Hi", 1), extra_headers=headers)
        except OpenAIError:
            return False
        return True

    # -------------------------------------------------------------------------------------------------- earn

    def _earn(self) -> None:
        net, epoch = self.net, self.epoch
        self.say.chapter("The epoch closes, the quorum attests, both claim")
        left = max(0, net.clock.end(epoch) - self._chain_time())

        def status() -> EpochStatus:
            return EpochStatus(net.chain.read("UptimeAttestation", "status", epoch))

        with self.say.waiting(f"epoch {epoch} ends in {left} s"):
            until("the epoch's end", lambda: self._chain_time() >= net.clock.end(epoch), left + 20)
        with self.say.waiting("keepers exchange evidence, rebuild the table and sign"):
            until("a report with a quorum", lambda: status() is not EpochStatus.OPEN, 60)
        report = net.chain.read("UptimeAttestation", "reports", epoch)
        signers = report["signerBitmap"].bit_count()
        # A quorum of three is three: more than two thirds.
        self._hold(signers >= 3, f"only {signers} keepers signed")
        self.say.step(
            f"{signers} of 3 keepers signed the report of epoch {epoch}; root 0x{report['uptimeRoot'].hex()[:16]}…"
        )
        with self.say.waiting("the challenge window passes"):
            until("a final report", lambda: status() is EpochStatus.FINAL, 60)
        uptimes = self._claim()
        self._hold(
            uptimes[self.victim.node_id] < max(uptimes.values()),
            "the killed node did not lose by its downtime",
        )
        with self.say.waiting("the claims become final"):
            reader = net.chain.reader
            claimed_at = reader.head_block().number
            until("final claims", lambda: reader.finalized_block().number >= claimed_at, 60)
        self._verify()

    def _claim(self) -> dict[int, Bps]:
        net, chain, epoch = self.net, self.net.chain, self.epoch
        pool = chain.read("RewardDistributor", "poolOf", epoch)
        total = chain.read("NodeRegistryLocker", "totalWeightAt", epoch)
        uptimes = {}
        for node in net.nodes:
            before = chain.read("ParallelixToken", "balanceOf", node.owner.address)
            out = self._command(
                "node", "claim", "--config", str(net.places.run / f"{node.name}.toml"),
                "--epoch", str(epoch), "--keeper-url", net.keeper_urls[0],
                "--owner-keystore", str(node.owner.keystore),
                "--owner-password-file", str(node.owner.password_file), "--yes", "--json",
            )  # fmt: skip
            wanted = {"nodeId": str(node.node_id), "epoch": str(epoch)}
            claimed = chain.events("RewardDistributor", "RewardClaimed", 0, **wanted)
            self._hold(len(claimed) == 1, f"{node.name} has no claim on chain; the command said {out}")
            uptime, amount = Bps(int(claimed[0]["uptimeBps"])), int(claimed[0]["amount"])
            uptimes[node.node_id] = uptime
            weight = chain.read("NodeRegistryLocker", "weightAt", node.node_id, epoch)
            due = reward(Wei(pool), Weight(weight), Weight(total), uptime)
            gained = chain.read("ParallelixToken", "balanceOf", node.owner.address) - before
            self._hold(due == amount == gained, f"{node.name} got {gained} wei, due {due} wei")
            slots = net.clock.slots
            lost = slots - uptime * slots // FULL_BPS
            self.say.step(
                f"{node.name} claimed {gained} wei at {uptime / 100:.2f} % uptime ({lost} of {slots} slots lost)"
            )
        return uptimes

    def _verify(self) -> None:
        said, line = self._audit("verify", str(self.epoch))
        names = ("fundedWei", "paidWei", "claimableWei", "carriedWei")
        funded, paid, claimable, carried = (int(said["account"][name]) for name in names)
        self._hold(paid + claimable + carried == funded, "the account does not balance")
        self._hold(paid > 0 and carried > 0, "nothing was paid, or downtime left nothing over")
        self.say.step(f"paid {paid} + claimable {claimable} + carried {carried} = funded {funded} wei")
        self.say.note(f"check it yourself: {line}")
        self._prove()

    def _prove(self) -> None:
        """That the streamed chat's record is under a root that the quorum signed."""
        proof, line = self._audit("proof", self.streamed_id)
        self._hold(proof["requestId"] == self.streamed_id, "the proof is of another request")
        self._hold(proof["epoch"] == self.epoch, f"the chat is proven in epoch {proof['epoch']}")
        self.say.step(
            f"the streamed chat is record {proof['batch']['index']} of {proof['batch']['count']} in the gateway's batch, "
            f"under the execution root that the keepers signed"
        )
        self.say.note(f"prove it yourself: {line}")

    # ------------------------------------------------------------------------------------------------ inside

    def _ask(self, prompt: str, max_tokens: int) -> str:
        reply = self.client.chat.completions.create(**_chat(prompt, max_tokens))
        text: str | None = reply.choices[0].message.content
        return text or ""

    def _audit(self, *words: str) -> tuple[dict[str, Any], str]:
        """What `parallelix epoch ...` says, and its command line without `--json`, for people to repeat."""
        net = self.net
        line = [
            "epoch", *words, "--rpc", net.rpc_url, "--deployment", str(net.places.run / "deployment.json"),
            "--keeper-url", net.keeper_urls[1],
        ]  # fmt: skip
        return json.loads(self._command(*line, "--json")), f"parallelix {' '.join(line)}"

    def _command(self, *words: str) -> str:
        done = self.net.run(words, seconds=90)
        if done.returncode:
            raise UserError(
                f"`parallelix {' '.join(words[:2])}` failed: {(done.stderr or done.stdout).strip()[-400:]}"
            )
        return done.stdout

    def _chain_time(self) -> int:
        return self.net.chain.time()

    def _hold(self, condition: object, otherwise: str) -> None:
        if not condition:
            raise UserError(f"the demo's claim does not hold: {otherwise}")


def _chat(prompt: str, max_tokens: int) -> dict[str, Any]:
    """A chat request that every node answers alike: at temperature 0."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
