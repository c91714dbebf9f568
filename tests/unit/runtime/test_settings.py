"""Settings that cannot be read end in words for the user, without the value: it may hold a key."""

from pathlib import Path

import pytest

from offchain.errors import UserError
from offchain.runtime.settings import ProcessSettings


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
