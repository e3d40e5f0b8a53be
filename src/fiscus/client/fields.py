"""The keyword arguments of the Python calls, and how they become requests.

They are named as the fields of the requests. `tenant`, `project`, `user` and `feature` are short
for `tenant_id` and so on, `estimate` for `estimated_cost`. Amounts are `Decimal`, `int` or text
such as `"0.02"`; a float is a `ValidationError`, since it cannot hold money exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, Literal, NotRequired, Required, TypedDict, TypeVar, cast

import msgspec

from fiscus.budgets.model import ApprovalSettings, Filters, Notifications, Throttle
from fiscus.errors import ValidationError
from fiscus.idempotency import require_key
from fiscus.ids import require_uuid
from fiscus.money import parse_amount
from fiscus.quotas.calls import Entity
from fiscus.ratelimits.model import Overrides
from fiscus.scopes import parse_id
from fiscus.wire.converting import as_json, convert, has_surrogates, surrogates_in

T = TypeVar("T")

AmountLike = Decimal | int | str
ChargeName = Literal["usage", "purchase", "tax", "credit", "adjustment"]
ScopeName = Literal["tenant", "project", "user", "feature"]

SHORT_NAMES: Final = {
    "tenant": "tenant_id",
    "project": "project_id",
    "user": "user_id",
    "feature": "feature_id",
    "estimate": "estimated_cost",
}


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


def full_names(given: Mapping[str, object], tenant: str | None = None) -> dict[str, object]:
    """`given` by the names of the requests, without what is None; `tenant` when it names none.

    Raises `ValidationError` when a field is given by both of its names.
    """
    named: dict[str, object] = {}
    for name, value in given.items():
        if value is None:
            continue
        full = SHORT_NAMES.get(name, name)
        if full in named:
            short = next(one for one, long in SHORT_NAMES.items() if long == full)
            raise ValidationError(
                f"{short} and {full} are one field, and both are given",
                field=full,
                suggested_action=f"Give {short} or {full}.",
            )
        named[full] = value
    if tenant is not None:
        named.setdefault("tenant_id", tenant)
    return named


def given_text(value: object, field: str) -> str:
    """An id or another text in an argument of its own; raises `ValidationError` naming it."""
    if not isinstance(value, str):
        raise _wrong_kind(field, "text", value, f"Give the {field} as a str.")
    if surrogates_in(value) is not None:
        raise has_surrogates(field)
    return str.__str__(value)  # the text of a subclass, such as a member of an enum


def given_id(value: object, what: str) -> str:
    """The id of a `what` that is looked up by it.

    Raises `ValidationError` naming it, or `NotFound` when there can be no such thing.
    """
    name = f"{what}_id"
    return require_uuid(_given_segment(value, name), name, what)


def given_tenant_id(value: object) -> str:
    """The id of a tenant that is looked up by it; raises `ValidationError` naming it."""
    return parse_id(_given_segment(value, "tenant_id"), "tenant_id")


def _given_segment(value: object, field: str) -> str:
    """As `given_text`. An empty id, or one of dots alone, is none: in the path of a URL it would
    name another resource."""
    text = given_text(value, field)
    if text in {"", ".", ".."}:
        raise ValidationError(
            f"{text!r} is not an id", field=field, suggested_action=f"Give the {field}."
        )
    return text


def tenant_named(tenant: object, default: str | None) -> str | None:
    """The tenant of a call that names one in an argument of its own, or the default."""
    return default if tenant is None else parse_id(given_text(tenant, "tenant"), "tenant")


def given_key(value: object) -> str:
    """An idempotency key; raises `ValidationError`."""
    key = given_text(value, "idempotency_key")
    require_key(key)
    return key


def given_seconds(value: object, field: str) -> float:
    """A number of seconds; raises `ValidationError` naming it."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong_kind(field, "a number", value, f"Give {field} as a number of seconds.")
    return value


def given_patience(value: object) -> float | None:
    """How long a call may take in all, or None; raises `ValidationError`."""
    if value is None:
        return None
    seconds = given_seconds(value, "patience_seconds")
    if not seconds > 0:
        raise ValidationError(
            "patience_seconds must be more than 0",
            field="patience_seconds",
            suggested_action="Give another patience_seconds, or leave it out.",
        )
    return seconds


def given_count(value: object, field: str) -> int:
    """A whole number; raises `ValidationError` naming it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_kind(field, "a whole number", value, f"Give {field} as an int.")
    return value


def given_items(value: object, field: str) -> list[Mapping[str, Any]]:
    """The items of a batch, each with the fields of one; raises `ValidationError` naming which."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _wrong_kind(field, "a list", value, "Give a list of dicts, also for a single one.")
    items = list(cast("Iterable[Any]", value))
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            todo = "Give a dict of the fields that the call for a single one takes."
            raise _wrong_kind(f"{field}[{index}]", "a dict", item, todo)
    return items


def _wrong_kind(field: str, wanted: str, given: Any, todo: str) -> ValidationError:
    found = "None" if given is None else f"of type {type(given).__name__}"
    return ValidationError(
        f"{field} is not {wanted} but {found}", field=field, suggested_action=todo
    )


def request(kind: type[T], given: Mapping[str, object], tenant: str | None = None) -> T:
    """Keyword arguments as a checked `kind`; raises `ValidationError` that names the field."""
    return convert(full_names(given, tenant), kind)


def raw_record(index: int, given: Mapping[str, object]) -> msgspec.Raw:
    """One record of a batch, checked where it is recorded: the others stand when it falls.

    Raises `ValidationError` for floats, and for what JSON has no form for.
    """
    place = f"records[{index}]"
    named = full_names(given)
    for amount in ("cost_amount", "usage_quantity"):
        value = named.get(amount)
        if isinstance(value, float):
            parse_amount(value, f"{place}.{amount}")
        if isinstance(value, Decimal) and not value.is_finite():
            named[amount] = str(value)  # which is refused where it is recorded
    return msgspec.Raw(as_json(named, place))
