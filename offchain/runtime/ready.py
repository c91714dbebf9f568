"""The file and the line that say: this process accepts traffic."""

import json
import os
from pathlib import Path

import click


def announce_ready(what: str, url: str, ready_file: Path | None, *, as_json: bool) -> None:
    """Write {"url", "pid"} atomically to `ready_file`, if any, and print one line.

    Args:
        what: e.g. "keeper"; the line says `keeper ready http://...`.
        as_json: print the object instead of the words.
    """
    facts = {"url": url, "pid": os.getpid()}
    if ready_file is not None:
        ready_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = ready_file.with_name(ready_file.name + ".new")
        temporary.write_text(json.dumps(facts) + "\n")
        temporary.replace(ready_file)
    click.echo(json.dumps(facts) if as_json else f"{what} ready {url}")
