"""`fiscus quotas`: what is allocated and used, on a running server."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from fiscus.cli.api import Api
from fiscus.cli.checked import A_CURRENCY, A_ZONE, ABOVE_ZERO, AN_ID, NOT_NEGATIVE
from fiscus.cli.moments import moment_option
from fiscus.cli.quotas.show import show_history, show_parts, show_quota, show_quotas
from fiscus.cli.terminal import (
    DEFAULT_URL,
    CommandError,
    JsonFlag,
    Key,
    Url,
    UsageError,
    cannot_be_read,
    naming,
    notes,
    print_json,
)
from fiscus.errors import NotFound, ValidationError
from fiscus.ids import uuid7
from fiscus.paging import MAX_PAGE_SIZE
from fiscus.quotas.calls import (
    DistributeAnswer,
    DistributeRequest,
    Entity,
    QuotaHistory,
    QuotaPage,
    QuotaView,
)
from fiscus.quotas.model import QuotaPeriod, QuotaSpec, RenewalAmount, Strategy
from fiscus.scopes import EVERY, ScopeType, is_id
from fiscus.wire.converting import convert
from fiscus.wire.decoding import decode

app = typer.Typer(
    help="List, allocate and distribute quotas on a running server.", no_args_is_help=True
)

PATH: Final = "/quotas"

Tenant = Annotated[str | None, typer.Option(callback=AN_ID, help="Default: the key's tenant.")]
Resource = Annotated[str, typer.Argument(metavar="RESOURCE", help="Such as gpu_hours.")]
PeriodOption = Annotated[
    QuotaPeriod,
    typer.Option(
        "--period", metavar="PERIOD", help=f"How long it holds: {', '.join(QuotaPeriod)}."
    ),
]
Start = Annotated[
    str | None,
    typer.Option(help="A time in the period, or where custom begins; default now."),
]
End = Annotated[str | None, typer.Option(help="Where a custom period ends.")]
Zone = Annotated[
    str | None,
    typer.Option(callback=A_ZONE, help="IANA zone of calendar periods; default the tenant's."),
]
Premium = Annotated[
    str | None,
    typer.Option(
        "--premium-rate", callback=NOT_NEGATIVE, help="Price of a unit taken from the burst."
    ),
]
CurrencyOption = Annotated[
    str | None, typer.Option(callback=A_CURRENCY, help="Of the premium rate.")
]
Renew = Annotated[
    bool, typer.Option("--auto-renew", help="Allocate the next period before this one ends.")
]
RenewAmount = Annotated[
    RenewalAmount,
    typer.Option("--renewal-amount", help="Of the next period: the same, or by usage."),
]
_FOR_THE_REST: Final = [one for one in Strategy if one is not Strategy.RESERVED]
_TYPED: Final = {
    "resource_type": "RESOURCE",
    "allocated_amount": "AMOUNT",
    "total_amount": "TOTAL",
    "scope_id": "--scope",
    "max_burst_amount": "--burst",
    "max_burst_ratio": "--burst-ratio",
    "burst_premium_rate": "--premium-rate",
    "currency": "--currency",
    "period_type": "--period",
    "period_start": "--start",
    "period_end": "--end",
    "timezone": "--timezone",
    "renewal_amount": "--renewal-amount",
    "then": "--then",
    "decimals": "--decimals",
    "since": "--since",
    "until": "--until",
    "tenant_id": "--tenant",
}
"""What is typed for each field of a request."""


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
    kind, scope_id = _scope_or_type(scope)
    quotas: list[QuotaView] = []
    token: str | None = None
    with naming(_TYPED | {"resource_type": "--resource"}), Api(url, key) as api:
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
        notes.print("There are no such quotas. `fiscus quotas allocate` makes one.")


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
    kind, scope_id = _scope(scope)
    terms = _terms(
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
    with naming(_TYPED):
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
    terms = _terms(
        resource, period, start, end, timezone, premium_rate, currency, tenant, auto_renew,
        renewal_amount,
    )  # fmt: skip
    values = {
        **terms,
        "total_amount": total,
        "strategy": strategy,
        "entities": _entities(to or [], entities_file),
        "then": then,
        "max_burst_ratio": burst_ratio,
        "decimals": decimals,
        "dry_run": True,
    }
    with naming(_TYPED), Api(url, key) as api:
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
    with naming(_TYPED | {"scope_id": "--scope-id"}), Api(url, key) as api:
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


def _terms(
    resource: str,
    period: QuotaPeriod,
    start: str | None,
    end: str | None,
    timezone: str | None,
    premium_rate: str | None,
    currency: str | None,
    tenant: str | None,
    auto_renew: bool,
    renewal_amount: RenewalAmount,
) -> dict[str, Any]:
    return {
        "resource_type": resource,
        "period_type": period,
        "period_start": moment_option(start, "--start"),
        "period_end": moment_option(end, "--end"),
        "timezone": timezone,
        "burst_premium_rate": premium_rate,
        "currency": currency,
        "auto_renew": auto_renew,
        "renewal_amount": renewal_amount,
        "tenant_id": tenant,
    }


def _entities(given: list[str], path: Path | None) -> list[Entity]:
    """Who gets a part: from the options, and from a file."""
    entities = [_entity(one) for one in given]
    if path is not None:
        try:
            entities += decode(path.read_bytes(), list[Entity])
        except OSError as failure:
            raise cannot_be_read(path, failure.strerror) from None
        except ValidationError as error:
            a_list = 'write a list such as [{"scope_type": "project", "scope_id": "search"}].'
            todo = a_list if error.field == "body" else error.suggested_action
            raise CommandError(f"{path}: {error.message}", suggested_action=todo) from None
    if not entities:
        raise UsageError(
            "nobody gets a part", suggested_action="add --to project:search or --entities FILE."
        )
    return entities


def _entity(given: str) -> Entity:
    """`project:search`, `user:ada,tier=1` or `user:ada,reserved=100`."""
    scope, *options = given.split(",")
    kind, scope_id = _scope(scope)
    values: dict[str, Any] = {"scope_type": kind, "scope_id": scope_id}
    for option in options:
        name, _, value = option.partition("=")
        if name == "tier" and value.isdecimal():
            values["tier"] = int(value)
        elif name == "reserved" and value:
            values["reserved_amount"] = value
        else:
            raise UsageError(
                f"{option} in --to {given} is neither tier=1 to 3 nor reserved=AMOUNT",
                suggested_action="write --to project:search,tier=1.",
            )
    try:
        return convert(values, Entity)
    except ValidationError as error:
        raise UsageError(
            f"--to {given}: {error.message}",
            suggested_action="write --to project:search,tier=1 or --to user:ada,reserved=100.",
        ) from None


def _scope_or_type(given: str | None) -> tuple[ScopeType | None, str | None]:
    """`project:` is no type: what somebody left empty is not every project."""
    if given is None:
        return None, None
    return _scope(given) if ":" in given else (_scope_type(given), None)


def _scope(given: str) -> tuple[ScopeType, str]:
    kind, colon, scope_id = given.partition(":")
    if not colon or not (scope_id == EVERY or is_id(scope_id)):
        raise UsageError(
            f"{given} names no scope", suggested_action="write its type and id: project:search."
        )
    return _scope_type(kind), scope_id


def _scope_type(kind: str) -> ScopeType:
    try:
        return ScopeType(kind)
    except ValueError:
        raise UsageError(
            f"{kind or '(empty)'} is no type of scope",
            suggested_action=f"Use one of {', '.join(ScopeType)}.",
        ) from None


def _segment(quota_id: str) -> str:
    if not quota_id.replace("-", "").isalnum() or not quota_id.isascii():
        raise UsageError(
            f"{quota_id} is no quota id", suggested_action="take it from `fiscus quotas list`."
        )
    return quota_id


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
