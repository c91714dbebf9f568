"""What an operator does with a wallet, against the real contracts."""

import re

import pytest
from playwright.sync_api import Browser, expect

from offchain.domain.eip712 import keccak256
from tests.support.services.contracts import STAKE
from tests.support.webapp.dashboard_user import OPERATOR, DashboardUser, registered

pytestmark = [pytest.mark.browser, pytest.mark.anvil]

KEY_HASH = "0x" + keccak256(b"a node key").hex()


def test_register__by_permit__one_transaction_from_tier_to_node(user: DashboardUser) -> None:
    user.open("/register")
    user.connect()
    user.tab.get_by_label("Tier 2").check()
    user.tab.get_by_role("button", name="Go on to the stake").click()
    expect(user.tab.locator(".preview")).to_contain_text("Reward at full uptime")
    user.tab.get_by_label("Stake, in PRLX").fill("50,000")
    user.tab.get_by_role("button", name="Go on to the node key").click()
    user.tab.get_by_label("Node key hash").fill(KEY_HASH)
    user.tab.get_by_role("button", name="Go on to sign").click()
    expect(user.tab.get_by_role("button", name="Register and stake 50,000 PRLX")).to_be_visible()
    user.tab.goto(user.tab.url)  # a step is its URL
    expect(user.tab.locator("#wallet")).to_contain_text(user.wallet.address[:6])
    user.tab.get_by_role("button", name="Register and stake 50,000 PRLX").click()
    user.done()
    expect(user.tab.get_by_text("Node 1 is registered in tier 2 with 50,000 PRLX")).to_be_visible()
    assert len(user.wallet.sent) == 1
    assert user.wallet.signed[0]["primaryType"] == "Permit"
    assert user.wallet.signed[0]["message"]["value"] == str(STAKE)
    user.tab.get_by_role("link", name="To node 1").click()
    expect(user.tab.get_by_role("heading", name="Node 1")).to_contain_text("idle")


def test_register__wallet_without_permits__approves_first(user: DashboardUser) -> None:
    user.wallet.lacks.add("eth_signTypedData_v4")
    user.open(f"/register/sign?tier=1&stake=50000&key={KEY_HASH}")
    user.connect()
    user.tab.get_by_role("button", name="Register and stake").click()
    user.done()
    assert len(user.wallet.sent) == 2
    expect(user.tab.get_by_text("Node 1 is registered")).to_be_visible()


@pytest.mark.parametrize("method", ["eth_signTypedData_v4", "eth_sendTransaction"])
def test_register__rejected_in_the_wallet__says_so_and_sends_nothing(
    user: DashboardUser, method: str
) -> None:
    user.wallet.rejects.add(method)
    user.open(f"/register/sign?tier=1&stake=50000&key={KEY_HASH}")
    user.connect()
    button = user.tab.get_by_role("button", name="Register and stake")
    button.click()
    expect(user.tab.get_by_text("Rejected by you. Nothing was sent.")).to_be_visible()
    expect(button).to_be_enabled()
    assert user.wallet.sent == []


def test_register__more_than_the_balance__says_both_figures(user: DashboardUser) -> None:
    user.open(f"/register/sign?tier=1&stake=150000.5&key={KEY_HASH}")
    user.connect()
    user.tab.get_by_role("button", name="Register and stake").click()
    expect(user.tab.get_by_text("The account holds 150,000 PRLX; this needs 150,000.5 PRLX.")).to_be_visible()
    assert user.wallet.sent == []


def test_register__key_in_use__is_refused_before_signing(user: DashboardUser) -> None:
    node = user.network.register_node(1, key_account=5)
    key = "0x" + (bytes(12) + bytes.fromhex(user.network.signers[5].address[2:])).hex()
    user.open(f"/register/sign?tier=1&stake=50000&key={key}")
    expect(user.tab.get_by_role("alert")).to_contain_text(f"already serves node {node}")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("tier=1&stake=10", "The least stake is 50,000 PRLX."),
        ("tier=1&stake=1e9", "That is not an amount."),
        ("tier=1&stake=50000&key=0x12", "neither a 32-byte hash"),
    ],
)
def test_register__bad_input__stays_on_the_step_that_can_mend_it(
    user: DashboardUser, query: str, words: str
) -> None:
    user.open(f"/register/sign?{query}")
    expect(user.tab.get_by_role("alert")).to_contain_text(words)


def test_action__wallet_on_another_chain__switches_first(user: DashboardUser) -> None:
    user.wallet.chain_id = 1
    user.open(f"/register/sign?tier=1&stake=50000&key={KEY_HASH}")
    user.connect()
    user.tab.get_by_role("button", name="Register and stake").click()
    user.done()
    assert "wallet_switchEthereumChain" in user.wallet.asked
    assert user.wallet.chain_id == 31337


def test_action__switch_refused__sends_nothing(user: DashboardUser) -> None:
    user.wallet.chain_id = 1
    user.wallet.rejects.add("wallet_switchEthereumChain")
    user.open(f"/register/sign?tier=1&stake=50000&key={KEY_HASH}")
    user.connect()
    user.tab.get_by_role("button", name="Register and stake").click()
    expect(user.tab.get_by_text("Your wallet stays on another chain")).to_be_visible()
    assert user.wallet.sent == []


def test_node__unstake_cancel_unstake_withdraw__whole_way(user: DashboardUser) -> None:
    node = registered(user)
    user.connect()
    user.tab.get_by_role("button", name="Ask for the stake back").click()
    user.done()
    user.open(f"/nodes/{node}")
    expect(user.tab.get_by_text("Withdrawable in")).to_be_visible()
    user.tab.get_by_role("button", name="Cancel: keep the node").click()
    user.done()
    expect(user.tab.get_by_text(f"Node {node} stays")).to_be_visible()
    user.open(f"/nodes/{node}")
    user.tab.get_by_role("button", name="Ask for the stake back").click()
    user.done()
    now = int(user.network.anvil.block()["timestamp"], 16)
    user.network.anvil.set_time(now + 3_000)
    user.until(f"/nodes/{node}", "[data-action=withdraw]")
    user.tab.get_by_role("button", name="Withdraw 50,000 PRLX").click()
    user.done()
    expect(user.tab.get_by_text("50,000 PRLX went back to its owner")).to_be_visible()
    user.open(f"/nodes/{node}")
    expect(user.tab.get_by_role("heading", name=f"Node {node}")).to_contain_text("retired")


def test_node__stranger__cannot_touch_it(user: DashboardUser) -> None:
    node = user.network.register_node(1)
    user.until(f"/nodes/{node}", "#facts")
    user.connect()
    expect(user.tab.get_by_text("Only the owner’s wallet can do this.").first).to_be_visible()
    expect(user.tab.get_by_role("button", name="Ask for the stake back")).to_be_disabled()


def test_node__page_out_of_date__decoded_error_and_nothing_sent(user: DashboardUser) -> None:
    node = registered(user)
    user.connect()
    user.network.send(OPERATOR, "NodeRegistryLocker", "requestUnstake", node)
    user.tab.get_by_role("button", name="Ask for the stake back").click()
    expect(user.tab.get_by_text(f"Node {node} is cooling, and the call needs another state")).to_be_visible()
    assert user.wallet.sent == []


def test_transaction__pending__is_true_after_reload_and_when_mined(user: DashboardUser) -> None:
    node = registered(user)
    user.connect()
    user.network.anvil.automine(False)
    user.tab.get_by_role("button", name="Ask for the stake back").click()
    expect(user.tab.locator(".tx-words[data-state=pending]")).to_be_visible()
    user.tab.reload()
    expect(user.tab.locator(".tx-words[data-state=pending]")).to_be_visible()
    with user.follower.still:
        user.network.anvil.mine()
        expect(user.tab.locator(".tx-words[data-state=confirmed]")).to_be_visible()
    expect(user.tab.locator(".tx-words[data-state=done]")).to_be_visible()
    assert f"Node {node} asked for its stake" in (user.tab.locator(".tx-words").text_content() or "")


def test_transaction__reorganised_under_the_open_page__is_not_called_done(user: DashboardUser) -> None:
    node = registered(user)
    user.network.send(OPERATOR, "NodeRegistryLocker", "requestUnstake", node)
    tx = user.network.anvil.block()["transactions"][0]
    user.open(f"/tx/{tx}")
    expect(user.tab.locator(".tx-words")).to_have_attribute("data-state", re.compile("done|confirmed"))
    user.network.anvil.reorg(1)
    user.until(f"/tx/{tx}", ".tx-words:is([data-state=unknown], [data-state=pending])")
    user.until(f"/nodes/{node}", "h1 .s-idle")


@pytest.mark.parametrize("path", ["/tx/0x12", "/tx/" + "z" * 66])
def test_transaction__malformed__is_a_proper_page(user: DashboardUser, path: str) -> None:
    answer = user.tab.goto(user.url + path)
    assert answer
    assert answer.status == 400


def test_wallet__none_in_the_browser__says_that_reading_needs_none(
    chromium: Browser, user: DashboardUser
) -> None:
    context = chromium.new_context()
    tab = context.new_page()
    tab.goto(user.url)
    tab.get_by_role("button", name="Connect wallet").click()
    expect(tab.get_by_text("No wallet was found in this browser.")).to_be_visible()
    context.close()


def test_wallet__account_changed__page_follows(user: DashboardUser) -> None:
    node = registered(user)
    user.connect()
    expect(user.tab.get_by_role("button", name="Ask for the stake back")).to_be_enabled()
    user.tab.evaluate(
        "window.emitFromWallet('accountsChanged', ['0x000000000000000000000000000000000000dEaD'])"
    )
    expect(user.tab.get_by_role("button", name="Ask for the stake back")).to_be_disabled()
    assert node


def test_account__sign_in_with_the_wallet__and_out(user: DashboardUser) -> None:
    user.open("/account")
    user.connect()
    user.wallet.rejects.add("personal_sign")
    button = user.tab.get_by_role("button", name="Sign in with Ethereum")
    button.click()
    expect(user.tab.get_by_text("Rejected by you. You are not signed in.")).to_be_visible()
    user.wallet.rejects.clear()
    button.click()
    expect(user.tab.get_by_text("Signed in as")).to_be_visible()
    user.tab.set_viewport_size({"width": 360, "height": 740})
    assert user.tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert "wants you to sign in with your Ethereum account" in user.wallet.signed[-1]
    user.tab.get_by_label("URL").fill("https://hooks.example/a")
    user.tab.get_by_role("button", name="Add").click()
    expect(user.tab.locator(".channel .target")).to_have_text("https://hooks.example/a")
    user.tab.get_by_role("button", name="Sign out").click()
    expect(button).to_be_visible()
