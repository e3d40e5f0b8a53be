"""`fiscus demo`: fill a server with a synthetic platform, through the public API."""

from __future__ import annotations

import os
import shlex
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec import Struct
from pydantic import SecretStr
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from fiscus.access.model import check_given_key, new_key
from fiscus.cli import demo_data
from fiscus.cli.api import Api
from fiscus.cli.configuration import DataDir, read_settings
from fiscus.cli.terminal import (
    DEFAULT_URL,
    CommandError,
    Url,
    UsageError,
    facts,
    forbidden_as,
    notes,
    out,
    print_raw,
    progress,
    show_error,
    show_whole,
    shown,
)
from fiscus.costs.calls import RecordBatchAnswer
from fiscus.engine import Engine
from fiscus.errors import FiscusError, ValidationError
from fiscus.money import parse_amount
from fiscus.settings import Settings
from fiscus.tenants import Tenant
from fiscus.wire.encoding import encode
from fiscus.wire.paths import BASE_PATH

BATCH: Final = 500
KEY_FILE: Final = "demo-admin-key"


class _Page(Struct, frozen=True):
    """Of a list of records, whether there are any."""

    records: list[dict[str, Any]]


def demo(
    context: typer.Context,
    url: Url = DEFAULT_URL,
    key: Annotated[
        str | None, typer.Option("--key", envvar="FISCUS_KEY", help="A platform_admin API key.")
    ] = None,
    with_server: Annotated[
        bool, typer.Option("--serve", help="Start a server here and keep it running.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="With --serve: address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="With --serve: port to listen on.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Load a synthetic tenant: 60 days of costs with seasons, growth and a few spikes."""
    if with_server:
        for name in ("url", "key"):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UsageError(
                    f"--{name} does not go with --serve",
                    suggested_action="--serve starts a server of its own, with a key of its own: "
                    f"leave --{name} out, or --serve to load the server that --url names.",
                )
        _serve_demo(read_settings(host=host, port=port, data_dir=data_dir))
        return
    for option, value in (("--host", host), ("--port", port), ("--data-dir", data_dir)):
        if value is not None:
            raise UsageError(
                f"{option} goes with --serve",
                suggested_action="say with --url where the server is, or add --serve.",
            )
    if key is None:
        raise UsageError(
            "the key of a platform_admin is needed",
            suggested_action="--key with the one that `fiscus serve` printed, or set FISCUS_KEY; "
            "or let `fiscus demo --serve` start a server.",
        )
    needed = forbidden_as(
        f"this key may not load the tenant {demo_data.TENANT}",
        "use the key of a platform_admin, such as the one that `fiscus serve` printed.",
    )
    with Api(url, key) as api, needed:
        load(api)
    show_what_to_try(url, key)


def _serve_demo(settings: Settings) -> None:
    from fiscus.cli.serve.command import address_of
    from fiscus.cli.serve.serving import serve_process, sockets_for
    from fiscus.wiring.engine import ensure_admin_key

    started = time.perf_counter()
    key = _demo_key(settings)
    quiet = {} if "log_level" in settings.model_fields_set else {"log_level": "warning"}
    settings = settings.model_copy(update={"bootstrap_admin_key": SecretStr(key), **quiet})
    bound = sockets_for(settings)[0]
    url = address_of(bound)
    stopped = threading.Event()

    def fill() -> None:
        try:
            with Api(url, key) as api:
                load(api)
            show_what_to_try(url, key)
            notes.print(
                f"[dim]Ready after {time.perf_counter() - started:.1f} s. Ctrl-C stops it; the "
                f"data stays in {shown(str(settings.data_dir))}.[/]",
                soft_wrap=True,
            )
        except FiscusError as error:
            # a server that is being stopped refuses the rest of the demo
            if not stopped.wait(timeout=2):
                show_error(f"the demo is not loaded: {error.message}", error.suggested_action)
                notes.print(f"The server runs at {url}.", soft_wrap=True)

    def begin(engine: Engine) -> None:
        ensure_admin_key(engine)
        threading.Thread(target=fill, name="fiscus-demo", daemon=True).start()

    try:
        serve_process(settings, bound, with_worker=True, on_listening=begin)
    finally:
        stopped.set()
        notes.show_cursor(show=True)


def _demo_key(settings: Settings) -> str:
    """The admin key given, or one made for the demo and kept beside its data, for its owner."""
    if settings.bootstrap_admin_key is not None:
        return settings.bootstrap_admin_key.get_secret_value()
    path = settings.data_dir / KEY_FILE
    with suppress(FileNotFoundError):
        return _kept_key(path)
    key = new_key()
    _write_private(path, key)
    return key


def _kept_key(path: Path) -> str:
    try:
        return check_given_key(path.read_text("ascii", "replace").strip(), str(path))
    except ValidationError as error:
        raise CommandError(
            error.message,
            suggested_action=f"remove {path}: the next start makes another key.",
        ) from None


def _write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, for its owner alone."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - of a descriptor
            file.write(text + "\n")
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise CommandError(
            f"{path} cannot be written: {error.strerror}",
            suggested_action="choose another folder with --data-dir.",
        ) from None


def load(api: Api) -> None:
    """Load the demo tenant, unless all of it is there; what is there already is left alone."""
    tenant = demo_data.TENANT
    marks = api.get("/cost-tracking/records", _Page, tenant_id=tenant, operation_id=demo_data.MARK)
    if marks.records:
        notes.print(f"The demo tenant [bold]{tenant}[/] is loaded already.")
        return
    notes.print(
        f"Loading the tenant [bold]{tenant}[/]: {demo_data.DAYS} days of a made-up platform "
        "(synthetic: seasons, growth, three spikes)."
    )
    # Its age, not the present, is where the costs end: loading it again makes the same ones.
    made = api.put(f"/tenants/{tenant}", {"currency": "USD", "rollup_tags": ["team"]}, Tenant)
    with progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    ) as bar:
        budgets = bar.add_task("budgets", total=len(demo_data.BUDGETS))
        costs = bar.add_task("costs", total=demo_data.count())
        for budget in demo_data.BUDGETS:
            name = budget["budget_name"]
            api.post(
                "/budgets",
                {**budget, "tenant_id": tenant},
                dict[str, Any],
                idempotency_key=f"demo {name}",
            )
            bar.advance(budgets)
        bodies = demo_data.records(made.created_at)
        while batch := list(islice(bodies, BATCH)):
            answer = api.post(
                "/cost-tracking/record/batch",
                {"tenant_id": tenant, "records": batch},
                RecordBatchAnswer,
                idempotency_key=f"demo costs from {batch[0]['operation_id']}",
            )
            _require_all(answer)
            bar.advance(costs, len(batch))


def _require_all(answer: RecordBatchAnswer) -> None:
    for item in answer.results:
        if item.error is not None:
            raise CommandError(
                f"the server refused a cost record: {item.error.message}",
                suggested_action=item.error.suggested_action,
            )


def show_what_to_try(url: str, key: str) -> None:
    """The address, the key, and three calls that can be pasted as they are."""
    out.print()
    show_whole(
        facts(
            [
                ("address", url),
                ("reference", f"{url}/docs"),
                ("admin key", shown(key)),
                ("tenant", f"{demo_data.TENANT} (synthetic)"),
            ],
            title="Fiscus is running",
        )
    )
    for title, line in examples(url, key):
        out.print(f"\n[bold]# {title}[/]")
        print_raw(line)
    out.print()


def examples(url: str, key: str) -> list[tuple[str, str]]:
    """What the demo suggests to try: a title and a curl line each."""
    since = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=7)
    curl = f"curl -s -w '\\n' -H {shlex.quote(f'X-API-Key: {key}')}"
    query = (
        f"tenant_id={demo_data.TENANT}&report_type=by_service&start_date={since:%Y-%m-%dT%H:%M:%SZ}"
    )
    return [
        (
            "may this call to a model be afforded? yes: its cost is reserved",
            f"{curl} {url}{BASE_PATH}/budgets/check -d {_check(demo_data.LARGE_PROJECT, '0.02')}",
        ),
        (
            "and this one? no: the playground has 5 dollars a day",
            f"{curl} {url}{BASE_PATH}/budgets/check -d {_check(demo_data.SMALL_PROJECT, '7.50')}",
        ),
        (
            "what did every service cost in the last seven days?",
            f"{curl} '{url}{BASE_PATH}/cost-tracking/reports?{query}'",
        ),
    ]


def _check(project: str, estimate: str) -> str:
    """The body of a check, quoted for a shell."""
    body = {
        "tenant_id": demo_data.TENANT,
        "project_id": project,
        "resource_type": "llm",
        "estimated_cost": parse_amount(estimate, "estimated_cost"),
    }
    return shlex.quote(encode(body).decode())
