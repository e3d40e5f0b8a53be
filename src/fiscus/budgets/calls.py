"""The calls about budgets and reservations: what is sent, what is answered.

Field names are the contract; the same structs serve HTTP, the client and in-process callers.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

from msgspec import Meta, Struct

from fiscus.budgets.model import (
    Budget,
    EnforcementAction,
    ReservationLine,
    ReservationStatus,
)
from fiscus.costs.calls import ChargedLine
from fiscus.costs.model import CostFlag
from fiscus.money import Amount, plain
from fiscus.paging import Pagination
from fiscus.scopes import ScopeType
from fiscus.wire.nesting import FreeForm
from fiscus.wire.texts import Currency, Id, Label, LooseId, LooseKey, LooseLabel, LooseTags

Ttl = Annotated[
    int, Meta(ge=1, le=86_400, description="How long the money is held, in seconds; 1 to 86400.")
]


class CheckRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """May this operation be afforded? By default its estimate is reserved on all that match."""

    resource_type: Annotated[LooseLabel, Meta(description="What it uses, such as `llm`.")]
    estimated_cost: Annotated[Amount, Meta(description="What it may cost; 0 or more.")]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    currency: Annotated[
        Currency | None, Meta(description="Of the estimate; default the tenant's.")
    ] = None
    project_id: LooseId | None = None
    user_id: LooseId | None = None
    feature_id: LooseId | None = None
    allocated_to_type: Annotated[
        ScopeType | None,
        Meta(description="With `allocated_to_id`: short for one of the ids above."),
    ] = None
    allocated_to_id: Id | None = None
    service_name: Label | None = None
    tags: LooseTags = {}
    operation_id: Annotated[
        Id | None, Meta(description="Your own name of the operation, unique per tenant.")
    ] = None
    reserve: Annotated[bool, Meta(description="`false` only looks.")] = True
    ttl_seconds: Ttl = 300
    approval_id: Annotated[
        Id | None,
        Meta(description="An approval granted earlier; there are none in this version."),
    ] = None
    operation_context: Annotated[
        FreeForm | None,
        Meta(description="Free context, at most 32 levels deep; accepted, but not kept."),
    ] = None
    idempotency_key: Annotated[
        LooseKey | None, Meta(description="As the header, for one item of a batch.")
    ] = None


class CheckBatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Up to 500 checks, decided in order in one transaction."""

    checks: Annotated[list[CheckRequest], Meta(min_length=1)]
    all_or_nothing: Annotated[
        bool, Meta(description="Reserve nothing unless every check is allowed.")
    ] = False


class BudgetLine(Struct, frozen=True, gc=False):
    """One matching budget after the decision, in its own currency."""

    budget_id: str
    budget_name: str
    scope: dict[str, str]
    currency: str
    amount: Decimal
    spent: Decimal
    reserved: Decimal
    remaining: Annotated[Decimal, Meta(description="amount - spent - reserved; can be negative.")]
    utilization_ratio: Annotated[Decimal, Meta(description="(spent + reserved) / amount.")]
    enforcement_action: EnforcementAction
    decision: Annotated[
        str,
        Meta(description="allow, warn, deny, escalate, throttle, frozen, or shadow_ before one."),
    ]
    estimated_cost: Annotated[Decimal, Meta(description="The estimate in this currency.")]
    exchange_rate: Decimal
    exchange_rate_date: date
    period_start: datetime
    period_end: datetime | None


class ThrottleAnswer(Struct, frozen=True, kw_only=True):
    multiplier: Annotated[Decimal, Meta(description="Share of operations admitted now.")]
    retry_after_ms: int


class CheckAnswer(Struct, frozen=True, gc=False):
    """The decision. A denial names its rule, what is left, what would pass and when."""

    allowed: bool
    budget_id: Annotated[str | None, Meta(description="The deciding budget; null: none matches.")]
    remaining_budget: Decimal | None
    utilization_ratio: Decimal | None
    enforcement_action: EnforcementAction | None
    message: str
    reservation_id: str | None
    reservation_status: ReservationStatus | None
    expires_at: datetime | None
    requires_approval: bool
    approval_id: str | None
    throttle: ThrottleAnswer | None
    max_allowed_cost: Annotated[
        Decimal | None,
        Meta(description="Largest estimate that would pass now, in the request's currency."),
    ]
    fits_at: Annotated[
        datetime | None, Meta(description="Earliest time this request would fit; null: never.")
    ]
    budgets: list[BudgetLine]
    receipt_id: str | None
    degraded: bool
    correlation_id: str | None = None


def allowed_without_store(message: str) -> CheckAnswer:
    """The answer to a check that is let through undecided; it holds nothing."""
    return CheckAnswer(
        allowed=True,
        budget_id=None,
        remaining_budget=None,
        utilization_ratio=None,
        enforcement_action=None,
        message=message,
        reservation_id=None,
        reservation_status=None,
        expires_at=None,
        requires_approval=False,
        approval_id=None,
        throttle=None,
        max_allowed_cost=None,
        fits_at=None,
        budgets=[],
        receipt_id=None,
        degraded=True,
    )


class CheckBatchAnswer(Struct, frozen=True, kw_only=True):
    allowed: Annotated[bool, Meta(description="Whether every check is allowed.")]
    results: list[CheckAnswer]
    correlation_id: str | None = None


class SettleRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the reserved operation did cost. Makes the one cost record of the reservation."""

    actual_cost: Annotated[Amount, Meta(description="Recorded in full, also above the hold.")]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    currency: Annotated[Currency | None, Meta(description="Default: the reservation's.")] = None
    usage: Annotated[
        FreeForm | None,
        Meta(description="Measured use, such as tokens, at most 32 levels deep; kept as sent."),
    ] = None
    usage_quantity: Amount | None = None
    usage_unit: Label | None = None
    tags: Annotated[
        LooseTags,
        Meta(
            description="Free labels, at most 50. They replace those of the reservation by key, "
            "the rest comes after them, and the cost record has the first 50."
        ),
    ] = {}
    resource_id: Label | None = None
    service_name: Label | None = None
    region: Label | None = None
    timestamp: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="When the cost arose; default now."),
    ] = None


class SettleAnswer(Struct, frozen=True, kw_only=True):
    record_id: str
    charged: Annotated[Decimal, Meta(description="The actual cost, in its own currency.")]
    currency: str
    flags: Annotated[list[CostFlag], Meta(description="late, excess, unreserved, unconverted.")]
    budgets: list[ChargedLine]
    reservation_id: str
    reservation_status: ReservationStatus
    timestamp: datetime
    recorded_at: datetime
    receipt_id: str | None = None
    correlation_id: str | None = None


class ExtendRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold the money for longer: until `ttl_seconds` from now."""

    ttl_seconds: Ttl
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None


class ReleaseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give the held money back; nothing was spent."""

    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None


class HeldLine(Struct, frozen=True, kw_only=True):
    budget_id: str
    scope_id: str
    period_start: datetime
    amount: Decimal

    @classmethod
    def of(cls, line: ReservationLine) -> HeldLine:
        return cls(
            budget_id=line.key.budget_id,
            scope_id=line.key.scope_id,
            period_start=line.key.period_start,
            amount=plain(line.amount),
        )


class ReservationView(Struct, frozen=True, kw_only=True):
    """A reservation as it stands."""

    reservation_id: str
    tenant_id: str
    status: ReservationStatus
    resource_type: str
    estimated_cost: Decimal
    currency: str
    project_id: str | None
    user_id: str | None
    feature_id: str | None
    service_name: str | None
    tags: dict[str, str]
    operation_id: str | None
    created_at: datetime
    expires_at: datetime
    record_id: str | None
    actual_cost: Decimal | None
    budgets: list[HeldLine]
    correlation_id: str | None = None


class PeriodUse(Struct, frozen=True, kw_only=True):
    """One period of a budget for one scope."""

    scope_id: str
    period_start: datetime
    period_end: datetime | None
    amount: Decimal
    spent: Decimal
    reserved: Decimal
    remaining: Decimal
    utilization_ratio: Decimal
    current: bool


class Utilization(Struct, frozen=True, kw_only=True):
    """How far a budget is used: the current period first, then past ones, newest first."""

    budget_id: str
    budget_name: str
    currency: str
    periods: list[PeriodUse]
    pagination: Pagination | None = None
    correlation_id: str | None = None


class BudgetView(Budget, frozen=True, kw_only=True):
    """A budget as answered over the API."""

    correlation_id: str | None = None


class BudgetPage(Struct, frozen=True, kw_only=True):
    """A page of budgets, newest first."""

    budgets: list[Budget]
    pagination: Pagination
    correlation_id: str


class ReservationPage(Struct, frozen=True, kw_only=True):
    """A page of reservations, newest first."""

    reservations: list[ReservationView]
    pagination: Pagination
    correlation_id: str
