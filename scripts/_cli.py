"""What all scripts share: the command class that turns every failure into one line, and the sentence for a revert."""

import re
from pathlib import Path
from typing import Any

import click
from ape.cli import ConnectedProviderCommand
from ape.exceptions import ApeException, ContractLogicError

from offchain.errors import UserError
from offchain.runtime.redaction import redact_urls

INTERFACES = Path(__file__).resolve().parents[1] / "contracts"


class NetworkCommand(ConnectedProviderCommand):
    """An Ape command that says what is wrong in one line on stderr and exits with 2, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            message = str(error)
        except ContractLogicError as error:
            message = f"the transaction would fail: {sentence(error)}"
        except (ApeException, OSError) as error:
            message = f"{str(error).strip().splitlines()[0]}; check --network and that the RPC answers"
        click.echo(f"error: {redact_urls(message)}", err=True)
        raise SystemExit(2)


def sentence(error: ContractLogicError) -> str:
    """A custom error in words: what its NatSpec says, and the values that explain it."""
    name = type(error).__name__
    values = ", ".join(f"{key} {value}" for key, value in getattr(error, "inputs", {}).items())
    notice = _notices().get(name)
    if notice is None:
        return f"{name}: {values}" if values else str(error) or name
    return f"{notice.rstrip('.')} ({name}{': ' + values if values else ''})"


def _notices() -> dict[str, str]:
    """Custom error -> its notice, from the sources."""
    found = {}
    pattern = re.compile(r"((?:[ \t]*///[^\n]*\n)+)\s*error (\w+)\(")
    for path in sorted(INTERFACES.rglob("*.sol")):
        if ".cache" in path.parts:
            continue
        for comment, name in pattern.findall(path.read_text()):
            text = " ".join(line.strip().removeprefix("///").strip() for line in comment.strip().splitlines())
            found[name] = text.removeprefix("@notice ")
    return found
