"""The calls about rate limits: what is sent, what is answered.

Field names are the contract; the same structs serve HTTP, the client and in-process callers.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Annotated, Final

from msgspec import Meta, Struct

from fiscus.paging import Pagination
from fiscus.priorities import Priority
from fiscus.ratelimits.model import MAX_EMERGENCY_HOURS, UNAPPROVED_HOURS, Emergency, Policy
from fiscus.ratelimits.rules import MAX_LIMIT, Algorithm
from fiscus.wire.texts import NO_NUL, Id, Label

MAX_CHECKS: Final = 500
MAX_RESOURCE_KEY: Final = 1024

ResourceKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_RESOURCE_KEY,
        pattern=NO_NUL,
        description="Tells counters of one policy apart, such as a client address; 1 to 1024 "
        "characters. None given is a key of its own.",
    ),
]


def fitting(value: str, most: int) -> str:
    """`value` when a request may carry it, as 1 to `most` characters without NUL; else its hash."""
    return value if 0 < len(value) <= most and "\0" not in value else hashed(value)


def hashed(value: str) -> str:
    """What stands for a value that no request may carry; the same for the same value."""
    return f"sha256:{sha256(value.encode()).hexdigest()}"


class RateLimitCheckRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """May so many requests be made now? Taken from every policy that applies, or from none."""

    resource_type: Annotated[Label, Meta(description="What is used, such as `api` or `llm`.")]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    request_count: Annotated[
        int, Meta(ge=0, le=MAX_LIMIT, description="Requests, or tokens; 0 only looks.")
    ] = 1
    resource_key: ResourceKey | None = None
    priority: Annotated[
        Priority | None,
        Meta(description="At most what the credential may claim, which is the default."),
    ] = None
    project_id: Id | None = None
    user_id: Id | None = None
    feature_id: Id | None = None
    api_key_id: Annotated[
        Id | None, Meta(description="For policies of scope api_key; default the calling API key.")
    ] = None


class RateLimitBatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Up to 500 checks, decided in order, each for itself."""

    checks: Annotated[list[RateLimitCheckRequest], Meta(min_length=1)]


class PolicyLine(Struct, frozen=True):
    """One policy that applies, after the decision."""

    policy_id: str
    decision: Annotated[str, Meta(description="allow, deny, or shadow_deny.")]
    shadow: Annotated[bool, Meta(description="It decides and counts, but never denies.")]
    algorithm: Algorithm
    limit_value: Annotated[int, Meta(description="The effective limit per window.")]
    time_window_seconds: int
    ceiling: Annotated[
        int, Meta(description="The most that may be in use, for this request's priority.")
    ]
    remaining_requests: int
    retry_after: Annotated[
        int | None, Meta(description="Seconds until it would admit this request; null: never.")
    ]
    reset_time: datetime


class RateLimitCheckAnswer(Struct, frozen=True):
    """The decision. Null where no policy applies."""

    allowed: bool
    remaining_requests: Annotated[
        int | None, Meta(description="What could be taken now: the least over all policies.")
    ]
    limit_value: Annotated[
        int | None, Meta(description="The effective limit of the deciding policy.")
    ]
    policy_id: Annotated[str | None, Meta(description="The deciding policy.")]
    retry_after: Annotated[
        int | None,
        Meta(
            description="Seconds, rounded up, until this same request would be admitted if nobody "
            "else came; 0 when allowed, null: never."
        ),
    ]
    retry_after_ms: int | None
    reset_time: Annotated[
        datetime | None, Meta(description="When the deciding counter would be unused again.")
    ]
    delay_ms: Annotated[
        int, Meta(description="Leaky bucket: wait so long before going on, to send at its rate.")
    ]
    message: str
    policies: list[PolicyLine]
    degraded: bool
    receipt_id: str | None = None
    correlation_id: str | None = None


class RateLimitBatchAnswer(Struct, frozen=True, kw_only=True):
    allowed: Annotated[bool, Meta(description="Whether every check is allowed.")]
    results: list[RateLimitCheckAnswer]
    correlation_id: str | None = None


class AdjustRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Corrects a charge after the fact, such as estimated tokens to actual ones."""

    resource_type: Annotated[Label, Meta(description="As in the check.")]
    request_count: Annotated[
        int,
        Meta(
            ge=-MAX_LIMIT,
            le=MAX_LIMIT,
            description="Requests to add; negative to give back. Use never falls below zero.",
        ),
    ]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    resource_key: ResourceKey | None = None
    project_id: Id | None = None
    user_id: Id | None = None
    feature_id: Id | None = None
    api_key_id: Id | None = None


class EmergencySpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for capacity beyond a policy's limit, for a while."""

    additional_capacity: Annotated[
        int, Meta(ge=1, le=MAX_LIMIT, description="Added to the limit per window.")
    ]
    duration_minutes: Annotated[
        int,
        Meta(
            ge=1,
            le=60 * MAX_EMERGENCY_HOURS,
            description=f"At most {MAX_EMERGENCY_HOURS} h; beyond {UNAPPROVED_HOURS} h a second "
            "person approves.",
        ),
    ]
    reason: Annotated[str, Meta(min_length=1, max_length=500, pattern=NO_NUL)]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None


class ResetRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Makes counters of a policy unused: one of them, or all."""

    scope_id: Annotated[
        Id | None, Meta(description="The counter's scope; needed for one counter of a `*` policy.")
    ] = None
    resource_key: ResourceKey | None = None
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None


class UsageWindow(Struct, frozen=True, kw_only=True):
    """What passed one policy for one scope in a stretch of time."""

    scope_id: str
    window_start: datetime
    window_end: datetime
    checks: Annotated[
        int,
        Meta(
            description="Checks decided. Descriptors of one request of Envoy that share a counter "
            "are one, for the most that is asked for."
        ),
    ]
    admitted: Annotated[int, Meta(description="Requests admitted: the sum of request_count.")]
    denied: Annotated[
        int, Meta(description="Requests that this policy denied, but for those that never pass.")
    ]
    shadow_denied: Annotated[int, Meta(description="Requests it would have denied, likewise.")]


class CounterView(Struct, frozen=True, kw_only=True):
    """A counter at this moment."""

    scope_id: str
    resource_key: str | None
    limit_value: int
    remaining_requests: int
    reset_time: datetime


class PolicyUsage(Struct, frozen=True, kw_only=True):
    """How far a policy is used: the counter asked for, and windows past, newest first."""

    policy_id: str
    counter: Annotated[
        CounterView | None, Meta(description="Null for a `*` policy when no scope_id is given.")
    ]
    windows: list[UsageWindow]
    degraded: bool = False
    pagination: Pagination | None = None
    correlation_id: str | None = None


class PolicyView(Policy, frozen=True, kw_only=True):
    """A policy as answered over the API."""

    effective_limit: Annotated[int, Meta(description="The limit at this moment.")]
    emergencies: Annotated[list[Emergency], Meta(description="Those that may still hold.")]
    correlation_id: str | None = None


class EmergencyView(Emergency, frozen=True, kw_only=True):
    """Emergency capacity as answered over the API."""

    receipt_id: str | None = None
    correlation_id: str | None = None


class PolicyPage(Struct, frozen=True, kw_only=True):
    """A page of policies, newest first."""

    policies: list[PolicyView]
    pagination: Pagination
    correlation_id: str
