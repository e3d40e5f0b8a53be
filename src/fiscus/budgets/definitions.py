"""From a budget as asked for to a budget as it stands: defaults filled in, everything checked."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from fiscus.budgets.matching import schedule_of
from fiscus.budgets.model import Budget, BudgetSpec, Throttle
from fiscus.errors import ValidationError
from fiscus.money import Amount, parse_amount, parse_currency, parse_positive
from fiscus.periods import PeriodType, first_anchor, parse_timezone, validate_schedule
from fiscus.scopes import EVERY, ScopeType
from fiscus.tenants import TenantSettings

MAX_THRESHOLD = Decimal(10)


def define(
    spec: BudgetSpec,
    defaults: TenantSettings,
    *,
    budget_id: str,
    tenant_id: str,
    version: int,
    created_at: datetime,
    now: datetime,
) -> Budget:
    """Version `version` of a budget, made at `now`; `created_at` is when its first was made.

    Currency and time zone are those of `defaults` where `spec` leaves them out.
    Raises `ValidationError` naming the field.
    """
    _check_scope(spec, tenant_id)
    timezone = defaults.timezone if spec.timezone is None else parse_timezone(spec.timezone)
    budget = Budget(
        budget_id=budget_id,
        tenant_id=tenant_id,
        version=version,
        budget_name=spec.budget_name,
        budget_type=spec.allocated_to_type,
        budget_amount=parse_positive(spec.budget_amount, "budget_amount"),
        currency=defaults.currency if spec.currency is None else parse_currency(spec.currency),
        period_type=spec.period_type,
        start_date=_start_date(spec, timezone, created_at),
        end_date=spec.end_date,
        timezone=timezone,
        rolling_days=spec.rolling_days,
        allocated_to_type=spec.allocated_to_type,
        allocated_to_id=spec.allocated_to_id,
        enforcement_action=spec.enforcement_action,
        thresholds=_thresholds(spec.thresholds),
        notifications=spec.notifications,
        filters=spec.filters,
        throttle=_throttle(spec.throttle),
        approval=spec.approval,
        on_store_failure=spec.on_store_failure,
        shadow=spec.shadow,
        frozen=spec.frozen,
        created_at=created_at,
        updated_at=now,
    )
    validate_schedule(schedule_of(budget))
    return budget


def unlike_usage(old: Budget, new: Budget) -> list[str]:
    """The fields whose change would part a budget from the usage it has, by name.

    Usage is keyed by scope id and the start of its period, and counted in one currency. Amount,
    filters, enforcement and the end date may change at any time.
    """
    fixed = ["period_type", "timezone", "currency", "allocated_to_type", "allocated_to_id"]
    fixed += ["start_date"]
    if PeriodType.ROLLING in (old.period_type, new.period_type):
        fixed.append("rolling_days")
    return [name for name in fixed if getattr(old, name) != getattr(new, name)]


def _check_scope(spec: BudgetSpec, tenant_id: str) -> None:
    if spec.budget_type is not None and spec.budget_type is not spec.allocated_to_type:
        raise ValidationError(
            "budget_type differs from allocated_to_type",
            field="budget_type",
            suggested_action="Leave budget_type out, or send the same type twice.",
        )
    if spec.allocated_to_type is ScopeType.TENANT and spec.allocated_to_id != tenant_id:
        what = "every tenant" if spec.allocated_to_id == EVERY else "another tenant"
        raise ValidationError(
            f"A budget of type tenant cannot be for {what}",
            field="allocated_to_id",
            suggested_action=f"Send {tenant_id}.",
        )


def _start_date(spec: BudgetSpec, timezone: str, created_at: datetime) -> date | None:
    if spec.start_date is None and spec.period_type is PeriodType.PROJECT:
        return first_anchor(timezone, created_at)
    return spec.start_date


def _thresholds(given: list[Amount]) -> list[Decimal]:
    checked: set[Decimal] = set()
    for index, ratio in enumerate(given):
        field = f"thresholds[{index}]"
        value = parse_positive(ratio, field)
        if value > MAX_THRESHOLD:
            raise _out_of_range(field, f"must be at most {MAX_THRESHOLD}", "a ratio such as 0.8")
        checked.add(value)
    return sorted(checked)


def _throttle(given: Throttle) -> Throttle:
    start, floor = (
        parse_amount(given.start_ratio, "throttle.start_ratio"),
        parse_amount(given.floor, "throttle.floor"),
    )
    if not 0 <= start < 1:
        raise _out_of_range(
            "throttle.start_ratio", "must be 0 or more and below 1", "a ratio such as 0.8"
        )
    if not 0 <= floor <= 1:
        raise _out_of_range("throttle.floor", "must be 0 to 1", "a share such as 0.1")
    return Throttle(
        start_ratio=Amount(start), floor=Amount(floor), retry_after_ms=given.retry_after_ms
    )


def _out_of_range(field: str, what: str, example: str) -> ValidationError:
    return ValidationError.of_field(field, what, f"Send {example}.")
