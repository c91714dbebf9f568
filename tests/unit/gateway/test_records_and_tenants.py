"""API keys, tenants, the request log, route receipts and error answers."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain.crypto.keys import Signer
from offchain.crypto.recovery import recover
from offchain.crypto.recovery_cache import CachedRecovery
from offchain.domain.messages import ServiceReceipt
from offchain.domain.types import NodeId, Wei
from offchain.errors import UserError
from offchain.gateway.batches.form_data import MalformedError, read_form
from offchain.gateway.errors import from_no_capacity
from offchain.gateway.records.explain import check, explain
from offchain.gateway.records.request_log import RequestLog, RequestRecord
from offchain.gateway.records.route_receipt import RouteReceiptSigner
from offchain.gateway.tenants.api_keys import create_key, hash_of, read_keys
from offchain.gateway.tenants.authenticator import Authenticator
from offchain.gateway.tenants.registry import Tenant, decode_tenants
from offchain.protocol.receipts import SignedReceipt
from offchain.runtime.entropy import Entropy
from offchain.scheduler.pick import Candidate, Decision
from offchain.scheduler.quotas import TenantLimits
from offchain.scheduler.weighted_pool import WeightedSample
from offchain.scheduler.work import Attempt, NoCapacityError, Priority, RequestTrace

KEY = Signer.from_key(b"\x03" * 32)


def test_record__packed__is_the_same_when_it_is_read() -> None:
    receipt = ServiceReceipt(
        b"\x05" * 32, NodeId(7), b"\1" * 32, b"\2" * 32, b"\3" * 32, b"\4" * 32, 1, 2, 3, 4, Wei(2**200)
    )
    signed = SignedReceipt(receipt, bytes(65), KEY.address)
    raw = orjson.dumps({**signed.to_json(), "of no use": 1})
    trace = RequestTrace(b"\x05" * 32, 1.5)
    trace.attempts += [
        Attempt(NodeId(3), 0, 1e6 / 3, "failed", "connection_lost", "it broke", 0.1 + 0.2),
        Attempt(NodeId(7), 1, 5.0, "ok", first_byte_ms=1 / 3, resumed_from=4),
    ]
    candidate = Candidate(NodeId(7), 1, 8, 0.001, 0.0, 1000)
    sample = WeightedSample(8, 0, 7, 8, True)
    trace.decisions.append(Decision(2**64 - 1, "eu", 2, [(8, 1, 8)], [sample], [candidate], NodeId(7)))
    entry = RequestRecord(trace, "alice", "a model", 123, "answered", 4.5678, (1, 2), signed, raw, "r1")
    for known in (entry, RequestRecord(RequestTrace(bytes(32)), "bob", "a model", 1)):
        again = RequestRecord.unpack(known.trace.request_id, known.pack())
        assert again.to_json() == known.to_json()
    book = RequestLog(limit=1)
    book.open(entry)
    running = book.get(trace.request_id)
    book.close(entry)
    assert book.get(trace.request_id) == running == entry.to_json()
    for other in (b"{}", b"[]", b"[1,2,3,4,5,6,7,8,9,10,11]", b"no JSON"):
        with pytest.raises(ValueError, match=r"entry|unpack|expected|unexpected|iterable"):
            RequestRecord.unpack(bytes(32), other)


def test_entropy__more_than_a_page__never_gives_a_byte_twice() -> None:
    entropy = Entropy()
    taken = [entropy.take(28) for _ in range(1000)] + [
        entropy.bits().to_bytes(8, "big") * 4 for _ in range(1000)
    ]
    assert {len(one) for one in taken} == {28, 32}
    assert len({one[:8] for one in taken}) == 2000


def test_key__many_created_at_once__all_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda number: create_key(path, f"t{number}"), range(64)))
    assert read_keys(path) == {hash_of(key): f"t{number}" for number, key in enumerate(keys)}


def test_key__created__only_its_hash_is_stored_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = create_key(path, "alice")
    assert key not in path.read_text()
    assert read_keys(path) == {hash_of(key): "alice"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = create_key(path, "bob")
    assert read_keys(path) == {hash_of(key): "alice", hash_of(second): "bob"}


@pytest.mark.parametrize("text", ["[]", "{", '{"abc": "alice"}', '{"%s": 3}' % ("0" * 64)])
def test_key__file_of_another_kind__is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(UserError, match="API key file"):
        read_keys(path)
    with pytest.raises(UserError, match="does not exist"):
        read_keys(tmp_path / "none.json")
    with pytest.raises(UserError, match="tenant name"):
        create_key(tmp_path / "new.json", "No Good")


def test_keyring__file_and_shared__are_both_known_and_disabled_is_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    mine = create_key(path, "alice")
    ring = Authenticator(path, b"secret")
    assert ring.tenant_of(f"Bearer {mine}") == Tenant("alice")
    for stranger in (None, "", mine, "Basic x", "Bearer sk-plx-nobody"):
        assert ring.tenant_of(stranger) is None
    tenants = {"carol": Tenant("carol"), "dave": Tenant("dave", disabled=True)}
    ring.take_shared({hash_of("c"): "carol", hash_of("d"): "dave", hash_of("e"): "ghost"}, tenants)
    assert ring.tenant_of("Bearer c") == tenants["carol"]
    assert ring.tenant_of("Bearer d") is None
    assert ring.tenant_of("Bearer e") is None
    later = create_key(path, "bob")
    ring.refresh()
    assert ring.tenant_of(f"bearer {later}") == Tenant("bob")
    path.write_text("broken")
    ring.refresh()
    assert ring.tenant_of(f"Bearer {mine}") == Tenant("alice")


def test_keyring__salts__differ_by_tenant_wish_and_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    create_key(path, "alice")
    ring, other = Authenticator(path, b"one"), Authenticator(path, b"two")
    salts = {ring.salt_of("a"), ring.salt_of("b"), ring.salt_of("a", "x"), other.salt_of("a")}
    assert len(salts) == 4
    assert ring.salt_of("a") == Authenticator(path, b"one").salt_of("a")


def test_tenant__json__round_trip_and_malformed_is_nobody() -> None:
    tenant = Tenant("acme", TenantLimits(Priority.BATCH, 5, None, 2, 7 * 10**20), created_ms=3)
    raw = json.dumps(tenant.to_json()).encode()
    assert decode_tenants([raw, None, b"{}", b"x"]) == {"acme": tenant}


def test_recovery__cached__equals_the_slow_one_and_refuses_the_same() -> None:
    cached = CachedRecovery()
    for number in range(3):
        digest = bytes([number]) * 32
        signature = KEY.sign_digest(digest)
        assert cached(digest, signature) == recover(digest, signature) == KEY.address
    assert cached.public_key_of(KEY.address.lower()) == KEY.public_key
    assert cached.public_key_of("0x" + "00" * 20) is None
    high = signature[:32] + b"\xff" * 32 + signature[64:]
    for bad in (b"", signature[:64] + b"\x05", high, bytes(64) + b"\x1b"):
        with pytest.raises(ValueError, match=r"signature|order|27"):
            cached(digest, bad)


def record(**changes: Any) -> dict[str, Any]:
    decision = {
        "seed": "5", "region": "eu", "tier": 1, "pool": [[4, 2, 8]], "draws": [], "chosen": 1,
        "candidates": [
            {"node_id": 1, "busy": 0, "slots": 4, "rtt_seconds": 0.0, "first_byte_seconds": 0.01, "uncached": 1000, "reputation_bps": 10000, "cost_seconds": 0.005},
            {"node_id": 2, "busy": 4, "slots": 4, "rtt_seconds": 0.0, "first_byte_seconds": 0.01, "uncached": 1000, "reputation_bps": 10000, "cost_seconds": 0.015},
        ],
    }  # fmt: skip
    attempt = {
        "node_id": 1,
        "outcome": "ok",
        "reason": "",
        "detail": "",
        "ms": 5.0,
        "first_byte_ms": 2.0,
        "resumed_from": 0,
    }
    return {
        "request_id": "0x" + "00" * 32, "status": "answered", "model": "m", "revision": "r", "total_ms": 6.0, "queue_ms": 0.0,
        "usage": {"prompt_tokens": 1, "completion_tokens": 2}, "decisions": [decision], "attempts": [attempt], **changes,
    }  # fmt: skip


def test_explain__signed_record__holds_and_is_told() -> None:
    signed_record = RouteReceiptSigner(KEY.address, KEY.sign_digest)(record())
    assert check(signed_record) == []
    told = "\n".join(explain(signed_record))
    assert "* node 1" in told
    assert "attempt 1: node 1 ok" in told


def test_explain__pinned_to_a_suspended_node__is_told() -> None:
    pinned = record()
    decision = pinned["decisions"][0]
    suspended = {**decision["candidates"][0], "reputation_bps": 0, "cost_seconds": None}
    decision |= {"seed": "0", "region": "", "tier": 0, "pool": [], "candidates": [suspended]}
    signed_record = RouteReceiptSigner(KEY.address, KEY.sign_digest)(pinned)
    assert check(signed_record) == []
    assert "* node 1: 0/4 busy, suspended" in "\n".join(explain(signed_record))


def test_explain__changed_record__is_found_out() -> None:
    signed_record = RouteReceiptSigner(KEY.address, KEY.sign_digest)(record())
    assert "signed by" in check({**signed_record, "total_ms": 1.0})[0]
    other = record()
    other["decisions"][0]["chosen"] = 2
    found = check(RouteReceiptSigner(KEY.address, KEY.sign_digest)(other))
    assert any("node 2 was chosen, but 1 follows" in wrong for wrong in found)


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("unknown_capability", 404, "model_not_found"), ("full", 429, "capacity_exceeded"),
        ("no_capable_node", 503, "no_capacity"), ("failed", 503, "nodes_failed"),
        ("node_unavailable", 503, "node_unavailable"),
    ],
)  # fmt: skip
def test_errors__each_reason__has_its_status(reason: str, status: int, code: str) -> None:
    made = from_no_capacity(NoCapacityError(reason, "why", 3.2))
    assert made.status == status
    assert json.loads(made.body)["error"]["code"] == code
    assert made.headers == ({} if status == 404 else {"retry-after": "3"})


@given(
    st.lists(
        st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"-", b"x", b" ", b"\r\n--", b"\xff\0"]), max_size=40
    )
)
def test_form__any_content__comes_out_as_it_went_in(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    body = (
        b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--edge\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name="file"; filename="a \xc3\xa9"\r\n\r\n'
        + content
        + b"\r\n--edge--\r\n"
    )
    fields, files = read_form('multipart/form-data; boundary="edge"', body)
    assert (fields, files) == ({"purpose": "batch"}, {"file": ("a \xe9", content)})
    for cut in (body[:-9], body[len(content) :][:80], body.replace(b"edge", b"egde", 1)):
        with pytest.raises(MalformedError):
            read_form("multipart/form-data; boundary=edge", cut)
