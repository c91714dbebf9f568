"""What an operator does with a wallet, against the real contracts."""

import re

import pytest
from playwright.sync_api import Browser, expect

from offchain.domain.eip712 import keccak256
from tests.support.services.contracts import STAKE
from tests.support.webapp.sources import OPERATOR, Desk, registered

pytestmark = [pytest.mark.browser, pytest.mark.anvil]

KEY_HASH = "0x" + keccak256(b"a node key").hex()


def test_register__by_permit__one_transaction_from_tier_to_node(desk: Desk) -> None:
    desk.open("/register")
    desk.connect()
    desk.tab.get_by_label("Tier 2").check()
    desk.tab.get_by_role("button", name="Go on to the stake").click()
    expect(desk.tab.locator(".preview")).to_contain_text("Reward at full uptime")
    desk.tab.get_by_label("Stake, in PRLX").fill("50,000")
    desk.tab.get_by_role("button", name="Go on to the node key").click()
    desk.tab.get_by_label("Node key hash").fill(KEY_HASH)
    desk.tab.get_by_role("button", name="Go on to sign").click()
    expect(desk.tab.get_by_role("button", name="Register and stake 50,000 PRLX")).to_be_visible()
    desk.tab.goto(desk.tab.url)  # a step is its URL
    expect(desk.tab.locator("#wallet")).to_contain_text(desk.wallet.address[:6])
    desk.tab.get_by_role("button", name="Register and stake 50,000 PRLX").click()
    desk.done()
    expect(desk.tab.get_by_text("Node 1 is registered in tier 2 with 50,000 PRLX")).to_be_visible()
    assert len(desk.wallet.sent) == 1
    assert desk.wallet.signed[0]["primaryType"] == "Permit"
    assert desk.wallet.signed[0]["message"]["value"] == str(STAKE)
    desk.tab.get_by_role("link", name="To node 1").click()
    expect(desk.tab.get_by_role("heading", name="Node 1")).to_contain_text("idle")


def test_register__wallet_without_permits__approves_first(desk: Desk) -> None:
    desk.wallet.lacks.add("eth_signTypedData_v4")
    desk.open(f"/register/sign?tier=1&stake=50000&key={KEY_HASH}")
    desk.connect()
    desk.tab.get_by_role("button", name="Register and stake").click()
    desk.done()
    assert len(desk.wallet.sent) == 2
    expect(desk.tab.get_by_text("Node 1 is registered")).to_be_visible()


@pytest.mark.parametrize("method", ["eth_signTypedData_v4", "eth_sendTransaction"])
def test_register__rejected_in_the_wallet__says_so_and_sends_nothing(desk: Desk, method: str) -> None:
    desk.wallet.rejects.add(method)
    desk.open(f"/register/sign?tier=1&stake=50000&key={KEY_HASH}")
    desk.connect()
    button = desk.tab.get_by_role("button", name="Register and stake")
    button.click()
    expect(desk.tab.get_by_text("Rejected by you. Nothing was sent.")).to_be_visible()
    expect(button).to_be_enabled()
    assert desk.wallet.sent == []


def test_register__more_than_the_balance__says_both_figures(desk: Desk) -> None:
    desk.open(f"/register/sign?tier=1&stake=150000.5&key={KEY_HASH}")
    desk.connect()
    desk.tab.get_by_role("button", name="Register and stake").click()
    expect(desk.tab.get_by_text("The account holds 150,000 PRLX; this needs 150,000.5 PRLX.")).to_be_visible()
    assert desk.wallet.sent == []


def test_register__key_in_use__is_refused_before_signing(desk: Desk) -> None:
    node = desk.network.register_node(1, key_account=5)
    key = "0x" + (bytes(12) + bytes.fromhex(desk.network.signers[5].address[2:])).hex()
    desk.open(f"/register/sign?tier=1&stake=50000&key={key}")
    expect(desk.tab.get_by_role("alert")).to_contain_text(f"already serves node {node}")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("tier=1&stake=10", "The least stake is 50,000 PRLX."),
        ("tier=1&stake=1e9", "That is not an amount."),
        ("tier=1&stake=50000&key=0x12", "neither a 32-byte hash"),
    ],
)
def test_register__bad_input__stays_on_the_step_that_can_mend_it(desk: Desk, query: str, words: str) -> None:
    desk.open(f"/register/sign?{query}")
    expect(desk.tab.get_by_role("alert")).to_contain_text(words)


def test_action__wallet_on_another_chain__switches_first(desk: Desk) -> None:
    desk.wallet.chain_id = 1
    desk.open(f"/register/sign?tier=1&stake=50000&key={KEY_HASH}")
    desk.connect()
    desk.tab.get_by_role("button", name="Register and stake").click()
    desk.done()
    assert "wallet_switchEthereumChain" in desk.wallet.asked
    assert desk.wallet.chain_id == 31337


def test_action__switch_refused__sends_nothing(desk: Desk) -> None:
    desk.wallet.chain_id = 1
    desk.wallet.rejects.add("wallet_switchEthereumChain")
    desk.open(f"/register/sign?tier=1&stake=50000&key={KEY_HASH}")
    desk.connect()
    desk.tab.get_by_role("button", name="Register and stake").click()
    expect(desk.tab.get_by_text("Your wallet stays on another chain")).to_be_visible()
    assert desk.wallet.sent == []


def test_node__unstake_cancel_unstake_withdraw__whole_way(desk: Desk) -> None:
    node = registered(desk)
    desk.connect()
    desk.tab.get_by_role("button", name="Ask for the stake back").click()
    desk.done()
    desk.open(f"/nodes/{node}")
    expect(desk.tab.get_by_text("Withdrawable in")).to_be_visible()
    desk.tab.get_by_role("button", name="Cancel: keep the node").click()
    desk.done()
    expect(desk.tab.get_by_text(f"Node {node} stays")).to_be_visible()
    desk.open(f"/nodes/{node}")
    desk.tab.get_by_role("button", name="Ask for the stake back").click()
    desk.done()
    now = int(desk.network.anvil.block()["timestamp"], 16)
    desk.network.anvil.set_time(now + 3_000)
    desk.until(f"/nodes/{node}", "[data-action=withdraw]")
    desk.tab.get_by_role("button", name="Withdraw 50,000 PRLX").click()
    desk.done()
    expect(desk.tab.get_by_text("50,000 PRLX went back to its owner")).to_be_visible()
    desk.open(f"/nodes/{node}")
    expect(desk.tab.get_by_role("heading", name=f"Node {node}")).to_contain_text("retired")


def test_node__stranger__cannot_touch_it(desk: Desk) -> None:
    node = desk.network.register_node(1)
    desk.until(f"/nodes/{node}", "#facts")
    desk.connect()
    expect(desk.tab.get_by_text("Only the owner’s wallet can do this.").first).to_be_visible()
    expect(desk.tab.get_by_role("button", name="Ask for the stake back")).to_be_disabled()


def test_node__page_out_of_date__decoded_error_and_nothing_sent(desk: Desk) -> None:
    node = registered(desk)
    desk.connect()
    desk.network.send(OPERATOR, "NodeRegistryLocker", "requestUnstake", node)
    desk.tab.get_by_role("button", name="Ask for the stake back").click()
    expect(desk.tab.get_by_text(f"Node {node} is cooling; the page is out of date")).to_be_visible()
    assert desk.wallet.sent == []


def test_transaction__pending__is_true_after_reload_and_when_mined(desk: Desk) -> None:
    node = registered(desk)
    desk.connect()
    desk.network.anvil.automine(False)
    desk.tab.get_by_role("button", name="Ask for the stake back").click()
    expect(desk.tab.locator(".tx-words[data-state=pending]")).to_be_visible()
    desk.tab.reload()
    expect(desk.tab.locator(".tx-words[data-state=pending]")).to_be_visible()
    with desk.follower.still:
        desk.network.anvil.mine()
        expect(desk.tab.locator(".tx-words[data-state=confirmed]")).to_be_visible()
    expect(desk.tab.locator(".tx-words[data-state=done]")).to_be_visible()
    assert f"Node {node} asked for its stake" in (desk.tab.locator(".tx-words").text_content() or "")


def test_transaction__reorganised_under_the_open_page__is_not_called_done(desk: Desk) -> None:
    node = registered(desk)
    desk.network.send(OPERATOR, "NodeRegistryLocker", "requestUnstake", node)
    tx = desk.network.anvil.block()["transactions"][0]
    desk.open(f"/tx/{tx}")
    expect(desk.tab.locator(".tx-words")).to_have_attribute("data-state", re.compile("done|confirmed"))
    desk.network.anvil.reorg(1)
    desk.until(f"/tx/{tx}", ".tx-words:is([data-state=unknown], [data-state=pending])")
    desk.until(f"/nodes/{node}", "h1 .s-idle")


@pytest.mark.parametrize("path", ["/tx/0x12", "/tx/" + "z" * 66])
def test_transaction__malformed__is_a_proper_page(desk: Desk, path: str) -> None:
    answer = desk.tab.goto(desk.url + path)
    assert answer
    assert answer.status == 400


def test_wallet__none_in_the_browser__says_that_reading_needs_none(chromium: Browser, desk: Desk) -> None:
    context = chromium.new_context()
    tab = context.new_page()
    tab.goto(desk.url)
    tab.get_by_role("button", name="Connect wallet").click()
    expect(tab.get_by_text("No wallet was found in this browser.")).to_be_visible()
    context.close()


def test_wallet__account_changed__page_follows(desk: Desk) -> None:
    node = registered(desk)
    desk.connect()
    expect(desk.tab.get_by_role("button", name="Ask for the stake back")).to_be_enabled()
    desk.tab.evaluate(
        "window.emitFromWallet('accountsChanged', ['0x000000000000000000000000000000000000dEaD'])"
    )
    expect(desk.tab.get_by_role("button", name="Ask for the stake back")).to_be_disabled()
    assert node


def test_account__sign_in_with_the_wallet__and_out(desk: Desk) -> None:
    desk.open("/account")
    desk.connect()
    desk.wallet.rejects.add("personal_sign")
    button = desk.tab.get_by_role("button", name="Sign in with Ethereum")
    button.click()
    expect(desk.tab.get_by_text("Rejected by you. You are not signed in.")).to_be_visible()
    desk.wallet.rejects.clear()
    button.click()
    expect(desk.tab.get_by_text("Signed in as")).to_be_visible()
    desk.tab.set_viewport_size({"width": 360, "height": 740})
    assert desk.tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert "wants you to sign in with your Ethereum account" in desk.wallet.signed[-1]
    desk.tab.get_by_label("URL").fill("https://hooks.example/a")
    desk.tab.get_by_role("button", name="Add").click()
    expect(desk.tab.locator(".channel .target")).to_have_text("https://hooks.example/a")
    desk.tab.get_by_role("button", name="Sign out").click()
    expect(button).to_be_visible()
