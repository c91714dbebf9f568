"""Options and openings that the node's commands share."""
# A command imports what it needs, so that `parallelix node --help` does not load web3.
# ruff: noqa: PLC0415

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from offchain.errors import UserError

if TYPE_CHECKING:
    from offchain.chain.reader import PinnedReads
    from offchain.domain.types import NodeId
    from offchain.node.owner.wallet import Owner
    from offchain.node.settings import NodeSettings

_F = TypeVar("_F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def options(*those: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Several options as one decorator."""

    def apply(command: _F) -> _F:
        for option in reversed(those):
            command = option(command)
        return command

    return apply


config_option = click.option("--config", type=PATH, required=True, help="The node's TOML file.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask before a transaction.")
owner_options = options(
    click.option(
        "--owner-keystore", type=PATH, required=True, help="The owner's encrypted key; stays off the node."
    ),
    click.option("--owner-password-file", type=PATH, required=True, help="File (0600) with its password."),
)


init_options = options(
    click.option("--folder", type=PATH, required=True, help="Where settings, key and data go (0700)."),
    click.option("--rpc-url", required=True, help="RPC endpoint of the chain."),
    click.option("--deployment", type=PATH, required=True, help="deployments/<chain id>.json."),
    click.option(
        "--heartbeat-receiver",
        "--front",
        "heartbeat_receivers",
        multiple=True,
        help="URL of a gateway or keeper to announce the node to; may be given several times.",
    ),
    click.option("--region", default="local", show_default=True),
    click.option("--served-model", help="Name that requesters use; by default the folder's."),
    click.option("--model-path", type=PATH, help="Folder of the weights."),
    click.option("--engine-url", help="A running OpenAI-compatible server, instead of starting vLLM."),
    click.option("--model-revision", help="Names the weights behind --engine-url."),
    click.option("--vllm", default="vllm", show_default=True, help="The vLLM program."),
    click.option("--keeper-url", help="A keeper's API, for uptime and earnings."),
    click.option(
        "--listen", help="HOST:PORT to serve inbound at; by default the agent dials out to its fronts."
    ),
    click.option("--public-url", help="How fronts reach --listen; by default its HOST:PORT."),
    click.option("--tls-certificate", type=PATH, help="PEM certificate for --listen; self-signed will do."),
    click.option("--tls-key", type=PATH, help="Its key (PEM, unencrypted, 0600)."),
)


def keeper_url_of(settings: "NodeSettings", given: str | None) -> str:
    """The keeper to ask. Raises UserError when neither the command line nor the settings name one."""
    found = given or settings.keeper_url
    if found is None:
        raise UserError("no keeper is named; give --keeper-url, or set keeper_url")
    return found


def say(*, as_json: bool) -> Callable[[str], None]:
    """Prints progress, to stderr when stdout is for JSON."""
    return lambda text: click.echo(text, err=as_json)


def load_settings(config: Path) -> "NodeSettings":
    """Settings from `--config`. Raises UserError."""
    from offchain.node.settings import NodeSettings

    return NodeSettings.load(config)


def open_owner(settings: "NodeSettings", keystore: Path, password_file: Path, *, yes: bool) -> "Owner":
    """The owner's key and a checked chain; asks before each transaction unless `yes`. Raises UserError."""
    from offchain.crypto.keys import Signer
    from offchain.node.chain import open_chain
    from offchain.node.owner.wallet import Owner

    def confirm(effect: str) -> bool:
        return yes or click.confirm(f"{effect}\nSend?", err=True)

    signer = Signer.load(keystore, password_file)
    return Owner(open_chain(settings), signer, confirm)


def node_id_of(settings: "NodeSettings", reads: "PinnedReads") -> "NodeId":
    """The node of these settings. Raises UserError when the key is bound to none."""
    from offchain.domain.types import NodeId
    from offchain.node.owner.node_key import keystore_address

    if settings.node_id:
        return NodeId(settings.node_id)
    key = keystore_address(settings.keystore)
    found = reads.node_of_key(key)
    if found is None:
        raise UserError(f"node key {key} is bound to no node; run `parallelix node register` first")
    return found
