"""Budgets: their definition, and their usage per period.

A budget is what an owner declares; a `BudgetBalance` is what was used of it in one period. Neither
knows how it is stored.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct, field

from fiscus.money import ZERO, Amount
from fiscus.operations import Operation
from fiscus.periods import PeriodType
from fiscus.scopes import ScopeType
from fiscus.wire.texts import Currency, Id, IdOrEvery, Label, Name, Tags


class EnforcementAction(StrEnum):
    HARD_STOP = "hard_stop"
    SOFT_LIMIT = "soft_limit"
    THROTTLE = "throttle"
    ESCALATE = "escalate"


class OnStoreFailure(StrEnum):
    DENY = "deny"
    ALLOW = "allow"


class Filters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which operations a budget counts. Empty counts all; an operation lacking an attribute that
    is filtered on does not match."""

    resource_types: Annotated[list[Label], Meta(max_length=100)] = []
    service_names: Annotated[list[Label], Meta(max_length=100)] = []
    tags: Tags = {}


class Throttle(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a `throttle` budget lets a falling share of operations through.

    The share is 1 up to `start_ratio` of the amount, then falls in a line to `floor` at 1.0.
    """

    # by factories: msgspec cannot write an Amount as the default in a JSON schema
    start_ratio: Annotated[
        Amount, Meta(description="Use at which throttling starts, 0 to 1; default 0.8.")
    ] = field(default_factory=lambda: Amount("0.8"))
    floor: Annotated[
        Amount, Meta(description="Share still admitted at full use, 0 to 1; default 0.1.")
    ] = field(default_factory=lambda: Amount("0.1"))
    retry_after_ms: Annotated[
        int,
        Meta(ge=1, le=3_600_000, description="Wait suggested per operation that goes first."),
    ] = 1000


class Notifications(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is to be told when a threshold is crossed; kept for the alerts to come."""

    channels: Annotated[list[Label], Meta(max_length=20)] = []
    recipients: Annotated[list[Label], Meta(max_length=100)] = []


class ApprovalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How approvals of an `escalate` budget are to be asked for; kept for the approvals to come."""

    expires_after_hours: Annotated[int, Meta(ge=1, le=720)] = 24


class BudgetSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that creates a budget or replaces its definition."""

    budget_name: Name
    budget_amount: Annotated[Amount, Meta(description="Amount per period; above 0.")]
    period_type: Annotated[
        PeriodType, Meta(description="When use starts again at nothing; project and custom do not.")
    ]
    allocated_to_type: Annotated[ScopeType, Meta(description="Type of the scope it is for.")]
    allocated_to_id: Annotated[
        IdOrEvery,
        Meta(description="Id of the scope, or `*`: every project, user or feature has its own."),
    ]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    budget_type: Annotated[
        ScopeType | None, Meta(description="Equal to `allocated_to_type` when given.")
    ] = None
    currency: Annotated[Currency | None, Meta(description="Default: the tenant's.")] = None
    timezone: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="IANA zone of its periods; default the tenant's."),
    ] = None
    start_date: Annotated[
        date | None,
        Meta(description="First local day it counts. Costs before it do not count."),
    ] = None
    end_date: Annotated[
        date | None, Meta(description="Local day at whose midnight it ends (not counted).")
    ] = None
    rolling_days: Annotated[int, Meta(ge=1, le=3660, description="Days of a rolling window.")] = 30
    enforcement_action: Annotated[
        EnforcementAction, Meta(description="What happens when an operation does not fit.")
    ] = EnforcementAction.HARD_STOP
    thresholds: Annotated[
        list[Amount], Meta(max_length=20, description="Ratios of use, kept for the alerts to come.")
    ] = field(default_factory=lambda: [Amount("0.8"), Amount("0.9"), Amount("1")])
    notifications: Notifications = field(default_factory=Notifications)
    filters: Filters = field(default_factory=Filters)
    throttle: Throttle = field(default_factory=Throttle)
    approval: ApprovalSettings = field(default_factory=ApprovalSettings)
    on_store_failure: Annotated[
        OnStoreFailure, Meta(description="The answer to checks while the store cannot be reached.")
    ] = OnStoreFailure.DENY
    shadow: Annotated[bool, Meta(description="Decide and count, never deny.")] = False
    frozen: Annotated[bool, Meta(description="Refuse every operation at once.")] = False
    version: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="With PUT: the version that is being replaced."),
    ] = None


class Budget(Struct, frozen=True, kw_only=True):
    """A budget as it stands: one version of its definition, everything filled in."""

    budget_id: str
    tenant_id: str
    version: int
    budget_name: str
    budget_type: ScopeType
    budget_amount: Decimal
    currency: str
    period_type: PeriodType
    start_date: date | None
    end_date: date | None
    timezone: str
    rolling_days: int
    allocated_to_type: ScopeType
    allocated_to_id: str
    enforcement_action: EnforcementAction
    thresholds: list[Decimal]
    notifications: Notifications
    filters: Filters
    throttle: Throttle
    approval: ApprovalSettings
    on_store_failure: OnStoreFailure
    shadow: bool
    frozen: bool
    created_at: datetime
    updated_at: datetime


class Converted(Struct, frozen=True, array_like=True, gc=False):
    """An amount in the currency of a budget that has another one."""

    amount: Decimal
    rate: Decimal
    as_of: date


class BalanceKey(NamedTuple):
    """Usage is keyed by budget, scope id and period start, so nothing is ever reset."""

    budget_id: str
    scope_id: str
    period_start: datetime


class BudgetBalance(Struct, frozen=True, gc=False):
    """What one budget has used for one scope in one period, in the budget's currency."""

    key: BalanceKey
    tenant_id: str
    period_end: datetime
    spent: Decimal = ZERO
    reserved: Decimal = ZERO
    throttle_credit: Decimal = ZERO


class ReservationStatus(StrEnum):
    PENDING = "pending"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


def status_at(status: ReservationStatus, expires_at: datetime, now: datetime) -> ReservationStatus:
    """The status of a reservation at `now`: one that is due is over, also before it is freed."""
    if status is ReservationStatus.PENDING and expires_at <= now:
        return ReservationStatus.EXPIRED
    return status


class ReservationLine(Struct, frozen=True, omit_defaults=True, gc=False):
    """What one reservation holds of one balance, in the budget's currency.

    Stored as JSON in the reservation's row.
    """

    key: BalanceKey
    amount: Decimal
    rate: Decimal | None = None
    """What the estimate was multiplied by; None where it is in the budget's currency."""
    rate_date: date | None = None
    """The day of `rate`."""


class Reservation(Struct, frozen=True, gc=False):
    """Money held for an operation."""

    reservation_id: str
    tenant_id: str
    operation: Operation
    operation_id: str | None
    estimated_cost: Decimal
    currency: str
    status: ReservationStatus
    created_at: datetime
    expires_at: datetime
    lines: tuple[ReservationLine, ...]
    record_id: str | None = None
    actual_cost: Decimal | None = None
    settlement: bytes | None = None
    """The answer to the settle, kept so that a repeated one gets the same."""
