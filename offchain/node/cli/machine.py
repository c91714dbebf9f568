"""Commands that look at and prepare this machine: setup, probe, init, models, verify, service."""
# A command imports what it needs, so that `parallelix node --help` does not load web3.
# ruff: noqa: PLC0415

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offchain.errors import UserError
from offchain.node.cli.options import (
    PATH,
    config_option,
    echo_json,
    init_options,
    json_option,
    load_settings,
    open_owner,
    options,
    say,
    yes_option,
)

if TYPE_CHECKING:
    from offchain.node.owner.forecast import Forecast
    from offchain.node.settings import NodeSettings

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@json_option
def probe(*, as_json: bool) -> None:
    """Show this machine's accelerators, CPU and memory, and the tier it can claim, with the reason."""
    from offchain.node.machine.hardware import detect

    found = detect()
    if as_json:
        echo_json(**found.to_json())
        return
    for card in found.accelerators:
        click.echo(
            f"{card.vendor:<8} {card.name}  {card.memory_bytes / 1024**3:.0f} GiB  driver {card.driver}"
        )
    click.echo(f"cpu      {found.cpu}, {found.cores} cores")
    click.echo(f"memory   {found.memory_bytes / 1e9:.1f} GB, {found.free_bytes / 1e9:.1f} GB free")
    click.echo(f"tier     {int(found.tier)} ({found.backend}): {found.why}")


@click.command()
@init_options
@json_option
def init(*, as_json: bool, **given: Any) -> None:
    """Write settings and a node key for this machine. Files that exist are kept."""
    made = _initialise(given)
    if as_json:
        keys = {"node_key": made.node_key, "node_key_hash": made.node_key_hash}
        echo_json(config=str(made.config), **keys, created=made.created)
        return
    click.echo(f"{'wrote' if made.created else 'found'} {made.config}")
    click.echo(f"node key       {made.node_key}\nnode key hash  {made.node_key_hash}")


def _initialise(given: dict[str, Any]) -> Any:
    from offchain.node.machine.hardware import detect
    from offchain.node.machine.initialise import Wanted, initialise

    fields = {name: value for name, value in given.items() if name != "vllm"}
    folder = given["model_path"]
    fields["served_model"] = given["served_model"] or (folder.name if folder else "model")
    return initialise(Wanted(**fields, vllm_command=(given["vllm"],)), detect())


@click.command()
@config_option
@json_option
def models(config: Path, *, as_json: bool) -> None:
    """Show the models that the settings serve, the content hash of their weights, and the manifest's hash."""
    from offchain.node.machine.manifest import manifest_of

    settings = load_settings(config)
    manifest = manifest_of(settings)
    if as_json:
        echo_json(manifest=manifest.to_json(), manifest_hash="0x" + manifest.hash().hex())
        return
    for model in manifest.models:
        click.echo(f"{model.name}  context {model.context_length}\n  {model.revision}")
    click.echo(f"manifest hash 0x{manifest.hash().hex()}")


_verify_options = options(
    click.option("--owner", help="Address that will stake; its PRLX and ETH are checked."),
    click.option("--stake", help="PRLX to lock, e.g. 50000; by default the minimum."),
    click.option(
        "--benchmark", is_flag=True, help="Measure the running agent's model against the floor of its tier."
    ),
    click.option(
        "--uptime",
        type=click.FloatRange(0, 100),
        default=99.0,
        show_default=True,
        help="Uptime to assume in the forecast, per cent.",
    ),
    click.option(
        "--cost-per-day", help="Cost of the machine a day, in any currency, for the break-even price."
    ),
    click.option("--token-price", help="Price of one PRLX, in the same currency."),
)


@click.command()
@config_option
@_verify_options
@json_option
def verify(config: Path, *, as_json: bool, **given: Any) -> None:
    """Check settings, machine, chain and funds before any money is spent, and forecast the reward.

    Each check says ok, warn or FAIL, the reason, and what to do. Exit status 1 when a check fails.
    """
    document = _verify(load_settings(config), given, tell=not as_json)
    if as_json:
        echo_json(**document)
    if not document["ok"]:
        sys.exit(1)


def _verify(settings: "NodeSettings", given: dict[str, Any], *, tell: bool) -> dict[str, Any]:
    """All findings and the forecast, as the document of `--json`; `tell` prints them as they come."""
    from offchain.domain.amounts import parse_prlx
    from offchain.node.machine.benchmark import measure
    from offchain.node.machine.findings import CheckVerdict
    from offchain.node.machine.preflight import MachinePreflight

    stake = parse_prlx(given["stake"]) if given.get("stake") else None
    preflight = MachinePreflight(settings, given.get("owner"), stake)
    found = []
    for finding in (*preflight.findings(), *(measure(settings) if given.get("benchmark") else ())):
        found.append(finding)
        if tell:
            mark = click.style(_MARKS[finding.verdict], fg=_COLOURS[finding.verdict])
            remedy = f"\n{'':18}-> {finding.remedy}" if finding.remedy else ""
            click.echo(f"{mark} {finding.name:<13}{finding.reason}{remedy}")
    expected = _forecast(settings, given, stake) if preflight.chain is not None else None
    if tell and expected is not None:
        _tell_forecast(expected)
    return {
        "ok": all(finding.verdict is not CheckVerdict.FAIL for finding in found),
        "checks": [finding.to_json() for finding in found],
        "forecast": expected.to_json() if expected else None,
    }


def _forecast(settings: "NodeSettings", given: dict[str, Any], stake: int | None) -> "Forecast":
    from offchain.domain.tiers import Tier
    from offchain.domain.types import Bps, Epoch, Wei
    from offchain.node.chain import open_chain
    from offchain.node.owner.forecast import forecast

    chain = open_chain(settings)
    reads = chain.at(chain.head_block())
    # A node that registers now counts from the next epoch on.
    following = Epoch(reads.current_epoch() + 1)
    return forecast(
        reads.pool(following),
        reads.total_weight(following),
        Wei(stake) if stake else reads.min_stake(),
        Tier(settings.tier),
        Bps(round(given["uptime"] * 100)),
        chain.deployment.epoch_length,
        _fraction(given.get("cost_per_day")),
        _fraction(given.get("token_price")),
    )


def _fraction(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{text!r} is not a number") from None


def _tell_forecast(expected: "Forecast") -> None:
    from offchain.domain.amounts import prlx

    click.echo(f"\nforecast  {prlx(expected.per_epoch_wei)} an epoch, {prlx(expected.per_day_wei)} a day")
    click.echo(
        f"          share {expected.share_bps / 100:.2f} % of all weight; one per cent of uptime is worth "
    )
    click.echo(f"          {prlx(expected.per_percent_wei)} an epoch")
    if expected.break_even_price is not None:
        verdict = {True: ", which it is", False: ", which it is not", None: ""}[expected.covers_cost]
        click.echo(
            f"          pays for the machine from {float(expected.break_even_price):.4g} per PRLX{verdict}"
        )
    click.echo("assuming  " + "; ".join(expected.assumptions))


@click.command()
@config_option
@click.option("--system", is_flag=True, help="A unit of the whole machine; by default one of this user.")
@click.option(
    "--install", "write", is_flag=True, help="Write the unit file; by default the text is only printed."
)
@json_option
def service(config: Path, *, system: bool, write: bool, as_json: bool) -> None:
    """Print or write a hardened systemd unit that keeps the node running."""
    from offchain.node.machine.systemd import install, unit

    made = unit(load_settings(config), config, system=system)
    if write:
        install(made)
    if as_json:
        echo_json(path=str(made.path), unit=made.text, enable=made.enable, written=write)
    elif write:
        click.echo(f"wrote {made.path}\nnow run: {made.enable}")
    else:
        click.echo(made.text, nl=False)


@click.command()
@init_options
@click.option(
    "--owner-keystore",
    type=PATH,
    help="The owner's encrypted key file. Without it the command to run where the key is gets printed.",
)
@click.option("--owner-password-file", type=PATH, help="File (0600) with the password of --owner-keystore.")
@click.option("--stake", help="PRLX to lock, e.g. 50000; by default the minimum.")
@yes_option
@json_option
def setup(
    *,
    yes: bool,
    as_json: bool,
    owner_keystore: Path | None,
    owner_password_file: Path | None,
    stake: str | None,
    **given: Any,
) -> None:
    """Do init, verify and register in one go, then say how to start. Run it again to go on where it stopped."""
    from offchain.node.machine.manifest import manifest_of

    tell = say(as_json=as_json)
    tell("1  settings and node key")
    made = _initialise(given)
    tell(f"   {'wrote' if made.created else 'found'} {made.config}; node key {made.node_key}")
    settings = load_settings(made.config)
    tell("2  checks")
    checked = _verify(settings, {"stake": stake, "uptime": 99.0}, tell=not as_json)
    failing = [check for check in checked["checks"] if check["verdict"] == "fail"]
    # The manifest is not on chain yet: the next step puts it there.
    wrong = [check for check in failing if check["check"] != "manifest"]
    if wrong:
        raise UserError(
            f"{wrong[0]['check']}: {wrong[0]['reason']} ({wrong[0]['remedy']}); correct that and run `parallelix node setup` "
            "again; it goes on from here"
        )
    tell("3  registration")
    manifest_hash = manifest_of(settings).hash()
    owner = (owner_keystore, owner_password_file) if owner_keystore and owner_password_file else None
    elsewhere = (
        f"parallelix node register --config {made.config.name} --node-key-hash {made.node_key_hash} "
        f"--manifest-hash 0x{manifest_hash.hex()} --stake ... --owner-keystore ... --owner-password-file ..."
    )
    node_id = None
    if owner is None:
        tell("   on the machine (or in the browser) that holds the owner's key, register this node key hash:")
        tell(f"   {elsewhere}")
    else:
        node_id = _register(settings, owner, stake, manifest_hash, tell, yes=yes)
        tell(f"   node id {node_id}")
    tell(f"4  start\n   parallelix node start --config {made.config}")
    tell(f"   or as a service: parallelix node service --config {made.config} --install")
    if as_json:
        found = {"config": str(made.config), "node_key_hash": made.node_key_hash, "node_id": node_id}
        found |= {"manifest_hash": "0x" + manifest_hash.hex(), "register": None if owner else elsewhere}
        echo_json(**found, checks=checked["checks"])


def _register(
    settings: "NodeSettings",
    owner_files: tuple[Path, Path],
    stake: str | None,
    manifest_hash: bytes,
    tell: Callable[[str], None],
    *,
    yes: bool,
) -> int:
    """Stake and publish; the node's id."""
    from offchain.crypto.keys import Signer
    from offchain.domain.amounts import parse_prlx
    from offchain.domain.tiers import Tier
    from offchain.domain.types import Wei
    from offchain.node.owner import stake as lifecycle
    from offchain.node.owner.node_key import node_key_hash

    owner = open_owner(settings, *owner_files, yes=yes)
    amount = Wei(parse_prlx(stake)) if stake else owner.now().min_stake()
    key_hash = node_key_hash(Signer.load(settings.keystore, settings.password_file))
    done = lifecycle.register(owner, key_hash, amount, Tier(settings.tier), manifest_hash, "", tell)
    return int(done.node_id)
