"""Each `parallelix ...` command in the documents is one that click knows, with known options and none missing."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from offchain.cli import cli
from tests.support.references import ROOT

DOCS = ROOT / "docs"
CHECKED = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "webapp/README.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "adr").glob("*.md")),
    *sorted((DOCS / "runbooks").glob("*.md")),
]
BLOCK = re.compile(r"^([ \t]*)```[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`(parallelix [^`]+)`")
COMMENT = re.compile(r"\s+#\s.*$|\s{4,}[a-z].*$")
"""What follows a command in its line: a comment, or a sentence after a wide gap."""


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """Each command of a document, and whether it must be whole: one in a block must, as must a span that has an option
    or an argument. A span such as `parallelix node start` only names a command."""
    for _, block in BLOCK.findall(text):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.strip().startswith("parallelix "):
                yield COMMENT.sub("", line.strip()), True
    for span in SPAN.findall(BLOCK.sub("", text)):
        yield " ".join(span.split()), False


@cache
def found(words: tuple[str, ...]) -> tuple[click.Command, int]:
    """The command that the words begin with, and how many of them name it."""
    command: click.Command = cli
    for used, word in enumerate(words):
        if not isinstance(command, click.Group):
            return command, used
        inner = command.get_command(click.Context(command), word)
        if inner is None:
            return command, used
        command = inner
    return command, len(words)


def faults(text: str, *, whole: bool = False) -> list[str]:
    """What is wrong with a document's commands: unknown command, unknown option, missing required option.

    Args:
        whole: commands in the text must be whole as well, as in a runbook, where people copy them.
    """
    return [fault for line, block in commands(text) for fault in _faults(line, whole=whole or block)]


def _faults(line: str, *, whole: bool) -> Iterator[str]:
    for one in _alternatives(line):
        # `[--json]` and `[--bundle FILE|URL]` are options that may be left out; they must exist all the same.
        words = [word.strip("[]") for word in shlex.split(one)][1:]
        command, used = found(tuple(words))
        rest = words[used:]
        if isinstance(command, click.Group):
            if rest and rest[0] not in ("...", "<group>", "--help", "--version"):
                yield f"{one}: no command {rest[0]}"
            continue
        given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        yield from (f"{one}: no option {name}" for name in sorted(given - known - {"--help"}))
        if "..." in rest or not (whole or rest):
            continue  # said to be a part, or only named
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.required and not given & set(parameter.opts):
                yield f"{one}: {parameter.opts[0]} is missing"
        wanted = sum(isinstance(p, click.Argument) and p.required for p in command.params)
        if wanted > len(_arguments(command, rest)):
            yield f"{one}: {wanted} arguments are needed"


def _alternatives(line: str) -> list[str]:
    """`tenant list | update | delete` names three commands; everything else is one."""
    first, *others = re.split(r" \| (?=[a-z])", line)
    return [first, *(f"{first.rpartition(' ')[0]} {other}" for other in others)]


def _arguments(command: click.Command, words: list[str]) -> list[str]:
    """The words that belong to no option."""
    flags = {
        name
        for option in command.params
        if isinstance(option, click.Option) and option.is_flag
        for name in (*option.opts, *option.secondary_opts)
    }
    plain, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word not in flags and "=" not in word
        else:
            plain.append(word)
    return plain


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_document__commands_in_it__are_known_and_whole(path: Path) -> None:
    assert faults(path.read_text(), whole=path.parent.name == "runbooks") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("`parallelix keeper nothing`", "parallelix keeper nothing: no command nothing"),
        ("`parallelix node start --confg F`", "parallelix node start --confg F: no option --confg"),
        ("`parallelix epoch verify <e> --rpc URL`", "--deployment is missing"),
        ("`parallelix epoch verify --rpc URL --deployment F`", "1 arguments are needed"),
        ("```\nparallelix keeper start\n```", "parallelix keeper start: --config is missing"),
        ("```\nparallelix keeper start --port 1 \\\n  --nothing\n```", "no option --nothing"),
    ],
)
def test_faults__command_that_click_would_refuse__is_noticed(text: str, fault: str) -> None:
    assert any(one.endswith(fault) for one in faults(text))


def test_faults__bare_name_of_a_command__is_noticed_in_a_runbook_only() -> None:
    assert faults("`parallelix keeper verify`") == []
    assert faults("`parallelix keeper verify`", whole=True) == [
        "parallelix keeper verify: --config is missing"
    ]


def test_faults__placeholders_parts_and_names_of_commands__are_allowed() -> None:
    text = (
        "`parallelix keeper start` `parallelix <group> ...` `parallelix node register ... --stake 1` "
        "`parallelix epoch verify <e> --rpc URL --deployment FILE [--bundle FILE|URL]`\n"
        "```sh\nparallelix keeper start --config F    # says so\n```\n"
    )
    assert faults(text) == []
