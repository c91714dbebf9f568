"""Claims against the real contracts: what the page says is what is paid."""

import pytest
from playwright.sync_api import expect
from sqlalchemy import update

from offchain.db.models import SlotRecord
from tests.support.webapp.dashboard_user import OPERATOR, DashboardUser, attest

pytestmark = [pytest.mark.browser, pytest.mark.anvil]


def test_claim__all_of_an_operator__pays_what_the_page_said_to_the_wei(user: DashboardUser) -> None:
    net = user.network
    for account in (1, 2):
        net.join_keeper(account)
    first, second = net.register_node(OPERATOR), net.register_node(OPERATOR, tier=3)
    epoch = net.next_epoch()
    net.next_epoch()
    attest(user, epoch, {first: 10_000, second: 8_000})
    now = int(net.anvil.block()["timestamp"], 16)
    net.anvil.set_time(now + 60)
    before = user.balance()
    user.until(f"/operators/{user.wallet.address}", ".claim-band")
    shown = user.tab.locator(".claim-band b").text_content() or ""
    user.connect()
    user.tab.get_by_role("button", name="Claim all").click()
    user.done()
    after = user.balance()
    whole, _, part = shown.removesuffix(" PRLX").replace(",", "").partition(".")
    assert after - before == int(whole) * 10**18 + int(part.ljust(18, "0"))
    expect(user.tab.locator(".sentences li")).to_have_count(2)
    user.open(f"/nodes/{second}")
    row = user.tab.locator("table.epochs tr", has_text="claimed").first
    expect(row).to_contain_text("80\u202f%")


def test_claim__index_that_does_not_fit_the_report__is_not_offered(user: DashboardUser) -> None:
    net = user.network
    net.join_keeper(1)
    node = net.register_node(OPERATOR)
    epoch = net.next_epoch()
    net.next_epoch()
    attest(user, epoch, {node: 9_000})
    net.anvil.set_time(int(net.anvil.block()["timestamp"], 16) + 60)
    with user.follower.database.write() as session:
        session.execute(update(SlotRecord).values(uptime_bps=10_000))
    user.until(f"/operators/{user.wallet.address}", ".claim-band")
    user.connect()
    user.tab.get_by_role("button", name="Claim all").click()
    expect(user.tab.get_by_text("do not match the report")).to_be_visible()
    assert user.wallet.sent == []
