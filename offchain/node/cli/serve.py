"""Commands of the serving machine: keygen, start, status, logs."""
# A command imports what it needs, so that `parallelix node --help` does not load web3.
# ruff: noqa: PLC0415

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from offchain.errors import UserError
from offchain.node.cli.options import PATH, config_option, echo_json, json_option, load_settings, node_id_of

if TYPE_CHECKING:
    from offchain.node.agent.agent import Agent
    from offchain.node.settings import NodeSettings


@click.command()
@config_option
@click.option("--plain", is_flag=True, help="Print log lines instead of the live view.")
@click.option(
    "--listen", is_flag=True, help="Wait for connections of gateways; do not connect outward to them."
)
@click.option(
    "--standby", is_flag=True, help="Load the model and wait until the owner binds this key to the node."
)
@json_option
def start(config: Path, *, plain: bool, listen: bool, standby: bool, as_json: bool) -> None:
    """Serve requests: start the model server, check tickets, sign receipts.

    SIGTERM and Ctrl-C take no new request, let running ones end, then end. SIGUSR1 does the same and starts again with
    the settings of that moment; `node update` sends it.
    """
    import uvloop

    from offchain.node.agent import logs as log_lines
    from offchain.node.agent.agent import Agent

    settings = load_settings(config)
    if listen:
        settings = settings.model_copy(update={"dial_out": False})
    live = not plain and not as_json and sys.stdout.isatty()
    log_lines.configure(settings.log_level, settings.data_dir, echo=not live)

    def ready(url: str) -> None:
        if not live:
            click.echo(json.dumps({"event": "ready", "url": url}) if as_json else f"node ready {url}")

    agent = Agent(settings, ready, standby=standby, check=lambda: _check(config))

    async def run() -> None:
        showing = asyncio.create_task(_show(agent, settings)) if live else None
        try:
            await agent.run()
        finally:
            if showing is not None:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    if agent.renew:
        # A second SIGUSR1 during the restart would end the process: no handler is installed yet.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        # What is still in Python's buffers would be lost with the old program.
        sys.stdout.flush()
        # The same process id: systemd sees a reload, not a stop (ADR 0052).
        os.execv(sys.executable, [sys.executable, "-m", "offchain", *sys.argv[1:]])  # noqa: S606


def _check(config: Path) -> None:
    """Raises UserError when a node with these settings could not start."""
    from offchain.node.machine.manifest import manifest_of

    manifest_of(load_settings(config))


async def _show(agent: "Agent", settings: "NodeSettings") -> None:
    """The live view, until cancelled."""
    from rich.live import Live

    from offchain.domain.types import NodeId
    from offchain.node.machine.terminal_view import render
    from offchain.node.owner.earnings import NodeEarnings

    earnings = NodeEarnings(settings)
    reading: asyncio.Task[None] | None = None
    try:
        with Live(refresh_per_second=4, transient=False) as screen:
            while True:
                state = agent.snapshot()
                if state is not None:
                    if reading is None:
                        reading = asyncio.create_task(earnings.watch(NodeId(int(str(state["node_id"])))))
                    screen.update(render(state, earnings))
                await asyncio.sleep(0.5)
    finally:
        if reading is not None:
            reading.cancel()


@click.command()
@click.option("--keystore", type=PATH, required=True, help="Key file to write; must not exist yet.")
@click.option(
    "--password-file",
    type=PATH,
    required=True,
    help="File with its password; written with a random one when it does not exist.",
)
@json_option
def keygen(keystore: Path, password_file: Path, *, as_json: bool) -> None:
    """Make an encrypted node key (0600), and print the hash that `node register` and `rotate-key` need."""
    from offchain.crypto.keys import Signer, create_keystore
    from offchain.node.owner.node_key import node_key_hash

    address = create_keystore(keystore, password_file)
    key_hash = "0x" + node_key_hash(Signer.load(keystore, password_file)).hex()
    if as_json:
        echo_json(address=address, node_key_hash=key_hash, keystore=str(keystore))
        return
    click.echo(f"node key       {address}\nnode key hash  {key_hash}\nkeystore       {keystore}")


@click.command()
@config_option
@click.option("--plain", is_flag=True, help="Print lines of text instead of a panel.")
@click.option("--watch", is_flag=True, help="Keep the panel on the screen, fresh each second.")
@json_option
def status(config: Path, *, plain: bool, watch: bool, as_json: bool) -> None:
    """Show the node on chain and the agent on this machine."""
    from offchain.domain.amounts import prlx
    from offchain.node.chain import open_reads
    from offchain.node.machine.status import agent_state
    from offchain.node.owner import stake

    settings = load_settings(config)
    reads = open_reads(settings)
    node = stake.registered_node(reads, node_id_of(settings, reads))
    agent = agent_state(settings)
    if as_json:
        echo_json(node=stake.node_json(node), agent=agent)
        return
    if plain or agent is None:
        state = stake.state_name(node)
        click.echo(f"node {node.node_id}  {state}  tier {node.tier}  stake {prlx(node.stake_wei)}")
        if agent is None:
            click.echo("agent  not running here (no ready file, or it does not answer)")
            return
        free = f"{agent['free_slots']} of {agent['slots']} slots free"
        click.echo(f"agent  {agent['url']}  {agent['status']}  {free}")
        for engine in agent["engines"]:
            text = f"{engine['state']}  restarts {engine['restarts']}  {engine['reason']}"
            click.echo(f"model  {engine['model']}  {text}")
        return
    from rich.console import Console
    from rich.live import Live

    from offchain.node.machine.terminal_view import render
    from offchain.node.owner.earnings import NodeEarnings

    earnings = NodeEarnings(settings)
    earnings.read(node.node_id)
    if not watch:
        Console().print(render(agent, earnings))
        return
    with Live(render(agent, earnings), refresh_per_second=2) as screen:
        while (agent := agent_state(settings)) is not None:
            screen.update(render(agent, earnings))
            time.sleep(1)
    raise UserError("the agent does not answer any more; see `parallelix node logs`")


@click.command()
@config_option
@click.option("--engine", is_flag=True, help="Lines of the model server instead of the agent's.")
@click.option("--lines", type=click.IntRange(1), default=50, show_default=True, help="Number of lines.")
@click.option("--follow", is_flag=True, help="Print further lines as they come, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as a JSON object.")
def logs(config: Path, *, engine: bool, lines: int, follow: bool, as_json: bool) -> None:
    """Show the last lines of the agent's log, or of the model server's."""
    from offchain.node.agent import logs as log_lines

    settings = load_settings(config)
    path = settings.data_dir / "logs/engine.log" if engine else log_lines.agent_log(settings.data_dir)
    if not path.exists():
        raise UserError(f"there is no log at {path} yet; start the node first")
    with path.open(errors="replace") as file:

        def show(line: str) -> None:
            click.echo(json.dumps({"log": path.name, "line": line}) if as_json else line)

        for line in file.read().splitlines()[-lines:]:
            show(line)
        while follow:
            fresh = file.readline()
            if fresh:
                show(fresh.rstrip("\n"))
            else:
                time.sleep(0.2)
                if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    break  # rotated
