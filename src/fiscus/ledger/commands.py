"""What the ledger is asked to do. Commands are complete: checked, resolved, with their time and
the ids of what they make.

An outcome is an answer struct or a `FiscusError` as a value; a denial is an answer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer, ReservationView, SettleAnswer
from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer
from fiscus.costs.model import ChargeCategory
from fiscus.errors import FiscusError
from fiscus.idempotency import Idempotency
from fiscus.operations import Operation
from fiscus.quotas.calls import ConsumptionView, QuotaCheckAnswer, QuotaCheckBatchAnswer
from fiscus.wire.items import ItemError


class Check(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Decide an operation on every matching budget and reserve its estimate."""

    operation: Operation
    operation_id: str | None
    estimate: Decimal
    currency: str | None
    reserve: bool
    ttl_seconds: int
    reservation_id: str
    """Of the reservation, if there will be one; a UUID."""
    now: datetime
    idempotency: Idempotency | None = None

    @property
    def tenant_id(self) -> str:
        return self.operation.tenant_id

    def holds_until(self) -> datetime:
        """When the reservation ends, if there is one."""
        return self.now + _hold_time(self.ttl_seconds)


@lru_cache(maxsize=256)
def _hold_time(ttl_seconds: int) -> timedelta:
    return timedelta(seconds=ttl_seconds)


class CheckBatch(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Checks decided in order in one transaction, together or each for itself."""

    tenant_id: str
    checks: list[Check]
    all_or_nothing: bool
    now: datetime
    idempotency: Idempotency | None = None


class Cost(Struct, frozen=True, array_like=True, gc=False):
    """A cost as it will be recorded, before its flags and charges are known."""

    operation: Operation
    record_id: str
    amount: Decimal
    currency: str | None
    timestamp: datetime
    charge_category: ChargeCategory = ChargeCategory.USAGE
    usage_quantity: Decimal | None = None
    usage_unit: str | None = None
    usage: dict[str, Any] | None = None
    resource_id: str | None = None
    region: str | None = None
    operation_id: str | None = None


class Record(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Record a cost, charge the budgets it matches and, with a reservation, settle that."""

    cost: Cost
    reservation_id: str | None
    now: datetime
    idempotency: Idempotency | None = None

    @property
    def tenant_id(self) -> str:
        return self.cost.operation.tenant_id


class InvalidRecord(Struct, frozen=True, array_like=True, tag=True):
    """A record of a batch that is refused already, with why."""

    error: ItemError


class RecordBatch(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Records in one transaction; each stands or falls alone."""

    tenant_id: str
    records: list[Record | InvalidRecord]
    now: datetime
    idempotency: Idempotency | None = None


class Settle(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Record what a reserved operation did cost, with the reservation's attributes.

    What is None is taken from the reservation.
    """

    tenant_id: str
    reservation_id: str
    record_id: str
    actual_cost: Decimal
    now: datetime
    currency: str | None = None
    timestamp: datetime | None = None
    usage_quantity: Decimal | None = None
    usage_unit: str | None = None
    usage: dict[str, Any] | None = None
    tags: dict[str, str] = {}
    resource_id: str | None = None
    service_name: str | None = None
    region: str | None = None
    charge_category: ChargeCategory = ChargeCategory.USAGE
    operation_id: str | None = None
    idempotency: Idempotency | None = None


class Release(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Give a reservation's money back."""

    tenant_id: str
    reservation_id: str
    now: datetime
    idempotency: Idempotency | None = None


class Extend(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Hold a reservation's money until `ttl_seconds` from now."""

    tenant_id: str
    reservation_id: str
    ttl_seconds: int
    now: datetime
    idempotency: Idempotency | None = None


class Expire(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Free the due reservations of a tenant, those that are due longest first.

    Asked by the worker, in portions that hold nobody up; by the ledger when there are too many.
    """

    tenant_id: str
    now: datetime
    most: int = 500
    idempotency: None = None


class Expired(Struct, frozen=True, kw_only=True):
    """How many reservations were freed."""

    count: int


class Consume(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Decide an amount on every matching quota and, unless it only looks, take it from each."""

    operation: Operation
    operation_id: str | None
    amount: Decimal
    consume: bool
    consumption_id: str
    """Of the consumption, if there will be one."""
    now: datetime
    idempotency: Idempotency | None = None

    @property
    def tenant_id(self) -> str:
        return self.operation.tenant_id


class ConsumeBatch(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Quota checks decided in order in one transaction, each for itself."""

    tenant_id: str
    checks: list[Consume]
    now: datetime
    idempotency: Idempotency | None = None


class ReleaseConsumption(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Give back what a consumption took; without an amount, all that it still holds."""

    tenant_id: str
    consumption_id: str
    amount: Decimal | None
    now: datetime
    idempotency: Idempotency | None = None


Command = (
    Check
    | CheckBatch
    | Record
    | RecordBatch
    | Settle
    | Release
    | Extend
    | Expire
    | Consume
    | ConsumeBatch
    | ReleaseConsumption
)
Answer = (
    CheckAnswer
    | CheckBatchAnswer
    | RecordAnswer
    | RecordBatchAnswer
    | SettleAnswer
    | ReservationView
    | Expired
    | QuotaCheckAnswer
    | QuotaCheckBatchAnswer
    | ConsumptionView
)
Outcome = Answer | FiscusError

ANSWERS: Final[dict[type[Command], type[Answer]]] = {
    Check: CheckAnswer,
    CheckBatch: CheckBatchAnswer,
    Record: RecordAnswer,
    RecordBatch: RecordBatchAnswer,
    Settle: SettleAnswer,
    Release: ReservationView,
    Extend: ReservationView,
    Expire: Expired,
    Consume: QuotaCheckAnswer,
    ConsumeBatch: QuotaCheckBatchAnswer,
    ReleaseConsumption: ConsumptionView,
}
"""What each command is answered."""


def weight(command: Command) -> int:
    """How much of a group's size a command takes."""
    kind = type(command)
    if kind is Check or kind is Consume:  # nearly all of them are
        return 1
    match command:
        case CheckBatch() | ConsumeBatch():
            return len(command.checks)
        case RecordBatch():
            return len(command.records)
        case _:
            return 1
