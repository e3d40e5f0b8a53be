"""What the ledger needs of a store, and what it hands to it. Stores implement this."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from decimal import Decimal
from typing import Final, NamedTuple, Protocol

from msgspec import Struct, field

from fiscus.budgets.intervals import Hold
from fiscus.budgets.model import BalanceKey, Budget, BudgetBalance, Reservation
from fiscus.costs.model import CostFlag, CostRecord
from fiscus.costs.rollups import RollupKey, RollupSum, Series
from fiscus.idempotency import IdempotencyKey, StoredAnswer
from fiscus.quotas.model import Consumption, Quota, QuotaBalance, QuotaKey, QuotaUsage
from fiscus.scopes import ScopeType
from fiscus.tenants import TenantSettings

MAX_HOLDS: Final = 2000
"""So many of a tenant's pending reservations are read, to say when denied checks would fit."""

MAX_DUE: Final = 2000
"""So many of a tenant's reservations that are due are freed in the group that decides on them; of
more, some are freed before, in groups of their own."""

AnchorKey = tuple[str, str]
"""(budget id, scope id) of a floating budget's anchor."""

OperationKey = tuple[str, str]
"""(tenant id, operation id) of a recorded cost."""


class RecordedOperation(NamedTuple):
    """The cost record that an operation id names."""

    record_id: str
    recorded_at: datetime
    timestamp: datetime
    cost_amount: Decimal
    currency: str
    attributed_to_type: ScopeType
    attributed_to_id: str
    flags: tuple[CostFlag, ...]


class UnlockedReads(Struct):
    """What else denials need to know: read without locking it."""

    due: dict[str, datetime] = {}
    """Tenants of which it is asked what is due, and until when."""
    holds: set[str] = set()
    """Tenants whose pending holds are asked for."""
    spent: dict[BalanceKey, str] = {}
    """Balances of which it is asked what is spent, with their tenants."""

    def add(self, others: UnlockedReads) -> None:
        self.due |= others.due
        self.holds |= others.holds
        self.spent |= others.spent


class PendingHolds(Protocol):
    """What a tenant's pending reservations hold, the `MAX_HOLDS` of them that expire first."""

    def on(self, key: BalanceKey) -> list[tuple[str, Hold]]:
        """The holds on a balance, with their reservation's id."""
        ...


class DueReservations(NamedTuple):
    """A tenant's pending reservations that are due at a moment, or are before it; of more than
    `MAX_DUE`, one more than that, the earliest."""

    until: datetime
    reservations: list[tuple[datetime, str]]
    """When they are due and their ids, in order."""


class UnlockedRows(Struct):
    """What was found for `UnlockedReads`."""

    due: dict[str, DueReservations] = {}
    holds: dict[str, PendingHolds] = {}
    spent: dict[BalanceKey, Decimal] = {}
    """0 where there is no balance."""

    def add(self, others: UnlockedRows) -> None:
        self.due |= others.due
        self.holds |= others.holds
        self.spent |= others.spent


class Needs(Struct):
    """Everything one group must have loaded and locked before it decides."""

    tenants: set[str] = set()
    idempotency: set[IdempotencyKey] = set()
    operations: set[OperationKey] = set()
    anchors: dict[AnchorKey, str] = {}
    """Anchor keys with their tenant."""
    reservations: dict[str, str] = {}
    """Reservation ids with their tenant."""
    balances: dict[BalanceKey, BudgetBalance] = {}
    """Balances by key, with the blank to start from where there is none yet."""
    consumptions: dict[str, str] = {}
    """Consumption ids with their tenant."""
    quota_balances: dict[QuotaKey, QuotaBalance] = {}
    """As `balances`, of quotas."""
    unlocked: UnlockedReads = field(default_factory=UnlockedReads)
    """What was looked up in earlier attempts, or would have been."""


class Loaded(Struct):
    """What the store found. All but idempotency, operations and anchors are locked until the end.

    Balances include those the loaded reservations hold on, operations those they are named by,
    quota balances those the loaded consumptions took from.
    """

    versions: dict[str, int]
    idempotency: dict[IdempotencyKey, StoredAnswer]
    operations: dict[OperationKey, RecordedOperation]
    anchors: dict[AnchorKey, date]
    reservations: dict[str, Reservation]
    balances: dict[BalanceKey, BudgetBalance]
    consumptions: dict[str, Consumption]
    quota_balances: dict[QuotaKey, QuotaBalance]


class Definitions(Struct):
    """A tenant's settings, and the budgets and quotas changed after a version; deleted by id."""

    version: int
    settings: TenantSettings
    budgets: list[Budget]
    deleted: list[str]
    quotas: list[Quota] = []
    deleted_quotas: list[str] = []


class Changes(Struct):
    """What one group writes, in bulk."""

    balances: dict[BalanceKey, BudgetBalance] = {}
    new_reservations: dict[str, Reservation] = {}
    changed_reservations: dict[str, Reservation] = {}
    records: dict[str, CostRecord] = {}
    series: dict[str, Series] = {}
    rollups: dict[RollupKey, RollupSum] = {}
    operations: dict[OperationKey, RecordedOperation] = {}
    anchors: dict[AnchorKey, tuple[str, date]] = {}
    answers: dict[IdempotencyKey, StoredAnswer] = {}
    quota_balances: dict[QuotaKey, QuotaBalance] = {}
    new_consumptions: dict[str, Consumption] = {}
    changed_consumptions: dict[str, Consumption] = {}
    quota_usage: list[QuotaUsage] = []


class TransactionFailed(Exception):
    """What a group's transaction raises, whichever of its commands it was asked for."""


class StoreUnavailable(TransactionFailed):
    """The store cannot be reached or failed; the transaction did not commit, as far as is known."""


class StoreFull(StoreUnavailable):
    """As `StoreUnavailable`: its disk has no room for what is written."""


class GroupConflict(TransactionFailed):
    """Another process was first (lock, unique key); the same group may be tried again."""


class RowsLocked(GroupConflict):
    """Rows of the group stayed locked by another for longer than the store waits."""


class GroupRejected(TransactionFailed):
    """The group could not be written; one of its commands is to blame."""


class NoPartition(GroupRejected):
    """As `GroupRejected`, but what is to blame is the store: no partition takes the row."""


class LedgerTransaction(Protocol):
    """One group's transaction. Any method may raise a `TransactionFailed`."""

    def load(self, needs: Needs) -> Loaded:
        """Load and lock all of `needs`, everywhere in one order so that groups never deadlock.

        Reservations by id, consumptions by id, balances by key, quota balances by key.
        """
        ...

    def definitions(
        self, tenant_id: str, after_version: int, quotas_ending_after: datetime
    ) -> Definitions:
        """What changed in a tenant's definitions after a version; 0 gives all that there are.

        Of quotas, those only whose period ends after a moment: a tenant keeps years of others.
        """
        ...

    def read_unlocked(self, wanted: UnlockedReads) -> UnlockedRows:
        """Read all of `wanted` at once. Of what is locked it is what stays; all else may change."""
        ...

    def due_reservations(self, tenant_id: str, now: datetime, most: int) -> list[str]:
        """Ids of pending reservations with `expires_at <= now`, earliest first, up to `most`."""
        ...

    def last_hold(self, tenant_id: str) -> datetime:
        """When the last of a tenant's pending reservations expires, of which there is one."""
        ...

    def write(self, changes: Changes) -> None: ...

    def commit(self) -> None:
        """Make everything durable; the promise to callers rests on this returning.

        Raises `thread_batcher.GroupOutcomeUnknown` when it cannot be told whether it is.
        """
        ...

    def rollback(self) -> None: ...


class LedgerStore(Protocol):
    def begin(self, tenants: Collection[str], *, patient: bool = True) -> LedgerTransaction:
        """Open a group's transaction, which may touch the rows of `tenants` only.

        One that is not `patient` hardly waits for rows that another has locked.
        """
        ...

    def close(self) -> None: ...
