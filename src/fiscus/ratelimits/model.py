"""Policies: the rate limits an owner declares. None of this knows how it is stored."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct, field

from fiscus.money import Amount
from fiscus.ratelimits.rules import MAX_LIMIT, MAX_WINDOW_SECONDS, Algorithm
from fiscus.wire.texts import RESOURCES_PATTERN, Id, IdOrEvery

ResourcePattern = Annotated[
    str,
    Meta(
        pattern=RESOURCES_PATTERN,
        description="A resource type, or the beginning of one with `*` after it; `*` is every one.",
    ),
]


class PolicyScope(StrEnum):
    """The types of scope a policy may be for."""

    TENANT = "tenant"
    PROJECT = "project"
    USER = "user"
    FEATURE = "feature"
    API_KEY = "api_key"


class OnCountersFailure(StrEnum):
    """What a policy does while its counters cannot be reached."""

    ALLOW = "allow"
    DENY = "deny"
    LOCAL = "local"


class CalendarUnit(StrEnum):
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class HourRange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hours of the local day at which another limit holds; `22` to `6` crosses midnight."""

    from_hour: Annotated[int, Meta(ge=0, le=23, description="First local hour.")]
    to_hour: Annotated[int, Meta(ge=0, le=24, description="Local hour at which it ends.")]
    multiplier: Annotated[Amount, Meta(description="Times the limit; above 0 and at most 100.")]


class UsagePattern(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow the load that is usual at this hour of the week, as learned from past use.

    The limit is multiplied by the usual load of the hour over the average load, kept between
    `min_multiplier` and `max_multiplier`. Until two weeks are known it is 1.
    """

    min_multiplier: Annotated[Amount, Meta(description="At least this; default 0.5.")] = field(
        default_factory=lambda: Amount("0.5")
    )
    max_multiplier: Annotated[Amount, Meta(description="At most this; default 2.")] = field(
        default_factory=lambda: Amount("2")
    )


class Overrides(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What changes the limit by itself, in the policy's time zone."""

    time_of_day: Annotated[
        list[HourRange], Meta(max_length=24, description="Ranges must not overlap.")
    ] = []
    usage_pattern: UsagePattern | None = None


class PolicySpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that creates a policy or replaces its definition."""

    scope_type: Annotated[PolicyScope, Meta(description="Type of the scope it is for.")]
    scope_id: Annotated[
        IdOrEvery, Meta(description="Id of the scope, or `*`: a counter for every id.")
    ]
    resource_type: ResourcePattern
    limit_value: Annotated[
        int, Meta(ge=1, le=MAX_LIMIT, description="Requests per window; 1 or more.")
    ]
    time_window_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_WINDOW_SECONDS)] | None,
        Meta(description="Length of the window; left out when `calendar` is given."),
    ] = None
    algorithm: Algorithm = Algorithm.TOKEN_BUCKET
    burst_capacity: Annotated[
        int, Meta(ge=0, le=MAX_LIMIT, description="Added to a token bucket; others have none.")
    ] = 0
    calendar: Annotated[
        CalendarUnit | None,
        Meta(description="Windows of the calendar in `timezone`; fixed_window only."),
    ] = None
    timezone: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="IANA zone of calendar windows and overrides; default the tenant's."),
    ] = None
    overrides: Overrides = field(default_factory=Overrides)
    shadow: Annotated[bool, Meta(description="Decide and count, never deny.")] = False
    on_store_failure: Annotated[
        OnCountersFailure,
        Meta(description="The answer while the counters cannot be reached; local counts here."),
    ] = OnCountersFailure.LOCAL
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    version: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="With PUT: the version that is being replaced."),
    ] = None


class Policy(Struct, frozen=True, kw_only=True):
    """A policy as it stands: one version of its definition, everything filled in."""

    policy_id: str
    tenant_id: str
    version: int
    scope_type: PolicyScope
    scope_id: str
    resource_type: str
    limit_value: int
    time_window_seconds: Annotated[
        int, Meta(description="With `calendar`: the unit's nominal length.")
    ]
    algorithm: Algorithm
    burst_capacity: int
    calendar: CalendarUnit | None
    timezone: str
    overrides: Overrides
    shadow: bool
    on_store_failure: OnCountersFailure
    created_at: datetime
    updated_at: datetime


class Emergency(Struct, frozen=True, kw_only=True):
    """Capacity added to a policy for a while.

    It holds from `starts_at`, without a second person at most `UNAPPROVED_HOURS`, with one until
    `ends_at`.
    """

    emergency_id: str
    policy_id: str
    tenant_id: str
    additional_capacity: int
    reason: str
    requested_by: str
    starts_at: datetime
    ends_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    effective_until: Annotated[
        datetime, Meta(description="When it ends as things stand: `ends_at` once approved.")
    ]


UNAPPROVED_HOURS = 4
"""How long emergency capacity lasts without a second person's approval."""
MAX_EMERGENCY_HOURS = 24


class PolicyState(Struct, frozen=True, kw_only=True):
    """A policy with everything that its limit at a moment depends on."""

    policy: Policy
    generation: int
    """Counters of earlier generations are forgotten; a reset of all of them begins a new one."""
    emergencies: tuple[Emergency, ...] = ()
    """Those that may still hold."""
    hourly_load: tuple[int, ...] = ()
    """Learned requests of each hour of the week, Monday 00:00 local first; empty: not known."""
