"""From an allocation as asked for to a quota as it stands; and from a quota to its next period."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final, NamedTuple

from msgspec.structs import replace

from fiscus.errors import ValidationError
from fiscus.money import (
    EXACT,
    LIMIT,
    ZERO,
    add,
    multiply,
    parse_currency,
    parse_not_negative,
    parse_positive,
    subtract,
)
from fiscus.periods import Period, PeriodType, Schedule, period_at
from fiscus.quotas.model import Quota, QuotaPeriod, QuotaSpec, RenewalAmount, RenewalStatus, Terms
from fiscus.scopes import EVERY, ScopeType
from fiscus.tenants import TenantSettings
from fiscus.zones import FAR_FUTURE, in_utc, parse_timezone

RENEW_AHEAD: Final = timedelta(hours=24)
GROWTH: Final = Decimal("1.2")
"""What `by_usage` gives beyond the use it sees."""
ONE_UNIT: Final = Decimal(1)
MAX_UNITS: Final = subtract(LIMIT, ONE_UNIT)
SHORTEST: Final = timedelta(minutes=1)


class Held(NamedTuple):
    """For how long a quota holds."""

    timezone: str
    period: Period


def define(
    spec: QuotaSpec,
    settings: TenantSettings,
    *,
    quota_id: str,
    tenant_id: str,
    version: int,
    created_at: datetime,
    now: datetime,
) -> Quota:
    """Version `version` of a quota, made at `now`; `created_at` is when its first was made.

    Raises `ValidationError` naming the field.
    """
    if spec.scope_type is ScopeType.TENANT and spec.scope_id != tenant_id:
        what = "every tenant" if spec.scope_id == EVERY else "another tenant"
        raise ValidationError(
            f"A quota of scope tenant cannot be for {what}",
            field="scope_id",
            suggested_action=f"Send {tenant_id}.",
        )
    held = period_of(spec, settings, now)
    burst = spec.max_burst_amount
    return Quota(
        quota_id=quota_id,
        tenant_id=tenant_id,
        version=version,
        scope_type=spec.scope_type,
        scope_id=spec.scope_id,
        resource_type=spec.resource_type,
        allocated_amount=parse_positive(spec.allocated_amount, "allocated_amount"),
        max_burst_amount=ZERO if burst is None else parse_not_negative(burst, "max_burst_amount"),
        burst_premium_rate=None
        if spec.burst_premium_rate is None
        else parse_not_negative(spec.burst_premium_rate, "burst_premium_rate"),
        currency=settings.currency if spec.currency is None else parse_currency(spec.currency),
        period_type=spec.period_type,
        timezone=held.timezone,
        period_start=held.period.start,
        period_end=held.period.end,
        auto_renew=spec.auto_renew,
        renewal_amount=spec.renewal_amount,
        renewal_status=RenewalStatus.PENDING if spec.auto_renew else RenewalStatus.NONE,
        renewed_from=None,
        strategy=spec.strategy,
        created_at=created_at,
        updated_at=now,
    )


def period_of(terms: Terms, settings: TenantSettings, now: datetime) -> Held:
    """The period that terms name. Raises `ValidationError` naming the field."""
    timezone = settings.timezone if terms.timezone is None else parse_timezone(terms.timezone)
    start = now if terms.period_start is None else in_utc(terms.period_start, "period_start")
    if terms.period_type is not QuotaPeriod.CUSTOM:
        period = _calendar(terms.period_type, timezone, start)
        if terms.period_end is not None and terms.period_end != period.end:
            raise ValidationError(
                f"period_end is not where the {terms.period_type} period ends",
                field="period_end",
                suggested_action="Leave period_end out, or send period_type custom.",
            )
        if period.end <= now:
            raise _over("period_start")
        return Held(timezone, period)
    if terms.period_end is None:
        raise ValidationError(
            "period_end is required when period_type is custom",
            field="period_end",
            suggested_action="Send where the period ends, such as 2026-02-01T00:00:00Z.",
        )
    end = in_utc(terms.period_end, "period_end")
    if end - start < SHORTEST:
        raise ValidationError(
            "period_end must be at least a minute after period_start",
            field="period_end",
            suggested_action="Send a later period_end.",
        )
    if end <= now:
        raise _over("period_end")
    return Held(timezone, Period(start, end))


def renew_from(quota: Quota) -> datetime:
    """When the next period is to be allocated: 24 h ahead, or half a period when that is less."""
    return quota.period_end - min(RENEW_AHEAD, (quota.period_end - quota.period_start) / 2)


def renewed(quota: Quota, quota_id: str, used: Decimal, now: datetime) -> Quota:
    """The quota of the next period: contiguous, unused, version 1.

    `used` is what `quota` has used at `now`, burst included. One that was allocated when its period
    was over already, as missed ones are, says nothing of use.

    Raises `ValidationError` when the next period would end out of range.
    """
    if quota.period_type is QuotaPeriod.CUSTOM:
        length = quota.period_end - quota.period_start
        if FAR_FUTURE - quota.period_end < length:
            raise _out_of_range("period_end")
        period = Period(quota.period_end, quota.period_end + length)
    else:
        period = _calendar(quota.period_type, quota.timezone, quota.period_end)
    amount = quota.allocated_amount
    could_be_used = quota.created_at < quota.period_end
    if quota.renewal_amount is RenewalAmount.BY_USAGE and could_be_used:
        amount = amount_by_usage(quota, used, now)
    return replace(
        quota,
        quota_id=quota_id,
        version=1,
        allocated_amount=amount,
        period_start=period.start,
        period_end=period.end,
        renewal_status=RenewalStatus.PENDING,
        renewed_from=quota.quota_id,
        created_at=now,
        updated_at=now,
    )


def renewed_until(quota: Quota, next_start: datetime) -> datetime:
    """Until when renewals of `quota` hold, one after the other, when the next that is allocated
    begins at `next_start`: one that would overlap it is not made. `FAR_FUTURE` is no next one.
    """
    if next_start == FAR_FUTURE:
        return next_start
    if quota.period_type is QuotaPeriod.CUSTOM:
        length = quota.period_end - quota.period_start
        return quota.period_end + (next_start - quota.period_end) // length * length
    schedule = Schedule(PeriodType(str(quota.period_type)), quota.timezone)
    period = period_at(schedule, next_start)
    return quota.period_end if period is None else period.start


def amount_by_usage(quota: Quota, used: Decimal, now: datetime) -> Decimal:
    """120 % of what the period is heading for at its present pace; whole units, at least one, and
    at most what an amount can be.

    Before half of the period has passed, it is taken to have: a few early hours say little.
    """
    length = quota.period_end - quota.period_start
    elapsed = min(max(now - quota.period_start, length / 2), length)
    microsecond = timedelta(microseconds=1)
    whole = multiply(used, Decimal(length // microsecond))
    grown = multiply(EXACT.divide(whole, Decimal(elapsed // microsecond)), GROWTH)
    return min(max(ONE_UNIT, grown.to_integral_value(rounding=ROUND_CEILING)), MAX_UNITS)


def remaining(quota: Quota, used: Decimal, burst_used: Decimal) -> Decimal:
    """Allocation and burst less what is used; negative after a cut."""
    return subtract(add(quota.allocated_amount, quota.max_burst_amount), add(used, burst_used))


def unlike_period(old: Quota, new: Quota) -> list[str]:
    """The fields whose change would part a quota from the usage it has, by name."""
    fixed = ("scope_type", "scope_id", "resource_type", "period_type", "timezone")
    fixed += ("period_start", "period_end")
    return [name for name in fixed if getattr(old, name) != getattr(new, name)]


def _calendar(kind: QuotaPeriod, timezone: str, moment: datetime) -> Period:
    period = period_at(Schedule(PeriodType(str(kind)), timezone), moment)
    if period is None or period.end >= FAR_FUTURE:
        raise _out_of_range("period_start")
    return period


def _out_of_range(field: str) -> ValidationError:
    return ValidationError(
        f"{field} is out of range: periods lie between the years 2 and 9998",
        field=field,
        suggested_action="Send a moment in that range.",
    )


def _over(field: str) -> ValidationError:
    return ValidationError(
        "The period is over already",
        field=field,
        suggested_action="Send a period that ends in the future.",
    )
