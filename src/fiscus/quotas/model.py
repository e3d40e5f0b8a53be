"""Quotas: their definition, what was used of them, and what was consumed.

A quota is one allocation for one period; renewing makes the next one, so usage is keyed by quota
and scope id and nothing is ever reset. None of this knows how it is stored.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from fiscus.money import ZERO, Amount
from fiscus.operations import Operation
from fiscus.scopes import ScopeType
from fiscus.wire.texts import Currency, Id, IdOrEvery, Label


class QuotaPeriod(StrEnum):
    """How long a quota holds: a calendar period in its time zone, or from a moment to another."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"
    YEARLY = "yearly"
    CUSTOM = "custom"


class Strategy(StrEnum):
    """How a total is shared out over entities; see `quotas.strategies`."""

    FAIR_SHARE = "fair_share"
    PRIORITY = "priority"
    DYNAMIC = "dynamic"
    RESERVED = "reserved"


class RenewalAmount(StrEnum):
    """How much the next period gets: as much, or 120 % of what this period is heading for."""

    SAME = "same"
    BY_USAGE = "by_usage"


class RenewalStatus(StrEnum):
    """How far the renewal of a quota is."""

    NONE = "none"
    """It does not renew itself."""
    PENDING = "pending"
    RENEWED = "renewed"
    SUPERSEDED = "superseded"
    """The next period has a quota that somebody allocated."""
    FAILED = "failed"
    """Three tries failed; it is not tried again."""


ScopeId = Annotated[
    IdOrEvery,
    Meta(description="Id of the scope, or `*`: every project, user or feature has its own."),
]
Moment = Annotated[datetime, Meta(tz=True)]


class Terms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long a quota holds and what happens then; common to allocations of every kind."""

    resource_type: Annotated[Label, Meta(description="What it is an amount of.")]
    period_type: QuotaPeriod = QuotaPeriod.MONTHLY
    period_start: Annotated[
        Moment | None,
        Meta(description="A moment in the period it is for; default now. With `custom` its start."),
    ] = None
    period_end: Annotated[
        Moment | None, Meta(description="With `custom`: where it ends (not counted).")
    ] = None
    timezone: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="IANA zone of calendar periods; default the tenant's."),
    ] = None
    burst_premium_rate: Annotated[
        Amount | None,
        Meta(description="Price per unit taken from the burst; becomes a cost record."),
    ] = None
    currency: Annotated[
        Currency | None, Meta(description="Of `burst_premium_rate`; default the tenant's.")
    ] = None
    auto_renew: Annotated[
        bool, Meta(description="Allocate the next period before this one ends.")
    ] = False
    renewal_amount: RenewalAmount = RenewalAmount.SAME
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None


class QuotaSpec(Terms, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that allocates a quota or replaces its definition."""

    scope_type: Annotated[ScopeType, Meta(description="Type of the scope it is for.")]
    scope_id: ScopeId
    allocated_amount: Annotated[Amount, Meta(description="Amount for the period; above 0.")]
    max_burst_amount: Annotated[
        Amount | None, Meta(description="May be taken beyond the allocation; default 0.")
    ] = None
    strategy: Annotated[
        Strategy | None, Meta(description="How the amount was arrived at, for the record.")
    ] = None
    version: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="With PUT: the version that is being replaced."),
    ] = None


class Quota(Struct, frozen=True, kw_only=True):
    """A quota as it stands: one version of its definition, everything filled in."""

    quota_id: str
    tenant_id: str
    version: int
    scope_type: ScopeType
    scope_id: str
    resource_type: str
    allocated_amount: Decimal
    max_burst_amount: Decimal
    burst_premium_rate: Decimal | None
    currency: str
    period_type: QuotaPeriod
    timezone: str
    period_start: datetime
    period_end: datetime
    auto_renew: bool
    renewal_amount: RenewalAmount
    renewal_status: RenewalStatus
    renewed_from: Annotated[str | None, Meta(description="The quota of the period before.")]
    strategy: Strategy | None
    created_at: datetime
    updated_at: datetime


class QuotaKey(NamedTuple):
    """Usage is keyed by quota and scope id; a quota has one period."""

    quota_id: str
    scope_id: str


class QuotaBalance(Struct, frozen=True, gc=False):
    """What one quota has used for one scope: of the allocation, and of the burst apart."""

    key: QuotaKey
    tenant_id: str
    used: Decimal = ZERO
    burst_used: Decimal = ZERO


class ConsumptionLine(Struct, frozen=True, omit_defaults=True, gc=False):
    """What one consumption took from one quota and what of it was given back since.

    Stored as JSON in the consumption's row.
    """

    key: QuotaKey
    amount: Decimal
    burst: Decimal = ZERO
    """The part of `amount` that came from the burst."""
    released: Decimal = ZERO
    burst_released: Decimal = ZERO
    premium_rate: Decimal | None = None
    """What a unit of `burst` cost when it was taken; None when nothing."""
    premium_currency: str | None = None


class Consumption(Struct, frozen=True, gc=False):
    """An amount taken from every quota that an operation matched."""

    consumption_id: str
    tenant_id: str
    operation: Operation
    operation_id: str | None
    amount: Decimal
    released: Decimal
    created_at: datetime
    lines: tuple[ConsumptionLine, ...]


class UsageKind(StrEnum):
    CONSUME = "consume"
    RELEASE = "release"


class QuotaUsage(Struct, frozen=True, gc=False):
    """One row of a quota's history: what was taken or given back, and how it stood after."""

    usage_id: int
    """Orders what happened to a quota at one moment."""
    consumption: Consumption
    balance: QuotaBalance
    """As it stood after."""
    at: datetime
    kind: UsageKind
    amount: Decimal
    burst: Decimal


class RequestStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


class QuotaRequest(Struct, frozen=True, kw_only=True):
    """Somebody asks for more of a quota; a tenant_admin decides."""

    request_id: str
    tenant_id: str
    quota_id: str
    additional_amount: Decimal
    reason: str
    status: RequestStatus
    requested_by: str
    requested_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    comment: str | None
