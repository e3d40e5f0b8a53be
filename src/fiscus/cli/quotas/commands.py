"""`fiscus quotas`: what is allocated and used, on a running server."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from fiscus.cli.api import Api
from fiscus.cli.checked import ABOVE_ZERO, AN_ID, NOT_NEGATIVE
from fiscus.cli.moments import moment_option
from fiscus.cli.quotas.options import (
    TYPED,
    CurrencyOption,
    End,
    PeriodOption,
    Premium,
    Renew,
    RenewAmount,
    Resource,
    Start,
    Tenant,
    Zone,
    terms_of,
)
from fiscus.cli.quotas.scopes import entities_given, scope_given, scope_or_type_given
from fiscus.cli.quotas.show import show_history, show_parts, show_quota, show_quotas
from fiscus.cli.terminal import (
    DEFAULT_URL,
    JsonFlag,
    Key,
    Url,
    UsageError,
    naming,
    notes,
    print_json,
)
from fiscus.errors import NotFound
from fiscus.ids import uuid7
from fiscus.paging import MAX_PAGE_SIZE
from fiscus.quotas.calls import (
    DistributeAnswer,
    DistributeRequest,
    QuotaHistory,
    QuotaPage,
    QuotaView,
)
from fiscus.quotas.model import QuotaPeriod, QuotaSpec, RenewalAmount, Strategy
from fiscus.wire.converting import convert

app = typer.Typer(
    help="List, allocate and distribute quotas on a running server.", no_args_is_help=True
)

PATH: Final = "/quotas"

_FOR_THE_REST: Final = [one for one in Strategy if one is not Strategy.RESERVED]


@app.command("list")
def list_quotas(
    key: Key,
    url: Url = DEFAULT_URL,
    resource: Annotated[str | None, typer.Option(help="Only of this resource type.")] = None,
    scope: Annotated[
        str | None, typer.Option(metavar="TYPE[:ID]", help="Only of this scope, or type of scope.")
    ] = None,
    active_only: Annotated[
        bool, typer.Option("--active-only", help="Only those whose period runs.")
    ] = False,
    tenant: Tenant = None,
    as_json: JsonFlag = False,
) -> None:
    """List quotas, newest first, with what is used of them."""
    kind, scope_id = scope_or_type_given(scope)
    quotas: list[QuotaView] = []
    token: str | None = None
    with naming(TYPED | {"resource_type": "--resource"}), Api(url, key) as api:
        while True:
            page = api.get(
                PATH,
                QuotaPage,
                resource_type=resource,
                scope_type=kind,
                scope_id=scope_id,
                active_only="true" if active_only else None,
                tenant_id=tenant,
                page_size=MAX_PAGE_SIZE,
                page_token=token,
            )
            quotas.extend(page.quotas)
            token = page.pagination.next_page_token
            if token is None:
                break
    if as_json:
        print_json({"quotas": quotas})
    elif quotas:
        show_quotas(quotas)
    else:
        notes.print(
            "There are no such quotas (of another tenant? give --tenant). "
            "`fiscus quotas allocate` makes one.",
            soft_wrap=True,
        )


@app.command()
def allocate(
    resource: Resource,
    amount: Annotated[
        str,
        typer.Argument(
            metavar="AMOUNT", callback=ABOVE_ZERO, help="How much of it for the period."
        ),
    ],
    scope: Annotated[
        str, typer.Option(metavar="TYPE:ID", help="Who gets it; the id `*`: every one of its own.")
    ],
    key: Key,
    url: Url = DEFAULT_URL,
    burst: Annotated[
        str | None, typer.Option(callback=NOT_NEGATIVE, help="May be taken beyond the amount.")
    ] = None,
    premium_rate: Premium = None,
    currency: CurrencyOption = None,
    period: PeriodOption = QuotaPeriod.MONTHLY,
    start: Start = None,
    end: End = None,
    timezone: Zone = None,
    auto_renew: Renew = False,
    renewal_amount: RenewAmount = RenewalAmount.SAME,
    tenant: Tenant = None,
    as_json: JsonFlag = False,
) -> None:
    """Allocate a quota for one period."""
    kind, scope_id = scope_given(scope)
    terms = terms_of(
        resource, period, start, end, timezone, premium_rate, currency, tenant, auto_renew,
        renewal_amount,
    )  # fmt: skip
    wanted = {
        **terms,
        "scope_type": kind,
        "scope_id": scope_id,
        "allocated_amount": amount,
        "max_burst_amount": burst,
    }
    with naming(TYPED):
        spec = convert(wanted, QuotaSpec)
        with Api(url, key) as api:
            quota = api.post(PATH, spec, QuotaView, idempotency_key=uuid7())
    if as_json:
        print_json(quota)
    else:
        show_quota(quota)


@app.command()
def distribute(
    resource: Resource,
    total: Annotated[
        str, typer.Argument(metavar="TOTAL", callback=ABOVE_ZERO, help="How much is shared out.")
    ],
    key: Key,
    url: Url = DEFAULT_URL,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE:ID[,tier=N][,reserved=AMOUNT]", help="Who gets a part; repeatable."
        ),
    ] = None,
    entities_file: Annotated[
        Path | None,
        typer.Option("--entities", help="JSON: a list of entities as the API takes them."),
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(metavar="STRATEGY", help=f"How it is shared out: {', '.join(Strategy)}."),
    ] = Strategy.FAIR_SHARE,
    then: Annotated[
        Strategy,
        typer.Option(
            metavar="STRATEGY",
            help=f"With reserved, how the rest is shared out: {', '.join(_FOR_THE_REST)}.",
        ),
    ] = Strategy.FAIR_SHARE,
    decimals: Annotated[int, typer.Option(min=0, max=12, help="Digits of each part.")] = 0,
    burst_ratio: Annotated[
        str | None,
        typer.Option(callback=NOT_NEGATIVE, help="Burst of each, as a share of its part: 0.2."),
    ] = None,
    premium_rate: Premium = None,
    currency: CurrencyOption = None,
    period: PeriodOption = QuotaPeriod.MONTHLY,
    start: Start = None,
    end: End = None,
    timezone: Zone = None,
    auto_renew: Renew = False,
    renewal_amount: RenewAmount = RenewalAmount.SAME,
    tenant: Tenant = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show who would get what.")] = (
        False
    ),
    yes: Annotated[bool, typer.Option("--yes", help="Allocate without asking.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Share a total out: show who gets what, ask, then allocate a quota for each."""
    if as_json and not (yes or dry_run):
        raise UsageError("quotas would be allocated", suggested_action="add --yes or --dry-run.")
    terms = terms_of(
        resource, period, start, end, timezone, premium_rate, currency, tenant, auto_renew,
        renewal_amount,
    )  # fmt: skip
    values = {
        **terms,
        "total_amount": total,
        "strategy": strategy,
        "entities": entities_given(to or [], entities_file),
        "then": then,
        "max_burst_ratio": burst_ratio,
        "decimals": decimals,
        "dry_run": True,
    }
    with naming(TYPED), Api(url, key) as api:
        wanted = convert(values, DistributeRequest)
        if not yes or dry_run:
            preview = _distribute(api, wanted)
            if as_json:
                print_json(preview)
            else:
                show_parts(preview, wanted.resource_type)
            if dry_run:
                return
            typer.confirm("Allocate these quotas?", abort=True)
        made = _distribute(api, msgspec.structs.replace(wanted, dry_run=False))
    if as_json:
        print_json(made)
    else:
        show_parts(made, wanted.resource_type)


@app.command()
def history(
    quota_id: Annotated[
        str, typer.Argument(metavar="QUOTA_ID", help="As `fiscus quotas list` shows it.")
    ],
    key: Key,
    url: Url = DEFAULT_URL,
    since: Annotated[
        str | None, typer.Option(help="From 2026-01-31 (UTC) or an RFC 3339 time on.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Exclusive, as --since.")] = None,
    scope_id: Annotated[
        str | None,
        typer.Option(callback=AN_ID, help="Of a quota for `*`: the use of this scope."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="Latest rows to show.")] = 10,
    tenant: Tenant = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what was taken from a quota and given back: a chart of its days, and the latest rows."""
    path = f"{PATH}/{_segment(quota_id)}"
    with naming(TYPED | {"scope_id": "--scope-id"}), Api(url, key) as api:
        found = api.get(
            f"{path}/history",
            QuotaHistory,
            scope_id=scope_id,
            since=_text(moment_option(since, "--since")),
            until=_text(moment_option(until, "--until")),
            tenant_id=tenant,
            page_size=rows,
        )
        if as_json:
            print_json(found)
            return
        try:
            quota, deleted = api.get(path, QuotaView, tenant_id=tenant), False
        except NotFound:  # what no version changes is told by the first
            quota, deleted = api.get(f"{path}/versions/1", QuotaView, tenant_id=tenant), True
        show_history(quota, found, deleted=deleted)


def _distribute(api: Api, wanted: DistributeRequest) -> DistributeAnswer:
    return api.post(f"{PATH}/distribute", wanted, DistributeAnswer, idempotency_key=uuid7())


def _segment(quota_id: str) -> str:
    if not quota_id.replace("-", "").isalnum() or not quota_id.isascii():
        raise UsageError(
            f"{quota_id} is no quota id", suggested_action="take it from `fiscus quotas list`."
        )
    return quota_id


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
