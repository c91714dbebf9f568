"""Deployment parameters: every mistake is one line before the first transaction."""

from pathlib import Path

import pytest

from offchain.errors import UserError
from scripts import _params

PARAMS = Path(__file__).resolve().parents[3] / "scripts/params"
NOW = 1_800_000_000
DEPLOYER = "0x" + "d0" * 20
PEOPLE = {name: f"0x{index:040x}" for index, name in enumerate(_params.ACCOUNTS, start=1)}


def sepolia(**changes: str) -> _params.Params:
    words = {**PEOPLE, **changes}
    return _params.load(
        PARAMS / "sepolia.yml", [f"{name}={value}" for name, value in words.items()], DEPLOYER, NOW
    )


def test_params__public_network_with_its_accounts__is_complete() -> None:
    params = sepolia()
    assert (params.network, params.chain_id) == ("sepolia", 11_155_111)
    assert params.contracts["CreditVault"]["treasury_"] == PEOPLE["treasury"]
    assert params.contracts["NetworkTimelock"]["minDelay"] == 2 * 86_400
    assert [role.name for role in params.roles] == ["GUARDIAN", "TREASURER", "PARAMETERS", "KEEPER_ADMISSION"]


@pytest.mark.parametrize("name", _params.ACCOUNTS)
def test_params__public_network_lacks_an_account__says_which(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be"):
        sepolia(**{name: "unset"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timelock_delay": "23 hours"}, "timelock_delay must be at least 1 day"),
        ({"keeper_admission": "open"}, "keeper_admission must be approved"),
        ({"genesis": "now"}, "genesis must lie ahead"),
        ({"guardian": "$deployer"}, "guardian must not be the deployer"),
        ({"proposer": PEOPLE["guardian"]}, "proposer and guardian must differ"),
        ({"leave_delay": "2 days"}, "leave_delay must be at least"),
        ({"treasury": "0x52908400098527886E0F7030069857D2E4169Ee8"}, "wrong checksum"),
        ({"genesis": "tomorrow"}, "genesis must be a whole number"),
    ],
)
def test_params__too_lax_for_a_public_network__is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sepolia(**change)


def test_params__local_network__may_be_lax() -> None:
    params = _params.load(PARAMS / "local.yml", [], DEPLOYER, NOW)
    assert params.constants["timelock_delay"] == 0
    assert params.constants["guardian"] == DEPLOYER


def test_params__file_of_another_shape__says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "net.yml"
    path.write_text((PARAMS / "local.yml").read_text())
    with pytest.raises(UserError, match=r"no parameter file .*wiring\.yml"):
        _params.load(path, [], DEPLOYER, NOW)
    path.write_text("version: 1\n")
    with pytest.raises(UserError, match="must have exactly the entries"):
        _params.load(path, [], DEPLOYER, NOW)
