"""The keyword arguments of the Python calls, as types.

They are named as the fields of the requests. `tenant`, `project`, `user` and `feature` are short
for `tenant_id` and so on, `estimate` for `estimated_cost`. Amounts are `Decimal`, `int` or text
such as `"0.02"`; a float is a `ValidationError`, since it cannot hold money exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, NotRequired, Required, TypedDict

from fiscus.budgets.model import ApprovalSettings, Filters, Notifications, Throttle
from fiscus.quotas.calls import Entity
from fiscus.ratelimits.model import Overrides

AmountLike = Decimal | int | str
ChargeName = Literal["usage", "purchase", "tax", "credit", "adjustment"]
ScopeName = Literal["tenant", "project", "user", "feature"]


class Who(TypedDict, total=False):
    """The tenant a call is for, and the ids it is attributed to."""

    tenant: str | None
    tenant_id: str | None
    project: str | None
    project_id: str | None
    user: str | None
    user_id: str | None
    feature: str | None
    feature_id: str | None


class OperationFields(Who, total=False):
    """What `reserve` and `check` take besides the estimate, for a dict of it that is typed.

    >>> operation: OperationFields = {"project": "search", "resource_type": "llm"}
    >>> with client.reserve(**operation, estimate="0.02") as r: ...
    """

    resource_type: Required[str]
    currency: str | None
    allocated_to_type: ScopeName | None
    allocated_to_id: str | None
    service_name: str | None
    tags: Mapping[str, str]
    operation_id: str | None
    ttl_seconds: int
    approval_id: str | None
    operation_context: Mapping[str, Any] | None


class ReserveFields(OperationFields, total=False):
    """What `reserve` takes: the operation and its estimate, by either of its names."""

    estimate: AmountLike
    estimated_cost: AmountLike


class CheckFields(ReserveFields, total=False):
    """What `check` takes: as `reserve`; `reserve=False` only looks."""

    reserve: bool
    idempotency_key: str | None


class SettleFields(TypedDict, total=False):
    """What is known of a cost when it is settled, besides the amount."""

    currency: str | None
    usage: Mapping[str, Any] | None
    usage_quantity: AmountLike | None
    usage_unit: str | None
    tags: Mapping[str, str]
    resource_id: str | None
    service_name: str | None
    region: str | None
    timestamp: datetime | None


class RecordFields(Who, total=False):
    """What `record` takes."""

    resource_type: Required[str]
    cost_amount: AmountLike | None
    currency: str | None
    usage_quantity: AmountLike | None
    usage_unit: str | None
    usage: Mapping[str, Any] | None
    timestamp: datetime | None
    attributed_to_type: ScopeName | None
    attributed_to_id: str | None
    resource_id: str | None
    service_name: str | None
    region: str | None
    tags: Mapping[str, str]
    charge_category: ChargeName
    reservation_id: str | None
    operation_id: str | None
    idempotency_key: str | None


PeriodName = Literal[
    "daily", "weekly", "monthly", "quarterly", "yearly", "rolling", "project", "custom"
]


class BudgetOptions(TypedDict, total=False):
    """What of a budget has a default; nested settings as mappings or as the structs."""

    budget_type: ScopeName | None
    currency: str | None
    timezone: str | None
    start_date: date | None
    end_date: date | None
    rolling_days: int
    enforcement_action: Literal["hard_stop", "soft_limit", "throttle", "escalate"]
    thresholds: Sequence[AmountLike]
    notifications: Notifications | Mapping[str, Any]
    filters: Filters | Mapping[str, Any]
    throttle: Throttle | Mapping[str, Any]
    approval: ApprovalSettings | Mapping[str, Any]
    on_store_failure: Literal["deny", "allow"]
    shadow: bool
    frozen: bool


class BudgetFields(BudgetOptions):
    """What `create_budget` takes."""

    budget_name: str
    budget_amount: AmountLike
    period_type: PeriodName
    allocated_to_type: ScopeName
    allocated_to_id: str
    tenant: NotRequired[str | None]
    tenant_id: NotRequired[str | None]


class BudgetChanges(BudgetOptions, total=False):
    """What `update_budget` takes: the fields to change; what is left out stays."""

    budget_name: str
    budget_amount: AmountLike
    period_type: PeriodName
    allocated_to_type: ScopeName
    allocated_to_id: str


class PageFields(TypedDict, total=False):
    """Whose list, and which page of it: by number, or by the token of the page before."""

    tenant: str | None
    tenant_id: str | None
    page: int | None
    page_size: int | None
    page_token: str | None


class BudgetFilterFields(PageFields, total=False):
    """Which budgets a list shows."""

    allocated_to_type: ScopeName | None
    allocated_to_id: str | None
    period_type: PeriodName | None
    enforcement_action: Literal["hard_stop", "soft_limit", "throttle", "escalate"] | None
    currency: str | None
    name_contains: str | None


class UtilizationFields(PageFields, total=False):
    """Which periods of a budget are shown; of a budget for `*`, of which scope."""

    scope_id: str | None


class CostFilterFields(PageFields, total=False):
    """Which cost records a list shows: from `start`, before `end`, with equal attributes."""

    start: datetime | None
    end: datetime | None
    resource_type: str | None
    service_name: str | None
    region: str | None
    project: str | None
    project_id: str | None
    user: str | None
    user_id: str | None
    feature: str | None
    feature_id: str | None
    charge_category: ChargeName | None
    currency: str | None
    operation_id: str | None
    reservation_id: str | None
    tags: Mapping[str, str]


class ReportFields(Who, total=False):
    """What `report` takes: which costs are added up, and how they are grouped."""

    report_type: Literal[
        "summary",
        "detailed",
        "by_resource",
        "by_service",
        "by_user",
        "by_feature",
        "by_time_period",
    ]
    start_date: datetime | None
    end_date: datetime | None
    granularity: Literal["hour", "day", "week", "month"]
    group_by: Sequence[str]
    resource_type: str | None
    service_name: str | None
    region: str | None
    charge_category: ChargeName | None
    tags: Mapping[str, str]
    currency: str | None
    timezone: str | None
    compare_previous: bool
    limit: int


class RateLimitFields(Who, total=False):
    """What `check_rate_limit` takes."""

    resource_type: Required[str]
    request_count: int
    resource_key: str | None
    priority: Literal["critical", "high", "normal", "low"] | None
    api_key_id: str | None


class AdjustFields(Who, total=False):
    """What `adjust_rate_limit` takes."""

    resource_type: Required[str]
    request_count: Required[int]
    resource_key: str | None
    api_key_id: str | None


PolicyScopeName = Literal["tenant", "project", "user", "feature", "api_key"]
AlgorithmName = Literal["token_bucket", "leaky_bucket", "fixed_window", "sliding_window_log"]


class PolicyOptions(TypedDict, total=False):
    """What of a rate limit has a default; nested settings as mappings or as the structs."""

    time_window_seconds: int | None
    algorithm: AlgorithmName
    burst_capacity: int
    calendar: Literal["hour", "day", "week", "month"] | None
    timezone: str | None
    overrides: Overrides | Mapping[str, Any]
    shadow: bool
    on_store_failure: Literal["allow", "deny", "local"]


class PolicyFields(PolicyOptions):
    """What `create_rate_limit` takes."""

    scope_type: PolicyScopeName
    scope_id: str
    resource_type: str
    limit_value: int
    tenant: NotRequired[str | None]
    tenant_id: NotRequired[str | None]


class PolicyChanges(PolicyOptions, total=False):
    """What `update_rate_limit` takes: the fields to change; what is left out stays."""

    scope_type: PolicyScopeName
    scope_id: str
    resource_type: str
    limit_value: int


class PolicyFilterFields(PageFields, total=False):
    """Which rate limits a list shows."""

    scope_type: PolicyScopeName | None
    scope_id: str | None
    resource_type: str | None
    algorithm: AlgorithmName | None
    shadow: bool | None


class QuotaFields(Who, total=False):
    """What `quota` takes: for whom, and the caller's own name of the operation."""

    operation_id: str | None


class QuotaCheckFields(QuotaFields, total=False):
    """What `check_quota` takes; `consume=False` only looks."""

    resource_type: Required[str]
    required_amount: Required[AmountLike]
    consume: bool
    idempotency_key: str | None


QuotaPeriodName = Literal["daily", "weekly", "monthly", "quarterly", "yearly", "custom"]
StrategyName = Literal["fair_share", "priority", "dynamic", "reserved"]


class QuotaTerms(TypedDict, total=False):
    """For how long quotas hold, and what happens then."""

    resource_type: Required[str]
    period_type: QuotaPeriodName
    period_start: datetime | None
    period_end: datetime | None
    timezone: str | None
    burst_premium_rate: AmountLike | None
    currency: str | None
    auto_renew: bool
    renewal_amount: Literal["same", "by_usage"]
    tenant: str | None
    tenant_id: str | None


class AllocateFields(QuotaTerms, total=False):
    """What `allocate_quota` takes."""

    scope_type: Required[ScopeName]
    scope_id: Required[str]
    allocated_amount: Required[AmountLike]
    max_burst_amount: AmountLike | None
    strategy: StrategyName | None


class QuotaChanges(TypedDict, total=False):
    """What `update_quota` takes: the fields to change; what is left out stays. What a quota is of,
    for whom and when, stays."""

    allocated_amount: AmountLike
    max_burst_amount: AmountLike | None
    burst_premium_rate: AmountLike | None
    currency: str | None
    auto_renew: bool
    renewal_amount: Literal["same", "by_usage"]
    strategy: StrategyName | None


class DistributeFields(QuotaTerms, total=False):
    """What `distribute_quota` takes; entities as mappings or as the structs."""

    total_amount: Required[AmountLike]
    strategy: Required[StrategyName]
    entities: Required[Sequence[Entity | Mapping[str, Any]]]
    then: StrategyName
    max_burst_ratio: AmountLike | None
    decimals: int
    dry_run: bool


class QuotaFilterFields(PageFields, total=False):
    """Which quotas a list shows."""

    scope_type: ScopeName | None
    scope_id: str | None
    resource_type: str | None
    active_only: bool


class QuotaHistoryFields(PageFields, total=False):
    """Which rows of a quota's history are shown; of a quota for `*`, of which scope."""

    scope_id: str | None
    since: datetime | None
    until: datetime | None


class TenantFields(TypedDict, total=False):
    """The settings of a tenant; `version` is the one being replaced."""

    currency: str
    timezone: str
    require_budget: bool
    require_quota: bool
    rollup_tags: Sequence[str]
    version: int | None
