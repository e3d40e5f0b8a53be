"""The calls about costs: what is sent, what is answered."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from fiscus.clock import require_aware
from fiscus.costs.model import ChargeCategory, CostFlag, CostRecord
from fiscus.errors import ValidationError
from fiscus.money import Amount
from fiscus.paging import Pagination
from fiscus.scopes import ScopeType
from fiscus.wire.items import ItemError
from fiscus.wire.nesting import FreeForm
from fiscus.wire.texts import Currency, Id, Label, LooseId, LooseKey, LooseLabel, LooseTags

MAX_CLOCK_SKEW: Final = timedelta(days=1)
OLDEST: Final = timedelta(days=366 * 30)


def arose_at(given: datetime | None, now: datetime) -> datetime:
    """When a cost arose, by default `now`. Raises `ValidationError` for what cannot be true."""
    if given is None:
        return now
    moment = require_aware(given, "timestamp")
    if not now - OLDEST <= moment <= now + MAX_CLOCK_SKEW:
        raise ValidationError(
            "timestamp is in the future or more than 30 years ago",
            field="timestamp",
            suggested_action="Send when the cost arose.",
        )
    return moment.astimezone(now.tzinfo)  # only now: at the ends of time it has no UTC


class RecordRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A cost that arose. Recording is never refused for lack of budget: money spent is spent."""

    resource_type: Annotated[LooseLabel, Meta(description="What was used, such as `llm`.")]
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    cost_amount: Annotated[
        Amount | None, Meta(description="The cost; negative only for credit and adjustment.")
    ] = None
    currency: Annotated[Currency | None, Meta(description="Default: the tenant's.")] = None
    usage_quantity: Annotated[Amount | None, Meta(description="How much was used.")] = None
    usage_unit: Annotated[
        LooseLabel | None, Meta(description="In what unit, such as `tokens`.")
    ] = None
    usage: Annotated[
        FreeForm | None,
        Meta(description="Measured use in detail, at most 32 levels deep; kept as sent."),
    ] = None
    timestamp: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="When the cost arose; default now."),
    ] = None
    project_id: LooseId | None = None
    user_id: LooseId | None = None
    feature_id: LooseId | None = None
    attributed_to_type: Annotated[
        ScopeType | None, Meta(description="With `attributed_to_id`: short for one of the ids.")
    ] = None
    attributed_to_id: Id | None = None
    resource_id: Label | None = None
    service_name: Label | None = None
    region: Label | None = None
    tags: LooseTags = {}
    charge_category: ChargeCategory = ChargeCategory.USAGE
    reservation_id: Annotated[
        Id | None,
        Meta(
            description="Settles this reservation: the same as settling it. Ids that the check did "
            "not give are kept; another resource type or id than that of the check is a 409."
        ),
    ] = None
    operation_id: Annotated[
        Id | None, Meta(description="Your name of the operation: again is the same record.")
    ] = None
    idempotency_key: Annotated[
        LooseKey | None, Meta(description="As the header, for one record of a batch.")
    ] = None


class RecordBatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Up to 1000 records; each stands or falls alone."""

    records: Annotated[list[msgspec.Raw], Meta(min_length=1)]
    tenant_id: Annotated[
        Id | None,
        Meta(description="Default: the one that all records name, or else the credential's."),
    ] = None


class ChargedLine(Struct, frozen=True, gc=False):
    """What a cost did to one budget, in the budget's currency."""

    budget_id: str
    scope: dict[str, str]
    currency: str
    charged: Decimal
    exchange_rate: Decimal
    exchange_rate_date: date
    spent: Decimal
    reserved: Decimal
    remaining: Decimal
    utilization_ratio: Decimal
    period_start: datetime


class RecordAnswer(Struct, frozen=True, gc=False):
    """The record as it was kept, and the budgets it charged."""

    record_id: str
    recorded_at: datetime
    timestamp: datetime
    cost_amount: Decimal
    currency: str
    attributed_to_type: ScopeType
    attributed_to_id: str
    flags: list[CostFlag]
    budgets: list[ChargedLine]
    reservation_id: str | None = None
    receipt_id: str | None = None
    correlation_id: str | None = None


class RecordItem(Struct, frozen=True, gc=False):
    """What became of one record of a batch: `record` or `error` is set."""

    record: RecordAnswer | None = None
    error: ItemError | None = None


class RecordBatchAnswer(Struct, frozen=True, kw_only=True):
    """One item per record sent, in order."""

    recorded: int
    failed: int
    results: list[RecordItem]
    correlation_id: str | None = None


class RecordPage(Struct, frozen=True, kw_only=True):
    """A page of cost records, newest first."""

    records: list[CostRecord]
    pagination: Pagination
    correlation_id: str


class CostRecordView(CostRecord, frozen=True, kw_only=True):
    """A cost record as answered over the API."""

    correlation_id: str
