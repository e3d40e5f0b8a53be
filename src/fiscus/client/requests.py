"""Requests that are more than their keyword arguments: batches, reports, changed definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, Final, TypeVar

from msgspec import Raw, Struct
from msgspec.structs import asdict

from fiscus.budgets.calls import BudgetView, CheckBatchRequest
from fiscus.budgets.model import BudgetSpec
from fiscus.client.arguments import full_names, given_items, request
from fiscus.client.backend import Backend
from fiscus.costs.calls import RecordBatchRequest
from fiscus.costs.report_model import ReportRequest
from fiscus.errors import ValidationError
from fiscus.money import parse_amount
from fiscus.quotas.calls import QuotaCheckBatchRequest, QuotaView
from fiscus.quotas.model import QuotaSpec
from fiscus.ratelimits.calls import PolicyView, RateLimitBatchRequest
from fiscus.ratelimits.model import PolicySpec
from fiscus.wire.converting import as_json, convert
from fiscus.wire.items import tenant_of_items

S = TypeVar("S", bound=Struct)


def check_batch_request(
    checks: Sequence[Mapping[str, Any]], *, all_or_nothing: bool, tenant: str | None
) -> CheckBatchRequest:
    return convert(
        {
            "checks": _checks(checks, tenant),
            "all_or_nothing": all_or_nothing,
        },
        CheckBatchRequest,
    )


def rate_limit_batch(
    checks: Sequence[Mapping[str, Any]], tenant: str | None
) -> RateLimitBatchRequest:
    return convert({"checks": _checks(checks, tenant)}, RateLimitBatchRequest)


def quota_batch(checks: Sequence[Mapping[str, Any]], tenant: str | None) -> QuotaCheckBatchRequest:
    return convert({"checks": _checks(checks, tenant)}, QuotaCheckBatchRequest)


def _checks(given: Sequence[Mapping[str, Any]], tenant: str | None) -> list[dict[str, object]]:
    return [full_names(one, tenant) for one in given_items(given, "checks")]


def record_batch_request(
    records: Sequence[Mapping[str, Any]], *, tenant: str | None
) -> RecordBatchRequest:
    """Records that are checked one by one where they are recorded."""
    items = given_items(records, "records")
    if not items:
        raise ValidationError(
            "records is empty", field="records", suggested_action="Give at least one record."
        )
    raw = [_raw_record(index, one) for index, one in enumerate(items)]
    return RecordBatchRequest(
        records=raw, tenant_id=None if tenant is None else tenant_of_items(raw, tenant)
    )


def _raw_record(index: int, given: Mapping[str, object]) -> Raw:
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
    return Raw(as_json(named, place))


def report_request(fields: Mapping[str, Any], tenant: str | None) -> ReportRequest:
    if "format" in fields:
        raise ValidationError(
            "format is not a field of this call",
            field="format",
            suggested_action="Leave it out: the answer is a Report. CSV comes from the HTTP API.",
        )
    return request(ReportRequest, fields, tenant)


async def change_budget(
    backend: Backend,
    budget_id: str,
    changes: Mapping[str, Any],
    *,
    version: int | None,
    tenant: str | None,
) -> BudgetView:
    """Replace a budget's definition by the present one with `changes`.

    Raises `Conflict` when it was changed meanwhile, or is at another version than given.
    """
    current = await backend.get_budget(tenant, budget_id)
    # budget_type follows allocated_to_type, so that changing the one is enough
    spec = _changed(current, changes, version, BudgetSpec, apart={"budget_type"})
    return await backend.replace_budget(budget_id, spec)


async def change_rate_limit(
    backend: Backend,
    policy_id: str,
    changes: Mapping[str, Any],
    *,
    version: int | None,
    tenant: str | None,
) -> PolicyView:
    """As `change_budget`, of a rate limit."""
    current = await backend.get_rate_limit(tenant, policy_id)
    # a window is given in one of two ways, so giving one takes the other's place
    apart = _WINDOW if changes.keys() & _WINDOW else frozenset[str]()
    spec = _changed(current, changes, version, PolicySpec, apart=apart)
    return await backend.replace_rate_limit(policy_id, spec)


async def change_quota(
    backend: Backend,
    quota_id: str,
    changes: Mapping[str, Any],
    *,
    version: int | None,
    force: bool,
    tenant: str | None,
) -> QuotaView:
    """As `change_budget`, of a quota; also to less than what is used of it with `force`."""
    current = await backend.get_quota(tenant, quota_id)
    spec = _changed(current, changes, version, QuotaSpec)
    return await backend.replace_quota(quota_id, spec, force=force)


_WINDOW: Final = frozenset({"calendar", "time_window_seconds"})


def _changed(
    current: BudgetView | PolicyView | QuotaView,
    changes: Mapping[str, Any],
    version: int | None,
    kind: type[S],
    apart: Set[str] = frozenset(),
) -> S:
    """The definition of `current` with `changes`; what is `apart` is only what they say."""
    names = set(kind.__struct_fields__) - {"version", *apart}
    kept = {name: value for name, value in asdict(current).items() if name in names}
    values = {**kept, **changes, "version": current.version if version is None else version}
    return convert(values, kind)
