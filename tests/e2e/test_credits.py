"""Credits in the vault: deposit, withdrawal after the thaw, and what is refused, against the real contracts."""

import pytest
from playwright.sync_api import expect

from tests.support.webapp.sources import Desk

pytestmark = [pytest.mark.browser, pytest.mark.anvil]

PRLX = 10**18


def page(desk: Desk) -> str:
    return f"/credits/{desk.wallet.address}"


def vault(desk: Desk) -> dict[str, int]:
    """The wallet's account in the vault, as the chain says."""
    account: dict[str, int] = desk.network.chain.at(desk.network.chain.head_block()).one(
        "CreditVault", "accounts", desk.wallet.address
    )
    return account


def deposited(desk: Desk, amount: int) -> None:
    """Put credits into the vault without the browser, and wait until the page shows them."""
    address = desk.network.deployment.contract("CreditVault").address
    desk.network.send(3, "ParallelixToken", "approve", address, amount)
    desk.network.send(3, "CreditVault", "deposit", desk.wallet.address, amount)
    desk.until(page(desk), "[data-action=credit-thaw]")


def test_deposit__by_permit__one_transaction_and_the_page_shows_it(desk: Desk) -> None:
    desk.open(page(desk))
    expect(desk.tab.get_by_text("There is nothing to withdraw.")).to_be_visible()
    desk.connect()
    desk.tab.get_by_label("Amount, in PRLX").fill("1,250.5")
    desk.tab.get_by_role("button", name="Deposit").click()
    desk.done()
    assert len(desk.wallet.sent) == 1
    assert desk.wallet.signed[0]["primaryType"] == "Permit"
    assert vault(desk)["balance"] == 1_250 * PRLX + PRLX // 2
    expect(desk.tab.get_by_text("1,250.5 PRLX of credits")).to_be_visible()
    desk.tab.get_by_role("link", name="To the credits").click()
    expect(desk.tab.locator(".figure.lead")).to_contain_text("1,250.50")


def test_deposit__wallet_without_permits__approves_first(desk: Desk) -> None:
    desk.wallet.lacks.add("eth_signTypedData_v4")
    desk.open(page(desk))
    desk.connect()
    desk.tab.get_by_label("Amount, in PRLX").fill("3")
    desk.tab.get_by_role("button", name="Deposit").click()
    desk.done()
    assert len(desk.wallet.sent) == 2
    assert vault(desk)["balance"] == 3 * PRLX


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
def test_deposit__bad_amount__says_so_and_sends_nothing(desk: Desk, amount: str, words: str) -> None:
    desk.open(page(desk))
    desk.connect()
    desk.tab.get_by_label("Amount, in PRLX").fill(amount)
    desk.tab.get_by_role("button", name="Deposit").click()
    expect(desk.tab.get_by_text(words)).to_be_visible()
    assert desk.wallet.sent == []


@pytest.mark.parametrize("method", ["eth_signTypedData_v4", "eth_sendTransaction"])
def test_deposit__rejected_in_the_wallet__sends_nothing(desk: Desk, method: str) -> None:
    desk.wallet.rejects.add(method)
    desk.open(page(desk))
    desk.connect()
    desk.tab.get_by_label("Amount, in PRLX").fill("3")
    desk.tab.get_by_role("button", name="Deposit").click()
    expect(desk.tab.get_by_text("Rejected by you. Nothing was sent.")).to_be_visible()
    assert vault(desk)["balance"] == 0


def test_withdrawal__asked_called_off_asked_and_paid__whole_way(desk: Desk) -> None:
    deposited(desk, 10 * PRLX)
    desk.connect()
    desk.tab.locator("#thaw-amount").fill("4")
    desk.tab.get_by_role("button", name="Ask for it back").click()
    desk.done()
    desk.open(page(desk))
    expect(desk.tab.get_by_text("4 PRLX thaw, and can be withdrawn in")).to_be_visible()
    desk.tab.get_by_role("button", name="Call it off").click()
    desk.done()
    assert vault(desk)["thawing"] == 0
    desk.open(page(desk))
    desk.tab.get_by_role("button", name="Ask for it back").click()  # all of it, as the page proposes
    desk.done()
    desk.network.anvil.set_time(int(desk.network.anvil.block()["timestamp"], 16) + 120)
    before = desk.balance()
    desk.until(page(desk), "[data-action=credit-withdraw]")
    desk.tab.get_by_role("button", name="Withdraw 10 PRLX").click()
    desk.done()
    expect(desk.tab.get_by_text("10 PRLX of credits went back")).to_be_visible()
    assert desk.balance() - before == 10 * PRLX


def test_withdrawal__more_than_the_balance__decoded_error_and_nothing_sent(desk: Desk) -> None:
    deposited(desk, 10 * PRLX)
    desk.connect()
    desk.tab.locator("#thaw-amount").fill("10.5")
    desk.tab.get_by_role("button", name="Ask for it back").click()
    expect(
        desk.tab.get_by_text("The vault holds 10 PRLX of this account; you ask for 10.5 PRLX.")
    ).to_be_visible()
    assert desk.wallet.sent == []


def test_credits__of_another_account__only_its_own_wallet_may_act(desk: Desk) -> None:
    desk.open(f"/credits/{desk.network.signers[1].address}")
    desk.connect()
    expect(desk.tab.get_by_role("button", name="Deposit")).to_be_disabled()
    expect(desk.tab.get_by_text("Only the owner’s wallet can do this.")).to_be_visible()
