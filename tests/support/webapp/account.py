"""A visitor who signs in and sets up channels, over a test client."""

import re
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import create_engine, text

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import keccak256
from tests.support.webapp.seed import SeededNetwork
from webapp.auth.sign_in import personal_digest

OWNER = Signer.from_key(keccak256(b"an operator's wallet"))
"""Owns the first two nodes of the network that the fixture `net` gives."""


def csrf(client: FlaskClient) -> str:
    """The token of the account page."""
    page = client.get("/account").text
    found = re.search(r'name="csrf-token" content="([^"]+)"', page)
    assert found
    return found[1]


def post(client: FlaskClient, path: str, body: dict[str, Any]) -> Any:
    """POST JSON with the token."""
    return client.post(path, json=body, headers={"X-CSRFToken": csrf(client)})


def asked(client: FlaskClient, address: str = OWNER.address) -> dict[str, str]:
    """Ask the dashboard for a message to sign; the message and its nonce."""
    answer = post(client, "/account/message", {"address": address})
    assert answer.status_code == 200, answer.text
    data: dict[str, str] = answer.json
    return data


def signed(message: str, signer: Signer = OWNER) -> str:
    """The signature that a wallet gives for personal_sign, 0x-hex."""
    return "0x" + signer.sign_digest(personal_digest(message)).hex()


def sign_in(client: FlaskClient) -> Any:
    """Ask for a message, sign it, and send the signature."""
    given = asked(client)
    return post(client, "/account/sign-in", {"nonce": given["nonce"], "signature": signed(given["message"])})


def add_channel(client: FlaskClient, target: str, *events: str, kind: str = "webhook") -> Any:
    """Fill in the form of the account page."""
    form = {"kind": kind, "target": target, "events": list(events), "csrf_token": csrf(client)}
    return client.post("/account/channels", data=form)


def reported(net: SeededNetwork, epoch: int) -> None:
    """Let the report of a past epoch arrive now, with one bad epoch of node 1."""
    engine = create_engine(net.url)
    with engine.begin() as db:
        db.execute(
            text("update reports set submitted_at = :now where epoch = :epoch"),
            {"now": net.now, "epoch": epoch},
        )
        db.execute(
            text(
                "update slot_records set states = :states, uptime_bps = 9000 where epoch = :epoch and node_id = 1"
            ),
            {"states": "m" * 29 + "u" * 259, "epoch": epoch},
        )
    engine.dispose()
