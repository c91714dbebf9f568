"""Options that the node's commands share, and what opens settings, owner and node from them."""
# A command imports what it needs, so that `parallelix node --help` does not load web3.
# ruff: noqa: PLC0415

import json
from collections.abc import Callable
from functools import wraps
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


def options(*each: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Several options as one decorator."""

    def apply(command: _F) -> _F:
        # Decorators apply from the bottom up, and `--help` shows the last one applied first.
        for option in reversed(each):
            command = option(command)
        return command

    return apply


config_option = click.option("--config", type=PATH, required=True, help="The node's settings, a TOML file.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
yes_option = click.option("--yes", is_flag=True, help="Send transactions without asking first.")
keeper_url_option = click.option(
    "--keeper-url",
    help="URL of a keeper's API, by default keeper_url; its uptime table is checked against the chain.",
)
_OWNER_FILES = {
    "--owner-keystore": "The owner's encrypted key file; not needed where the node serves.",
    "--owner-password-file": "File (0600) with the password of --owner-keystore.",
}
_owner_options = options(
    config_option,
    *(click.option(name, type=PATH, required=True, help=text) for name, text in _OWNER_FILES.items()),
)


def owner_command(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a command of the owner, which gets `settings` and `owner()` instead: that opens key and chain.

    The command has `yes_option`, too. Whatever needs neither is checked before `owner()` is called.
    """

    @wraps(command)
    def run(
        config: Path, owner_keystore: Path, owner_password_file: Path, *, yes: bool, **given: Any
    ) -> None:
        settings = load_settings(config)
        files = owner_keystore, owner_password_file
        command(settings, lambda: open_owner(settings, *files, yes=yes), **given)

    return _owner_options(run)


init_options = options(
    click.option(
        "--folder", type=PATH, required=True, help="Folder (0700) for the settings, the node key and data."
    ),
    click.option("--rpc-url", required=True, help="RPC endpoint of the chain; several with commas."),
    click.option("--deployment", type=PATH, required=True, help="The network's deployments/<chain id>.json."),
    click.option(
        "--heartbeat-receiver",
        "--front",
        "heartbeat_receivers",
        multiple=True,
        help="URL of a gateway or keeper to announce the node to; may be given several times.",
    ),
    click.option("--region", default="local", show_default=True, help="Region that gateways route by."),
    click.option(
        "--served-model", help="Model name that requesters use; by default the name of --model-path."
    ),
    click.option("--model-path", type=PATH, help="Folder of the model's weights."),
    click.option("--engine-url", help="URL of a running OpenAI-compatible server; no vLLM is started then."),
    click.option("--model-revision", help="Text that names the exact weights behind --engine-url."),
    click.option("--vllm", default="vllm", show_default=True, help="The vLLM program that the agent starts."),
    click.option("--keeper-url", help="URL of a keeper's API, for uptime and earnings."),
    click.option(
        "--listen", help="HOST:PORT to serve at; by default the agent connects outward to the gateways."
    ),
    click.option("--public-url", help="URL at which gateways reach --listen; by default its HOST:PORT."),
    click.option("--tls-certificate", type=PATH, help="PEM certificate for --listen; may be self-signed."),
    click.option("--tls-key", type=PATH, help="Key of --tls-certificate (PEM, unencrypted, 0600)."),
)


def echo_json(**fields: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(fields))


def keeper_url_of(settings: "NodeSettings", given: str | None) -> str:
    """The keeper to ask. Raises UserError when neither the command line nor the settings name one."""
    found = given or settings.keeper_url
    if found is None:
        raise UserError("no keeper is named; give --keeper-url, or set keeper_url")
    return found


def say(*, as_json: bool) -> Callable[[str], None]:
    """A function that prints progress: to stdout, or to stderr when stdout is for JSON."""
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
        # On stderr: stdout may be for one JSON object.
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
