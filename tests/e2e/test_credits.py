"""Credits in the vault: deposit, withdrawal after the thaw, and what is refused, against the real contracts."""

import pytest
from playwright.sync_api import expect

from tests.support.webapp.dashboard_user import DashboardUser

pytestmark = [pytest.mark.browser, pytest.mark.anvil]

PRLX = 10**18


def page(user: DashboardUser) -> str:
    return f"/credits/{user.wallet.address}"


def vault(user: DashboardUser) -> dict[str, int]:
    """The wallet's account in the vault, as the chain says."""
    account: dict[str, int] = user.network.chain.at(user.network.chain.head_block()).one(
        "CreditVault", "accounts", user.wallet.address
    )
    return account


def deposited(user: DashboardUser, amount: int) -> None:
    """Put credits into the vault without the browser, and wait until the page shows them."""
    address = user.network.deployment.contract("CreditVault").address
    user.network.send(3, "ParallelixToken", "approve", address, amount)
    user.network.send(3, "CreditVault", "deposit", user.wallet.address, amount)
    user.until(page(user), "[data-action=credit-thaw]")


def test_deposit__by_permit__one_transaction_and_the_page_shows_it(user: DashboardUser) -> None:
    user.open(page(user))
    expect(user.tab.get_by_text("There is nothing to withdraw.")).to_be_visible()
    user.connect()
    user.tab.get_by_label("Amount, in PRLX").fill("1,250.5")
    user.tab.get_by_role("button", name="Deposit").click()
    user.done()
    assert len(user.wallet.sent) == 1
    assert user.wallet.signed[0]["primaryType"] == "Permit"
    assert vault(user)["balance"] == 1_250 * PRLX + PRLX // 2
    expect(user.tab.get_by_text("1,250.5 PRLX of credits")).to_be_visible()
    user.tab.get_by_role("link", name="To the credits").click()
    expect(user.tab.locator(".figure.lead")).to_contain_text("1,250.50")


def test_deposit__wallet_without_permits__approves_first(user: DashboardUser) -> None:
    user.wallet.lacks.add("eth_signTypedData_v4")
    user.open(page(user))
    user.connect()
    user.tab.get_by_label("Amount, in PRLX").fill("3")
    user.tab.get_by_role("button", name="Deposit").click()
    user.done()
    assert len(user.wallet.sent) == 2
    assert vault(user)["balance"] == 3 * PRLX


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("", "That is not an amount of PRLX"),
        ("0", "That is not an amount of PRLX"),
        ("1e6", "That is not an amount of PRLX"),
        ("-1", "That is not an amount of PRLX"),
        ("1,5", "That is not an amount of PRLX"),
        ("1 5", "That is not an amount of PRLX"),
        ("150000.5", "The account holds 150,000 PRLX; this needs 150,000.5 PRLX."),
    ],
)
def test_deposit__bad_amount__says_so_and_sends_nothing(user: DashboardUser, amount: str, words: str) -> None:
    user.open(page(user))
    user.connect()
    user.tab.get_by_label("Amount, in PRLX").fill(amount)
    user.tab.get_by_role("button", name="Deposit").click()
    expect(user.tab.get_by_text(words)).to_be_visible()
    assert user.wallet.sent == []


@pytest.mark.parametrize("method", ["eth_signTypedData_v4", "eth_sendTransaction"])
def test_deposit__rejected_in_the_wallet__sends_nothing(user: DashboardUser, method: str) -> None:
    user.wallet.rejects.add(method)
    user.open(page(user))
    user.connect()
    user.tab.get_by_label("Amount, in PRLX").fill("3")
    user.tab.get_by_role("button", name="Deposit").click()
    expect(user.tab.get_by_text("Rejected by you. Nothing was sent.")).to_be_visible()
    assert vault(user)["balance"] == 0


def test_withdrawal__asked_called_off_asked_and_paid__whole_way(user: DashboardUser) -> None:
    deposited(user, 10 * PRLX)
    user.connect()
    user.tab.locator("#thaw-amount").fill("4")
    user.tab.get_by_role("button", name="Ask for it back").click()
    user.done()
    user.open(page(user))
    expect(user.tab.get_by_text("4 PRLX thaw, and can be withdrawn in")).to_be_visible()
    user.tab.get_by_role("button", name="Call it off").click()
    user.done()
    assert vault(user)["thawing"] == 0
    user.open(page(user))
    user.tab.get_by_role("button", name="Ask for it back").click()  # all of it, as the page proposes
    user.done()
    user.network.anvil.set_time(int(user.network.anvil.block()["timestamp"], 16) + 120)
    before = user.balance()
    user.until(page(user), "[data-action=credit-withdraw]")
    user.tab.get_by_role("button", name="Withdraw 10 PRLX").click()
    user.done()
    expect(user.tab.get_by_text("10 PRLX of credits went back")).to_be_visible()
    assert user.balance() - before == 10 * PRLX


def test_withdrawal__more_than_the_balance__decoded_error_and_nothing_sent(user: DashboardUser) -> None:
    deposited(user, 10 * PRLX)
    user.connect()
    user.tab.locator("#thaw-amount").fill("10.5")
    user.tab.get_by_role("button", name="Ask for it back").click()
    expect(user.tab.get_by_text("has 10 PRLX of credits, and 10.5 PRLX are asked for;")).to_be_visible()
    assert user.wallet.sent == []


def test_credits__of_another_account__only_its_own_wallet_may_act(user: DashboardUser) -> None:
    user.open(f"/credits/{user.network.signers[1].address}")
    user.connect()
    expect(user.tab.get_by_role("button", name="Deposit")).to_be_disabled()
    expect(user.tab.get_by_text("Only the owner’s wallet can do this.")).to_be_visible()
