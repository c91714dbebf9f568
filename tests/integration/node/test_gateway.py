"""Real agents behind a real gateway, reached only through the connections that the agents opened."""

import time
from pathlib import Path

import httpx
import pytest

from offchain.chain.deployment import Deployment
from offchain.crypto.keys import Signer
from offchain.demo.network import LocalNetwork
from offchain.domain.types import NodeId
from offchain.protocol.pair_mac import GatewayMacs
from tests.support.node.gateway import running_gateway
from tests.support.node.processes import Agent, register_nodes, settings_of
from tests.support.node.requests import chat, ticket_headers, until
from tests.support.web_client import HTTP

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module", autouse=True)
def registered(network: LocalNetwork, tmp_path_factory: pytest.TempPathFactory) -> None:
    register_nodes(network, tmp_path_factory.mktemp("registered"))


def ask(url: str, key: str, text: str, **headers: str) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    headers["Authorization"] = f"Bearer {key}"
    return HTTP.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def _is_proved_to_the_gateway(network: LocalNetwork, url: str) -> bool:
    """Whether a node proves an answer: asked past the gateway's dispatch, over the connection that it holds of the node."""
    node, body = network.nodes[0], chat("tokens=1")
    signer, node_key = (
        Signer.load(one.keystore, one.password_file) for one in (network.gateway_signer, node.key)
    )
    domain = Deployment.load(network.places.run / "deployment.json").signing_domain("NodeRegistryLocker")
    headers = ticket_headers(
        body, signer=signer, node=node.node_id, domain=domain, node_key=node_key.public_key
    )
    answer = HTTP.post(
        f"{url}/internal/dial/{node.node_id}/v1/chat/completions", content=body, headers=headers
    )
    macs = GatewayMacs(signer.public_key, signer.agree, lambda _: node_key.public_key)
    return (
        macs.proved(
            NodeId(node.node_id),
            bytes.fromhex(headers["X-Parallelix-Request-Id"][2:]),
            answer.content,
            answer.headers["x-parallelix-proof"],
        )
        is True
    )


def test_dialled_nodes__serve_through_the_gateway__and_one_dies_unnoticed(
    network: LocalNetwork, tmp_path: Path
) -> None:
    with running_gateway(network, tmp_path / "gateway", network.nodes) as (url, key):
        agents = []
        try:
            for index, node in enumerate(network.nodes):
                folder = tmp_path / f"agent-{index}"
                folder.mkdir()
                # an address at which nothing answers: whoever connects to it instead of the dialled connection fails
                config = settings_of(
                    network,
                    node,
                    folder,
                    heartbeat_receivers=[url],
                    dial_out=True,
                    public_url="http://127.0.0.1:9",
                )
                agents.append(Agent(network, config, folder))
            for agent, node in zip(agents, network.nodes, strict=True):
                agent.wait_ready()

                def pinned(node_id: int = node.node_id) -> bool:
                    return ask(url, key, "tokens=1", **{"X-Parallelix-Node": str(node_id)}).status_code == 200

                until(pinned, 60, f"node {node.node_id} through the gateway")
            answer = ask(url, key, "tokens=3")
            assert answer.json()["choices"][0]["message"]["content"] == " w0é w1é w2é"
            assert answer.headers["x-parallelix-receipt"]
            assert _is_proved_to_the_gateway(network, url)
            agents[0].process.kill()
            agents[0].process.wait()
            began = time.monotonic()
            statuses = [ask(url, key, "tokens=1").status_code for _ in range(20)]
            assert statuses == [200] * 20
            assert time.monotonic() - began < 10
        finally:
            for agent in agents:
                agent.process.kill()
                agent.process.wait()
