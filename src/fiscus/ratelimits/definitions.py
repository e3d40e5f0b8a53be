"""From a policy as asked for to a policy as it stands: defaults filled in, everything checked."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final

from fiscus.errors import Conflict, ValidationError
from fiscus.ratelimits.limits import NOMINAL_SECONDS, greatest_limit, is_within
from fiscus.ratelimits.model import Overrides, Policy, PolicyScope, PolicySpec
from fiscus.ratelimits.rules import (
    BUCKETS,
    MAX_LIMIT,
    MAX_LOG_LIMIT,
    MAX_WHOLE,
    Algorithm,
    make_rule,
)
from fiscus.tenants import TenantSettings
from fiscus.zones import parse_timezone

MAX_MULTIPLIER: Final = Decimal(100)


def define(
    spec: PolicySpec,
    defaults: TenantSettings,
    *,
    policy_id: str,
    tenant_id: str,
    version: int,
    created_at: datetime,
    now: datetime,
) -> Policy:
    """Version `version` of a policy, made at `now`; `created_at` is when its first was made.

    The time zone is that of `defaults` where `spec` leaves it out.
    Raises `ValidationError` naming the field.
    """
    if spec.scope_type is PolicyScope.TENANT and spec.scope_id not in (tenant_id, "*"):
        raise ValidationError(
            "A policy of scope tenant cannot be for another tenant",
            field="scope_id",
            suggested_action=f"Send {tenant_id}.",
        )
    _check_overrides(spec.overrides)
    policy = Policy(
        policy_id=policy_id,
        tenant_id=tenant_id,
        version=version,
        scope_type=spec.scope_type,
        scope_id=spec.scope_id,
        resource_type=spec.resource_type,
        limit_value=spec.limit_value,
        time_window_seconds=_window_seconds(spec),
        algorithm=spec.algorithm,
        burst_capacity=spec.burst_capacity,
        calendar=spec.calendar,
        timezone=defaults.timezone if spec.timezone is None else parse_timezone(spec.timezone),
        overrides=spec.overrides,
        shadow=spec.shadow,
        on_store_failure=spec.on_store_failure,
        created_at=created_at,
        updated_at=now,
    )
    check_countable(policy)
    return policy


def check_countable(policy: Policy, emergency: int = 0) -> None:
    """Every limit that the policy may come to can be counted exactly.

    Raises `ValidationError` naming the field.
    """
    window_us = policy.time_window_seconds * 1_000_000
    make_rule(policy.algorithm, policy.limit_value, window_us, burst=policy.burst_capacity)
    if not emergency and policy.overrides == Overrides():
        return
    greatest = greatest_limit(policy, emergency)
    if policy.algorithm is Algorithm.SLIDING_WINDOW_LOG:
        if emergency and greatest > MAX_LOG_LIMIT:
            raise ValidationError(
                f"additional_capacity can bring the limit to {greatest}, "
                f"and a sliding_window_log counts at most {MAX_LOG_LIMIT}",
                field="additional_capacity",
                suggested_action="Lower additional_capacity, or use token_bucket or fixed_window.",
            )
        return  # overrides are capped at what a log can hold
    # smaller limits too may share no divisor with the window, so the coarsest unit must do
    most = 2 * (greatest + policy.burst_capacity)
    is_bucket = policy.algorithm in BUCKETS
    if greatest > MAX_LIMIT or (is_bucket and most * policy.time_window_seconds > MAX_WHOLE):
        field = "additional_capacity" if emergency else "overrides"
        raise ValidationError(
            f"With {field} the limit can be anything up to {greatest}, "
            "which is too large to be counted exactly",
            field=field,
            suggested_action=f"Lower limit_value or {field}, or use a shorter window.",
        )


def uncountable(policy_id: str, error: ValidationError) -> Conflict:
    """The refusal of what needs a kept policy that was found to be none that can be counted."""
    return Conflict(
        f"Policy {policy_id} cannot be counted: {error.message}",
        details={"policy_id": policy_id},
        suggested_action="Replace the policy by one that can.",
    )


def _window_seconds(spec: PolicySpec) -> int:
    if spec.calendar is None:
        if spec.time_window_seconds is None:
            raise ValidationError(
                "time_window_seconds is missing",
                field="time_window_seconds",
                suggested_action="Send time_window_seconds, or calendar for fixed windows.",
            )
        return spec.time_window_seconds
    if spec.algorithm is not Algorithm.FIXED_WINDOW:
        raise ValidationError(
            f"calendar is not known to {spec.algorithm}",
            field="calendar",
            suggested_action="Leave calendar out, or use the algorithm fixed_window.",
        )
    nominal = NOMINAL_SECONDS[spec.calendar]
    # a policy that was read and is sent again carries the nominal length
    if spec.time_window_seconds not in (None, nominal):
        raise ValidationError(
            "time_window_seconds and calendar exclude each other",
            field="time_window_seconds",
            suggested_action="Send one of the two.",
        )
    return nominal


def _check_overrides(overrides: Overrides) -> None:
    taken: set[int] = set()
    for index, hours in enumerate(overrides.time_of_day):
        field = f"overrides.time_of_day[{index}]"
        if hours.from_hour == hours.to_hour:
            raise ValidationError(
                f"{field} is empty: it ends where it begins",
                field=f"{field}.to_hour",
                suggested_action="Send 0 and 24 for the whole day.",
            )
        mine = {hour for hour in range(24) if is_within(hours, hour)}
        if mine & taken:
            raise ValidationError(
                f"{field} overlaps another range",
                field=field,
                suggested_action="Send ranges that share no hour.",
            )
        taken |= mine
        _check_multiplier(hours.multiplier, f"{field}.multiplier")
    pattern = overrides.usage_pattern
    if pattern is not None:
        field = "overrides.usage_pattern"
        _check_multiplier(pattern.min_multiplier, f"{field}.min_multiplier")
        _check_multiplier(pattern.max_multiplier, f"{field}.max_multiplier")
        if pattern.min_multiplier > pattern.max_multiplier:
            raise ValidationError(
                f"{field}.min_multiplier is above max_multiplier",
                field=f"{field}.min_multiplier",
                suggested_action="Send a min_multiplier of at most max_multiplier.",
            )


def _check_multiplier(value: Decimal, field: str) -> None:
    if not 0 < value <= MAX_MULTIPLIER:
        raise ValidationError(
            f"{field} must be above 0 and at most {MAX_MULTIPLIER}",
            field=field,
            suggested_action="Send a number such as 0.5 or 2.",
        )
