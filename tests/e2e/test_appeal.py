"""An appeal through the browser: receipts that a node and a keeper signed, against the real contract."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from offchain.db.models import Probe
from offchain.domain.evidence_entries import AnswerEntry
from offchain.domain.messages import ServiceReceipt, SlotReceipt
from offchain.domain.types import Epoch, NodeId, Wei
from tests.support.webapp.dashboard_user import OPERATOR, DashboardUser, attest

pytestmark = [pytest.mark.browser, pytest.mark.anvil]

NODE_KEY, KEEPER, STRANGER = 5, 1, 6


def answer(user: DashboardUser, epoch: int, node: int, slot: int, keeper: int = KEEPER) -> AnswerEntry:
    """A receipt of a node for a slot, signed by its key and by a keeper."""
    net = user.network
    receipt = ServiceReceipt(
        slot.to_bytes(32, "big"), NodeId(node), bytes(32), bytes(32), bytes(32), bytes(32), 1, 1, 1, 2, Wei(0)
    )
    seen = SlotReceipt(Epoch(epoch), slot, NodeId(node), receipt.struct_hash())
    market = net.deployment.signing_domain("InferenceMarket")
    attestation = net.deployment.signing_domain("UptimeAttestation")
    return AnswerEntry(
        slot,
        receipt,
        net.signers[NODE_KEY].sign_struct(market, receipt.struct_hash()),
        net.signers[keeper].sign_struct(attestation, seen.struct_hash()),
    )


def reported_down(user: DashboardUser) -> tuple[int, int]:
    """A node that is attested at 20 % in an epoch whose challenge window is open: epoch and node."""
    net = user.network
    net.join_keeper(KEEPER)
    node = net.register_node(OPERATOR, key_account=NODE_KEY)
    epoch = net.next_epoch()
    net.next_epoch()
    attest(user, epoch, {node: 2_000})
    return epoch, node


def probed(user: DashboardUser, epoch: int, answers: list[AnswerEntry]) -> None:
    """This index's own keeper holds these receipts."""
    with user.follower.database.write() as session:
        for item in answers:
            session.add(
                Probe(
                    epoch=epoch,
                    slot=item.slot,
                    node_id=item.receipt.node_id,
                    due_at_ms=0,
                    outcome="answered",
                    evidence={"entry": item.pack()},
                    latency_ms=1,
                )
            )


def document(path: Path, answers: list[AnswerEntry]) -> Path:
    """A keeper's evidence document, as `/v1/epochs/<e>/evidence` serves it; appeals read its answers alone."""
    path.write_text(json.dumps({"version": 1, "answers": [item.pack() for item in answers], "misses": []}))
    return path


def test_appeal__receipts_of_the_index_and_of_a_document__overrule_the_report(
    user: DashboardUser, tmp_path: Path
) -> None:
    epoch, node = reported_down(user)
    probed(user, epoch, [answer(user, epoch, node, slot) for slot in range(5)])
    brought = [answer(user, epoch, node, slot) for slot in range(3, 9)]
    path = f"/nodes/{node}/epochs/{epoch}"
    user.until(path, "#appeal")
    user.connect()
    user.tab.get_by_label("Evidence documents").set_input_files(document(tmp_path / "keeper-2.json", brought))
    user.tab.get_by_role("button", name="Appeal", exact=True).click()
    user.done()
    expect(
        user.tab.get_by_text(f"Node {node} is paid by 90 % uptime for epoch {epoch}, not by 20 %.")
    ).to_be_visible()
    user.open(path)
    expect(user.tab.get_by_text("An appeal put 90")).to_be_visible()
    user.tab.reload()
    expect(user.tab.locator(".figures")).to_contain_text("in challenge window")
    # what the page promises now is what the contract pays
    rows = user.tab.request.get(f"{user.url}{path}?format=json").json()
    assert rows["entry"]["uptime_bps"] == 9_000
    user.network.anvil.set_time(int(user.network.anvil.block()["timestamp"], 16) + 120)
    user.until(f"/operators/{user.wallet.address}", ".claim-band")
    before = user.balance()
    user.tab.get_by_role("button", name="Claim all").click()
    user.done()
    assert user.balance() - before == int(rows["entry"]["reward_wei"])


def test_appeal__too_few_receipts__says_what_they_prove_and_sends_nothing(user: DashboardUser) -> None:
    epoch, node = reported_down(user)
    probed(user, epoch, [answer(user, epoch, node, slot) for slot in range(2)])
    user.until(f"/nodes/{node}/epochs/{epoch}", "#appeal")
    user.connect()
    user.tab.get_by_role("button", name="Appeal", exact=True).click()
    expect(user.tab.get_by_text("2 of 10 slots have a receipt")).to_be_visible()
    assert user.wallet.sent == []


def test_appeal__receipts_that_no_keeper_signed__count_for_nothing(
    user: DashboardUser, tmp_path: Path
) -> None:
    epoch, node = reported_down(user)
    forged = [answer(user, epoch, node, slot, keeper=STRANGER) for slot in range(10)]
    user.until(f"/nodes/{node}/epochs/{epoch}", "#appeal")
    user.connect()
    user.tab.get_by_label("Evidence documents").set_input_files(document(tmp_path / "forged.json", forged))
    user.tab.get_by_role("button", name="Appeal", exact=True).click()
    expect(user.tab.get_by_text("0 of 10 slots have a receipt")).to_be_visible()
    assert user.wallet.sent == []


@pytest.mark.parametrize(
    "content", ["not json", "[]", '{"answers": []}', '{"answers": ["%%%"]}', '{"answers": 5}']
)
def test_appeal__file_that_is_no_evidence__says_so(user: DashboardUser, tmp_path: Path, content: str) -> None:
    epoch, node = reported_down(user)
    user.until(f"/nodes/{node}/epochs/{epoch}", "#appeal")
    user.connect()
    file = tmp_path / "odd.json"
    file.write_text(content)
    user.tab.get_by_label("Evidence documents").set_input_files(file)
    user.tab.get_by_role("button", name="Appeal", exact=True).click()
    expect(user.tab.locator(".action-words.bad")).to_contain_text("odd.json")
    assert user.wallet.sent == []


def test_appeal__window_over__is_not_offered(user: DashboardUser) -> None:
    epoch, node = reported_down(user)
    path = f"/nodes/{node}/epochs/{epoch}"
    user.until(path, "#appeal")
    user.network.anvil.set_time(int(user.network.anvil.block()["timestamp"], 16) + 120)
    user.until(path, "main:not(:has(#appeal))")
    said = user.tab.request.get(f"{user.url}/api/v1{path}/appeal").json()
    assert said["problem"] == "The challenge window of this epoch is over."
    assert said["evidence"] == []
