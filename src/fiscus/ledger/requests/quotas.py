"""Requests to check and consume quotas."""

from __future__ import annotations

from datetime import datetime

from fiscus.idempotency import QUOTA_CHECK, QUOTA_RELEASE, if_keyed
from fiscus.ids import uuid7
from fiscus.ledger.commands import Consume, ConsumeBatch, ReleaseConsumption
from fiscus.ledger.requests.common import (
    checks_of_batch,
    not_negative,
    one_key,
    require_sound,
)
from fiscus.operations import Operation
from fiscus.quotas.calls import (
    QuotaCheckBatchRequest,
    QuotaCheckRequest,
    ReleaseConsumptionRequest,
)


def quota_check_command(
    request: QuotaCheckRequest, tenant_id: str, now: datetime, key: str | None = None
) -> Consume:
    """A quota check for `tenant_id`, which is the caller's by right. `key` is the header's."""
    key = one_key(key, request.idempotency_key)
    once = if_keyed(tenant_id, QUOTA_CHECK, key, request, now)
    require_sound(request)
    return Consume(  # by position: with names it takes six times as long
        Operation(
            tenant_id,
            request.resource_type,
            request.project_id,
            request.user_id,
            request.feature_id,
        ),
        request.operation_id,
        not_negative(request.required_amount, "required_amount"),
        request.consume,
        uuid7(),
        now,
        once,
    )


def quota_check_batch_command(
    request: QuotaCheckBatchRequest, tenant_id: str, now: datetime, key: str | None = None
) -> ConsumeBatch:
    """Quota checks of one tenant in one transaction; an invalid one, named, rejects all."""
    checks = checks_of_batch(quota_check_command, request.checks, tenant_id, now, key)
    return ConsumeBatch(
        tenant_id=tenant_id,
        checks=checks,
        now=now,
        idempotency=if_keyed(tenant_id, QUOTA_CHECK, key, request.checks, now),
    )


def release_consumption_command(
    consumption_id: str,
    request: ReleaseConsumptionRequest,
    tenant_id: str,
    now: datetime,
    key: str | None = None,
) -> ReleaseConsumption:
    return ReleaseConsumption(
        tenant_id=tenant_id,
        consumption_id=consumption_id,
        amount=None if request.amount is None else not_negative(request.amount, "amount"),
        now=now,
        idempotency=if_keyed(tenant_id, QUOTA_RELEASE, key, (consumption_id, request), now),
    )
