"""`fiscus replay`: put a real trace of requests through a running server, and audit the result."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec import Struct
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from fiscus.cli.api import Api
from fiscus.cli.checked import AN_ID
from fiscus.cli.replay.audit import Finding, Replayed, audit
from fiscus.cli.replay.http_connection import target
from fiscus.cli.replay.model_prices import ModelPrices
from fiscus.cli.replay.run import CURRENCY, TAG, Plan, Replay, Tally
from fiscus.cli.replay.show import Result, as_json_document, show
from fiscus.cli.replay.trace import TraceRequest, read_azure_llm
from fiscus.cli.terminal import (
    DEFAULT_URL,
    JsonFlag,
    Key,
    Url,
    UsageError,
    forbidden_as,
    notes,
    print_json,
    progress,
)
from fiscus.clock import SystemClock
from fiscus.errors import FiscusError, NotFound, ValidationError
from fiscus.money import EXACT, ZERO, add, parse_positive
from fiscus.tenants import Tenant

app = typer.Typer(
    help="Put a real trace of requests through a running server, and audit the result.",
    no_args_is_help=True,
)

_SPEED: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)x?")
_SHARE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")


class _Made(Struct, frozen=True):
    budget_id: str
    created_at: datetime


@app.callback()
def replay() -> None:
    """A callback, so that typer keeps `azure-llm` a word of its own."""


@app.command("azure-llm")
def azure_llm(
    file: Annotated[
        Path,
        typer.Argument(
            help="A trace of the Azure public dataset: CSV, or CSV in gzip, with TIMESTAMP, "
            "ContextTokens, GeneratedTokens."
        ),
    ],
    key: Key,
    url: Url = DEFAULT_URL,
    model: Annotated[str, typer.Option(help="Whose prices to take.")] = "gpt-4o",
    budget: Annotated[
        str, typer.Option(help="Dollars, or a share of what the whole trace costs.")
    ] = "50%",
    concurrency: Annotated[int, typer.Option(min=1, max=10_000, help="Requests at a time.")] = 64,
    speed: Annotated[
        str, typer.Option(help="60x: sixty times as fast as it happened; max: as fast as it goes.")
    ] = "max",
    tenant: Annotated[
        str | None, typer.Option(callback=AN_ID, help="Default: a new one, replay-<time>.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    assumed_output: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tokens an answer may have, for the estimate; default: the 95th percentile "
            "of the answers so far.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Reserve every request's estimated cost, settle what it did cost, then audit the budget.

    The key's role must allow budgets and operations: platform_admin, or tenant_admin with --tenant,
    at the pace of the server's limit on a tenant's calls. Exit code 1 if the audit fails.
    """
    pace = _speed(speed)
    requests = read_azure_llm(file, limit)
    prices = ModelPrices(model)
    whole = _cost_of(requests, prices)
    amount = _amount(budget, whole)
    now = SystemClock().now()
    run_id = f"{now:%Y%m%dT%H%M%S%f}"
    tenant_id = tenant or f"replay-{now:%Y%m%d-%H%M%S}"
    with Api(url, key) as api:
        with _needed(tenant):
            made = _prepare(api, tenant_id, run_id, amount, file.name)
        replayed = Replayed(
            tenant_id=tenant_id,
            budget_id=made.budget_id,
            run_id=run_id,
            amount=amount,
            # by a server's clock; those of others may be a little behind
            since=made.created_at - timedelta(minutes=1),
        )
        plan = Plan(
            requests=requests,
            prices=prices,
            where=target(api.url, key),
            tenant_id=tenant_id,
            budget_id=made.budget_id,
            run_id=run_id,
            assumed_output=assumed_output,
            concurrency=concurrency,
            speed=pace,
        )
        done = _run(plan, amount)
        findings = _audited(api, replayed, done)
    result = Result(file.name, requests, prices, whole, replayed, done.tally, findings)
    if as_json:
        print_json(as_json_document(result))
    else:
        show(result)
    if done.is_cut_off:
        notes.print(
            "[yellow]Stopped at once and not audited; what was on its way is held until it "
            "expires, or recorded.[/]"
        )
    elif not findings:
        notes.print("[yellow]Stopped and not audited.[/]")
    if done.failure is not None:
        raise done.failure
    if not findings:
        raise typer.Exit(130)
    if done.is_stopped:
        notes.print("[yellow]Stopped early; what was held is given back.[/]")
        raise typer.Exit(130)
    if not all(one.holds for one in findings):
        raise typer.Exit(1)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    match = _SPEED.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise typer.BadParameter("must be max or a factor such as 60x", param_hint="--speed")
    return float(match[1])


def _cost_of(requests: list[TraceRequest], prices: ModelPrices) -> Decimal:
    total = ZERO
    for one in requests:
        total = add(total, prices.price(one.input_tokens, one.output_tokens))
    return total


def _amount(text: str, whole: Decimal) -> Decimal:
    match = _SHARE.fullmatch(text)
    try:
        if match is not None:
            share = EXACT.divide(Decimal(match[1]), Decimal(100))
            return parse_positive(EXACT.multiply(whole, share), "--budget")
        return parse_positive(text, "--budget")
    except ValidationError as error:
        raise UsageError(
            error.message, suggested_action="write dollars, such as 12.50, or a share, such as 50%."
        ) from None


def _needed(tenant: str | None) -> AbstractContextManager[None]:
    """What a key is told that may not begin a replay."""
    if tenant is None:
        return forbidden_as(
            "this key may not make a new tenant for the replay",
            "name the tenant of a tenant_admin's key with --tenant, or use the key of a "
            "platform_admin.",
        )
    return forbidden_as(
        f"this key may not replay for the tenant {tenant}",
        f"use the key of a tenant_admin of {tenant}, or of a platform_admin.",
    )


def _prepare(api: Api, tenant_id: str, run_id: str, amount: Decimal, name: str) -> _Made:
    """The tenant, where there is none, and a hard budget that counts this run only."""
    try:
        api.get(f"/tenants/{tenant_id}", Tenant)
    except NotFound:
        api.put(f"/tenants/{tenant_id}", {"currency": CURRENCY, "rollup_tags": [TAG]}, Tenant)
    spec: dict[str, Any] = {
        "tenant_id": tenant_id,
        "budget_name": f"Replay {run_id} of {name}"[:200],
        "budget_amount": amount,
        "currency": CURRENCY,
        "timezone": "UTC",
        "period_type": "project",
        "allocated_to_type": "tenant",
        "allocated_to_id": tenant_id,
        "enforcement_action": "hard_stop",
        "filters": {"tags": {TAG: run_id}},
    }
    return api.post("/budgets", spec, _Made, idempotency_key=f"replay {run_id}")


def _run(plan: Plan, amount: Decimal) -> Replay:
    done = Replay(plan)
    with progress(
        TextColumn("replaying"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    ) as bar:
        task = bar.add_task("", total=len(plan.requests), note="")

        def update(tally: Tally) -> None:
            used = tally.spent / amount
            bar.update(
                task,
                completed=tally.done,
                note=f"[green]{tally.admitted:,} admitted[/] [red]{tally.refused:,} refused[/] "
                f"{tally.spent:,.2f} of {amount:,.2f} USD ({used:.0%})",
            )

        # on Windows Ctrl-C ends it by the first
        with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
            _run_loop(done.run(update))
    return done


def _audited(api: Api, replayed: Replayed, done: Replay) -> list[Finding]:
    """What the audit found; nothing when Ctrl-C ended the replay at once, or ends the audit."""
    if done.is_cut_off:
        return []
    try:
        return list(audit(api, replayed, done.tally))
    except KeyboardInterrupt:
        return []
    except FiscusError as error:
        raise done.failure or error from None


def _run_loop(work: Coroutine[Any, Any, None]) -> None:
    try:
        from uvloop import new_event_loop
    except ImportError:  # Windows
        asyncio.run(work)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work)
