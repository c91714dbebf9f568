"""Bonding a keeper on a real chain, once, however often the command is given."""

import pytest

from offchain.db.database import Database
from offchain.domain.types import Wei
from offchain.errors import UserError
from offchain.keeper.operator.join import Joiner
from tests.support.services.contracts import BOND, Network

pytestmark = pytest.mark.anvil


def joiner(network: Network, database: Database, said: list[str]) -> Joiner:
    """Account 3 bonds, account 4 signs."""
    return Joiner(network.chain, database, network.signers[3], network.signers[4].address, 1_000, said.append)


def test_join__with_enough_tokens__is_bonded_and_listed_once(network: Network, database: Database) -> None:
    network.send(0, "ParallelixToken", "transfer", network.signers[3].address, 2 * BOND)
    said: list[str] = []
    keeper_id = joiner(network, database, said).join(None, "eu", "http://127.0.0.1:7000")
    assert [line.partition(":")[0] for line in said] == ["approve", "join", "setGateway"]
    reads = network.chain.at(network.chain.head_block())
    view = reads.one("KeeperRegistry", "keepers", keeper_id)
    assert (view["operator"], view["signer"]) == (network.signers[3].address, network.signers[4].address)
    assert reads.gateway_keeper(network.signers[4].address) == keeper_id
    assert joiner(network, database, said).join(None, "eu", "http://127.0.0.1:7000") == keeper_id
    assert len(said) == 3


@pytest.mark.parametrize(
    ("bond", "region", "words"),
    [(None, "eu", "fund it first"), (Wei(1), "eu", "at least"), (None, "x" * 33, "1 to 32")],
)
def test_join__cannot_work__is_one_line_and_no_transaction(
    network: Network, database: Database, bond: Wei | None, region: str, words: str
) -> None:
    said: list[str] = []
    with pytest.raises(UserError, match=words):
        joiner(network, database, said).join(bond, region, "http://127.0.0.1:7000")
    assert said == []
