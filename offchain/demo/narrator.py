"""How the demo speaks: one line a step with the time since the start, and a moving line while something takes long."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console


class Narrator:
    """Prints the story to people, or one JSON object a line to scripts.

    Args:
        as_json: True prints `{"t_s", "kind", "text", ...}` lines instead of prose.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._as_json = as_json
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._start

    def chapter(self, text: str) -> None:
        """A new part of the story."""
        self._say("chapter", text, f"\n[bold]{text}[/bold]", {})

    def step(self, text: str, **facts: Any) -> None:
        """Something that happened and was checked."""
        self._say("step", text, f"[dim]{self.elapsed():6.1f}s[/dim]  [green]✓[/green] {text}", facts)

    def note(self, text: str, **facts: Any) -> None:
        """Something to know; nothing was checked."""
        self._say("note", text, f"[dim]{self.elapsed():6.1f}s[/dim]    {text}", facts)

    def stream(self, text: str) -> None:
        """A piece of a model's answer, as it arrives."""
        if not self._as_json:
            self._console.print(text, end="", style="cyan", markup=False)

    def end_stream(self) -> None:
        """The answer is complete."""
        if not self._as_json:
            self._console.print()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Shows that something takes long, and how long already."""
        if self._as_json or not self._console.is_terminal:
            self.note(f"{text} ...")
            yield
            return
        with self._console.status(f"{text} ..."):
            yield

    def _say(self, kind: str, text: str, pretty: str, facts: dict[str, Any]) -> None:
        if self._as_json:
            click.echo(json.dumps({"t_s": round(self.elapsed(), 1), "kind": kind, "text": text, **facts}))
        else:
            self._console.print(pretty)
