"""`parallelix keeper ...`."""

import json
import sys
from pathlib import Path

import click

from offchain.domain.types import Wei
from offchain.keeper.settings import KeeperSettings

_CONFIG = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path),
    required=True,
    help="TOML file with the keeper's settings.",
)


@click.group()
def cli() -> None:
    """Run a keeper: index, probe, attest, fulfil."""


@cli.command()
@_CONFIG
@click.option("--port", type=int, help="Instead of the settings' port; 0 takes a free one.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")
def start(config: Path, port: int | None, *, as_json: bool) -> None:
    """Run every part of a keeper until SIGTERM."""
    from offchain.keeper.process.start import start as run  # noqa: PLC0415 - `--help` must not load the workers

    settings = KeeperSettings.load(config)
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    run(settings, as_json=as_json)


@cli.command()
@_CONFIG
@click.option("--queues", default=None, help="Comma-separated; all by default.")
@click.option(
    "--concurrency", type=int, default=None, help="Threads; the settings' worker_concurrency by default."
)
@click.option("--name", default="extra", show_default=True, help="Name of the worker.")
def worker(config: Path, queues: str | None, concurrency: int | None, name: str) -> None:
    """Run one more worker of a keeper that is started elsewhere with the same database and broker."""
    from offchain.keeper.process.roles import run_single_worker  # noqa: PLC0415 - as above

    chosen = None if queues is None else tuple(word.strip() for word in queues.split(",") if word.strip())
    run_single_worker(KeeperSettings.load(config), name, chosen, concurrency)


@cli.command()
@_CONFIG
def beat(config: Path) -> None:
    """Run a schedule; a second one stands by until the first is gone."""
    from offchain.keeper.process.roles import run_single_beat  # noqa: PLC0415 - as above

    run_single_beat(KeeperSettings.load(config))


@cli.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")
def api(config: Path, *, as_json: bool) -> None:
    """Run the HTTP API alone."""
    from offchain.keeper.process.roles import run_single_api  # noqa: PLC0415 - as above

    run_single_api(KeeperSettings.load(config), as_json=as_json)


@cli.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding.")
def verify(config: Path, *, as_json: bool) -> None:
    """Check keys, bond, RPC, clock, contracts, database, broker, gas and gateway. Exit status 1 on a failure."""
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
@click.option("--keystore", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    required=True,
    help="Password; made with a random one when it does not exist.",
)
def key(keystore: Path, password_file: Path) -> None:
    """Make a signing key in an encrypted keystore and print its address."""
    from offchain.crypto.keys import create_keystore  # noqa: PLC0415 - as above

    click.echo(create_keystore(keystore, password_file))


@cli.command()
@_CONFIG
@click.option(
    "--operator-keystore", type=click.Path(path_type=Path), required=True, help="Owns the bond, pays gas."
)
@click.option("--operator-password-file", type=click.Path(path_type=Path), required=True)
@click.option("--bond", type=int, default=None, help="Whole PRLX; the registry's minimum by default.")
@click.option("--url", required=True, help="Base URL at which others reach this keeper's API.")
def join(
    config: Path, operator_keystore: Path, operator_password_file: Path, bond: int | None, url: str
) -> None:
    """Bond this keeper in the registry and list its signer for tickets. It counts from the next epoch."""
    from offchain.crypto.keys import Signer  # noqa: PLC0415 - as above
    from offchain.keeper.operator.join import join as bond_keeper  # noqa: PLC0415 - as above

    operator = Signer.load(operator_keystore, operator_password_file)
    amount = None if bond is None else Wei(bond * 10**18)
    keeper_id = bond_keeper(KeeperSettings.load(config), operator, amount, url, click.echo)
    click.echo(f"keeper {keeper_id} is bonded; it counts from the next epoch")


@cli.group()
def outbox() -> None:
    """Look at this keeper's transactions, and try a fault again."""


@outbox.command("list")
@_CONFIG
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(["pending", "sent", "mined", "final", "fault", "superseded"]),
    help="Only these; may be repeated.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object an intent.")
def outbox_list(config: Path, statuses: tuple[str, ...], limit: int, *, as_json: bool) -> None:
    """Show intents, newest first."""
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
    """Put a fault back to pending, after what it complains of was mended."""
    from offchain.keeper.operator.outbox_view import retry  # noqa: PLC0415 - as above

    retry(KeeperSettings.load(config), key)
    click.echo(f"{key} is pending again")
