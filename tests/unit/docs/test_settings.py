"""The settings files in the documents are ones that the processes accept, and the environment goes before them."""

import re
from pathlib import Path

import pytest

from offchain.gateway.settings import GatewaySettings
from offchain.keeper.settings import KeeperSettings
from offchain.runtime.settings import ChainSettings
from tests.support.references import ROOT

FILES = [("gateway.md", GatewaySettings), ("keepers.md", KeeperSettings)]


def written(name: str, folder: Path) -> Path:
    """The first settings file that a document shows, as a file."""
    path = folder / "settings.toml"
    path.write_text(
        re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / name).read_text(), re.DOTALL | re.MULTILINE)[0]
    )
    return path


@pytest.mark.parametrize(("name", "kind"), FILES)
def test_settings_file__as_the_document_has_it__is_accepted(
    name: str, kind: type[ChainSettings], tmp_path: Path
) -> None:
    assert kind.load(written(name, tmp_path)).rpc_url == "https://first.example,https://second.example"


@pytest.mark.parametrize(("name", "kind"), FILES)
def test_settings__field_also_in_the_environment__is_taken_from_there(
    name: str, kind: type[ChainSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLELIX_RPC_URL", "https://third.example")
    assert kind.load(written(name, tmp_path)).rpc_url == "https://third.example"
