"""Scale-out: more workers as separate processes share one keeper's work."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.keeper.processes import KeeperRig, wait_for
from tests.support.services.anvil import KEYS, ROOT, start_anvil

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeeperRig]:
    folder = tmp_path_factory.mktemp("scale")
    with start_anvil("--block-time", "1", "--mixed-mining") as anvil:
        rig = KeeperRig(anvil, folder, bonded=1, epoch_seconds=600, slots=10)
        try:
            rig.start_keeper(0, worker_concurrency=1)
            rig.start_node(0, first_ms=2_500, beat_seconds=0.5, slots=16)
            wait_for(lambda: rig.broker(0).keys("parallelix:fleet:*"), 60, "a heartbeat")
            yield rig
        finally:
            rig.close()


def started(path: Path) -> int:
    return path.read_text().count("fulfilment_started") if path.exists() else 0


def test_workers__two_more_processes__share_the_requests_and_each_is_paid_once(rig: KeeperRig) -> None:
    config = rig.folder / "keeper-0.toml"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PARALLELIX_KEEPER_CONFIG": str(config)}
    commands = {
        "ours": [
            sys.executable, "-m", "offchain", "keeper", "worker", "--config", str(config),
            "--queues", "inference.dispatch", "--concurrency", "1", "--name", "second",
        ],
        "celery": [
            sys.executable, "-m", "celery", "-A", "offchain.celery_app", "worker", "--pool", "threads",
            "--concurrency", "1", "-Q", "inference.dispatch", "-n", "third@keeper", "--loglevel", "INFO",
        ],
    }  # fmt: skip
    logs = {name: rig.folder / f"{name}.log" for name in commands}
    with ExitStack() as stack:
        for name, command in commands.items():
            output = stack.enter_context(logs[name].open("wb"))
            process = stack.enter_context(
                subprocess.Popen(command, env=env, cwd=rig.folder, stdout=output, stderr=output)
            )
            stack.callback(process.send_signal, signal.SIGTERM)
        wait_for(lambda: "ready" in logs["celery"].read_text(), 60, "Celery's worker")
        requests = [rig.ask_on_chain(120) for _ in range(9)]
        for request in requests:
            wait_for(partial(rig.fulfilments, request), 90, "a fulfilment")
        assert [rig.fulfilments(request) for request in requests] == [1] * 9
        wait_for(lambda: started(logs["ours"]) and started(logs["celery"]), 60, "work in both")
        assert started(rig.folder / "keeper-0.log") > 0


def test_secrets__running_keeper__are_in_no_argument_environment_or_log(rig: KeeperRig) -> None:
    broker = rig.broker(0).connection_pool.connection_kwargs["password"]
    secrets = [KEYS[1], rig.api_key, str(broker), rig.password.read_text() + "\n"]
    places = [rig.folder / "keeper-0.log"]
    for pid in rig.keepers[0].family():
        places += [Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ")]
    for place in places:
        text = place.read_bytes().decode(errors="replace")
        assert not [secret for secret in secrets if secret in text], place


def test_worker__unknown_queue__is_one_line(rig: KeeperRig) -> None:
    done = rig.cli("keeper", "worker", "--config", str(rig.folder / "keeper-0.toml"), "--queues", "none")
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "there is no queue none" in done.stderr
