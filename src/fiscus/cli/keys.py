"""`fiscus keys`: API keys, straight on the configured store."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from msgspec.structs import asdict, replace

from fiscus.access.model import ApiKey, ApiKeySpec, NewApiKey, Role, hash_key, made_key, new_key
from fiscus.cli.checked import AN_ID
from fiscus.cli.configuration import DataDir, read_settings
from fiscus.cli.terminal import (
    CommandError,
    JsonFlag,
    facts,
    naming,
    new_table,
    notes,
    out,
    print_json,
    show_table,
    show_whole,
    shown,
)
from fiscus.engine import Engine
from fiscus.paging import MAX_PAGE_SIZE, page_request
from fiscus.priorities import Priority
from fiscus.scopes import parse_id
from fiscus.wire.converting import convert

app = typer.Typer(
    help="Make, list and revoke API keys, straight on the configured store.",
    no_args_is_help=True,
)

Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        callback=AN_ID,
        help="Whose keys; default FISCUS_DEFAULT_TENANT, or default.",
    ),
]


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What the key is for.")
    ] = "command line",
    role: Annotated[
        list[Role] | None,
        typer.Option(
            "--role", metavar="ROLE", help=f"Repeatable; default service. One of {', '.join(Role)}."
        ),
    ] = None,
    highest_priority: Annotated[
        Priority,
        typer.Option(
            metavar="PRIORITY",
            help="The most important that its rate-limit checks may claim to be: "
            f"{', '.join(Priority)}.",
        ),
    ] = Priority.NORMAL,
    tenant: Tenant = None,
    expires_in_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="When it stops working; default never.")
    ] = None,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an API key. It is shown this once."""
    wanted = {
        "name": name,
        "roles": role or [Role.SERVICE],
        "highest_priority": highest_priority,
    }
    with naming({"name": "NAME"}):
        spec = convert(wanted, ApiKeySpec)
    with _engine(data_dir, tenant, may_begin=True) as (engine, tenant_id):
        now = engine.clock.now()
        if expires_in_days is not None:
            spec = replace(spec, expires_at=now + timedelta(expires_in_days))
        secret = new_key()
        made = engine.api_keys.create(
            made_key(secret, spec, tenant_id, by="command line", now=now), hash_key(secret)
        )
    if as_json:
        print_json(NewApiKey(**asdict(made), api_key=secret))
        return
    show_whole(
        facts(
            [
                ("API key", f"[bold]{secret}[/]"),
                ("tenant", made.tenant_id),
                ("roles", ", ".join(made.roles)),
                ("highest priority", made.highest_priority),
                ("key id", made.key_id),
                ("expires", _when(made.expires_at, "never")),
            ]
        )
    )
    notes.print("[yellow]The key is shown this once and stored only as a hash.[/]")


@app.command("list")
def list_keys(tenant: Tenant = None, data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    """List a tenant's keys, newest first; the keys themselves are not kept anywhere."""
    with _engine(data_dir, tenant) as (engine, tenant_id):
        keys: list[ApiKey] = []
        token: str | None = None
        while True:
            page = engine.api_keys.list(tenant_id, page_request(None, MAX_PAGE_SIZE, token))
            keys.extend(page.items)
            token = page.pagination.next_page_token
            if token is None:
                break
        now = engine.clock.now()
    if as_json:
        print_json({"api_keys": keys})
        return
    table = new_table("key id", "begins", "name", "roles", "made", "state")
    for key in keys:
        state = "valid"
        if key.revoked_at is not None:
            state = f"[red]revoked {_when(key.revoked_at)}[/]"
        elif key.expires_at is not None:
            state = f"expire{'d' if key.expires_at <= now else 's'} {_when(key.expires_at)}"
        begins, name = f"{shown(key.hint)}…", shown(key.name)
        roles = ", ".join(key.roles)
        table.add_row(key.key_id, begins, name, roles, _when(key.created_at), state)
    if keys:
        show_table(table, stack=("key id", "name", "roles"))
    else:
        notes.print(f"The tenant {tenant_id} has no keys. `fiscus keys create` makes one.")


@app.command()
def revoke(
    key_id: Annotated[
        str, typer.Argument(metavar="KEY_ID", help="The key's id, as `fiscus keys list` shows it.")
    ],
    tenant: Tenant = None,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key useless from now on."""
    with _engine(data_dir, tenant) as (engine, tenant_id):
        key = engine.api_keys.revoke(tenant_id, key_id, engine.clock.now())
    if as_json:
        print_json(key)
    else:
        out.print(f"The key {key.key_id} ({shown(key.name)}) is revoked.", soft_wrap=True)


@contextmanager
def _engine(
    data_dir: DataDir, tenant: str | None, *, may_begin: bool = False
) -> Generator[tuple[Engine, str]]:
    """The store, and the tenant meant. Its tables are as somebody meant them to be: they are made,
    not brought up.

    `may_begin`: where there is no database yet, one is made, so that a first key can be.
    """
    from fiscus.wiring.engine import is_new, open_engine, sqlite_file

    settings = read_settings(data_dir=data_dir)
    tenant_id = tenant or parse_id(settings.default_tenant, "FISCUS_DEFAULT_TENANT")
    new = is_new(settings)
    if new and not may_begin and (file := sqlite_file(settings)) is not None:
        raise CommandError(
            f"there is no database at {file}",
            suggested_action="Give --data-dir, or go to the folder that the server was started in.",
        )
    begins = may_begin and new
    engine = open_engine(settings, migrates=begins)
    try:
        yield engine, tenant_id
        if begins:  # by who is in another folder than the server, its keys are of no use there
            file = shown(str(sqlite_file(settings)))
            notes.print(f"There was no database here; a new one was begun: {file}", soft_wrap=True)
    finally:
        engine.close()


def _when(moment: object, never: str = "") -> str:
    return never if moment is None else f"{moment:%Y-%m-%d %H:%M}"
