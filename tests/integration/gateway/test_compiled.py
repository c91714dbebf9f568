"""The gateway as native code: it runs, the sources run beside it, and both hold the same tests."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from offchain.runtime.native_code import MODULES, VARIABLE, folder
from tests.support.fakes.stub_model import expected_text
from tests.support.gateway.processes import ROOT, Process, Rig, wait_for
from tests.support.web_client import HTTP

ASK = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}
CAN_COMPILE = shutil.which("cc") is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if not CAN_COMPILE:
        pytest.skip("there is no C compiler, or no headers of Python")
    assert folder().is_dir(), "run `tools/setup.sh compiled`"


def gauge(gateway: Process) -> int:
    text = HTTP.get(f"{gateway.url}/metrics").text
    found = re.search(r"^parallelix_gateway_compiled (\d)$", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_gateways__compiled_and_interpreted__say_so_and_answer_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    try:
        compiled = rig.gateway()
        monkeypatch.setenv(VARIABLE, "1")
        interpreted = rig.gateway()
        assert (gauge(compiled), gauge(interpreted)) == (1, 0)
        assert '"compiled": true' in compiled.log.read_text()
        assert f'"compiled": false, "reason": "switched off by {VARIABLE}"' in interpreted.log.read_text()
        rig.node(1)
        for gateway in (compiled, interpreted):
            answer = wait_for(lambda url=gateway.url: _answered(rig, url), what="a good answer")
            assert answer["choices"][0]["message"]["content"] == expected_text(ASK)[0]
    finally:
        rig.close()


def _answered(rig: Rig, url: str) -> dict[str, object] | None:
    answer = HTTP.post(f"{url}/v1/chat/completions", json=ASK, headers=rig.auth)
    return answer.json() if answer.status_code == 200 else None


@pytest.mark.timeout(600)  # nine suites in one test: half a minute of CPU, more beside other work
def test_unit_tests__on_native_code__hold(tmp_path: Path) -> None:
    rooms = sorted({module.split(".")[1] for module in MODULES})
    suites = [f"tests/unit/{room}" for room in rooms]
    options = ["-q", "-p", "no:ape_test", "-p", "tests.support.gateway.native", "-o", f"cache_dir={tmp_path}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *suites],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
