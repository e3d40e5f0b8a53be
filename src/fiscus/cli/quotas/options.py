"""Options that several commands of quotas take, and what they say."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from fiscus.cli.checked import A_CURRENCY, A_ZONE, AN_ID, NOT_NEGATIVE
from fiscus.cli.moments import moment_option
from fiscus.quotas.model import QuotaPeriod, RenewalAmount

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
TYPED: Final = {
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


def terms_of(
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
    """What is said the same of one quota and of many, by the fields of their requests."""
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
