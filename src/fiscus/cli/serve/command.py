"""`fiscus serve`: the server, with nothing configured or as one of many processes."""

from __future__ import annotations

import shlex
import socket
from importlib.metadata import version
from typing import Annotated

import typer

from fiscus.cli.configuration import DataDir, read_settings
from fiscus.cli.terminal import CommandError, facts, notes, show_whole, shown
from fiscus.engine import Engine
from fiscus.runtime.logs import configure_logs
from fiscus.settings import Settings


def serve(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; default FISCUS_HOST, or 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="TCP port to listen on; default FISCUS_PORT, or 3472."),
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="TCP port of Envoy's rate limit service; default FISCUS_GRPC_PORT, or none.",
        ),
    ] = None,
    data_dir: DataDir = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=256,
            help="Processes that share the port; more than one need PostgreSQL and Redis.",
        ),
    ] = 1,
    with_worker: Annotated[
        bool,
        typer.Option(
            "--worker/--no-worker",
            help="Do the background work here too; of several processes, one does.",
        ),
    ] = True,
) -> None:
    """Serve the API. With nothing configured: SQLite in the data folder, everything included."""
    from fiscus.cli.signals import leave, on_signals

    on_signals(leave)  # ahead of all that takes its time
    from fiscus.cli.serve.serving import serve_process, sockets_for
    from fiscus.cli.serve.supervisor import Supervisor
    from fiscus.wiring.engine import ensure_admin_key, open_engine

    settings = read_settings(host=host, port=port, grpc_port=grpc_port, data_dir=data_dir)
    if workers > 1 and settings.resolved_database_url.startswith("sqlite"):
        raise CommandError(
            "several processes need PostgreSQL: SQLite is written by one",
            suggested_action="set FISCUS_DATABASE_URL=postgresql://user:password@host/name, or "
            "leave --workers out.",
        )
    if workers > 1 and settings.redis_url is None:
        raise CommandError(
            "several processes need Redis or Valkey: each would admit the whole rate limits",
            suggested_action="set FISCUS_REDIS_URL=redis://host:6379, or leave --workers out.",
        )
    sockets = sockets_for(settings, workers)

    def announce(engine: Engine) -> None:
        # last: a key that was made is lost when anything fails before it is shown
        show_address(settings, sockets[0], ensure_admin_key(engine), workers)

    if workers == 1:
        serve_process(settings, sockets[0], with_worker=with_worker, on_listening=announce)
    # so that the tables are ready and the admin key is made once, before any process starts
    configure_logs(settings.log_level)
    engine = open_engine(settings)
    try:
        announce(engine)
    finally:
        engine.close()
    Supervisor(settings, sockets, with_worker).run()


def address_of(bound: socket.socket) -> str:
    """The URL that reaches a socket from this machine."""
    host, port = bound.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def show_address(
    settings: Settings, bound: socket.socket, admin_key: str | None, workers: int
) -> None:
    """Where the server is and, this once, the admin key that was made."""
    from fiscus.wiring.engine import sqlite_file

    url, file = address_of(bound), sqlite_file(settings)
    where = (
        f"SQLite, {file}"
        if file is not None
        else f"PostgreSQL, {workers} {'process' if workers == 1 else 'processes'}"
    )
    rows = [("address", url), ("reference", f"{url}/docs"), ("data", shown(where))]
    if settings.grpc_port is not None:
        rows.append(("for Envoy", f"gRPC on {settings.host} port {settings.grpc_port}"))
    if admin_key is not None:
        rows.append(("admin key", f"[bold]{admin_key}[/]"))
    show_whole(facts(rows, title=f"Fiscus {version('fiscus')}"))
    if admin_key is not None:
        notes.print(
            "[yellow]The admin key is shown this once and stored only as a hash: keep it.[/]",
            soft_wrap=True,
        )
    elif settings.bootstrap_admin_key is not None:
        notes.print("[dim]The admin key is the one in FISCUS_BOOTSTRAP_ADMIN_KEY.[/]")
    else:
        notes.print(
            f"[dim]No admin key was made, as the tenant {settings.default_tenant} has API keys. "
            "None is shown again.[/]",
            soft_wrap=True,
        )
    notes.print(
        "[dim]To make an admin key: "
        f"`fiscus keys create --role platform_admin{shown(_same_store(settings))}`.[/]",
        soft_wrap=True,
    )


def _same_store(settings: Settings) -> str:
    """What a command needs to find this store from any folder, with the same environment."""
    if settings.database_url is not None:
        return ""
    return f" --data-dir {shlex.quote(str(settings.data_dir.absolute()))}"
