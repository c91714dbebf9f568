"""`parallelix gateway ...`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offchain.domain.amounts import parse_prlx
from offchain.errors import UserError
from offchain.gateway.settings import GatewaySettings
from offchain.runtime import native_code

if TYPE_CHECKING:
    from offchain.gateway.tenants.registry import TenantAdmin

_CONFIG = click.option(
    "--config", "config", type=click.Path(path_type=Path), required=True, help="TOML file of settings."
)
_READY = click.option("--json", "as_json", is_flag=True, help="Announce readiness as a line of JSON.")
_NAME = click.argument("name")


@click.group()
def cli() -> None:
    """Run the OpenAI-compatible gateway."""


@cli.command()
@_CONFIG
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to use instead of the configured one; 0: any free one.",
)
@_READY
def start(config: Path, port: int | None, as_json: bool) -> None:
    """Serve until SIGTERM; then let running answers end."""
    interpreted = native_code.use()
    from offchain.gateway.main import run  # noqa: PLC0415  `--help` must not load the server

    settings = GatewaySettings.load(config)
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    run(settings, interpreted=interpreted, announce_json=as_json)


@cli.command("worker")
@_CONFIG
@click.option("--concurrency", type=click.IntRange(1, 64), default=4, help="Batches at the same time.")
@_READY
def worker(config: Path, concurrency: int, as_json: bool) -> None:
    """Work on batches (`/v1/batches`) until SIGTERM. Any number of workers may share one Redis."""
    from offchain.gateway.batches.worker import run_worker  # noqa: PLC0415  `--help` must not load Celery

    run_worker(GatewaySettings.load(config), concurrency, announce_json=as_json)


@cli.command("explain")
@click.argument("request_id")
@click.option("--url", required=True, help="The gateway's base URL.")
@click.option(
    "--key",
    envvar="PARALLELIX_API_KEY",
    required=True,
    help="The tenant's API key; or set PARALLELIX_API_KEY.",
)
@click.option(
    "--replay", "again", is_flag=True, help="Also compute every decision again, and check the signature."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def explain_request(request_id: str, url: str, key: str, again: bool, as_json: bool) -> None:
    """Show which nodes were candidates for a request, which were tried, and where the time went."""
    import httpx  # noqa: PLC0415

    from offchain.gateway.records.explain import check, explain  # noqa: PLC0415

    headers = {"Authorization": f"Bearer {key}"}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/v1/receipts/{request_id}", headers=headers, timeout=10)
        record: dict[str, Any] = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise UserError(f"{url} does not answer as a gateway ({type(error).__name__}); check --url") from None
    if answer.status_code != 200:
        raise UserError(f"{record.get('error', {}).get('message', answer.status_code)}")
    for line in [json.dumps(record)] if as_json else explain(record):
        click.echo(line)
    if again:
        if wrong := check(record):
            click.echo("; ".join(wrong), err=True)
            sys.exit(1)
        agreed = f"{len(record['decisions'])} decision(s) agree; signed by {record['gateway']}"
        click.echo(f"replayed  {agreed}", err=as_json)


@cli.group()
def key() -> None:
    """API keys in the gateway's file (api_keys_file). Only hashes are stored."""


@key.command("create")
@click.option(
    "--config", "config", type=click.Path(path_type=Path), help="TOML file of the gateway's settings."
)
@click.option(
    "--file", "file", type=click.Path(path_type=Path), help="The API key file itself, instead of --config."
)
@click.option("--name", required=True, help="Name of the tenant who will use the key, e.g. acme.")
def create(config: Path | None, file: Path | None, name: str) -> None:
    """Make an API key and print it; it cannot be shown again. A running gateway knows it within a second."""
    from offchain.gateway.tenants.api_keys import create_key  # noqa: PLC0415

    if config is not None and file is None:
        file = GatewaySettings.load(config).api_keys_file
    elif file is None or config is not None:
        raise click.UsageError("give either --config or --file")
    click.echo(create_key(file, name))


@cli.group()
def tenant() -> None:
    """Tenants and their keys in Redis, shared by all gateways; changes take effect within a second."""


@contextmanager
def _admin(config: Path) -> Iterator["TenantAdmin"]:
    from redis import Redis  # noqa: PLC0415

    from offchain.gateway.tenants.registry import TenantAdmin  # noqa: PLC0415

    url = GatewaySettings.load(config).redis_url
    if url is None:
        raise UserError("tenants are kept in Redis; set redis_url in the gateway's settings")
    client = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        yield TenantAdmin(client)
    finally:
        client.close()


def _tenant_command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command of `tenant`. The function gets a `TenantAdmin` where the command takes --config."""

    def decorate(work: Callable[..., None]) -> click.Command:
        @wraps(work)
        def run(config: Path, **given: Any) -> None:
            with _admin(config) as admin:
                work(admin, **given)

        return tenant.command(name)(_CONFIG(run))

    return decorate


def _to_wei(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    return None if text is None else parse_prlx(text)


def _limits(function: Any) -> Any:
    priorities = click.Choice(["interactive", "standard", "batch"])
    for option in (
        click.option("--priority", type=priorities, help="Admission class: who goes first."),
        click.option("--requests-per-minute", type=click.IntRange(0), help="0: no limit."),
        click.option("--tokens-per-minute", type=click.IntRange(0), help="0: no limit."),
        click.option(
            "--max-concurrent",
            "--most-concurrent",  # its name until 0.1
            "max_concurrent",
            type=click.IntRange(0),
            help="Requests at the same time; 0: no limit.",
        ),
        click.option(
            "--credit",
            "credit_wei",
            callback=_to_wei,
            metavar="PRLX",
            help="What all answers together may cost; 0: no limit.",
        ),
    ):
        function = option(function)
    return function


def _changes(priority: str | None, numbers: dict[str, int | None]) -> dict[str, Any]:
    from offchain.scheduler.work import Priority  # noqa: PLC0415

    changed: dict[str, Any] = {name: value or None for name, value in numbers.items() if value is not None}
    if priority is not None:
        changed["priority"] = Priority[priority.upper()]
    return changed


@_tenant_command("create")
@_NAME
@_limits
def tenant_create(admin: "TenantAdmin", name: str, priority: str | None, **numbers: int | None) -> None:
    """Make a tenant and its first API key, and print the key."""
    from offchain.scheduler.quotas import TenantLimits  # noqa: PLC0415

    admin.create(name, replace(TenantLimits(), **_changes(priority, numbers)))
    click.echo(admin.add_key(name))


@_tenant_command("update")
@_NAME
@_limits
@click.option("--disable/--enable", "disabled", default=None, help="Refuse all requests, or serve again.")
def tenant_update(
    admin: "TenantAdmin", name: str, priority: str | None, disabled: bool | None, **numbers: int | None
) -> None:
    """Change a tenant's limits."""
    old = admin.get(name)
    new = replace(old, limits=replace(old.limits, **_changes(priority, numbers)))
    admin.save(new if disabled is None else replace(new, disabled=disabled))


@_tenant_command("list")
def tenant_list(admin: "TenantAdmin") -> None:
    """Show all tenants, a line of JSON each."""
    for found in admin.list():
        click.echo(json.dumps(found.to_json()))


@_tenant_command("delete")
@_NAME
def tenant_delete(admin: "TenantAdmin", name: str) -> None:
    """Remove a tenant and all of its keys."""
    click.echo(f"removed with {admin.delete(name)} key(s)")


@_tenant_command("add-key")
@_NAME
def tenant_add_key(admin: "TenantAdmin", name: str) -> None:
    """Make another API key of a tenant, and print it."""
    click.echo(admin.add_key(name))


@_tenant_command("revoke-key")
@click.argument("key_or_hash")
def tenant_revoke_key(admin: "TenantAdmin", key_or_hash: str) -> None:
    """Revoke a key, given as the key itself or its SHA-256."""
    click.echo(f"revoked a key of {admin.revoke_key(key_or_hash)}")
