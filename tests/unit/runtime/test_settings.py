"""Settings that cannot be read end in words for the user, without the value: it may hold a key."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from offchain.cli import cli
from offchain.errors import UserError
from offchain.runtime.settings import Port, ProcessSettings, RedisUrl


class Listing(ProcessSettings):
    """Settings with a list, which the environment gives as JSON."""

    urls: list[str]


def test_load__list_in_the_environment_is_no_json__user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.toml"
    file.write_text('data_dir = "x"\n')
    monkeypatch.setenv("PARALLELIX_URLS", "http://u:secret@h")
    with pytest.raises(UserError, match=r'"urls".*as JSON') as caught:
        Listing.load(file)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"data_dir = "])
def test_load__file_is_no_utf8_or_no_toml__user_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        Listing.load(file)


class Process(ProcessSettings):
    """Settings with a port and a Redis."""

    port: Port = 0
    redis_url: RedisUrl | None = None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "data_dir is missing"),
        ('data_dir = "x"\nfrobnicate = 1', "there is no setting frobnicate"),
        ('data_dir = "x"\nport = 99999', "port: Input should be less than or equal to 65535"),
        ('data_dir = "x"\nport = -1', "port: Input should be greater than or equal to 0"),
        ('data_dir = "x"\nredis_url = "foo"', "redis_url: write redis://"),
        ('data_dir = "x"\nredis_url = "amqp://h"', "redis_url: write redis://"),
        ('port = 99999\nredis_url = "foo"', "data_dir is missing; .*port: .*; .*redis_url: "),
    ],
)
def test_load__wrong_fields__are_all_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(line)
    with pytest.raises(UserError, match=f"settings file .*{words}"):
        Process.load(file)


def test_load__wrong_value_in_the_environment__names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.toml"
    file.write_text('data_dir = "x"')
    monkeypatch.setenv("PARALLELIX_PORT", "abc")
    with pytest.raises(UserError, match=r"^PARALLELIX_PORT in the environment: port: "):
        Process.load(file)


def test_make_data_dir__in_a_file__user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be made: .*; name another"):
        Process(data_dir=tmp_path / "file/data").make_data_dir()


@pytest.mark.parametrize(
    "words",
    [
        ("node", "claim", "--config", "x", "--owner-keystore", "x", "--owner-password-file", "x", "--epoch", "-1"),
        ("node", "earnings", "--config", "x", "--epoch", str(2**32)),
        ("node", "verify", "--config", "x", "--uptime", "400"),
        ("node", "logs", "--config", "x", "--lines", "0"),
        ("keeper", "start", "--config", "x", "--port", "99999"),
        ("keeper", "worker", "--config", "x", "--concurrency", "-1"),
    ],
)  # fmt: skip
def test_command__number_out_of_range__is_refused_before_anything_is_read(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "is not in the range" in done.output
