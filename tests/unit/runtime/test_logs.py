"""Logs carry places and ids; never the value of a key, a password or a prompt."""

import json
import logging
import subprocess
import sys

SCRIPT = """
import logging
import structlog
from offchain.runtime.logs import configure_logs

configure_logs("info", "test")

def sign(private_key):
    node_key = private_key + "-derived"
    raise ValueError("cannot reach redis://user:hunter2@localhost:1/0 now")

for log in (structlog.get_logger("ours"), logging.getLogger("theirs")):
    try:
        sign("0xsecretkey")
    except ValueError:
        log.exception("it failed")
structlog.get_logger("ours").info("told", password="pw1", nested={"api_key": "pw2", "urls": ["http://a:pw3@b/c"]})
logging.getLogger("theirs").warning("retry %s", "redis://:pw4@host:1/0")
"""


def test_logs__exceptions_and_nested_values__hold_no_secret() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 4
    for secret in ("hunter2", "0xsecretkey", "pw1", "pw2", "pw3", "pw4"):
        assert secret not in done.stderr
    for line in lines[:2]:
        told = line["exception"][0]
        assert told["exc_value"] == "cannot reach redis://localhost:1/0 now"
        assert told["frames"][-1]["name"] == "sign"
    assert lines[2]["nested"]["urls"] == ["http://b/c"]


def test_configure_logs__unknown_level__means_info() -> None:
    script = "from offchain.runtime.logs import configure_logs as c; c('loud', 'x'); import logging; print(logging.getLogger().level)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) == logging.INFO
