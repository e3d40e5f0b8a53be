"""The state one group works on: what was loaded, what has changed since, and how to go back.

Handlers read rows here and put new ones; nothing reaches the store before the whole group is
decided. A row that was not loaded raises `MoreNeeded`: the group starts again with it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from fiscus.budgets.intervals import Freed, Hold, freed_by
from fiscus.budgets.matching import MatchedBudget
from fiscus.budgets.model import (
    BalanceKey,
    BudgetBalance,
    Reservation,
    ReservationStatus,
)
from fiscus.costs.fx import Rates
from fiscus.costs.model import CostRecord
from fiscus.costs.rollups import add_up
from fiscus.errors import PayloadTooLarge
from fiscus.idempotency import Idempotency, IdempotencyKey, StoredAnswer
from fiscus.ids import is_uuid
from fiscus.ledger.definitions import DefinitionCache, TenantDefinitions
from fiscus.ledger.port import (
    AnchorKey,
    Changes,
    LedgerTransaction,
    Loaded,
    Needs,
    OperationKey,
    RecordedOperation,
)
from fiscus.ledger.restarts import MoreNeeded
from fiscus.ledger.unlocked import UnlockedState
from fiscus.money import ZERO, subtract
from fiscus.operations import Operation
from fiscus.quotas.matching import MatchedQuota
from fiscus.quotas.model import Consumption, QuotaBalance, QuotaKey, QuotaUsage

_ABSENT: Final = object()


class PlannedQuotas(Struct, frozen=True, gc=False):
    """The quotas that an operation meets."""

    matched: Sequence[MatchedQuota]
    premiums: dict[str, Operation]
    """What the premium of a quota's burst would be recorded as, by quota id."""


class Workspace:
    """One attempt at one group."""

    def __init__(
        self,
        definitions: DefinitionCache,
        rates: Rates,
        needs: Needs,
        known_series: set[str],
    ) -> None:
        self.rates = rates
        self.needs = needs
        self.changes = Changes()
        self._definitions = definitions
        self._tenants: dict[str, TenantDefinitions] = {}
        self._known_series = known_series
        self._journal: list[tuple[Any, Any, Any]] = []
        """Rows, a key in them, and what was there before."""
        self._checked_due: dict[str, datetime] = {}
        self._unlocked = UnlockedState(needs.unlocked)
        self._freed: dict[BalanceKey, Freed] = {}
        """What comes free on balances, until a reservation changes."""
        self.decided: dict[IdempotencyKey, Any] = {}
        """What commands with a key came to, before it was put into words."""
        self.last_matched: Sequence[MatchedBudget] = ()
        """What planning found last; its balances are among the needs."""
        self.planned: dict[int, Sequence[MatchedBudget]] = {}
        """What planning found, by the `id` of the operation, which its command keeps alive."""
        self.planned_quotas: dict[int, PlannedQuotas] = {}
        """As `planned`; keeps the operations of premiums alive."""
        self._too_large: dict[int, PayloadTooLarge] = {}
        """Batches that are not planned to their end, by the `id` of the command."""

    def open(self, transaction: LedgerTransaction, loaded: Loaded) -> None:
        """Start deciding on what the store gave."""
        self._transaction = transaction
        self._loaded = loaded
        self.needs.operations.update(
            (reservation.tenant_id, reservation.operation_id)
            for reservation in loaded.reservations.values()
            if reservation.operation_id is not None
        )
        self._unlocked.open(transaction)

    def tenant(self, tenant_id: str) -> TenantDefinitions:
        found = self._tenants.get(tenant_id)
        if found is None:
            found = self._tenants[tenant_id] = self._definitions.get(tenant_id)
        return found

    # -- batches that meet too much

    @contextmanager
    def planning(self, batch: object) -> Generator[None]:
        """Plan a batch until it turns out to be too large; then `require_planned` raises why.

        Not at once: definitions that changed may have it meet less, and what was answered before
        is answered again.
        """
        try:
            yield
        except PayloadTooLarge as error:
            self._too_large[id(batch)] = error

    def require_planned(self, batch: object) -> None:
        error = self._too_large.get(id(batch))
        if error is not None:
            raise error

    # -- going back

    def mark(self) -> int:
        """A point to `undo` to."""
        return len(self._journal)

    def undo(self, mark: int) -> None:
        """Take back every change since `mark`."""
        self._freed.clear()
        while len(self._journal) > mark:
            rows, key, old = self._journal.pop()
            if old is _ABSENT:
                del rows[key]
            else:
                rows[key] = old

    def _put(self, rows: dict[Any, Any], key: Any, value: Any) -> None:
        self._journal.append((rows, key, rows.get(key, _ABSENT)))
        rows[key] = value

    # -- balances

    def need_balances(self, blanks: Iterable[BudgetBalance]) -> None:
        """Make sure that these balances are in the group."""
        known = self.needs.balances
        unknown = [
            one
            for one in blanks
            if one.key not in known
            and one.key not in self._loaded.balances
            and one.key not in self.changes.balances
        ]
        if unknown:
            known.update((one.key, one) for one in unknown)
            raise MoreNeeded

    def balance(self, key: BalanceKey) -> BudgetBalance:
        """A balance that was planned for, as it stands in this group."""
        changed = self.changes.balances.get(key)
        if changed is not None:
            return changed
        found = self._loaded.balances.get(key)
        return self.needs.balances[key] if found is None else found

    def held_balance(self, key: BalanceKey) -> BudgetBalance | None:
        """As `balance`, of any key; None where no balance is in this group, or only a blank."""
        return self.changes.balances.get(key) or self._loaded.balances.get(key)

    def put_balance(self, balance: BudgetBalance) -> None:
        # as `_put` does, which most of the time would be for this
        balances, key = self.changes.balances, balance.key
        self._journal.append((balances, key, balances.get(key, _ABSENT)))
        balances[key] = balance

    # -- anchors of floating budgets

    def need_anchors(self, keys: Iterable[AnchorKey], tenant_id: str) -> None:
        """Make sure that what is stored under these keys is in the group."""
        known = self.needs.anchors
        unknown = [one for one in keys if one not in known and one not in self.changes.anchors]
        if unknown:
            known.update(dict.fromkeys(unknown, tenant_id))
            raise MoreNeeded

    def anchor(self, key: AnchorKey) -> date | None:
        """The stored anchor that was planned for, or the one this group is about to store."""
        if new := self.changes.anchors.get(key):
            return new[1]
        assert key in self.needs.anchors  # or it would seem that none is stored
        return self._loaded.anchors.get(key)

    def put_anchor(self, key: AnchorKey, tenant_id: str, anchor: date) -> None:
        self._put(self.changes.anchors, key, (tenant_id, anchor))

    def known_anchors(self) -> list[tuple[AnchorKey, tuple[str, date]]]:
        """Anchors that are stored once this group is committed, with their tenants."""
        loaded = [
            (key, (self.needs.anchors[key], anchor)) for key, anchor in self._loaded.anchors.items()
        ]
        return loaded + list(self.changes.anchors.items())

    # -- reservations

    def need_reservation(self, reservation_id: str, tenant_id: str) -> bool:
        """Have a reservation loaded; whether that is news. What is no UUID names none."""
        if reservation_id in self.needs.reservations or not is_uuid(reservation_id):
            return False
        self.needs.reservations[reservation_id] = tenant_id
        return True

    def reservation(self, reservation_id: str, tenant_id: str) -> Reservation | None:
        changes = self.changes
        found = (
            changes.changed_reservations.get(reservation_id)
            or changes.new_reservations.get(reservation_id)
            or self._loaded.reservations.get(reservation_id)
        )
        if found is None and self.need_reservation(reservation_id, tenant_id):
            raise MoreNeeded
        return found if found is not None and found.tenant_id == tenant_id else None

    def add_reservation(self, reservation: Reservation) -> None:
        self._freed.clear()
        self._put(self.changes.new_reservations, reservation.reservation_id, reservation)

    def put_reservation(self, reservation: Reservation) -> None:
        self._freed.clear()
        rows = self.changes.new_reservations
        if reservation.reservation_id not in rows:
            rows = self.changes.changed_reservations
        self._put(rows, reservation.reservation_id, reservation)

    def require_due_loaded(self, tenant_id: str, now: datetime, most: int | None = None) -> None:
        """Make sure that every due reservation of the tenant, or the first `most`, is in the group.

        Called before any verdict rests on holds. Due ones that were not loaded send the group
        round again.
        """
        checked = self._checked_due.get(tenant_id)
        if checked is not None and checked >= now:
            return
        if most is None:
            due = self._unlocked.due(tenant_id, now)
        else:
            due = self._transaction.due_reservations(tenant_id, now, most)
        unknown = [one for one in due if one not in self.needs.reservations]
        if unknown:
            self.needs.reservations.update(dict.fromkeys(unknown, tenant_id))
            raise MoreNeeded
        if most is None:
            self._checked_due[tenant_id] = now

    def due(self, tenant_id: str, now: datetime) -> list[Reservation]:
        """The tenant's reservations of the group that are pending and due at `now`."""
        changes = self.changes
        known = self._loaded.reservations | changes.new_reservations | changes.changed_reservations
        return [
            reservation
            for reservation in known.values()
            if reservation.status is ReservationStatus.PENDING
            and reservation.expires_at <= now
            and reservation.tenant_id == tenant_id
        ]

    # -- what is to come, which only denials ask for

    def look_ahead(self, tenant_id: str, later: Iterable[BalanceKey], *, holds: bool) -> None:
        """Have known what `spent_of` tells of balances `later` and, with `holds`, `freed_on`."""
        not_locked = [key for key in later if self.held_balance(key) is None]
        self._unlocked.look_ahead(tenant_id, not_locked, holds=holds)

    def spent_of(self, key: BalanceKey) -> Decimal:
        """What is spent of a later balance than those decided on, which is not locked."""
        known = self.held_balance(key)
        return self._unlocked.spent(key) if known is None else known.spent

    def freed_on(self, key: BalanceKey, tenant_id: str) -> Freed:
        """What comes free on a balance as the holds expire that there are in this group.

        Of a tenant's very many, those that expire last are one, which does with the last of them.
        """
        freed = self._freed.get(key)
        if freed is None:
            holds = self._holds_on(key, tenant_id)
            freed = freed_by(holds)
            balance = self.held_balance(key)
            held = ZERO if balance is None else balance.reserved
            others = subtract(held, freed.amounts[-1] if freed.amounts else ZERO)
            if others:
                freed = freed_by([*holds, Hold(self._transaction.last_hold(tenant_id), others)])
            self._freed[key] = freed
        return freed

    def _holds_on(self, key: BalanceKey, tenant_id: str) -> list[Hold]:
        changed = self.changes.changed_reservations
        stored = self._unlocked.holds_on(key, tenant_id)
        holds = [hold for reservation_id, hold in stored if reservation_id not in changed]
        for reservation in (*changed.values(), *self.changes.new_reservations.values()):
            if reservation.status is ReservationStatus.PENDING:
                holds.extend(
                    Hold(reservation.expires_at, line.amount)
                    for line in reservation.lines
                    if line.key == key
                )
        return holds

    # -- quotas

    def quota_balance(self, key: QuotaKey) -> QuotaBalance:
        """A balance that was planned for, or that a loaded consumption took from."""
        changed = self.changes.quota_balances.get(key)
        if changed is not None:
            return changed
        found = self._loaded.quota_balances.get(key)
        return self.needs.quota_balances[key] if found is None else found

    def use_quota(self, usage: QuotaUsage) -> None:
        """Keep a quota's new balance, and how it came to it as a row of its history."""
        self._put(self.changes.quota_balances, usage.balance.key, usage.balance)
        history = self.changes.quota_usage
        self._journal.append((history, -1, _ABSENT))  # to undo it is to take the last one off
        history.append(usage)

    def need_consumption(self, consumption_id: str, tenant_id: str) -> None:
        """Have a consumption loaded. What is no UUID names none."""
        if is_uuid(consumption_id):
            self.needs.consumptions[consumption_id] = tenant_id

    def consumption(self, consumption_id: str, tenant_id: str) -> Consumption | None:
        """A consumption that was planned for, as it stands in this group."""
        found = (
            self.changes.changed_consumptions.get(consumption_id)
            or self.changes.new_consumptions.get(consumption_id)
            or self._loaded.consumptions.get(consumption_id)
        )
        return found if found is not None and found.tenant_id == tenant_id else None

    def add_consumption(self, consumption: Consumption) -> None:
        self._put(self.changes.new_consumptions, consumption.consumption_id, consumption)

    def put_consumption(self, consumption: Consumption) -> None:
        rows = self.changes.new_consumptions
        if consumption.consumption_id not in rows:
            rows = self.changes.changed_consumptions
        self._put(rows, consumption.consumption_id, consumption)

    # -- costs

    def recorded_operation(self, key: OperationKey) -> RecordedOperation | None:
        if new := self.changes.operations.get(key):
            return new
        if key not in self.needs.operations:
            self.needs.operations.add(key)
            raise MoreNeeded
        return self._loaded.operations.get(key)

    def add_record(self, record: CostRecord) -> None:
        """Keep a record and its operation id."""
        changes = self.changes
        self._put(changes.records, record.record_id, record)
        if record.operation_id is not None:
            operation = RecordedOperation(
                record.record_id,
                record.recorded_at,
                record.timestamp,
                record.cost_amount,
                record.currency,
                record.attributed_to_type,
                record.attributed_to_id,
                tuple(record.flags),
            )
            self._put(changes.operations, (record.tenant_id, record.operation_id), operation)

    def add_up_records(self) -> None:
        """Sum the group's records, once all of it is decided."""
        changes = self.changes
        if not changes.records:
            return
        series, changes.rollups = add_up(
            changes.records.values(), lambda tenant_id: self.tenant(tenant_id).settings.rollup_tags
        )
        known = self._known_series
        changes.series = {key: one for key, one in series.items() if key not in known}

    # -- idempotency

    def stored_answer(self, idempotency: Idempotency, now: datetime) -> StoredAnswer | None:
        """The answer kept under a key that was planned for, if its window has not ended."""
        key = idempotency.at
        assert key in self.needs.idempotency  # or an operation could be done again
        found = self.changes.answers.get(key) or self._loaded.idempotency.get(key)
        return found if found is not None and found.expires_at > now else None

    def keep_answer(self, idempotency: Idempotency, answer: bytes) -> None:
        stored = StoredAnswer(idempotency.body_hash, answer, idempotency.expires_at)
        self._put(self.changes.answers, idempotency.at, stored)
