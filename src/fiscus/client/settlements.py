"""What settling a block asks and answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from fiscus.budgets.calls import CheckRequest, SettleAnswer, SettleRequest
from fiscus.client.lending import Used
from fiscus.client.same_operation import scope_ids
from fiscus.costs.calls import ChargedLine, RecordAnswer, RecordRequest, arose_at
from fiscus.costs.model import CostFlag, first_tags
from fiscus.errors import ValidationError
from fiscus.money import ZERO, parse_not_negative
from fiscus.wire.converting import convert


class Settlement(Struct, frozen=True, kw_only=True):
    """What settling a block did at once. Nothing, when an enclosing block will record its cost."""

    record_id: str | None
    """The cost record; None when an enclosing block will make it."""
    charged: Decimal
    """What was recorded, the nested blocks' part included; 0 when nothing was."""
    currency: str | None
    flags: list[CostFlag]
    budgets: list[ChargedLine]
    """What it did to each budget it matches."""


LEFT_TO_PARENT: Final = Settlement(
    record_id=None, charged=ZERO, currency=None, flags=[], budgets=[]
)


def settled_by(answer: SettleAnswer) -> Settlement:
    return Settlement(
        record_id=answer.record_id,
        charged=answer.charged,
        currency=answer.currency,
        flags=answer.flags,
        budgets=answer.budgets,
    )


def recorded_by(answer: RecordAnswer) -> Settlement:
    return Settlement(
        record_id=answer.record_id,
        charged=answer.cost_amount,
        currency=answer.currency,
        flags=answer.flags,
        budgets=answer.budgets,
    )


def checked(
    details: Mapping[str, Any], tenant_id: str | None, now: datetime | None
) -> dict[str, Any]:
    """What is known of a cost, of that what was given, checked before anything is settled of it.

    With `now`, also what else is looked at where it is recorded: another block may do that.
    """
    request = convert({**details, "actual_cost": ZERO}, SettleRequest)
    if request.tenant_id not in {None, tenant_id}:
        raise ValidationError(
            "The cost of a block is its tenant's",
            field="tenant_id",
            suggested_action="Leave tenant_id out.",
        )
    if request.usage_quantity is not None:
        parse_not_negative(request.usage_quantity, "usage_quantity")
    if now is not None:
        arose_at(request.timestamp, now)
    return {
        name: value
        for name, value in asdict(request).items()
        if value is not None and name not in {"actual_cost", "tenant_id"}
    }


def settle_request(operation: CheckRequest, used: Used) -> SettleRequest:
    values = {**used.details, "actual_cost": used.cost, "tenant_id": operation.tenant_id}
    return convert(values, SettleRequest)


def record_request(
    operation: CheckRequest, used: Used, *, operation_id: str | None, key: str
) -> RecordRequest:
    """A cost of `operation` that no reservation stands for."""
    project_id, user_id, feature_id = scope_ids(operation)
    details = used.details
    values = {
        **details,
        "service_name": operation.service_name or details.get("service_name"),
        "tenant_id": operation.tenant_id,
        "resource_type": operation.resource_type,
        "cost_amount": used.cost,
        "currency": details.get("currency") or operation.currency,
        "project_id": project_id,
        "user_id": user_id,
        "feature_id": feature_id,
        "tags": first_tags({**operation.tags, **details.get("tags", {})}),
        "operation_id": operation_id,
        "idempotency_key": key,
    }
    return convert(values, RecordRequest)
