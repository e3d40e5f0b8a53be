"""The calls about quotas: what is sent, what is answered.

Field names are the contract; the same structs serve HTTP, the client and in-process callers.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from fiscus.money import Amount
from fiscus.paging import Pagination
from fiscus.quotas.model import (
    Quota,
    QuotaRequest,
    Strategy,
    Terms,
    UsageKind,
)
from fiscus.scopes import ScopeType
from fiscus.wire.items import ItemError
from fiscus.wire.texts import NO_NUL, Id, LooseId, LooseKey, LooseLabel


class QuotaCheckRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """May so much be used? By default it is taken from every quota that matches, or from none."""

    resource_type: Annotated[LooseLabel, Meta(description="What is used, such as `gpu_hours`.")]
    required_amount: Annotated[Amount, Meta(description="How much; 0 or more.")]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    consume: Annotated[bool, Meta(description="`false` only looks.")] = True
    project_id: LooseId | None = None
    user_id: LooseId | None = None
    feature_id: LooseId | None = None
    operation_id: Annotated[Id | None, Meta(description="Your own name of the operation.")] = None
    idempotency_key: Annotated[
        LooseKey | None, Meta(description="As the header, for one item of a batch.")
    ] = None


class QuotaCheckBatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Up to 500 checks, decided in order in one transaction, each for itself."""

    checks: Annotated[list[QuotaCheckRequest], Meta(min_length=1)]


class QuotaLine(Struct, frozen=True, gc=False):
    """One matching quota after the decision."""

    quota_id: str
    scope: dict[str, str]
    allocated_amount: Decimal
    max_burst_amount: Decimal
    used_amount: Annotated[Decimal, Meta(description="Of the allocation.")]
    burst_used: Annotated[Decimal, Meta(description="Beyond it.")]
    remaining_amount: Annotated[
        Decimal, Meta(description="Allocation and burst less what is used; can be negative.")
    ]
    utilization_ratio: Annotated[
        Decimal, Meta(description="Used, burst included, over the allocation.")
    ]
    decision: Annotated[str, Meta(description="allow or deny.")]
    level: Annotated[
        str, Meta(description="ok, warning_80, critical_90, exhausted_100: how full it is.")
    ]
    crossed: Annotated[
        list[str], Meta(description="The levels that this consumption was the first to reach.")
    ]
    from_burst: Annotated[Decimal, Meta(description="What this consumption took of the burst.")]
    period_start: datetime
    period_end: datetime


class QuotaCheckAnswer(Struct, frozen=True, gc=False):
    """The decision. A denial names its quota, what is left, what would pass and when."""

    allowed: bool
    matched: Annotated[int, Meta(description="How many quotas match.")]
    quota_id: Annotated[str | None, Meta(description="The deciding quota; null: none matches.")]
    consumption_id: Annotated[
        str | None, Meta(description="Names what was taken, to give it back.")
    ]
    remaining_amount: Decimal | None
    max_allowed_amount: Annotated[
        Decimal | None, Meta(description="The largest amount that would pass now.")
    ]
    fits_at: Annotated[
        datetime | None, Meta(description="Earliest time this would fit; null: not known.")
    ]
    message: str
    quotas: list[QuotaLine]
    receipt_id: str | None = None
    degraded: bool = False
    correlation_id: str | None = None


class QuotaCheckBatchAnswer(Struct, frozen=True, kw_only=True):
    allowed: Annotated[bool, Meta(description="Whether every check is allowed.")]
    results: list[QuotaCheckAnswer]
    correlation_id: str | None = None


class ReleaseConsumptionRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gives back what a consumption took, to the periods it came from."""

    amount: Annotated[
        Amount | None, Meta(description="How much; default all that was not given back yet.")
    ] = None
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None


class ConsumptionView(Struct, frozen=True, kw_only=True):
    """A consumption as it stands."""

    consumption_id: str
    tenant_id: str
    resource_type: str
    amount: Decimal
    released_amount: Decimal
    project_id: str | None
    user_id: str | None
    feature_id: str | None
    operation_id: str | None
    created_at: datetime
    quota_ids: list[str]
    receipt_id: str | None = None
    correlation_id: str | None = None


# ---------------------------------------------------------------- allocating


class AllocateBatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Up to 100 allocations; each stands or falls alone."""

    allocations: Annotated[list[msgspec.Raw], Meta(min_length=1)]
    tenant_id: Annotated[
        Id | None,
        Meta(description="Default: the one that all items name, or else the credential's tenant."),
    ] = None


class AllocateItem(Struct, frozen=True, kw_only=True):
    quota: Quota | None
    error: ItemError | None


class AllocateBatchAnswer(Struct, frozen=True, kw_only=True):
    allocated: int
    failed: int
    results: list[AllocateItem]
    correlation_id: str | None = None


class Entity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One that gets a part of a total."""

    scope_type: ScopeType
    scope_id: Id
    tier: Annotated[
        Annotated[int, Meta(ge=1, le=3)] | None,
        Meta(description="With `priority`: 1 (50 %), 2 (30 %) or 3 (20 %); default 3."),
    ] = None
    reserved_amount: Annotated[
        Amount | None,
        Meta(description="With `reserved`: exactly what it gets; default a part of the rest."),
    ] = None


class DistributeRequest(Terms, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares a total out over entities: a quota for each, all or none."""

    total_amount: Annotated[Amount, Meta(description="What is shared out; above 0.")]
    strategy: Strategy
    entities: Annotated[list[Entity], Meta(min_length=1, max_length=1000)]
    then: Annotated[Strategy, Meta(description="With `reserved`: how the rest is shared out.")] = (
        Strategy.FAIR_SHARE
    )
    max_burst_ratio: Annotated[
        Amount | None, Meta(description="Burst of each, as a share of its part; default 0.")
    ] = None
    decimals: Annotated[
        int, Meta(ge=0, le=12, description="Digits after the point of each part; default 0.")
    ] = 0
    dry_run: Annotated[bool, Meta(description="Only say who would get what.")] = False


class Part(Struct, frozen=True, kw_only=True):
    """What one entity gets."""

    scope_type: ScopeType
    scope_id: str
    allocated_amount: Decimal
    usage: Annotated[
        Decimal | None, Meta(description="With `dynamic`: its use of the last 30 days.")
    ]
    quota_id: Annotated[str | None, Meta(description="Null for a dry run, and for a part of 0.")]


class DistributeAnswer(Struct, frozen=True, kw_only=True):
    total_amount: Decimal
    strategy: Strategy
    dry_run: bool
    parts: list[Part]
    correlation_id: str | None = None


class QuotaView(Quota, frozen=True, kw_only=True):
    """A quota as answered over the API, with its use when it is for one scope."""

    used_amount: Annotated[
        Decimal | None,
        Meta(description="Of the allocation; null for a quota for `*`, and in a past version."),
    ]
    burst_used: Decimal | None
    remaining_amount: Decimal | None
    correlation_id: str | None = None


# ---------------------------------------------------------------- history and requests


class HistoryRow(Struct, frozen=True, kw_only=True):
    """One consumption or release."""

    at: datetime
    kind: UsageKind
    scope_id: str
    amount: Decimal
    burst: Decimal
    used_after: Decimal
    consumption_id: str
    project_id: str | None
    user_id: str | None
    feature_id: str | None


class DayTotal(Struct, frozen=True, kw_only=True):
    """One local day of a quota."""

    day: date
    consumed: Decimal
    released: Decimal
    burst: Annotated[Decimal, Meta(description="Of what was consumed.")]
    consumptions: int


class QuotaHistory(Struct, frozen=True, kw_only=True):
    """What was taken from a quota and given back, newest first, and the totals of its days."""

    quota_id: str
    rows: list[HistoryRow]
    days: list[DayTotal] = []
    pagination: Pagination | None = None
    correlation_id: str | None = None


class QuotaRequestSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for more of a quota."""

    quota_id: Id
    additional_amount: Annotated[Amount, Meta(description="How much more; above 0.")]
    reason: Annotated[str, Meta(min_length=1, max_length=500, pattern=NO_NUL)]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None


class QuotaRequestDecision(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant_admin says to a request."""

    comment: Annotated[str, Meta(max_length=500, pattern=NO_NUL)] | None = None
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None


class QuotaRequestView(QuotaRequest, frozen=True, kw_only=True):
    """A request as answered over the API."""

    correlation_id: str | None = None


class QuotaPage(Struct, frozen=True, kw_only=True):
    """A page of quotas, newest first."""

    quotas: list[QuotaView]
    pagination: Pagination
    correlation_id: str


class QuotaRequestPage(Struct, frozen=True, kw_only=True):
    """A page of requests for more of a quota, newest first."""

    requests: list[QuotaRequest]
    pagination: Pagination
    correlation_id: str
