"""Requests of budgets: checks, and what becomes of what they reserved."""

from __future__ import annotations

from datetime import datetime, timedelta

from fiscus.budgets.calls import CheckBatchRequest, CheckRequest, SettleRequest
from fiscus.costs.calls import arose_at
from fiscus.errors import ValidationError
from fiscus.idempotency import (
    EXTEND,
    KEEP_CHECKS,
    RELEASE,
    SETTLE,
    Idempotency,
    idempotency,
    if_keyed,
)
from fiscus.ids import uuid7
from fiscus.ledger.commands import Check, CheckBatch, Extend, Release, Settle
from fiscus.ledger.requests.common import (
    checks_of_batch,
    not_negative,
    one_key,
    operation_of,
    usage_quantity,
)


def check_command(
    request: CheckRequest, tenant_id: str, now: datetime, key: str | None = None
) -> Check:
    """A check for `tenant_id`, which is the caller's by right. `key` is the idempotency header."""
    key = one_key(key, request.idempotency_key)
    once = _keep_check(tenant_id, key, request, request.ttl_seconds, now)
    if request.approval_id is not None:
        raise ValidationError(
            "approval_id names no approval: approvals are not available in this version",
            field="approval_id",
            suggested_action="Leave approval_id out.",
        )
    return Check(  # by position: with names it takes six times as long
        operation_of(
            request,
            tenant_id,
            request.allocated_to_type,
            request.allocated_to_id,
            ("allocated_to_type", "allocated_to_id"),
        ),
        request.operation_id,
        not_negative(request.estimated_cost, "estimated_cost"),
        request.currency,
        request.reserve,
        request.ttl_seconds,
        uuid7(),
        now,
        once,
    )


def check_batch_command(
    request: CheckBatchRequest, tenant_id: str, now: datetime, key: str | None = None
) -> CheckBatch:
    """Checks of one tenant in one transaction; an invalid one, named by its place, rejects all."""
    checks = checks_of_batch(check_command, request.checks, tenant_id, now, key)
    asked = [*request.checks, request.all_or_nothing]
    longest = max(item.ttl_seconds for item in request.checks)
    return CheckBatch(
        tenant_id=tenant_id,
        checks=checks,
        all_or_nothing=request.all_or_nothing,
        now=now,
        idempotency=_keep_check(tenant_id, key, asked, longest, now),
    )


def settle_command(
    reservation_id: str,
    request: SettleRequest,
    tenant_id: str,
    now: datetime,
    key: str | None = None,
) -> Settle:
    return Settle(
        tenant_id=tenant_id,
        reservation_id=reservation_id,
        record_id=uuid7(),
        actual_cost=not_negative(request.actual_cost, "actual_cost"),
        now=now,
        currency=request.currency,
        timestamp=None if request.timestamp is None else arose_at(request.timestamp, now),
        usage_quantity=usage_quantity(request.usage_quantity),
        usage_unit=request.usage_unit,
        usage=request.usage,
        tags=request.tags,
        resource_id=request.resource_id,
        service_name=request.service_name,
        region=request.region,
        idempotency=if_keyed(tenant_id, SETTLE, key, (reservation_id, request), now),
    )


def release_command(
    reservation_id: str, tenant_id: str, now: datetime, key: str | None = None
) -> Release:
    return Release(
        tenant_id=tenant_id,
        reservation_id=reservation_id,
        now=now,
        idempotency=if_keyed(tenant_id, RELEASE, key, reservation_id, now),
    )


def extend_command(
    reservation_id: str, ttl_seconds: int, tenant_id: str, now: datetime, key: str | None = None
) -> Extend:
    return Extend(
        tenant_id=tenant_id,
        reservation_id=reservation_id,
        ttl_seconds=ttl_seconds,
        now=now,
        idempotency=if_keyed(tenant_id, EXTEND, key, (reservation_id, ttl_seconds), now),
    )


def _keep_check(
    tenant_id: str, key: str | None, body: object, ttl_seconds: int, now: datetime
) -> Idempotency | None:
    if key is None:
        return None
    keep = max(KEEP_CHECKS, timedelta(seconds=ttl_seconds))
    return idempotency(tenant_id, "check", key, body, now + keep)
