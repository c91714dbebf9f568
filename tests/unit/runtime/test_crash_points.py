"""The crash-point switch: off unless a test chain's process is told, and once for each file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offchain.errors import UserError
from offchain.runtime.crash_points import LOCAL_CHAINS, VARIABLE, from_environment, nowhere


def test_switch__nothing_is_set__is_off_on_every_chain() -> None:
    assert from_environment({}, 1) is nowhere
    assert from_environment({VARIABLE: ""}, 31337) is nowhere


@pytest.mark.parametrize("chain_id", [1, 11155111, 42161, 0])
def test_switch__set_on_a_real_chain__the_process_does_not_start(tmp_path: Path, chain_id: int) -> None:
    with pytest.raises(UserError, match=f"this is chain {chain_id}; unset it"):
        from_environment({VARIABLE: str(tmp_path)}, chain_id)


def test_switch__armed_point__kills_once(tmp_path: Path) -> None:
    (tmp_path / "stored").touch()
    program = (
        "import os; from offchain.runtime.crash_points import from_environment; reach = from_environment(os.environ, 31337);"
        "reach('mined'); print('passed', flush=True); reach('stored'); print('alive', flush=True)"
    )
    environment = {**os.environ, VARIABLE: str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
        for _ in range(2)
    ]
    assert [(run.returncode, run.stdout.split()) for run in runs] == [
        (-signal.SIGKILL, ["passed"]),
        (0, ["passed", "alive"]),
    ]
    assert list(tmp_path.iterdir()) == []
    assert 1 not in LOCAL_CHAINS
