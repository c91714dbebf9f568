"""What all scripts share: the command class that turns every failure into one line, and the sentence for a revert."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from ape.cli import ConnectedProviderCommand
from ape.exceptions import ApeException, ContractLogicError, CustomError
from eth_abi.abi import encode

from offchain.chain.revert_words import RevertDecoder
from offchain.domain.eip712 import keccak256
from offchain.errors import UserError
from offchain.runtime.redaction import redact_urls

Command = TypeVar("Command", bound=Callable[..., Any])


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


def sender_options(who: str) -> Callable[[Command], Command]:
    """The options that `scripts.deploy.open_account` takes: `keystore`, `password_file`, `alias`. `who` names the sender."""
    file = click.Path(path_type=Path, dir_okay=False)
    options = (
        click.option("--keystore", type=file, help=f"{who}'s encrypted key file."),
        click.option("--password-file", type=file, help="File with its password."),
        click.option("--account", "alias", help=f"{who}, an account of Ape's."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def sentence(error: ContractLogicError) -> str:
    """A revert in words; Ape decodes custom errors, so they are encoded once more for the one body of words."""
    if not isinstance(error, CustomError):
        return str(error) or type(error).__name__
    arguments = encode([item.canonical_type for item in error.abi.inputs], list(error.inputs.values()))
    return str(RevertDecoder().decode(keccak256(error.abi.selector.encode())[:4] + arguments))
