"""`parallelix keeper ...`."""

import json
import sys
from pathlib import Path

import click

from offchain.domain.types import Wei
from offchain.keeper.settings import KeeperSettings

_PATH = click.Path(path_type=Path)
_CONFIG = click.option("--config", type=_PATH, required=True, help="TOML file with the keeper's settings.")
_JSON_WHEN_READY = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")


@click.group()
def cli() -> None:
    """Run a keeper: it indexes the chain, probes nodes, signs reports and answers on-chain requests."""


@cli.command()
@_CONFIG
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="Port of the HTTP API, instead of the settings' `port`; 0 takes a free one.",
)
@_JSON_WHEN_READY
def start(config: Path, port: int | None, *, as_json: bool) -> None:
    """Run a whole keeper until SIGTERM: workers, schedule, HTTP API and, without redis_url, the broker."""
    from offchain.keeper.process.start import start as run  # noqa: PLC0415 - `--help` must not load the workers

    settings = KeeperSettings.load(config)
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    run(settings, as_json=as_json)


@cli.command()
@_CONFIG
@click.option(
    "--queues", help="Queues to work on, comma-separated, e.g. uptime.probe,inference.dispatch; default: all."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    help="Number of threads; default: worker_concurrency of the settings.",
)
@click.option(
    "--name",
    default="extra",
    show_default=True,
    help="Name of the worker in logs; give each worker of a keeper its own.",
)
def worker(config: Path, queues: str | None, concurrency: int | None, name: str) -> None:
    """Run one more worker, for a keeper that was started elsewhere with the same database and broker."""
    from offchain.keeper.process.roles import run_single_worker  # noqa: PLC0415 - as above

    chosen = None if queues is None else tuple(word.strip() for word in queues.split(",") if word.strip())
    run_single_worker(KeeperSettings.load(config), name, chosen, concurrency)


@cli.command()
@_CONFIG
def beat(config: Path) -> None:
    """Run the schedule. A second schedule of the same keeper waits until the first is gone."""
    from offchain.keeper.process.roles import run_single_beat  # noqa: PLC0415 - as above

    run_single_beat(KeeperSettings.load(config))


@cli.command()
@_CONFIG
@_JSON_WHEN_READY
def api(config: Path, *, as_json: bool) -> None:
    """Run only the HTTP API, for a keeper that was started elsewhere with the same database and broker."""
    from offchain.keeper.process.roles import run_single_api  # noqa: PLC0415 - as above

    run_single_api(KeeperSettings.load(config), as_json=as_json)


@cli.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print each finding as a JSON object, one a line.")
def verify(config: Path, *, as_json: bool) -> None:
    """Preflight: check key, bond, RPC, clock, contracts, database, broker, gas, gateway and peers.

    The exit status is 1 if a finding is a failure: this keeper should not start.
    """
    from offchain.keeper.operator.preflight import KeeperPreflight, Level  # noqa: PLC0415 - as above
    from offchain.runtime.clock import SystemClock  # noqa: PLC0415 - as above

    findings = KeeperPreflight(KeeperSettings.load(config), SystemClock()).run()
    for found in findings:
        if as_json:
            click.echo(json.dumps({"check": found.check, "level": found.level.value, "text": found.text}))
        else:
            click.echo(f"{found.level.value:<8} {found.check:<11} {found.text}")
    if any(found.level is Level.FAILURE for found in findings):
        sys.exit(1)


@cli.command()
@click.option("--keystore", type=_PATH, required=True, help="Keystore file to write.")
@click.option(
    "--password-file",
    type=_PATH,
    required=True,
    help="File with the password; created with a random password when it does not exist.",
)
def key(keystore: Path, password_file: Path) -> None:
    """Make a signing key in an encrypted keystore and print its address."""
    from offchain.crypto.keys import create_keystore  # noqa: PLC0415 - as above

    click.echo(create_keystore(keystore, password_file))


@cli.command()
@_CONFIG
@click.option(
    "--operator-keystore",
    type=_PATH,
    required=True,
    help="Keystore of the account that owns the bond; it pays the gas of joining.",
)
@click.option(
    "--operator-password-file", type=_PATH, required=True, help="File with that keystore's password."
)
@click.option("--bond", type=int, help="Bond in whole PRLX; default: the registry's minimum.")
@click.option(
    "--url",
    required=True,
    help="Base URL at which nodes and other keepers reach this keeper's API, e.g. https://keeper.example.",
)
def join(
    config: Path, operator_keystore: Path, operator_password_file: Path, bond: int | None, url: str
) -> None:
    """Bond this keeper in the registry and list its signer for tickets. The keeper counts from the next epoch."""
    from offchain.crypto.keys import Signer  # noqa: PLC0415 - as above
    from offchain.keeper.operator.join import join as bond_keeper  # noqa: PLC0415 - as above

    operator = Signer.load(operator_keystore, operator_password_file)
    amount = None if bond is None else Wei(bond * 10**18)
    keeper_id = bond_keeper(KeeperSettings.load(config), operator, amount, url, click.echo)
    click.echo(f"keeper {keeper_id} is bonded; it counts from the next epoch")


@cli.group()
def outbox() -> None:
    """Show this keeper's transactions, and send one with a fault again."""


@outbox.command("list")
@_CONFIG
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(["pending", "sent", "mined", "final", "fault", "superseded"]),
    help="Only transactions with this status; may be repeated.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Show at most so many."
)
@click.option("--json", "as_json", is_flag=True, help="Print each transaction as a JSON object, one a line.")
def outbox_list(config: Path, statuses: tuple[str, ...], limit: int, *, as_json: bool) -> None:
    """Show transactions, newest first."""
    from offchain.keeper.operator.outbox_view import intents  # noqa: PLC0415 - as above

    for row in intents(KeeperSettings.load(config), statuses, limit):
        if as_json:
            click.echo(json.dumps(row))
        else:
            error = f"  {row['error']}" if row["error"] else ""
            click.echo(
                f"{row['status']:<10} {row['key']:<80} nonce {row['nonce']}  {row['tx_hash'] or ''}{error}"
            )


@outbox.command("retry")
@_CONFIG
@click.argument("key")
def outbox_retry(config: Path, key: str) -> None:
    """Set the transaction KEY, which has status fault, back to pending. Mend the cause of its fault first."""
    from offchain.keeper.operator.outbox_view import retry  # noqa: PLC0415 - as above

    retry(KeeperSettings.load(config), key)
    click.echo(f"{key} is pending again")
