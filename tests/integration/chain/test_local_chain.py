"""The demo's chain on a real one: calls by name, events with their arguments, nonces without a gap."""

from contextlib import closing
from pathlib import Path

import pytest

from offchain.chain.reader import RequestStatus
from offchain.chain.rpc import Rpc
from offchain.demo.wallets import ETHER, LocalChain, Wallet
from offchain.domain.eip712 import keccak256
from offchain.errors import UserError
from tests.support.services.contracts import Network

pytestmark = pytest.mark.anvil


def test_local_chain__request_and_events__are_what_was_sent(network: Network) -> None:
    with closing(Rpc("http://127.0.0.1:9")) as nobody:
        assert not LocalChain(nobody).is_up()
    chain = LocalChain(network.rpc)
    assert chain.is_up()
    chain.use(network.deployment)
    wallet = Wallet("deployer", network.signers[0], Path("none"), Path("none"))
    chain.endow(wallet, 7)
    assert int(network.anvil.rpc("eth_getBalance", wallet.address, "latest"), 16) == 7 * ETHER
    market = network.deployment.contract("InferenceMarket").address
    approved = chain.send(wallet, "ParallelixToken", "approve", market, ETHER)
    arguments = (keccak256(b"model"), b"{}", ETHER, chain.time() + 300, "0x" + "00" * 20)
    block = chain.transact(wallet, "InferenceMarket", "request", *arguments)
    assert chain.wait([approved]) <= block == network.anvil.height
    (asked,) = chain.events("InferenceMarket", "InferenceRequested", block)
    assert (asked["requester"], asked["payload"]) == (wallet.address, "0x7b7d")
    wanted = {"requestId": asked["requestId"]}
    assert chain.events("InferenceMarket", "InferenceRequested", **wanted) == [asked]
    assert chain.events("InferenceMarket", "InferenceRequested", requestId="0x00") == []
    assert chain.events("InferenceMarket", "InferenceFulfilled") == []
    request = chain.read("InferenceMarket", "requests", bytes.fromhex(asked["requestId"][2:]))
    assert request["status"] == RequestStatus.OPEN
    with pytest.raises(UserError, match="reverted"):
        chain.transact(wallet, "NodeRegistryLocker", "requestUnstake", 77)
