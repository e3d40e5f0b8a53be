"""The endpoints that decide and record: a table, from which the fast lane and OpenAPI are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from fiscus.access.model import Action, Principal
from fiscus.budgets.calls import (
    CheckAnswer,
    CheckBatchAnswer,
    CheckBatchRequest,
    CheckRequest,
    ExtendRequest,
    ReleaseRequest,
    ReservationView,
    SettleAnswer,
    SettleRequest,
)
from fiscus.costs.calls import (
    RecordAnswer,
    RecordBatchAnswer,
    RecordBatchRequest,
    RecordRequest,
)
from fiscus.http.api_limits import ApiLimit
from fiscus.ledger.commands import Command
from fiscus.ledger.requests.budgets import (
    check_batch_command,
    check_command,
    extend_command,
    release_command,
    settle_command,
)
from fiscus.ledger.requests.common import tenant_of_checks
from fiscus.ledger.requests.costs import record_batch_command, record_command
from fiscus.ledger.requests.quotas import (
    quota_check_batch_command,
    quota_check_command,
    release_consumption_command,
)
from fiscus.quotas.calls import (
    ConsumptionView,
    QuotaCheckAnswer,
    QuotaCheckBatchAnswer,
    QuotaCheckBatchRequest,
    QuotaCheckRequest,
    ReleaseConsumptionRequest,
)
from fiscus.ratelimits.calls import (
    RateLimitBatchAnswer,
    RateLimitBatchRequest,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
)
from fiscus.wire.items import tenant_of_items
from fiscus.wire.paths import BASE_PATH


class DecisionCall(Struct, frozen=True):
    """What a row of the table turns into a command."""

    body: Any
    principal: Principal
    tenant_id: str
    """The tenant it is for."""
    path_id: str
    """The id in the path, a UUID; empty where there is none."""
    now: datetime
    idempotency_key: str | None


def _tenant_named(principal: Principal, body: Any) -> str:
    return principal.tenant_for(body.tenant_id)


def _tenant_of_checks(principal: Principal, body: Any) -> str:
    return tenant_of_checks(body.checks, principal.tenant_for)


def _tenant_of_records(principal: Principal, body: Any) -> str:
    named = body.tenant_id or tenant_of_items(body.records, principal.tenant_id)
    return principal.tenant_for(named)


def _tenant_of_each(principal: Principal, body: Any) -> str:
    """The one that all checks name; of several, which only a platform_admin may name, its own."""
    if not principal.is_platform_admin:
        return principal.tenant_id
    named = {principal.tenant_for(check.tenant_id) for check in body.checks}
    return named.pop() if len(named) == 1 else principal.tenant_id


@dataclass(frozen=True, slots=True)
class DecisionEndpoint:
    """One endpoint: where it is, what it takes and answers, who may call it, how it is built."""

    operation: str
    path: str
    tag: str
    """The part of the OpenAPI document it stands in."""
    summary: str
    request: type[Struct]
    answer: type[Struct]
    command: Callable[[DecisionCall], Command] | None
    """What the ledger is to do; None: the limiter decides."""
    example: dict[str, Any]
    status: int = 200
    may_be_empty: bool = False
    """Whether the body may be left out, as every field has a default."""
    may_enforce: bool = False
    limited_as: ApiLimit | None = None
    """Which of the API's own limits holds for it, besides the general ones."""
    action: Action = Action.OPERATE
    errors: tuple[str, ...] = ()
    """Codes it may answer besides those of every decision, with those of a denial it enforces."""
    tenant_of: Callable[[Principal, Any], str] = _tenant_named
    """The tenant that a body is for. Raises `Forbidden` when the principal may not name it."""

    @property
    def id_name(self) -> str:
        """What the id in the path is called; empty where there is none."""
        return self.path.partition("{")[2].partition("}")[0]

    def around_id(self, base_path: str) -> tuple[str, str]:
        """What stands before and after the id in the path, without the slashes."""
        before, _, rest = self.path.partition("/{")
        return base_path + before, rest.partition("}/")[2]

    @property
    def is_idempotent(self) -> bool:
        """Whether it takes an idempotency key."""
        return self.command is not None


def _check(call: DecisionCall) -> Command:
    return check_command(call.body, call.tenant_id, call.now, call.idempotency_key)


def _check_batch(call: DecisionCall) -> Command:
    return check_batch_command(call.body, call.tenant_id, call.now, call.idempotency_key)


def _record(call: DecisionCall) -> Command:
    return record_command(call.body, call.tenant_id, call.now, call.idempotency_key)


def _record_batch(call: DecisionCall) -> Command:
    return record_batch_command(call.body, call.tenant_id, call.now, call.idempotency_key)


def _settle(call: DecisionCall) -> Command:
    return settle_command(call.path_id, call.body, call.tenant_id, call.now, call.idempotency_key)


def _release(call: DecisionCall) -> Command:
    return release_command(call.path_id, call.tenant_id, call.now, call.idempotency_key)


def _extend(call: DecisionCall) -> Command:
    return extend_command(
        call.path_id, call.body.ttl_seconds, call.tenant_id, call.now, call.idempotency_key
    )


def _quota_check(call: DecisionCall) -> Command:
    return quota_check_command(call.body, call.tenant_id, call.now, call.idempotency_key)


def _quota_check_batch(call: DecisionCall) -> Command:
    return quota_check_batch_command(call.body, call.tenant_id, call.now, call.idempotency_key)


def _release_consumption(call: DecisionCall) -> Command:
    return release_consumption_command(
        call.path_id, call.body, call.tenant_id, call.now, call.idempotency_key
    )


_CHECK_EXAMPLE: Final[dict[str, Any]] = {
    "resource_type": "llm",
    "estimated_cost": 0.02,
    "project_id": "search",
    "user_id": "u-17",
}
_RECORD_EXAMPLE: Final[dict[str, Any]] = {
    "resource_type": "llm",
    "cost_amount": 0.0187,
    "project_id": "search",
    "usage": {"input_tokens": 812, "output_tokens": 164},
}
_LIMIT_EXAMPLE: Final[dict[str, Any]] = {
    "resource_type": "api",
    "user_id": "u-17",
    "resource_key": "203.0.113.7",
}
_QUOTA_EXAMPLE: Final[dict[str, Any]] = {
    "resource_type": "gpu_hours",
    "required_amount": 2.5,
    "project_id": "vision",
    "user_id": "u-17",
}

DECISION_ENDPOINTS: Final = (
    DecisionEndpoint(
        "check",
        "/budgets/check",
        "Decisions",
        "May this operation be afforded? Reserves its estimate",
        CheckRequest,
        CheckAnswer,
        _check,
        _CHECK_EXAMPLE,
        may_enforce=True,
        limited_as=ApiLimit.BUDGET_CHECKS,
        errors=("CONFLICT", "COST_CALCULATION_ERROR", "BUDGET_EXCEEDED"),
    ),
    DecisionEndpoint(
        "check_batch",
        "/budgets/check/batch",
        "Decisions",
        "Up to 500 checks in one transaction",
        CheckBatchRequest,
        CheckBatchAnswer,
        _check_batch,
        {"checks": [_CHECK_EXAMPLE, {**_CHECK_EXAMPLE, "user_id": "u-18"}]},
        may_enforce=True,
        limited_as=ApiLimit.BUDGET_CHECKS,
        errors=("CONFLICT", "COST_CALCULATION_ERROR", "BUDGET_EXCEEDED"),
        tenant_of=_tenant_of_checks,
    ),
    DecisionEndpoint(
        "settle",
        "/budgets/reservations/{reservation_id}/settle",
        "Decisions",
        "Record what a reserved operation did cost",
        SettleRequest,
        SettleAnswer,
        _settle,
        {"actual_cost": 0.0187, "usage": {"input_tokens": 812, "output_tokens": 164}},
        errors=("NOT_FOUND", "CONFLICT", "COST_CALCULATION_ERROR"),
    ),
    DecisionEndpoint(
        "release",
        "/budgets/reservations/{reservation_id}/release",
        "Decisions",
        "Give a reservation's money back",
        ReleaseRequest,
        ReservationView,
        _release,
        {},
        may_be_empty=True,
        errors=("NOT_FOUND", "CONFLICT"),
    ),
    DecisionEndpoint(
        "extend",
        "/budgets/reservations/{reservation_id}/extend",
        "Decisions",
        "Hold a reservation's money for longer",
        ExtendRequest,
        ReservationView,
        _extend,
        {"ttl_seconds": 600},
        errors=("NOT_FOUND", "CONFLICT"),
    ),
    DecisionEndpoint(
        "record",
        "/cost-tracking/record",
        "Costs",
        "Record a cost",
        RecordRequest,
        RecordAnswer,
        _record,
        _RECORD_EXAMPLE,
        status=202,
        limited_as=ApiLimit.COST_RECORDS,
        errors=("NOT_FOUND", "CONFLICT", "COST_CALCULATION_ERROR"),
    ),
    DecisionEndpoint(
        "record_batch",
        "/cost-tracking/record/batch",
        "Costs",
        "Record up to 1000 costs; each stands or falls alone",
        RecordBatchRequest,
        RecordBatchAnswer,
        _record_batch,
        {"records": [_RECORD_EXAMPLE, {**_RECORD_EXAMPLE, "cost_amount": 0.0042}]},
        status=202,
        limited_as=ApiLimit.COST_RECORDS,
        tenant_of=_tenant_of_records,
    ),
    DecisionEndpoint(
        "rate_limit_check",
        "/rate-limits/check",
        "Rate limits",
        "May so many requests be made now? Taken from every policy that applies, or from none",
        RateLimitCheckRequest,
        RateLimitCheckAnswer,
        None,
        _LIMIT_EXAMPLE,
        may_enforce=True,
        limited_as=ApiLimit.RATE_LIMIT_CHECKS,
    ),
    DecisionEndpoint(
        "rate_limit_check_batch",
        "/rate-limits/check/batch",
        "Rate limits",
        "Up to 500 checks of rate limits, each for itself",
        RateLimitBatchRequest,
        RateLimitBatchAnswer,
        None,
        {"checks": [_LIMIT_EXAMPLE, {**_LIMIT_EXAMPLE, "request_count": 3}]},
        may_enforce=True,
        limited_as=ApiLimit.RATE_LIMIT_CHECKS,
        tenant_of=_tenant_of_each,
    ),
    DecisionEndpoint(
        "quota_check",
        "/quotas/check",
        "Quotas",
        "May so much be used? Takes it from every quota that matches, or from none",
        QuotaCheckRequest,
        QuotaCheckAnswer,
        _quota_check,
        _QUOTA_EXAMPLE,
        may_enforce=True,
        limited_as=ApiLimit.QUOTA_CHECKS,
        errors=("CONFLICT", "QUOTA_EXHAUSTED"),
    ),
    DecisionEndpoint(
        "quota_check_batch",
        "/quotas/check/batch",
        "Quotas",
        "Up to 500 checks of quotas in one transaction, each for itself",
        QuotaCheckBatchRequest,
        QuotaCheckBatchAnswer,
        _quota_check_batch,
        {"checks": [_QUOTA_EXAMPLE, {**_QUOTA_EXAMPLE, "required_amount": 4, "consume": False}]},
        may_enforce=True,
        limited_as=ApiLimit.QUOTA_CHECKS,
        errors=("CONFLICT", "QUOTA_EXHAUSTED"),
        tenant_of=_tenant_of_checks,
    ),
    DecisionEndpoint(
        "release_consumption",
        "/quotas/consumptions/{consumption_id}/release",
        "Quotas",
        "Give back what a consumption took, all or a part, to the periods it came from",
        ReleaseConsumptionRequest,
        ConsumptionView,
        _release_consumption,
        {"amount": 0.5},
        may_be_empty=True,
        errors=("NOT_FOUND", "CONFLICT"),
    ),
)

_EXACT: Final = {BASE_PATH + one.path: one for one in DECISION_ENDPOINTS if "{" not in one.path}
_WITH_ID: Final = {one.around_id(BASE_PATH): one for one in DECISION_ENDPOINTS if one.id_name}


EndpointMatch = tuple[DecisionEndpoint, str | None]
"""The endpoint that a path leads to and the id in it, unchecked; None where it has none."""


def match_endpoint(path: str) -> EndpointMatch | None:
    """The endpoint that a POST to `path` leads to; None when it is no decision."""
    found = _EXACT.get(path)
    if found is not None:
        return found, None
    before, _, verb = path.rpartition("/")
    things, _, path_id = before.rpartition("/")
    found = _WITH_ID.get((things, verb))
    return None if found is None else (found, path_id)
