"""The tree of execution records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain.domain.eip712 import keccak256
from offchain.domain.execution_tree import ExecutionProof, ExecutionTree, verify
from offchain.domain.types import Epoch

E = Epoch(3)


@given(st.integers(1, 40), st.data())
def test_proof__any_record__verifies_and_no_other_does(count: int, data: st.DataObject) -> None:
    hashes = [keccak256(bytes((i,))) for i in range(count)]
    tree = ExecutionTree(E, [*hashes, hashes[0]])
    assert len(tree) == count
    record = data.draw(st.sampled_from(hashes))
    proof = tree.proof(record)
    assert verify(tree.root, E, record, proof)
    assert not verify(tree.root, Epoch(4), record, proof)
    assert not verify(tree.root, E, keccak256(b"other"), proof)
    assert not verify(tree.root, E, record, ExecutionProof(proof.index, count + 1, proof.siblings))
    assert not verify(tree.root, E, record, ExecutionProof(count, count, proof.siblings))
    assert not verify(tree.root, E, record, ExecutionProof(proof.index, count, (*proof.siblings, bytes(32))))


def test_root__order_does_not_matter_and_empty_epochs_differ() -> None:
    a, b = keccak256(b"a"), keccak256(b"b")
    assert ExecutionTree(E, [a, b]).root == ExecutionTree(E, [b, a]).root
    assert ExecutionTree(E, []).root != ExecutionTree(Epoch(4), []).root
    with pytest.raises(KeyError):
        ExecutionTree(E, [a]).proof(b)
    with pytest.raises(ValueError, match="32 bytes"):
        ExecutionTree(E, [b"short"])
