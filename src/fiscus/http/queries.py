"""Query parameters as checked structs: unknown, repeated and wrong ones are named in a 400."""

from __future__ import annotations

import json
from datetime import datetime
from enum import Enum, auto
from functools import cache
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from fiscus.budgets.model import EnforcementAction, ReservationStatus
from fiscus.budgets.port import BudgetFilter, ReservationFilter
from fiscus.costs.model import ChargeCategory
from fiscus.costs.port import CostFilter
from fiscus.costs.report_time import within_reach
from fiscus.errors import ValidationError
from fiscus.paging import MAX_PAGE, MAX_PAGE_SIZE, PageRequest, page_request
from fiscus.periods import PeriodType
from fiscus.quotas.model import RequestStatus
from fiscus.quotas.port import QuotaFilter, QuotaRequestFilter
from fiscus.ratelimits.calls import ResourceKey
from fiscus.ratelimits.model import PolicyScope
from fiscus.ratelimits.policy_port import PolicyFilter
from fiscus.ratelimits.rules import Algorithm
from fiscus.scopes import ScopeType
from fiscus.wire import (
    NO_NUL,
    Currency,
    Id,
    Label,
    Name,
    TagKey,
    TagValue,
    decode,
    explain,
    worked_out,
)

T = TypeVar("T", bound=Struct)

MAX_PARAMETERS: Final = 100

_Page = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
_PageSize = Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE)]
_PageToken = Annotated[str, Meta(max_length=2048)]
_ScopeId = Annotated[str, Meta(max_length=128, pattern=NO_NUL)]


class NoQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint without query parameters."""


class TenantQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tenant_id: Annotated[
        Id | None, Meta(description="Default: the credential's tenant; others are refused.")
    ] = None


class PageQuery(TenantQuery, frozen=True, kw_only=True):
    page: Annotated[_Page | None, Meta(description="Number of the page, from 1.")] = None
    page_size: Annotated[_PageSize | None, Meta(description="Items per page; default 100.")] = None
    page_token: Annotated[
        _PageToken | None,
        Meta(description="`next_page_token` or `prev_page_token` of a page."),
    ] = None

    def wanted_page(self) -> PageRequest:
        return page_request(self.page, self.page_size, self.page_token)


class BudgetQuery(PageQuery, frozen=True, kw_only=True):
    allocated_to_type: Annotated[
        ScopeType | None, Meta(description="Only budgets of this type of scope.")
    ] = None
    allocated_to_id: Annotated[
        _ScopeId | None, Meta(description="Only budgets of this scope; `*`: templates.")
    ] = None
    period_type: Annotated[
        PeriodType | None, Meta(description="Only budgets of this type of period.")
    ] = None
    enforcement_action: Annotated[
        EnforcementAction | None, Meta(description="Only budgets with this action.")
    ] = None
    currency: Annotated[Currency | None, Meta(description="Only budgets in this currency.")] = None
    name_contains: Annotated[
        Name | None, Meta(description="Only budgets whose name contains this.")
    ] = None

    def wanted(self) -> BudgetFilter:
        return BudgetFilter(
            allocated_to_type=self.allocated_to_type,
            allocated_to_id=self.allocated_to_id,
            period_type=self.period_type,
            enforcement_action=self.enforcement_action,
            currency=self.currency,
            name_contains=self.name_contains,
        )


class DeleteBudgetQuery(TenantQuery, frozen=True, kw_only=True):
    force: Annotated[
        bool, Meta(description="Also with open reservations or use in the current period.")
    ] = False


class UtilizationQuery(PageQuery, frozen=True, kw_only=True):
    scope_id: Annotated[
        Id | None, Meta(description="Of a budget for `*`: only the use of this scope.")
    ] = None


class ReservationQuery(PageQuery, frozen=True, kw_only=True):
    status: Annotated[
        ReservationStatus | None, Meta(description="Only reservations in this status.")
    ] = None
    budget_id: Annotated[Id | None, Meta(description="Only those that hold of this budget.")] = None
    project_id: Annotated[Id | None, Meta(description="Only of this project.")] = None
    user_id: Annotated[Id | None, Meta(description="Only of this user.")] = None
    feature_id: Annotated[Id | None, Meta(description="Only of this feature.")] = None
    operation_id: Annotated[Id | None, Meta(description="Only of this operation.")] = None

    def wanted(self) -> ReservationFilter:
        return ReservationFilter(
            status=self.status,
            budget_id=self.budget_id,
            project_id=self.project_id,
            user_id=self.user_id,
            feature_id=self.feature_id,
            operation_id=self.operation_id,
        )


class CostQuery(PageQuery, frozen=True, kw_only=True):
    start: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only costs from this time on (RFC 3339)."),
    ] = None
    end: Annotated[
        Annotated[datetime, Meta(tz=True)] | None, Meta(description="Only costs before this time.")
    ] = None
    resource_type: Annotated[Label | None, Meta(description="Only of this resource type.")] = None
    service_name: Annotated[Label | None, Meta(description="Only of this service.")] = None
    region: Annotated[Label | None, Meta(description="Only of this region.")] = None
    project_id: Annotated[Id | None, Meta(description="Only of this project.")] = None
    user_id: Annotated[Id | None, Meta(description="Only of this user.")] = None
    feature_id: Annotated[Id | None, Meta(description="Only of this feature.")] = None
    charge_category: Annotated[
        ChargeCategory | None, Meta(description="Only of this charge category.")
    ] = None
    currency: Annotated[Currency | None, Meta(description="Only in this currency.")] = None
    operation_id: Annotated[Id | None, Meta(description="Only of this operation.")] = None
    reservation_id: Annotated[Id | None, Meta(description="Only of this reservation.")] = None
    tags: Annotated[
        dict[TagKey, TagValue],
        Meta(max_length=10, description="Only costs with all of these tags, at most 10."),
    ] = {}

    def wanted(self) -> CostFilter:
        """Raises `ValidationError` when the range is empty or out of range."""
        start = None if self.start is None else within_reach(self.start, "start")
        end = None if self.end is None else within_reach(self.end, "end")
        if start is not None and end is not None and start >= end:
            raise ValidationError(
                "start is not before end", field="start", suggested_action="Send an earlier start."
            )
        return CostFilter(
            start=start,
            end=end,
            resource_type=self.resource_type,
            service_name=self.service_name,
            region=self.region,
            project_id=self.project_id,
            user_id=self.user_id,
            feature_id=self.feature_id,
            charge_category=self.charge_category,
            currency=self.currency,
            operation_id=self.operation_id,
            reservation_id=self.reservation_id,
            tags=tuple(self.tags.items()),
        )


class PolicyListQuery(PageQuery, frozen=True, kw_only=True):
    scope_type: Annotated[
        PolicyScope | None, Meta(description="Only policies for this type of scope.")
    ] = None
    scope_id: Annotated[
        _ScopeId | None, Meta(description="Only policies for this scope; `*`: those for every id.")
    ] = None
    resource_type: Annotated[
        Label | None,
        Meta(description="Only policies with exactly this resource type, with its `*` if any."),
    ] = None
    algorithm: Annotated[Algorithm | None, Meta(description="Only policies of this algorithm.")] = (
        None
    )
    shadow: Annotated[
        bool | None, Meta(description="Only policies that shadow, or only those that do not.")
    ] = None

    def wanted(self) -> PolicyFilter:
        return PolicyFilter(
            scope_type=self.scope_type,
            scope_id=self.scope_id,
            resource_type=self.resource_type,
            algorithm=self.algorithm,
            shadow=self.shadow,
        )


class DeletePolicyQuery(TenantQuery, frozen=True, kw_only=True):
    force: Annotated[bool, Meta(description="Also while the policy is in use.")] = False


class PolicyUsageQuery(PageQuery, frozen=True, kw_only=True):
    scope_id: Annotated[
        Id | None,
        Meta(description="Only the use of this scope; of a `*` policy, the counter to look at."),
    ] = None
    resource_key: Annotated[
        ResourceKey | None,
        Meta(description="Key of the counter to look at; default the one without a key."),
    ] = None


class QuotaListQuery(PageQuery, frozen=True, kw_only=True):
    scope_type: Annotated[
        ScopeType | None, Meta(description="Only quotas for this type of scope.")
    ] = None
    scope_id: Annotated[
        _ScopeId | None, Meta(description="Only quotas for this scope; `*`: those for every id.")
    ] = None
    resource_type: Annotated[Label | None, Meta(description="Only of this resource type.")] = None
    active_only: Annotated[
        bool, Meta(description="Only quotas whose period has begun and is not over.")
    ] = False

    def wanted(self, now: datetime) -> QuotaFilter:
        return QuotaFilter(
            scope_type=self.scope_type,
            scope_id=self.scope_id,
            resource_type=self.resource_type,
            active_at=now if self.active_only else None,
        )


class ReplaceQuotaQuery(NoQuery, frozen=True, kw_only=True):
    force: Annotated[bool, Meta(description="Also to less than what is used already.")] = False


class DeleteQuotaQuery(TenantQuery, frozen=True, kw_only=True):
    force: Annotated[
        bool, Meta(description="Also while the period runs and something of it is used.")
    ] = False


class QuotaHistoryQuery(PageQuery, frozen=True, kw_only=True):
    scope_id: Annotated[
        Id | None, Meta(description="Of a quota for `*`: only the use of this scope.")
    ] = None
    since: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only from this time on (RFC 3339)."),
    ] = None
    until: Annotated[
        Annotated[datetime, Meta(tz=True)] | None, Meta(description="Only before this time.")
    ] = None

    def check(self) -> None:
        """Raises `ValidationError` when the range is empty."""
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValidationError(
                "since is not before until",
                field="since",
                suggested_action="Send an earlier since.",
            )


class QuotaRequestQuery(PageQuery, frozen=True, kw_only=True):
    status: Annotated[RequestStatus | None, Meta(description="Only requests in this status.")] = (
        None
    )
    quota_id: Annotated[Id | None, Meta(description="Only those for this quota.")] = None

    def wanted(self) -> QuotaRequestFilter:
        return QuotaRequestFilter(status=self.status, quota_id=self.quota_id)


def read_query(raw: bytes, kind: type[T]) -> T:
    """The query string as a checked `kind`; raises `ValidationError` that names the parameter."""
    if not raw:
        return _empty(kind)
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise ValidationError(
            f"The query string cannot be read, or has more than {MAX_PARAMETERS} parameters",
            field="query",
            suggested_action="Send name=value pairs, percent-encoded UTF-8, joined by &.",
        ) from None
    known = shapes_of(kind)
    values: dict[str, Any] = {}
    for name, value in pairs:
        match known.get(name):
            case None:
                raise ValidationError(
                    f"{name[:64]} is not a query parameter of this endpoint",
                    field=name[:64],
                    suggested_action="Known here: " + (", ".join(sorted(known)) or "none") + ".",
                )
            case Shape.LIST:
                values.setdefault(name, []).extend(value.split(","))
            case Shape.PAIRS:
                pairs_sent: dict[str, str] = values.setdefault(name, {})
                for key, text in _pairs(name, value):
                    if pairs_sent.setdefault(key, text) != text:
                        raise _sent_differently(name, key)
            case Shape.ONE:
                if name in values:
                    raise ValidationError(
                        f"{name} was sent twice", field=name, suggested_action=f"Send {name} once."
                    )
                values[name] = value
    try:
        return msgspec.convert(values, worked_out(kind), strict=False)
    except msgspec.ValidationError as error:
        raise explain(error) from None


class Shape(Enum):
    """How a parameter is sent: once; a list with commas or repeated; a mapping as `_pairs` says."""

    ONE = auto()
    LIST = auto()
    PAIRS = auto()


@cache
def shapes_of(kind: type[Struct]) -> dict[str, Shape]:
    """Each parameter's name, and how it is sent."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    shapes: dict[str, Shape] = {}
    for one in info.fields:
        kind_of_field = one.type
        if isinstance(kind_of_field, msgspec.inspect.Metadata):
            kind_of_field = kind_of_field.type
        match kind_of_field:
            case msgspec.inspect.ListType():
                shapes[one.name] = Shape.LIST
            case msgspec.inspect.DictType():
                shapes[one.name] = Shape.PAIRS
            case _:
                shapes[one.name] = Shape.ONE
    return shapes


@cache
def _empty(kind: type[T]) -> T:
    return kind()


def _pairs(name: str, value: str) -> list[tuple[str, str]]:
    """A mapping's keys and values: one as `key:value`, or any as a JSON object.

    The key of a pair ends at its first colon, and values may hold more; so a key that holds one, or
    begins with a brace, needs JSON.
    """
    if value.startswith("{"):
        return _pairs_in_json(name, value)
    key, colon, text = value.partition(":")
    if not colon or not key:
        raise ValidationError(
            f"{name} is not of the form key:value",
            field=name,
            suggested_action=f"Send, for instance, {name}=team:search, once per tag.",
        )
    return [(key, text)]


def _pairs_in_json(name: str, value: str) -> list[tuple[str, str]]:
    try:
        decode(value, dict[str, str])
    except ValidationError:
        raise ValidationError(
            f"{name} begins as JSON and is not an object of texts",
            field=name,
            suggested_action=f'Send, for instance, {name}={{"aws:createdBy":"ann"}}, URL-encoded.',
        ) from None
    # Read again, now that it is known to be sound: of a key that comes twice, both values.
    pairs: list[tuple[str, str]] = json.loads(value, object_pairs_hook=list)
    return pairs


def _sent_differently(name: str, key: str) -> ValidationError:
    return ValidationError(
        f"{name} has the key {key[:128]} twice, with different values",
        field=name,
        suggested_action="Send each key once: nothing has two values of it.",
    )
