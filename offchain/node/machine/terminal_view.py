"""The panel of `node start` and `node status`."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from offchain.domain.amounts import prlx
from offchain.node.owner.earnings import NodeEarnings
from offchain.node.owner.stake import state_name

_COLOURS = {
    "up": "green", "ok": "green", "claimable": "green", "starting": "yellow", "pending": "yellow", "down": "red",
    "unavailable": "red", "lapsed": "red", "stopped": "dim",
}  # fmt: skip

_BAR = 12
"""Width of the bar of slots, in characters."""


def _coloured(word: str) -> Text:
    return Text(word, style=_COLOURS.get(word, ""))


def render(agent: Mapping[str, Any], earnings: NodeEarnings) -> RenderableType:
    """The panel: the agent's `/ready` document, the node on chain, and its last epochs."""
    parts: list[RenderableType] = []
    if (node := earnings.node) is not None:
        parts.append(Text(f"stake  {prlx(node.stake_wei)}   {state_name(node)} on chain   tier {node.tier}"))
    used = agent["slots"] - agent["free_slots"]
    full = -(-used * _BAR // agent["slots"])
    bar = "█" * full + "░" * (_BAR - full)
    state = "draining" if agent["draining"] else agent["status"]
    head = Table.grid(padding=(0, 3))
    slots = f"{used} of {agent['slots']} {bar}"
    head.add_row("agent", _coloured(state), "slots", slots, str(agent.get("url", "")))
    if totals := agent.get("totals"):
        tokens = f"{totals['prompt_tokens']:,} in, {totals['completion_tokens']:,} out"
        others = f"failed {totals['failed']:,}, refused {totals['refused']:,}"
        head.add_row("served", f"{totals['served']:,}", "tokens", tokens, others)
    parts.append(head)
    engines = Table(box=None, padding=(0, 2))
    for column in ("model", "state", "restarts", "version", "reason"):
        engines.add_column(column, style="dim" if column == "reason" else "")
    for engine in agent["engines"]:
        cells = (str(engine["restarts"]), engine["version"] or "", engine["reason"])
        engines.add_row(engine["model"], _coloured(engine["state"]), *cells)
    parts.append(engines)
    for receiver in agent.get("fronts", ()):
        ago = receiver["accepted_s_ago"]
        when = "never heard" if ago is None else f"heard {ago:.0f} s ago"
        parts.append(Text(f"receiver {receiver['url']}  {receiver['way']}, {when}", style="dim"))
    parts.append(_epochs(earnings))
    title = f"ParalleliX node {agent.get('node_id', '')}".strip()
    return Panel(Group(*parts), title=title, title_align="left")


def _epochs(earnings: NodeEarnings) -> RenderableType:
    """Uptime and earnings an epoch, newest first, and what can be claimed now."""
    if not earnings.earnings:
        return Text(f"\nuptime and earnings: {earnings.reason}", style="dim")
    table = Table(box=None, padding=(0, 2))
    for column in ("epoch", "status", "uptime", "earned"):
        table.add_column(column, justify="left" if column == "status" else "right")
    for earned in earnings.earnings:
        uptime = "" if earned.uptime_bps is None else f"{earned.uptime_bps / 100:.2f} %"
        amount = "" if earned.amount_wei is None else prlx(earned.amount_wei)
        table.add_row(str(earned.epoch), _coloured(earned.status), uptime, amount)
    due = sum(earned.amount_wei or 0 for earned in earnings.earnings if earned.status == "claimable")
    last = [Text(f"not read again: {earnings.reason}", style="yellow")] if earnings.reason else []
    return Group(Text(), table, Text(f"claimable {prlx(due)}", style="bold"), *last)
