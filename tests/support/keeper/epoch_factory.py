"""A small epoch with real keys: keepers, nodes, and evidence made as the services make it."""

from dataclasses import dataclass, field

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import SigningDomain, address_bytes, keccak256
from offchain.domain.epochs import EpochClock
from offchain.domain.evidence_entries import (
    AnswerEntry,
    Execution,
    Miss,
    SignedExecutionBatch,
)
from offchain.domain.execution_tree import BATCH, ExecutionTree
from offchain.domain.measurement.schedule import ProbeSchedule, probe_challenge, seed_of
from offchain.domain.messages import ExecutionBatch, MissReason, ServiceReceipt, proof_of_execution
from offchain.domain.types import Address, Epoch, KeeperId, NodeId, Wei
from offchain.evidence.document import Evidence
from offchain.evidence.epoch_context import EpochContext, KeeperInfo, NodeInfo, SeedBlock

ATTESTATION = SigningDomain(31337, "0x" + "aa" * 20)
MARKET = SigningDomain(31337, "0x" + "bb" * 20)
EPOCH = Epoch(7)


def key(name: str) -> Signer:
    """A key that is the same in every run."""
    return Signer.from_key(keccak256(name.encode()))


def receipt_of(node: int, request: bytes, started_at_ms: int) -> ServiceReceipt:
    """A well-formed receipt of a short answer."""
    answer = b"an answer"
    return ServiceReceipt(
        request_id=request,
        node_id=NodeId(node),
        request_hash=keccak256(b"body" + request),
        result_hash=keccak256(answer),
        poe=proof_of_execution(request, answer, NodeId(node)),
        model_revision=keccak256(b"revision"),
        prompt_tokens=12,
        completion_tokens=4,
        started_at_ms=started_at_ms,
        finished_at_ms=started_at_ms + 120,
        price_wei=Wei(16 * 10**12),
    )


@dataclass
class EpochWorld:
    """Three keepers in two regions and some nodes; the first node belongs to the first keeper's operator."""

    slots: int = 4
    node_ids: tuple[int, ...] = (1, 2, 3)
    regions: tuple[str, ...] = ("eu", "us", "eu")
    down: dict[int, set[int]] = field(default_factory=dict)
    """node -> slots in which it answers nobody."""
    homes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Nodes by region, as every keeper hears it."""

    def __post_init__(self) -> None:
        self.keeper_keys = [key(f"keeper {i}") for i in range(len(self.regions))]
        self.gateway_keys = [key(f"gateway {i}") for i in range(2)]
        self.node_keys = {i: key(f"node {i}") for i in self.node_ids}
        clock = EpochClock(genesis=1_700_000_000, length_seconds=self.slots * 10, slots=self.slots)
        self.context = EpochContext(
            clock=clock,
            epoch=EPOCH,
            node_count=max(self.node_ids),
            nodes={
                NodeId(i): NodeInfo(
                    NodeId(i),
                    Address(f"operator {0 if i == 1 else 100 + i}"),
                    1,
                    frozenset({address_bytes(self.node_keys[i].address)}),
                    Wei(50_000 * 10**18),
                )
                for i in self.node_ids
            },
            keepers=tuple(
                KeeperInfo(i, KeeperId(i + 1), signer.address, Address(f"operator {i}"), self.regions[i], "")
                for i, signer in enumerate(self.keeper_keys)
            ),
            quorum=2 * len(self.regions) // 3 + 1,
            set_digest=keccak256(b"set"),
            seed_block=SeedBlock(99, "0x" + keccak256(b"block 99").hex()),
            attestation=ATTESTATION,
            market=MARKET,
            gateways=frozenset(address_bytes(signer.address) for signer in self.gateway_keys),
        )

    def seed_signature(self, keeper: int) -> bytes:
        """The keeper's signature over the epoch's challenge."""
        block = bytes.fromhex(self.context.seed_block.hash[2:])
        return self.keeper_keys[keeper].sign_digest(probe_challenge(EPOCH, block))

    def schedule(self, keeper: int) -> ProbeSchedule:
        """The keeper's probe times."""
        return ProbeSchedule(self.context.clock, EPOCH, seed_of(self.seed_signature(keeper)))

    def answer(self, keeper: int, node: int, slot: int, *, delay_ms: int = 30) -> AnswerEntry:
        """A dual-signed receipt in its time."""
        started = self.schedule(keeper).due_ms(NodeId(node), slot) + delay_ms
        receipt = receipt_of(node, keccak256(b"%d %d %d" % (keeper, node, slot)), started)
        node_signature = self.node_keys[node].sign_struct(MARKET, receipt.struct_hash())
        unsigned = AnswerEntry(slot, receipt, node_signature, b"")
        signature = self.keeper_keys[keeper].sign_struct(
            ATTESTATION, unsigned.slot_receipt(EPOCH).struct_hash()
        )
        return AnswerEntry(slot, receipt, node_signature, signature)

    def miss(self, keeper: int, node: int, slot: int, *, delay_ms: int = 900) -> Miss:
        """A signed miss in its time."""
        observed = self.schedule(keeper).due_ms(NodeId(node), slot) + delay_ms
        unsigned = Miss(slot, NodeId(node), observed, MissReason.UNREACHABLE, b"")
        signature = self.keeper_keys[keeper].sign_struct(ATTESTATION, unsigned.slot_miss(EPOCH).struct_hash())
        return Miss(slot, NodeId(node), observed, MissReason.UNREACHABLE, signature)

    def served(self, count: int, node: int = 2) -> list[Execution]:
        """Records of requests that a gateway served in the epoch."""
        when = self.context.clock.start(EPOCH) * 1000
        receipts = [receipt_of(node, keccak256(b"served %d" % i), when + i) for i in range(count)]
        signer = self.node_keys[node]
        return [Execution(receipt, signer.sign_struct(MARKET, receipt.struct_hash())) for receipt in receipts]

    def tree(self, records: list[Execution], epoch: Epoch = EPOCH) -> ExecutionTree:
        """A gateway's tree of its records."""
        return ExecutionTree(epoch, [record.receipt.struct_hash() for record in records], BATCH)

    def batch(
        self, records: list[Execution], gateway: Signer | None = None, epoch: Epoch = EPOCH
    ) -> SignedExecutionBatch:
        """A gateway's commitment to its records; by default the first one's."""
        commitment = ExecutionBatch(epoch, len(records), self.tree(records, epoch).root)
        signer = gateway or self.gateway_keys[0]
        return SignedExecutionBatch(commitment, signer.sign_struct(ATTESTATION, commitment.struct_hash()))

    def document(
        self,
        keeper: int,
        answers: list[AnswerEntry] | None = None,
        misses: list[Miss] | None = None,
        batches: list[SignedExecutionBatch] | None = None,
    ) -> Evidence:
        """The keeper's signed evidence; by default every node of another operator, in every slot."""
        probed = [node for node in self.node_ids if not (node == 1 and keeper == 0)]
        places = [(node, slot) for node in probed for slot in range(self.slots)]
        if answers is None:
            answers = [self.answer(keeper, n, s) for n, s in places if s not in self.down.get(n, set())]
        if misses is None:
            misses = [self.miss(keeper, n, s) for n, s in places if s in self.down.get(n, set())]
        signer = self.keeper_keys[keeper]
        return Evidence(
            domain=ATTESTATION,
            epoch=EPOCH,
            signer=Address(signer.address.lower()),
            seed_block=self.context.seed_block,
            seed_signature=self.seed_signature(keeper),
            answers=tuple(a.pack() for a in sorted(answers, key=lambda a: (a.slot, a.receipt.node_id))),
            misses=tuple(m.pack() for m in sorted(misses, key=lambda m: (m.slot, m.node_id))),
            executions=(),
            regions=self.homes,
            batches=tuple(sorted(batch.pack() for batch in batches or [])),
        ).sign(signer)
