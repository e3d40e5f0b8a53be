"""Requests to record costs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final

from fiscus.costs.calls import RecordBatchRequest, RecordRequest, arose_at
from fiscus.costs.model import MAY_BE_NEGATIVE
from fiscus.errors import (
    CostCalculationError,
    FiscusError,
    Forbidden,
    ValidationError,
    too_many,
)
from fiscus.idempotency import RECORD, if_keyed
from fiscus.ids import uuid7
from fiscus.ledger.commands import Cost, InvalidRecord, Record, RecordBatch
from fiscus.ledger.requests.common import (
    has_key,
    key_of_batch,
    one_key,
    operation_of,
    usage_quantity,
)
from fiscus.money import ZERO
from fiscus.wire.decoding import decode
from fiscus.wire.explaining import not_a_label
from fiscus.wire.items import item_error
from fiscus.wire.texts import is_label

MAX_RECORDS: Final = 1000


def record_command(
    request: RecordRequest, tenant_id: str, now: datetime, key: str | None = None
) -> Record:
    """A cost to record. Usage without an amount needs a price, and there is no catalogue yet."""
    key = one_key(key, request.idempotency_key)
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
    return Record(  # by position: with names it takes six times as long
        Cost(
            operation_of(
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
            usage_quantity(request.usage_quantity),
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
            if has_key(record, key):
                raise key_of_batch(key, "idempotency_key")
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


def _as_sent(record: bytes) -> RecordRequest | str:
    """A record of a batch, decoded; one that is none is what was sent."""
    try:
        return decode(record, RecordRequest)
    except ValidationError:
        return record.decode("utf-8", "backslashreplace")
