"""`parallelix demo up | check`."""

import json
import os
import signal
import socket
import time
from pathlib import Path
from types import FrameType

import click

from offchain.demo.narrator import Narrator
from offchain.demo.network import LocalNetwork, Places
from offchain.demo.story import Story
from offchain.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]


@click.group()
def cli() -> None:
    """A whole network on this machine, every part real, on loopback."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def up(*, as_json: bool) -> None:
    """Tell the story, then stay up until Ctrl-C."""
    narrator = Narrator(as_json=as_json)
    with _network(narrator) as network:
        Story(network, narrator).tell()
        narrator.chapter("The network stays up; Ctrl-C ends it")
        key_file = network.places.run / "keys/requester.apikey"
        narrator.note(
            f"gateway    {network.gateway_url}/v1   (API key in {key_file})", url=network.gateway_url
        )
        narrator.note(
            f"dashboard  http://127.0.0.1:{network.port('dashboard')}", port=network.port("dashboard")
        )
        narrator.note(f"chain      {network.rpc_url}", rpc=network.rpc_url)
        for url in network.keeper_urls:
            narrator.note(f"keeper     {url}", url=url)
        narrator.note(f"logs       {network.places.run / 'logs'}")
        try:
            while all(child.alive() for child in network.children):
                time.sleep(0.5)
        except KeyboardInterrupt:
            narrator.note("ending every process ...")
            return
        ended = next(child for child in network.children if not child.alive())
        raise UserError(f"{ended.name} ended by itself; {ended.tail()} (whole log: {ended.log})")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--figures", type=click.Path(path_type=Path), help="Write the measured figures to this file.")
def check(*, as_json: bool, figures: Path | None) -> None:
    """Tell the story, assert every step, leave nothing behind; exit 0 only if all of it held."""
    narrator = Narrator(as_json=as_json)
    with _network(narrator) as network:
        measured = Story(network, narrator).tell()
    if network.stubborn:
        raise UserError(f"had to be killed, did not end when asked: {'; '.join(network.stubborn)}")
    open_ports = [port for port in network.ports.values() if _answers(port)]
    if open_ports:
        raise UserError(f"ports {open_ports} still answer after the end")
    narrator.step("every process ended when asked and every port is closed")
    facts = {"first_answer_s": measured.first_answer_s, "total_s": round(narrator.elapsed(), 1)}
    facts |= {"peak_memory_mib": measured.peak_memory_mib, "node_restart_s": measured.node_restart_s}
    facts |= measured.facts
    if figures is not None:
        figures.parent.mkdir(parents=True, exist_ok=True)
        figures.write_text(json.dumps(facts, indent=2) + "\n")
    narrator.note("  ".join(f"{name} {value}" for name, value in facts.items()), **facts)


def _network(narrator: Narrator) -> LocalNetwork:
    # SIGTERM ends the demo as Ctrl-C does; a shell that starts it in the background has SIGINT ignored
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    run = _ROOT / ".run" / f"demo-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    return LocalNetwork(Places(_ROOT, run), narrator)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
