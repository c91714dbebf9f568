"""The read-only pages in a real browser."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import create_engine, text

from tests.support.webapp.seed import SeededNetwork

pytestmark = pytest.mark.browser

PAGES = (
    "/",
    "/operators",
    "/operators/{owner}",
    "/operators/{owner}/earnings",
    "/operators/0x{zeros}",
    "/nodes/5",
    "/nodes/5/epochs/33",
    "/nodes/5/epochs/39",
    "/nodes/999",
    "/register?tier=2",
    "/register/stake?tier=2",
    "/register/key?tier=2&stake=75000",
    "/register/sign?tier=2&stake=75000&key=0x{key}",
    "/register/sign?tier=2&stake=7",
    "/tx/0x{key}",
    "/playground",
    "/activity",
    "/account",
    "/credits",
    "/credits/{owner}",
    "/keys",
)


def path_of(page: str, net: SeededNetwork) -> str:
    return page.format(owner=net.owners[0], zeros="0" * 40, key="ab" * 32)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_pages__axe__nothing_serious(
    chromium: Browser, site: str, seeded: SeededNetwork, page: str, scheme: str
) -> None:
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.goto(site + path_of(page, seeded))
    result = Axe().run(tab)
    bad = [v for v in result.response["violations"] if v["impact"] in ("serious", "critical")]
    context.close()
    assert not bad, [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in bad]


@pytest.mark.parametrize("page", PAGES)
def test_pages__phone_width__nothing_overflows(
    chromium: Browser, site: str, seeded: SeededNetwork, page: str
) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    tab = context.new_page()
    tab.goto(site + path_of(page, seeded))
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_network__opened__shows_fleet_and_ticks(tab: Page, site: str) -> None:
    tab.goto(site)
    expect(tab.get_by_role("heading", name="Network")).to_be_visible()
    expect(tab.locator(".grid .cell")).to_have_count(23)
    first = tab.locator("[data-since]").first
    before = first.text_content()
    expect(first).not_to_have_text(before or "")


def test_network__node_cell__leads_to_node_and_its_operator(
    tab: Page, site: str, seeded: SeededNetwork
) -> None:
    tab.goto(site)
    tab.locator(".grid .cell").first.click()
    expect(tab.get_by_role("heading", name="Node 1")).to_be_visible()
    tab.locator(".lede a").click()
    expect(tab).to_have_url(re.compile(seeded.owners[0]))
    expect(tab.locator("table.nodes tbody tr")).to_have_count(6)


def test_operator__chart__is_drawn_and_says_the_same_in_a_table(
    tab: Page, site: str, seeded: SeededNetwork
) -> None:
    tab.goto(f"{site}/operators/{seeded.owners[0]}")
    expect(tab.locator(".chart canvas")).to_be_visible()
    expect(tab.locator("table.epochs tbody tr")).to_have_count(31)


def test_figure__question_mark__explains_by_keyboard(tab: Page, site: str) -> None:
    tab.goto(site)
    button = tab.get_by_role("button", name="How is “Staked” computed?")
    button.focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#how-staked")).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tab.locator("#how-staked")).to_be_hidden()


def test_theme__button__is_kept_over_pages(tab: Page, site: str) -> None:
    tab.goto(site)
    button = tab.locator("#theme")
    button.click()
    button.click()
    expect(tab.locator("html")).to_have_attribute("data-theme", "dark")
    tab.goto(f"{site}/nodes/1")
    expect(tab.locator("html")).to_have_attribute("data-theme", "dark")


def test_pages__keyboard__skip_link_comes_first(tab: Page, site: str) -> None:
    tab.goto(site)
    tab.keyboard.press("Tab")
    expect(tab.locator(".skip")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.locator("#main")).to_be_focused()


def test_find__address__shows_operator(tab: Page, site: str, seeded: SeededNetwork) -> None:
    tab.goto(f"{site}/operators")
    tab.get_by_label("Address").fill(seeded.owners[0].lower())
    tab.get_by_role("button", name="Show").click()
    expect(tab.get_by_role("heading", name="Operator")).to_be_visible()


def test_pages__without_script__say_the_same(chromium: Browser, site: str, seeded: SeededNetwork) -> None:
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{site}/operators/{seeded.owners[0]}")
    expect(tab.locator("table.nodes tbody tr")).to_have_count(6)
    context.close()


def test_network__empty_index__says_so(tab: Page, empty_site: str) -> None:
    tab.goto(empty_site)
    expect(tab.get_by_text("No node is registered yet.")).to_be_visible()
    expect(tab.get_by_text("The index has read no block yet.")).to_be_visible()


def test_activity__new_event__appears_without_a_reload(tab: Page, site: str, seeded: SeededNetwork) -> None:
    tab.goto(f"{site}/activity")
    expect(tab.locator("#feed-state")).to_have_text("Live")
    before = tab.locator("#feed li").count()
    engine = create_engine(seeded.url)
    with engine.begin() as db:
        db.execute(
            text(
                "insert into events select 'later', 0, 99999, block_timestamp, tx_hash, contract, name, args, node_id,"
                " epoch, entity from events where name = 'NodeRegistered' and node_id = 7"
            )
        )
    try:
        expect(tab.locator("#feed li.fresh")).to_contain_text("Node 7 is registered")
        assert tab.locator("#feed li").count() == before + 1
    finally:
        with engine.begin() as db:
            db.execute(text("delete from events where block_hash = 'later'"))
        engine.dispose()


def test_earnings__filters_and_export__agree(tab: Page, site: str, seeded: SeededNetwork) -> None:
    tab.goto(f"{site}/operators/{seeded.owners[0]}/earnings")
    tab.get_by_label("Node", exact=True).select_option("5")
    tab.get_by_role("button", name="Show").click()
    expect(tab).to_have_url(re.compile("node=5"))
    tab.wait_for_load_state()  # the address changes before the table is there
    rows = tab.locator("table.epochs tbody tr").count()
    with tab.expect_download() as download:
        tab.get_by_role("link", name="CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == rows + 1


def test_node__lost_slot__opens_its_evidence(tab: Page, site: str) -> None:
    tab.goto(f"{site}/nodes/5")
    tab.get_by_role("link", name="33", exact=True).click()
    second = tab.locator(".evidence details").nth(1)
    expect(second.get_by_text("Signature checked.").first).to_be_hidden()
    second.locator("summary").click()
    expect(second.get_by_text("Signature checked.").first).to_be_visible()
