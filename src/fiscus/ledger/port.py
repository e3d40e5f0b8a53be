"""What the ledger needs of a store, and what it hands to it. Stores implement this."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from decimal import Decimal
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from fiscus.budgets.model import BalanceKey, Budget, BudgetBalance, Reservation
from fiscus.budgets.rules import Hold
from fiscus.costs.model import CostFlag, CostRecord
from fiscus.costs.rollups import RollupKey, RollupSum, Series
from fiscus.idempotency import IdempotencyKey, StoredAnswer
from fiscus.quotas.model import Consumption, Quota, QuotaBalance, QuotaKey, QuotaUsage
from fiscus.scopes import ScopeType
from fiscus.tenants import TenantSettings

MOST_HOLDS: Final = 1000
"""So many holds on a balance are read one by one, to say when a denied check would fit."""

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


class StoreUnavailable(Exception):
    """The store cannot be reached or failed; the transaction did not commit, as far as is known."""


class GroupConflict(Exception):
    """Another process was first (lock, unique key); the same group may be tried again."""


class RowsLocked(GroupConflict):
    """Rows of the group stayed locked by another for longer than the store waits."""


class GroupRejected(Exception):
    """The group could not be written; one of its commands is to blame."""


class LedgerTransaction(Protocol):
    """One group's transaction. Any method may raise `StoreUnavailable` or `GroupConflict`."""

    def load(self, needs: Needs) -> Loaded:
        """Load and lock all of `needs`, everywhere in one order so that groups never deadlock.

        Reservations by id, consumptions by id, balances by key, quota balances by key.
        """
        ...

    def definitions(
        self, tenant_id: str, after_version: int, quotas_ending_after: datetime
    ) -> Definitions:
        """What changed in a tenant's definitions after a version; 0 gives all.

        Of quotas, those only whose period ends after a moment: a tenant keeps years of others.
        """
        ...

    def due_reservations(self, tenant_id: str, now: datetime, most: int | None) -> list[str]:
        """Ids of pending reservations with `expires_at <= now`, earliest first, up to `most`."""
        ...

    def pending_holds(self, key: BalanceKey, tenant_id: str) -> list[tuple[str, Hold]]:
        """Pending holds on a balance with their reservation's id, the `MOST_HOLDS` that expire
        first."""
        ...

    def last_hold(self, key: BalanceKey, tenant_id: str) -> datetime:
        """When the last of the pending holds on a balance expires, of which there is one."""
        ...

    def spent(self, key: BalanceKey, tenant_id: str) -> Decimal:
        """What is spent of a balance, as it stands; 0 where there is none."""
        ...

    def write(self, changes: Changes) -> None: ...

    def commit(self) -> None:
        """Make everything durable; the promise to callers rests on this returning.

        Raises `groups.MaybeDone` when it cannot be told whether it is.
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
