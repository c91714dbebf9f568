"""What an owner changes about a node, through the browser and the real contracts."""

import pytest
from playwright.sync_api import expect

from offchain.domain.eip712 import keccak256
from tests.support.services.anvil import KEYS
from tests.support.webapp.dashboard_user import DashboardUser, registered

pytestmark = [pytest.mark.browser, pytest.mark.anvil]

HASH = "0x" + keccak256(b"something").hex()


def fill(user: DashboardUser, node: int, title: str, **fields: str) -> None:
    """Open the form of a change and fill it in."""
    user.open(f"/nodes/{node}")
    user.tab.locator("summary", has_text=title).click()
    for label, text in fields.items():
        user.tab.get_by_label(label.replace("_", " "), exact=False).fill(text)


def test_node_key__of_a_public_key__is_set_and_shown(user: DashboardUser) -> None:
    from coincurve import PrivateKey

    node = registered(user)
    user.connect()
    public = PrivateKey(bytes.fromhex(KEYS[6])).public_key.format(compressed=False)
    fill(user, node, "Another node key", Node_key_hash=f"0x{public.hex()}")
    user.tab.get_by_role("button", name="Set the node key").click()
    user.done()
    expect(user.tab.get_by_text(f"Node {node} has another node key.")).to_be_visible()
    bound = user.network.chain.at(user.network.chain.head_block()).one(
        "NodeRegistryLocker", "nodeOfKey", user.network.signers[6].address
    )
    assert bound == node
    user.open(f"/nodes/{node}")
    expect(user.tab.locator(".facts")).to_contain_text(user.network.signers[6].address[:6])


def test_node_key__of_another_node__decoded_error_and_nothing_sent(user: DashboardUser) -> None:
    other = user.network.register_node(1, key_account=5)
    node = registered(user)
    user.connect()
    address = user.network.signers[5].address
    fill(user, node, "Another node key", Node_key_hash="0x" + "00" * 12 + address[2:])
    user.tab.get_by_role("button", name="Set the node key").click()
    expect(user.tab.get_by_text(f"This node key already serves node {other};")).to_be_visible()
    assert user.wallet.sent == []


@pytest.mark.parametrize(
    ("title", "fields", "button", "words"),
    [
        ("Another node key", {"Node_key_hash": "0x12"}, "Set the node key", "That is not a node key hash"),
        ("Another payee", {"Pay_node": "0xdead"}, "Set the payee", "That is not an address"),
        (
            "Other capabilities",
            {"Manifest_hash": "abc"},
            "Set the capabilities",
            "That is not a manifest hash",
        ),
        (
            "Other capabilities",
            {"Manifest_hash": HASH, "Where_it_is_served": "javascript:alert(1)"},
            "Set the capabilities",
            "The place must be an http(s) address",
        ),
    ],
)
def test_change__malformed_input__says_so_and_asks_no_wallet(
    user: DashboardUser, title: str, fields: dict[str, str], button: str, words: str
) -> None:
    node = registered(user)
    user.connect()
    fill(user, node, title, **fields)
    user.tab.get_by_role("button", name=button).click()
    expect(user.tab.get_by_text(words)).to_be_visible()
    assert user.wallet.sent == []


def test_payee__by_the_owner__is_set_and_shown(user: DashboardUser) -> None:
    node = registered(user)
    user.connect()
    other = user.network.signers[1].address
    fill(user, node, "Another payee", Pay_node=other)
    user.tab.get_by_role("button", name="Set the payee").click()
    user.done()
    expect(user.tab.get_by_text(f"Node {node} is paid to {other}")).to_be_visible()
    user.open("/account")
    user.tab.get_by_role("button", name="Sign in with Ethereum").click()
    expect(user.tab.locator("table").first).to_contain_text(other[:6])


def test_change__rejected_in_the_wallet__can_be_tried_again(user: DashboardUser) -> None:
    node = registered(user)
    user.connect()
    fill(user, node, "Another payee", Pay_node=user.network.signers[1].address)
    user.wallet.rejects.add("eth_sendTransaction")
    button = user.tab.get_by_role("button", name="Set the payee")
    button.click()
    expect(user.tab.get_by_text("Rejected by you. Nothing was sent.")).to_be_visible()
    user.wallet.rejects.clear()
    button.click()
    user.done()


def test_capabilities__hash_and_place__are_set_and_shown(user: DashboardUser) -> None:
    node = registered(user)
    user.connect()
    fill(
        user,
        node,
        "Other capabilities",
        Manifest_hash=HASH,
        Where_it_is_served="https://node.example/manifest",
    )
    user.network.anvil.automine(False)
    user.tab.get_by_role("button", name="Set the capabilities").click()
    expect(user.tab.locator(".tx-words[data-state=pending]")).to_be_visible()
    user.tab.reload()
    expect(user.tab.locator(".tx-words[data-state=pending]")).to_be_visible()
    user.network.anvil.mine()
    user.done()
    expect(user.tab.get_by_text(f"Node {node} declared its capabilities.")).to_be_visible()
    user.open(f"/nodes/{node}")
    expect(user.tab.locator(".facts")).to_contain_text("https://node.example/manifest")
