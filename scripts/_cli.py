"""What all scripts share: the command class that turns every failure into one line, and the sentence for a revert."""

from typing import Any

import click
from ape.cli import ConnectedProviderCommand
from ape.exceptions import ApeException, ContractLogicError, CustomError
from eth_abi.abi import encode

from offchain.chain.revert_words import RevertDecoder
from offchain.domain.eip712 import keccak256
from offchain.errors import UserError
from offchain.runtime.redaction import redact_urls


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
    """A revert in words; Ape decodes custom errors, so they are encoded once more for the one body of words."""
    if not isinstance(error, CustomError):
        return str(error) or type(error).__name__
    arguments = encode([item.canonical_type for item in error.abi.inputs], list(error.inputs.values()))
    return str(RevertDecoder().decode(keccak256(error.abi.selector.encode())[:4] + arguments))
