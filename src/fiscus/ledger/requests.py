"""From requests to commands: short forms resolved, amounts and scopes checked, time put in.

The idempotency key of a single call is looked at first, as a client looks at it before it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, TypeVar

from fiscus.budgets.calls import CheckBatchRequest, CheckRequest, SettleRequest
from fiscus.costs.calls import RecordBatchRequest, RecordRequest, arose_at
from fiscus.costs.model import MAY_BE_NEGATIVE
from fiscus.errors import (
    CostCalculationError,
    FiscusError,
    Forbidden,
    IdempotencyConflict,
    ValidationError,
    too_many,
)
from fiscus.idempotency import (
    EXTEND,
    KEEP_CHECKS,
    QUOTA_CHECK,
    QUOTA_RELEASE,
    RECORD,
    RELEASE,
    SETTLE,
    Idempotency,
    idempotency,
    if_keyed,
)
from fiscus.ids import uuid7
from fiscus.ledger.commands import (
    Check,
    CheckBatch,
    Consume,
    ConsumeBatch,
    Cost,
    Extend,
    InvalidRecord,
    Record,
    RecordBatch,
    Release,
    ReleaseConsumption,
    Settle,
)
from fiscus.money import ZERO, negative
from fiscus.operations import Operation
from fiscus.quotas.calls import (
    QuotaCheckBatchRequest,
    QuotaCheckRequest,
    ReleaseConsumptionRequest,
)
from fiscus.scopes import ScopeType
from fiscus.wire.decoding import decode
from fiscus.wire.explaining import not_a_label, not_an_id
from fiscus.wire.items import item_error
from fiscus.wire.texts import is_id, is_label

MAX_CHECKS: Final = 500
MAX_RECORDS: Final = 1000


def check_command(
    request: CheckRequest, tenant_id: str, now: datetime, key: str | None = None
) -> Check:
    """A check for `tenant_id`, which is the caller's by right. `key` is the idempotency header."""
    key = _one_key(key, request.idempotency_key)
    once = _keep_check(tenant_id, key, request, request.ttl_seconds, now)
    if request.approval_id is not None:
        raise ValidationError(
            "approval_id names no approval: approvals are not available in this version",
            field="approval_id",
            suggested_action="Leave approval_id out.",
        )
    return Check(  # by position: with names it takes six times as long
        _operation(
            request,
            tenant_id,
            request.allocated_to_type,
            request.allocated_to_id,
            ("allocated_to_type", "allocated_to_id"),
        ),
        request.operation_id,
        _not_negative(request.estimated_cost, "estimated_cost"),
        request.currency,
        request.reserve,
        request.ttl_seconds,
        uuid7(),
        now,
        once,
    )


def tenant_of_checks(
    checks: Sequence[CheckRequest | QuotaCheckRequest], tenant_for: Callable[[str | None], str]
) -> str:
    """The tenant of a batch of checks; `tenant_for` gives that of what a check names, or does not.

    Raises `ValidationError` when they are of several, naming the first that is not as those before.
    """
    named = dict.fromkeys([check.tenant_id for check in checks])
    tenant_id, *others = dict.fromkeys([tenant_for(one) for one in named])
    if others:
        index = [tenant_for(check.tenant_id) for check in checks].index(others[0])
        raise ValidationError(
            "All checks of a batch must be of one tenant",
            field=f"checks[{index}].tenant_id",
            suggested_action="Send one batch per tenant.",
        )
    return tenant_id


def check_batch_command(
    request: CheckBatchRequest, tenant_id: str, now: datetime, key: str | None = None
) -> CheckBatch:
    """Checks of one tenant in one transaction; an invalid one, named by its place, rejects all."""
    if len(request.checks) > MAX_CHECKS:
        raise too_many("checks", len(request.checks), MAX_CHECKS)
    checks = [
        _item(check_command, index, item, tenant_id, now)
        for index, item in enumerate(request.checks)
    ]
    _require_other_keys(key, checks)
    asked = [*request.checks, request.all_or_nothing]
    longest = max(item.ttl_seconds for item in request.checks)
    return CheckBatch(
        tenant_id=tenant_id,
        checks=checks,
        all_or_nothing=request.all_or_nothing,
        now=now,
        idempotency=_keep_check(tenant_id, key, asked, longest, now),
    )


def record_command(
    request: RecordRequest, tenant_id: str, now: datetime, key: str | None = None
) -> Record:
    """A cost to record. Usage without an amount needs a price, and there is no catalogue yet."""
    key = _one_key(key, request.idempotency_key)
    once = if_keyed(tenant_id, RECORD, key, request, now)
    if request.cost_amount is None:
        raise _without_amount(request)
    if request.cost_amount < ZERO and request.charge_category not in MAY_BE_NEGATIVE:
        raise ValidationError(
            f"cost_amount must not be negative in category {request.charge_category}",
            field="cost_amount",
            suggested_action="Send charge_category credit or adjustment.",
        )
    if request.cost_amount < ZERO and request.reservation_id is not None:
        raise ValidationError(
            "cost_amount must not be negative where it settles a reservation",
            field="cost_amount",
            suggested_action="Settle it with what it did cost; record the credit by itself.",
        )
    if not is_label(request.usage_unit):
        raise not_a_label("usage_unit")
    timestamp = arose_at(request.timestamp, now)
    return Record(  # by position, as above
        Cost(
            _operation(
                request,
                tenant_id,
                request.attributed_to_type,
                request.attributed_to_id,
                ("attributed_to_type", "attributed_to_id"),
            ),
            uuid7(),
            Decimal(request.cost_amount),
            request.currency,
            timestamp,
            request.charge_category,
            _quantity(request.usage_quantity),
            request.usage_unit,
            request.usage,
            request.resource_id,
            request.region,
            request.operation_id,
        ),
        request.reservation_id,
        now,
        once,
    )


def record_batch_command(
    request: RecordBatchRequest, tenant_id: str, now: datetime, key: str | None = None
) -> RecordBatch:
    """Records that stand or fall alone: a wrong one is an error in its place."""
    if len(request.records) > MAX_RECORDS:
        raise too_many("records", len(request.records), MAX_RECORDS)
    records: list[Record | InvalidRecord] = []
    for raw in request.records:
        try:
            record = record_item(bytes(raw), tenant_id, now)
            if _has_key(record, key):
                raise _key_of_batch(key, "idempotency_key")
            records.append(record)
        except FiscusError as error:
            records.append(InvalidRecord(item_error(error)))
    asked = [] if key is None else [_as_sent(bytes(raw)) for raw in request.records]
    return RecordBatch(
        tenant_id=tenant_id,
        records=records,
        now=now,
        idempotency=if_keyed(tenant_id, RECORD, key, asked, now),
    )


def record_item(body: bytes, tenant_id: str, now: datetime) -> Record:
    """One record of a batch or a stream, from its JSON."""
    item = decode(body, RecordRequest)
    if item.tenant_id is not None and item.tenant_id != tenant_id:
        raise Forbidden(
            "This record names another tenant than the rest of its batch",
            details={"field": "tenant_id"},
            suggested_action="Send one batch per tenant, with a credential of that tenant.",
        )
    return record_command(item, tenant_id, now)


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
        actual_cost=_not_negative(request.actual_cost, "actual_cost"),
        now=now,
        currency=request.currency,
        timestamp=None if request.timestamp is None else arose_at(request.timestamp, now),
        usage_quantity=_quantity(request.usage_quantity),
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


def quota_check_command(
    request: QuotaCheckRequest, tenant_id: str, now: datetime, key: str | None = None
) -> Consume:
    """A quota check for `tenant_id`, which is the caller's by right. `key` is the header's."""
    key = _one_key(key, request.idempotency_key)
    once = if_keyed(tenant_id, QUOTA_CHECK, key, request, now)
    _require_sound(request)
    return Consume(  # by position, as above
        Operation(
            tenant_id,
            request.resource_type,
            request.project_id,
            request.user_id,
            request.feature_id,
        ),
        request.operation_id,
        _not_negative(request.required_amount, "required_amount"),
        request.consume,
        uuid7(),
        now,
        once,
    )


def quota_check_batch_command(
    request: QuotaCheckBatchRequest, tenant_id: str, now: datetime, key: str | None = None
) -> ConsumeBatch:
    """Quota checks of one tenant in one transaction; an invalid one, named, rejects all."""
    if len(request.checks) > MAX_CHECKS:
        raise too_many("checks", len(request.checks), MAX_CHECKS)
    checks = [
        _item(quota_check_command, index, item, tenant_id, now)
        for index, item in enumerate(request.checks)
    ]
    _require_other_keys(key, checks)
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
        amount=None if request.amount is None else _not_negative(request.amount, "amount"),
        now=now,
        idempotency=if_keyed(tenant_id, QUOTA_RELEASE, key, (consumption_id, request), now),
    )


def _without_amount(request: RecordRequest) -> FiscusError:
    if request.usage_quantity is None and not request.usage:
        return ValidationError(
            "cost_amount is missing", field="cost_amount", suggested_action="Send cost_amount."
        )
    return CostCalculationError(
        "No price is known for this usage",
        details={"field": "cost_amount"},
        suggested_action="Send cost_amount.",
    )


def _keep_check(
    tenant_id: str, key: str | None, body: object, ttl_seconds: int, now: datetime
) -> Idempotency | None:
    if key is None:
        return None
    keep = max(KEEP_CHECKS, timedelta(seconds=ttl_seconds))
    return idempotency(tenant_id, "check", key, body, now + keep)


_Checked = TypeVar("_Checked", CheckRequest, QuotaCheckRequest)
_Made = TypeVar("_Made")


def _item(
    make: Callable[[_Checked, str, datetime], _Made],
    index: int,
    item: _Checked,
    tenant_id: str,
    now: datetime,
) -> _Made:
    """The command of one item of `checks`; errors name its place."""
    try:
        return make(item, tenant_id, now)
    except ValidationError as error:
        raise error.within(f"checks[{index}]") from None


def _not_negative(amount: Decimal, field: str) -> Decimal:
    """As `parse_not_negative`, of what the decoder has parsed: to parse it again would take half as
    long as all the rest of a check's command."""
    if amount < ZERO:
        raise negative(field)
    return Decimal(amount)


def _as_sent(record: bytes) -> RecordRequest | str:
    """A record of a batch, decoded; one that is none is what was sent."""
    try:
        return decode(record, RecordRequest)
    except ValidationError:
        return record.decode("utf-8", "backslashreplace")


def _one_key(header: str | None, item: str | None) -> str | None:
    if header is not None and item is not None and header != item:
        raise ValidationError(
            "idempotency_key differs from the header",
            field="idempotency_key",
            suggested_action="Send the key once.",
        )
    return header if header is not None else item


def _require_other_keys(key: str | None, checks: Sequence[Check | Consume]) -> None:
    """Raises `IdempotencyConflict` for a check that has the key of its batch."""
    for index, check in enumerate(checks):
        if _has_key(check, key):
            raise _key_of_batch(key, f"checks[{index}].idempotency_key")


def _has_key(item: Check | Consume | Record, key: str | None) -> bool:
    return item.idempotency is not None and item.idempotency.at.key == key


def _key_of_batch(key: str | None, field: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"{field} is the idempotency key of its batch, which asks for something else",
        details={"field": field, "idempotency_key": key},
        suggested_action="Give the batch and each item a key of its own.",
    )


def _operation(
    request: CheckRequest | RecordRequest,
    tenant_id: str,
    scope_type: ScopeType | None,
    scope_id: str | None,
    names: tuple[str, str],
) -> Operation:
    _require_sound(request)
    project_id, user_id, feature_id = request.project_id, request.user_id, request.feature_id
    if scope_type is not None or scope_id is not None:
        if scope_type is None or scope_id is None:
            missing = names[0] if scope_type is None else names[1]
            raise ValidationError(
                f"{names[0]} and {names[1]} go together",
                field=missing,
                suggested_action=f"Send {missing} too.",
            )
        given = {
            ScopeType.TENANT: tenant_id,
            ScopeType.PROJECT: project_id,
            ScopeType.USER: user_id,
            ScopeType.FEATURE: feature_id,
        }[scope_type]
        if given is not None and given != scope_id:
            raise ValidationError(
                f"{names[1]} differs from {scope_type}_id",
                field=names[1],
                suggested_action="Send the id once.",
            )
        match scope_type:
            case ScopeType.PROJECT:
                project_id = scope_id
            case ScopeType.USER:
                user_id = scope_id
            case ScopeType.FEATURE:
                feature_id = scope_id
            case ScopeType.TENANT:
                pass
    return Operation(
        tenant_id,
        request.resource_type,
        project_id,
        user_id,
        feature_id,
        request.service_name,
        request.tags,
    )


def _require_sound(request: CheckRequest | RecordRequest | QuotaCheckRequest) -> None:
    """What reading a request left unchecked."""
    if not is_label(request.resource_type):
        raise not_a_label("resource_type")
    if not is_id(request.project_id):
        raise not_an_id("project_id")
    if not is_id(request.user_id):
        raise not_an_id("user_id")
    if not is_id(request.feature_id):
        raise not_an_id("feature_id")


def _quantity(given: Decimal | None) -> Decimal | None:
    return None if given is None else _not_negative(given, "usage_quantity")
