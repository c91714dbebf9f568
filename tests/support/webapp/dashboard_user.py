"""A dashboard over a network of its own, used through a browser with a wallet."""

import re
import time
from dataclasses import dataclass

from playwright.sync_api import BrowserContext, Page, expect

from offchain.db.models import SlotRecord
from offchain.domain.eip712 import keccak256
from offchain.domain.messages import EpochReport
from offchain.domain.types import Bps, Epoch, NodeId
from offchain.domain.uptime_tree import UptimeTree
from tests.support.services.contracts import Network
from tests.support.webapp.live import Follower
from tests.support.webapp.wallet import TestWallet

OPERATOR = 3
"""Test account that owns the wallet."""


@dataclass
class DashboardUser:
    """A person at the dashboard: a browser tab, a wallet, and the network behind both."""

    url: str
    tab: Page
    context: BrowserContext
    wallet: TestWallet
    network: Network
    follower: Follower

    def connect(self) -> None:
        """Connect through the header's menu."""
        self.tab.get_by_role("button", name="Connect wallet").click()
        self.tab.get_by_role("button", name="Test Wallet").click()
        expect(self.tab.locator("#wallet")).to_contain_text(self.wallet.address[:6])

    def open(self, path: str) -> None:
        """Open a page of the dashboard."""
        self.tab.goto(self.url + path)

    def done(self) -> None:
        """Wait until the transaction's page says that the index has its block."""
        expect(self.tab).to_have_url(re.compile(r"/tx/0x[0-9a-f]{64}$"))
        expect(self.tab.locator(".tx-words[data-state=done]")).to_be_visible()

    def until(self, path: str, selector: str) -> None:
        """Open a page again and again until it has an element for the selector, at most a minute."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            self.open(path)
            if self.tab.locator(selector).count():
                return
            self.tab.wait_for_timeout(100)
        raise AssertionError(f"{path} does not show {selector}")

    def balance(self) -> int:
        """Tokens of the wallet's account, wei."""
        held: int = self.network.chain.at(self.network.chain.head_block()).one(
            "ParallelixToken", "balanceOf", self.wallet.address
        )
        return held


def registered(user: DashboardUser, key_account: int | None = None) -> int:
    """Register a node of the operator without the browser; wait until the page knows it."""
    node = user.network.register_node(OPERATOR, key_account=key_account)
    user.until(f"/nodes/{node}", "#facts")
    return node


def attest(user: DashboardUser, epoch: int, uptimes: dict[int, int]) -> None:
    """The keepers' report of an epoch, and the slots that it stands on in the index."""
    net = user.network
    tree = UptimeTree(Epoch(epoch), max(uptimes), {NodeId(n): Bps(u) for n, u in uptimes.items()})
    members = net.chain.at(net.chain.head_block()).keeper_set(Epoch(epoch))
    report = EpochReport(
        Epoch(epoch), tree.root, tree.node_count, bytes(32), keccak256(b"bundle"), members.digest
    )
    domain = net.deployment.signing_domain("UptimeAttestation")
    by_address = {signer.address: signer for signer in net.signers}
    signatures = b"".join(by_address[s].sign_struct(domain, report.struct_hash()) for s in members.signers)
    fields = (epoch, tree.root, tree.node_count, bytes(32), keccak256(b"bundle"), members.digest)
    net.send(0, "UptimeAttestation", "submit", fields, (1 << len(members.signers)) - 1, signatures)
    slots = net.deployment.slots_per_epoch
    with user.follower.database.write() as session:
        for node, bps in uptimes.items():
            missed = slots - bps * slots // 10_000
            states = "m" * missed + "u" * (slots - missed)
            session.add(SlotRecord(epoch=epoch, node_id=node, states=states, uptime_bps=bps))
