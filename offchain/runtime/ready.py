"""Says that this process accepts traffic: in the ready file and in one line on standard output."""

import json
import os
from pathlib import Path

import click

from offchain.runtime.files import write_atomically


def announce_ready(what: str, url: str, ready_file: Path | None, *, as_json: bool) -> None:
    """Write {"url", "pid"} atomically to `ready_file`, if any, and print one line.

    Args:
        what: e.g. "keeper"; the line says `keeper ready http://...`.
        as_json: print the object instead of the words.
    """
    facts = {"url": url, "pid": os.getpid()}
    if ready_file is not None:
        write_atomically(ready_file, json.dumps(facts) + "\n", mode=0o644)
    click.echo(json.dumps(facts) if as_json else f"{what} ready {url}")
