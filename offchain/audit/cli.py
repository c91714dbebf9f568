"""`parallelix epoch ...`: what an epoch paid, recomputed from public data."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offchain.domain.eip712 import hex_bytes
from offchain.domain.types import FULL_BPS, Epoch, NodeId, Wei
from offchain.errors import UserError

if TYPE_CHECKING:
    from offchain.audit.execution_proof import RecordProof, ServedRecord
    from offchain.audit.statement import Statement
    from offchain.audit.verify_epoch import Audit

EPOCHS_SEARCHED = 30
"""Without --epoch and a gateway's record, `proof` looks into so many of the last epochs."""


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """Options that every command of the group has: where chain, deployment and bundle are."""
    keepers = "Base URL of a keeper to ask for the bundle; default: all keepers of the registry."
    bundle = "File or URL of the evidence bundle; default: keepers are asked for it."
    deployment = "deployments/<chain_id>.json of the network."
    for option in (  # click lists them in the opposite order
        click.option("--keeper-url", multiple=True, help=keepers),
        click.option("--bundle", help=bundle),
        click.option("--deployment", type=_PATH, required=True, help=deployment),
        click.option("--rpc", "rpc_url", required=True, help="JSON-RPC endpoint of the chain."),
    ):
        command = option(command)
    return command


_PATH = click.Path(path_type=Path)
_EPOCHS = click.IntRange(0, 2**32 - 1)
_EPOCH = click.argument("epoch", type=_EPOCHS)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def cli() -> None:
    """Verify what an epoch paid from public data, without trusting a keeper."""


@cli.command()
@_EPOCH
@_common
@_AS_JSON
def verify(epoch: int, *, as_json: bool, **where: Any) -> None:
    """Rebuild every leaf and payout of an epoch and balance its account to the wei.

    The exit status is 1 if the chain and the recomputation differ.
    """
    with _audited(epoch, as_json=as_json, **where) as audit:
        click.echo(json.dumps(audit.to_json()) if as_json else _table(audit))


@cli.command()
@click.argument("node", type=click.IntRange(1, 2**17 - 1))
@_EPOCH
@_common
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
    help="Form of the output.",
)
def statement(node: int, epoch: int, form: str, **where: Any) -> None:
    """Show why a node earned what it did: share, tier, uptime, and each lost slot with its evidence."""
    from offchain.audit.statement import statement as state  # noqa: PLC0415 - `--help` must not load the chain

    with _audited(epoch, as_json=form == "json", **where) as audit:
        found = state(audit, NodeId(node))
        if form == "json":
            click.echo(json.dumps(found.to_json()))
        elif form == "csv":
            click.echo(found.to_csv(), nl=False)
        else:
            click.echo(_statement_text(found))


@cli.command()
@click.argument("request_id")
@_common
@click.option(
    "--epoch",
    type=_EPOCHS,
    help="Epoch whose report holds the record; default: the newest epochs are searched.",
)
@click.option(
    "--gateway-url",
    multiple=True,
    help="Base URL of the gateway that served the request; default: all gateways that keepers list.",
)
@click.option(
    "--record",
    type=_PATH,
    help="File with the gateway's answer to GET /v1/executions/<request>; default: the gateway is asked.",
)
@_AS_JSON
def proof(
    request_id: str,
    epoch: int | None,
    gateway_url: tuple[str, ...],
    record: Path | None,
    *,
    as_json: bool,
    **where: Any,
) -> None:
    """Prove that the execution record of a request is under the root of an epoch's signed report.

    REQUEST_ID is 32 bytes of hex. Records of on-chain requests and of probes are in the keepers' bundle itself, records
    of requests that a gateway served in that gateway's batch.
    """
    from offchain.audit.execution_proof import fetch_record, read_record  # noqa: PLC0415 - as above

    wanted = _request_id(request_id)
    served = None if record is None else read_record(record, wanted)
    with _auditor(**where) as auditor:
        why = list[str]()
        if served is None:
            served, why = fetch_record(gateway_url or auditor.gateway_urls(), wanted)
        found = _first_proof(auditor, epoch, wanted, served)
    if found is None:
        raise _unproven(served, why)
    click.echo(json.dumps(found.to_json()) if as_json else found.to_text())


def _request_id(text: str) -> bytes:
    try:
        return hex_bytes(text, 32)
    except ValueError:
        raise UserError(f"{text} is not a request id; it is 32 bytes of hex") from None


def _first_proof(
    auditor: "_Auditor", epoch: int | None, wanted: bytes, served: "ServedRecord | None"
) -> "RecordProof | None":
    """The proof from the given epoch, or from the first epoch that has one."""
    from offchain.audit.execution_proof import record_proof, served_proof  # noqa: PLC0415 - as above

    for number in [epoch] if epoch is not None else auditor.where(served):
        try:
            audit = auditor.audit(number)
        except UserError:
            if epoch is not None:
                raise
            continue  # this epoch has no report yet, or its bundle cannot be had
        found = record_proof(audit, wanted)
        if found is None and served is not None:
            found = served_proof(audit, served)
        if found is not None:
            return found
    return None


def _unproven(served: "ServedRecord | None", why: list[str]) -> UserError:
    if served is not None:
        epoch = served.batch.commitment.epoch
        return UserError(
            f"the record is in a batch of epoch {epoch}, which no report that was searched holds; "
            "try again when that epoch's report is final"
        )
    return UserError(
        "no epoch that was searched has a record of this request; name one with --epoch, or the gateway that served it "
        f"with --gateway-url{''.join(f' ({reason})' for reason in why[:3])}"
    )


@contextmanager
def _audited(epoch: int, *, as_json: bool, **where: Any) -> "Iterator[Audit]":
    """An epoch's audit; a mismatch ends the process with status 1."""
    from offchain.audit.verify_epoch import MismatchError  # noqa: PLC0415 - as above

    try:
        with _auditor(**where) as auditor:
            yield auditor.audit(epoch)
    except MismatchError as mismatch:
        if as_json:
            click.echo(json.dumps({"epoch": epoch, "ok": False, "reason": str(mismatch)}))
        click.echo(f"epoch {epoch} does NOT hold: {mismatch}", err=True)
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class _Auditor:
    """Audits epochs over one scan of the chain.

    Attributes:
        newest: the newest epoch that is over.
        gateway_urls: gives the base URLs of all gateways that keepers list on chain.
    """

    audit: "Callable[[int], Audit]"
    newest: int
    gateway_urls: Callable[[], list[str]]

    def where(self, served: "ServedRecord | None") -> list[int]:
        """Epochs whose report may hold the record: those that may hold its batch; without one the newest, newest first."""
        if served is None:
            return list(range(self.newest, max(0, self.newest - EPOCHS_SEARCHED), -1))
        from offchain.evidence.epoch_context import LATE_EPOCHS  # noqa: PLC0415 - as above

        first = served.batch.commitment.epoch
        return list(range(first, min(self.newest, first + LATE_EPOCHS) + 1))


@contextmanager
def _auditor(
    *, rpc_url: str, deployment: Path, bundle: str | None, keeper_url: tuple[str, ...]
) -> "Iterator[_Auditor]":
    from offchain.audit.verify_epoch import (  # noqa: PLC0415 - as above
        BundleSource,
        open_reader,
        scanned,
        verify_epoch,
    )
    from offchain.db.keepers import gateways  # noqa: PLC0415 - as above

    reader = open_reader(rpc_url, deployment)
    clock, now = reader.deployment.clock(), reader.head_block().timestamp
    if now < clock.end(Epoch(0)):
        raise UserError("no epoch is over yet; there is nothing to verify")
    source = BundleSource(bundle, keeper_url)
    with scanned(reader) as database:

        def gateway_urls() -> list[str]:
            with database.read() as session:
                return [gateway.url for gateway in gateways(session) if "://" in gateway.url]

        yield _Auditor(
            lambda epoch: verify_epoch(reader, database, Epoch(epoch), source),
            clock.epoch_at(now) - 1,
            gateway_urls,
        )


def _table(audit: "Audit") -> str:
    account, slots = audit.account, audit.context.clock.slots
    lines = [
        f"epoch {audit.epoch}  {audit.status.name.lower()}  root 0x{audit.report.uptime_root.hex()}",
        f"bundle {audit.bundle.hash}",
        f"{audit.verdict.records} execution records, and {_batches(audit)}",
        f"signed by {len(audit.signers)} of {len(audit.context.keepers)} keepers, quorum {audit.context.quorum}",
        "",
        f"{'node':>8} {'share':>9} {'uptime':>9} {'lost slots':>11} {'earned PRLX':>28} {'paid PRLX':>28}",
    ]
    for node in audit.nodes:
        share = 100 * Decimal(node.weight) / Decimal(audit.total_weight or 1)
        lost = f"{len(node.missed)}/{slots}"
        lines.append(
            f"{node.node_id:>8} {share:>8.3f}% {Decimal(node.uptime) / 100:>8.2f}% "
            f"{lost:>11} {prlx(node.earned):>28} {prlx(node.paid):>28}"
        )
    lines += [
        "",
        *(
            f"{name:>12} {getattr(account, name):>30} wei"
            for name in ("paid", "claimable", "carried", "funded")
        ),
        "paid + claimable + carried = funded: holds to the wei",
    ]
    return "\n".join(lines)


def _batches(audit: "Audit") -> str:
    """How many records gateways committed to, with a warning for each gateway that signed two batches of one epoch."""
    from offchain.evidence.execution_batches import equivocations  # noqa: PLC0415 - as above

    batches = audit.verdict.batches
    text = f"{sum(batch.commitment.count for batch in batches)} more in {len(batches)} gateway batches"
    for gateway, of in equivocations(batches):
        text += f"\nWARNING: gateway 0x{gateway.hex()} signed different batches of epoch {of}"
    return text


def _statement_text(found: "Statement") -> str:
    node, audit = found.node, found.audit
    share = 100 * Decimal(node.weight) / Decimal(audit.total_weight or 1)
    lines = [
        f"node {node.node_id}, epoch {audit.epoch} ({audit.status.name.lower()})",
        f"  pool           {prlx(audit.account.funded)} PRLX",
        f"  stake          {prlx(found.stake_wei)} PRLX, tier {int(found.tier)}: {share:.4f} % of all weight",
        f"  uptime         {Decimal(node.uptime) * 100 / FULL_BPS} %, {len(node.missed)} of {len(found.slots)} slots lost",
        f"  earned         {prlx(node.earned)} PRLX",
        f"  claimed        {prlx(node.paid)} PRLX",
        f"  one per cent more uptime would have paid {prlx(found.one_percent_wei)} PRLX",
    ]
    for line in found.slots:
        if line.slot in node.missed:
            lines.append(f"  slot {line.slot} lost:")
            lines += [
                f"    missed at {said.at_ms} ms, seen by {said.keeper} ({said.region}): {said.miss or 'answered'}"
                for said in line.testimonies
            ]
    return "\n".join(lines)


def prlx(amount: Wei) -> str:
    """An amount in whole tokens with all 18 decimals."""
    return f"{amount // 10**18}.{amount % 10**18:018d}"
