"""URLs lose users, passwords and keys, wherever they are shown; one body does it."""

import re
from pathlib import Path

import pytest

from offchain import cli
from offchain.errors import FatalError, UserError
from offchain.runtime.redaction import endpoint_label, redact_urls

ROOT = Path(__file__).resolve().parents[3]
KEY = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://h/p", "http://h/p"),
        ("http://u@h/p", "http://h/p"),
        ("redis://:p@ss@h:1/0", "redis://h:1/0"),
        (
            "a https://k:v@h/x?y=1 and postgresql+psycopg://u:p@h/db",
            "a https://h/x?y=1 and postgresql+psycopg://h/db",
        ),
        ("HTTP://u:p'q@h/p", "HTTP://h/p"),
        ("'http://h','me@here'", "'http://h','me@here'"),
        ("mail me@here, see http://h/@name", "mail me@here, see http://h/@name"),
    ],
)
def test_redact_urls__user_and_password__go(text: str, expected: str) -> None:
    assert redact_urls(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"https://h/v3/{KEY}", "https://h/v3/[redacted]"),
        (f"https://h/{KEY}/eth?x=1", "https://h/[redacted]/eth?x=1"),
        (f"wss://h:1/ws/v2/{KEY[:18]}-_Z answered", "wss://h:1/ws/v2/[redacted] answered"),
        ("https://h/rpc?apikey=short", "https://h/rpc?apikey=[redacted]"),
        ("https://h/rpc?a=1&API-Key=s.h+t&b=2", "https://h/rpc?a=1&API-Key=[redacted]&b=2"),
        ("https://h/rpc?access_token=x", "https://h/rpc?access_token=[redacted]"),
        (f"https://h/rpc?x={KEY}", "https://h/rpc?x=[redacted]"),
        (f"'https://h/{KEY}'", "'https://h/[redacted]'"),
        (f"(see https://h/{KEY})", "(see https://h/[redacted])"),
        (f"see https://h/{KEY}.", "see https://h/[redacted]."),
        (f"https://h/v3/{KEY}: refused", "https://h/v3/[redacted]: refused"),
        (f"https://h/v3/{KEY}!", "https://h/v3/[redacted]!"),
        (f"https://h/v3/ab%63{KEY}", "https://h/v3/[redacted]"),
        (f"https://h/v3/0x{KEY}-z", "https://h/v3/[redacted]"),
        (f"1https://h/{KEY} _wss://h/{KEY}", "1https://h/[redacted] _wss://h/[redacted]"),
        ("https://h/v2/AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEf", "https://h/v2/[redacted]"),
        ("https://h/eyJhbGciOiJIUzI1.eyJzdWIiOiIx.dozj", "https://h/[redacted]"),
        (
            "https://h/?dkey=a&projectId=b;jwt=c.d#token=e",
            "https://h/?dkey=[redacted]&projectId=[redacted];jwt=[redacted]#token=[redacted]",
        ),
        ("https://h/?token=a,b)c,http://b", "https://h/?token=[redacted],http://b"),
        (
            f"retries exceeded with url: /{KEY} (Caused by",
            "retries exceeded with url: /[redacted] (Caused by",
        ),
    ],
)
def test_redact_urls__key_in_path_or_query__goes(text: str, expected: str) -> None:
    assert redact_urls(text) == expected


def test_redact_urls__list_with_commas__loses_every_key() -> None:
    text = f"https://u:p@a/v3/{KEY},http://b:8545,https://c?token=t,https://q:w@d/{KEY}"
    expected = "https://a/v3/[redacted],http://b:8545,https://c?token=[redacted],https://d/[redacted]"
    assert redact_urls(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8545",
        "http://parallelix-keeper-0001:8545/evidence/42/0x" + KEY * 2,
        "https://h/models/Qwen2.5-0.5B-Instruct/resolve/main/model.safetensors",
        "sqlite:////var/lib/keeper.db",
        f"no URL: {KEY}",
        f"https://h:1#sha256={KEY * 2}",
        "a." * 100_000,
    ],
)
def test_redact_urls__public_parts__stay(text: str) -> None:
    assert redact_urls(text) == text


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("http://h:1", "h:1"),
        (f"https://u:p@h/v3/{KEY}", "h"),
        (f"https://h:2/?apikey={KEY}", "h:2"),
        (f"https://u:p@a/{KEY}, http://b:1,", "a, b:1"),
    ],
)
def test_endpoint_label__urls_with_keys__are_hosts_and_ports(url: str, label: str) -> None:
    assert endpoint_label(url) == label


@pytest.mark.parametrize(
    "url", ["", "ftp://u:secret@h", "http://h:secret", "http://[secret", "http://a,secret"]
)
def test_endpoint_label__no_http_url__is_one_line_that_does_not_show_the_entry(url: str) -> None:
    with pytest.raises(UserError, match=r"^some_url has an entry") as caught:
        endpoint_label(url, "some_url")
    assert "secret" not in str(caught.value)


def test_main__error_with_a_url__shows_no_credentials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise FatalError(f"https://u:hunter2@h/{KEY} serves chain 1")

    monkeypatch.setattr(cli, "cli", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: https://h/[redacted] serves chain 1\n"


def test_redactor__in_the_tree__is_one() -> None:
    pattern = re.compile(r"def \w*(redact|without_credential|endpoint_label|strip_userinfo)\w*\(")
    found = {
        str(path.relative_to(ROOT))
        for room in ("offchain", "webapp", "scripts")
        for path in (ROOT / room).rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found == {"offchain/runtime/redaction.py", "offchain/runtime/logs.py"}
