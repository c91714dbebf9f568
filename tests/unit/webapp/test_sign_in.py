"""Sign-in: whose signature opens an account, and each way to forge one."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from offchain.crypto.keys import Signer
from offchain.domain.eip712 import keccak256
from tests.support.webapp.account import OWNER, asked, csrf, post, sign_in, signed
from tests.support.webapp.seed import SeededNetwork
from webapp.auth.eip4361 import SignInError, SignInMessage
from webapp.store.models import Nonce

STRANGER = Signer.from_key(keccak256(b"somebody else"))


def test_sign_in__own_signature__opens_the_account(app: Flask) -> None:
    client = app.test_client()
    assert sign_in(client).status_code == 200
    page = client.get("/account")
    assert "Signed in as" in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert "Node 1" in page.text


def test_message__is_bound_to_domain_chain_nonce_and_time(app: Flask) -> None:
    given = asked(app.test_client())
    for words in (
        "http://localhost wants you to sign in",
        "URI: http://localhost",
        "Chain ID: 31337",
        f"Nonce: {given['nonce']}",
        "Expiration Time: ",
        OWNER.address,
    ):
        assert words in given["message"]


FORGERIES = {
    "scheme": ("http://localhost wants", "https://localhost wants"),
    "domain": ("http://localhost wants", "http://evil.example wants"),
    "address": (OWNER.address, STRANGER.address),
    "statement": ("allows no transaction", "allows any transaction"),
    "uri": ("URI: http://localhost", "URI: http://evil.example"),
    "version": ("Version: 1", "Version: 2"),
    "chain": ("Chain ID: 31337", "Chain ID: 1"),
    "nonce": ("Nonce: ", "Nonce: 0"),
    "issued_at": ("Issued At: 2", "Issued At: 3"),
    "expiration": ("Expiration Time: 2", "Expiration Time: 3"),
    "not_before": ("Not Before: 2", "Not Before: 3"),
}
"""What a forger would change of each field, as (what the server wrote, what is put in its place)."""


@pytest.mark.parametrize("field", FORGERIES)
def test_sign_in__signature_under_a_forged_field__is_refused(app: Flask, field: str) -> None:
    client = app.test_client()
    given = asked(client)
    forged = given["message"].replace(*FORGERIES[field])
    assert forged != given["message"]
    body = {"nonce": given["nonce"], "signature": signed(forged), "message": forged}
    assert post(client, "/account/sign-in", body).status_code == 403
    assert "Signed in as" not in client.get("/account").text


@pytest.mark.parametrize("field", [field for field in FORGERIES if field != "statement"])
def test_sign_in__kept_message_with_a_wrong_field__is_refused_though_it_was_signed(
    app: Flask, field: str
) -> None:
    """As after a change of the origin or the chain, or by somebody who can write the dashboard's own database."""
    client = app.test_client()
    given = asked(client)
    kept = given["message"].replace(*FORGERIES[field])
    with app.extensions["store"].database.write() as session:
        session.get(Nonce, given["nonce"]).message = kept
    body = {"nonce": given["nonce"], "signature": signed(kept)}
    assert post(client, "/account/sign-in", body).status_code == 403


def test_parse__own_text__gives_the_same_message(app: Flask) -> None:
    text = asked(app.test_client())["message"]
    assert SignInMessage.parse(text).text() == text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: "",
        lambda m: m + "\n",
        lambda m: m + "\nResources:\n- https://evil.example",
        lambda m: m.replace("Nonce: ", "Nonce: short!"),
        lambda m: re.sub(r"Nonce: \w+", "Nonce: 1234567", m),
        lambda m: re.sub(r"Issued At: .*", "Issued At: 2026-02-30T00:00:00Z", m),
        lambda m: re.sub(r"Expiration Time: .*\n", "", m),
        lambda m: m.replace("http://localhost wants", "http://user@localhost wants"),
        lambda m: m.replace("\n\nURI", "\nURI"),
    ],
)
def test_parse__anything_else__is_refused(app: Flask, spoil: Callable[[str], str]) -> None:
    with pytest.raises(SignInError):
        SignInMessage.parse(spoil(asked(app.test_client())["message"]))


@pytest.mark.parametrize(("seconds", "words"), [(-1, "time of issue"), (300, "expiration time")])
def test_check__outside_of_its_time__is_refused(
    net: SeededNetwork, app: Flask, seconds: int, words: str
) -> None:
    given = asked(app.test_client())
    message = SignInMessage.parse(given["message"])
    message.check("http://localhost", 31337, given["nonce"], OWNER.address, net.now)
    with pytest.raises(SignInError, match=words):
        message.check("http://localhost", 31337, given["nonce"], OWNER.address, net.now + seconds)


def test_check__before_its_first_moment__is_refused(net: SeededNetwork, app: Flask) -> None:
    given = asked(app.test_client())
    message = replace(SignInMessage.parse(given["message"]), not_before=net.now + 1)
    with pytest.raises(SignInError, match="first moment"):
        message.check("http://localhost", 31337, given["nonce"], OWNER.address, net.now)


def test_sign_in__somebody_elses_signature__is_refused(app: Flask) -> None:
    client = app.test_client()
    given = asked(client)
    body = {"nonce": given["nonce"], "signature": signed(given["message"], STRANGER)}
    assert post(client, "/account/sign-in", body).status_code == 403


@pytest.mark.parametrize("signature", ["", "0x", "0x12", "zz", "0x" + "ff" * 65, "0x" + "00" * 65, 7, None])
def test_sign_in__malformed_signature__is_refused(app: Flask, signature: Any) -> None:
    client = app.test_client()
    given = asked(client)
    assert (
        post(client, "/account/sign-in", {"nonce": given["nonce"], "signature": signature}).status_code == 403
    )


def test_sign_in__nonce_used_twice__works_once(app: Flask) -> None:
    client = app.test_client()
    given = asked(client)
    body = {"nonce": given["nonce"], "signature": signed(given["message"])}
    assert post(client, "/account/sign-in", body).status_code == 200
    assert post(client, "/account/sign-in", body).status_code == 403


def test_sign_in__nonce_of_another_browser__is_refused(app: Flask) -> None:
    given = asked(app.test_client())
    thief = app.test_client()
    body = {"nonce": given["nonce"], "signature": signed(given["message"])}
    assert post(thief, "/account/sign-in", body).status_code == 403


def test_sign_in__late__is_refused(net: SeededNetwork, app: Flask) -> None:
    client = app.test_client()
    given = asked(client)
    net.now += 301
    body = {"nonce": given["nonce"], "signature": signed(given["message"])}
    assert post(client, "/account/sign-in", body).status_code == 403


def test_session__planted_before_sign_in__does_not_become_signed_in(app: Flask) -> None:
    attacker = app.test_client()
    asked(attacker)
    planted = attacker.get_cookie("parallelix_session")
    assert planted
    victim = app.test_client()
    victim.set_cookie("parallelix_session", planted.value)
    assert sign_in(victim).status_code == 200
    after = victim.get_cookie("parallelix_session")
    assert after
    assert after.value != planted.value
    assert "Signed in as" not in attacker.get("/account").text


def test_session__signed_out__cookie_is_worthless(app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    kept = client.get_cookie("parallelix_session")
    assert kept
    client.post("/account/sign-out", data={"csrf_token": csrf(client)})
    client.set_cookie("parallelix_session", kept.value)
    assert "Signed in as" not in client.get("/account").text


def test_session__cookie__is_kept_from_scripts_and_other_sites(app: Flask) -> None:
    header = app.test_client().get("/account").headers["Set-Cookie"]
    assert "HttpOnly" in header
    assert "SameSite=Lax" in header


def test_host_header__foreign__gets_no_message(app: Flask) -> None:
    client = app.test_client()
    token = csrf(client)
    answer = client.post(
        "/account/message",
        json={"address": OWNER.address},
        headers={"X-CSRFToken": token, "Host": "evil.example"},
    )
    assert answer.status_code == 400
