"""The ledger's transactions on SQL: one code, two drivers.

A driver runs a list of statements in one round trip (PostgreSQL) or one after the other (SQLite).
Locks are taken in one order everywhere, tenants by id, reservations by id, consumptions by id,
balances by key, quota balances by key, so that groups of several processes wait for each other and
never deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Set
from datetime import datetime
from typing import Final, TypeVar

from fiscus.budgets.model import BalanceKey, BudgetBalance, Reservation, ReservationStatus
from fiscus.idempotency import IdempotencyKey
from fiscus.ledger.port import (
    MAX_DUE,
    Changes,
    Definitions,
    DueReservations,
    GroupConflict,
    Loaded,
    Needs,
    OperationKey,
    UnlockedReads,
    UnlockedRows,
)
from fiscus.quotas.model import Consumption, QuotaBalance, QuotaKey
from fiscus.runtime.repeated import repeated
from fiscus.stores.sql.bulk import Row, Statement
from fiscus.stores.sql.ledger import quotas, read, write
from fiscus.stores.sql.ledger.driver import Driver, Values

Blank = TypeVar("Blank", BudgetBalance, QuotaBalance)
Keys = Set[BalanceKey | QuotaKey]


class KnownBalances:
    """Keys of balances that surely exist, so that they need not be inserted before locking.

    Of budgets and of quotas; their keys are never equal.
    """

    def __init__(self, most: int = 500_000) -> None:
        self._keys: set[BalanceKey | QuotaKey] = set()
        self._most = most

    def missing(self, balances: Iterable[Blank]) -> list[Blank]:
        return [blank for blank in balances if blank.key not in self._keys]

    def add(self, keys: Keys) -> None:
        if len(self._keys) > self._most:
            self._keys.clear()
        self._keys.update(keys)

    def forget(self, keys: Keys) -> None:
        self._keys.difference_update(keys)


class KnownVersions:
    """The versions of tenants' definitions, for as long as nobody else has written to the store."""

    def __init__(self, most: int = 100_000) -> None:
        self._versions: dict[str, int] = {}
        self._most = most

    def missing(self, tenants: Iterable[str]) -> list[str]:
        if len(self._versions) > self._most:
            self._versions.clear()
        return [tenant_id for tenant_id in tenants if tenant_id not in self._versions]

    def add(self, rows: Iterable[Row]) -> None:
        self._versions.update((tenant_id, version or 0) for tenant_id, version in rows)

    def of(self, tenants: Iterable[str]) -> dict[str, int]:
        return {tenant_id: self._versions[tenant_id] for tenant_id in tenants}

    def forget(self) -> None:
        self._versions.clear()


class LedgerRows:
    """What turns rows into values and back, kept from one transaction to the next."""

    def __init__(self, values: Values) -> None:
        self.reader: Final = read.LedgerReader(values)
        self.writer: Final = write.LedgerWriter(values)
        self.quotas: Final = quotas.QuotaRows(values)


class SqlLedgerTransaction:
    """One group's transaction on one connection."""

    def __init__(
        self,
        driver: Driver,
        tenants: Collection[str],
        known: KnownBalances,
        versions: KnownVersions,
        rows: LedgerRows,
        *,
        patient: bool,
    ) -> None:
        self._driver = driver
        self._reader = rows.reader
        self._writer = rows.writer
        self._quotas = rows.quotas
        self._known = known
        self._versions = versions
        self._locked: list[Keys] = []
        """Balances that were found or made, where they are inserted before they are locked."""
        self._stale_answers: list[IdempotencyKey] = []
        self._writes: list[Statement] = []
        driver.begin(tenants, patient=patient)

    # -- loading

    def load(self, needs: Needs) -> Loaded:
        if self._driver.others_wrote():
            self._versions.forget()
        unknown = [(one,) for one in self._versions.missing(needs.tenants)]
        reading: list[Statement] = []
        if not self._driver.locks_store:
            in_use = sorted([(one,) for one in needs.tenants])
            reading.append(Statement(read.IN_USE, read.TENANT, in_use))
        if unknown:
            reading.append(Statement(read.VERSIONS, read.TENANT, unknown))
        optional = (
            (read.ANSWERS, read.IDEMPOTENCY_KEY, needs.idempotency),
            (read.OPERATIONS, read.OPERATION_KEY, needs.operations),
            (read.ANCHORS, read.ANCHOR_KEY, needs.anchors),
        )
        reading += [
            Statement(sql, columns, [tuple(key) for key in keys])
            for sql, columns, keys in optional
            if keys
        ]
        closing = _closing_statements(needs)
        balances, taken_from = needs.balances, list[QuotaKey]()
        # What is closed says which balances to lock, in a second round trip.
        locking = [] if closing else self._lock_statements(needs, balances, [])
        ahead = self._run(reading + closing + locking)
        if not self._driver.locks_store:
            next(ahead)
        if unknown:
            self._versions.add(next(ahead))
        answers = self._reader.answers(next(ahead)) if needs.idempotency else {}
        self._stale_answers = list(answers)
        operations = self._reader.operations(next(ahead)) if needs.operations else {}
        anchors = self._reader.anchors(next(ahead)) if needs.anchors else {}
        reservations: dict[str, Reservation] = {}
        consumptions: dict[str, Consumption] = {}
        if needs.reservations:
            reservations = self._reader.reservations(next(ahead))
            balances = self._held(reservations) | needs.balances
        if needs.consumptions:
            consumptions = self._quotas.consumptions(next(ahead))
            taken_from = [line.key for one in consumptions.values() for line in one.lines]
        if closing:
            named = _named_operations(reservations) - needs.operations
            locking = self._lock_statements(needs, balances, taken_from)
            if named:
                locking.insert(0, Statement(read.OPERATIONS, read.OPERATION_KEY, list(named)))
            ahead = self._run(locking)
            if named:
                operations |= self._reader.operations(next(ahead))
        locked = self._reader.balances(next(ahead), list(balances.values())) if balances else {}
        quota_balances = (
            self._quotas.balances(next(ahead)) if needs.quota_balances or taken_from else {}
        )
        self._require_rows(balances.keys(), locked.keys())
        self._require_rows(needs.quota_balances.keys(), quota_balances.keys())
        return Loaded(
            versions=self._versions.of(needs.tenants),
            idempotency=answers,
            operations=operations,
            anchors=anchors,
            reservations=reservations,
            balances=locked,
            consumptions=consumptions,
            quota_balances=quota_balances,
        )

    def _run(self, statements: list[Statement]) -> Iterator[list[Row]]:
        """What those of `statements` that read found, in order."""
        results = self._driver.run(statements) if statements else []
        return iter([rows for one, rows in zip(statements, results, strict=True) if one.reads])

    def _lock_statements(
        self,
        needs: Needs,
        balances: dict[BalanceKey, BudgetBalance],
        taken_from: list[QuotaKey],
    ) -> list[Statement]:
        """Lock balances, and of quotas those needed and those consumptions were taken from."""
        statements: list[Statement] = []
        insert_first = not self._driver.locks_store
        if balances:
            if insert_first and (missing := self._known.missing(balances.values())):
                rows = [self._writer.balance_row(blank) for blank in missing]
                statements.append(Statement(write.ADD_BALANCES, write.BALANCE, rows))
            time = repeated(self._driver.time)
            keys = [
                (blank.key.budget_id, blank.key.scope_id, time(blank.key.period_start), place)
                for place, blank in enumerate(balances.values())
            ]
            statements.append(Statement(read.BALANCES, read.BALANCE_KEY, keys))
        wanted = dict.fromkeys((*needs.quota_balances, *taken_from))
        if wanted:
            if insert_first and (blanks := self._known.missing(needs.quota_balances.values())):
                rows = [self._quotas.balance_row(blank) for blank in blanks]
                added = Statement(quotas.ADD_QUOTA_BALANCES, quotas.QUOTA_BALANCE, rows)
                statements.append(added)
            statements.append(Statement(quotas.QUOTA_BALANCES, quotas.QUOTA_KEY, list(wanted)))
        return statements

    def _held(self, reservations: dict[str, Reservation]) -> dict[BalanceKey, BudgetBalance]:
        """The balances that pending reservations hold on; their rows exist already.

        When their periods end is not told, nor is it needed where a row exists.
        """
        return {
            line.key: BudgetBalance(line.key, reservation.tenant_id, line.key.period_start)
            for reservation in reservations.values()
            if reservation.status is ReservationStatus.PENDING
            for line in reservation.lines
        }

    def _require_rows(self, wanted: Keys, found: Keys) -> None:
        """What was to be inserted before it was locked must be there."""
        if self._driver.locks_store:
            return
        lost = wanted - found
        if lost:
            self._known.forget(lost)
            raise GroupConflict("balance rows vanished")
        self._locked.append(found)

    def definitions(
        self, tenant_id: str, after_version: int, quotas_ending_after: datetime
    ) -> Definitions:
        row = [(tenant_id, after_version)]
        ending_after = self._driver.time(quotas_ending_after)
        settings, budgets, changed_quotas = self._driver.run(
            [
                Statement(read.SETTINGS, read.TENANT_AFTER, row),
                Statement(read.CHANGED_BUDGETS, read.TENANT_AFTER, row),
                quotas.quotas_after(tenant_id, after_version, ending_after),
            ]
        )
        definitions = self._reader.definitions(settings, budgets)
        definitions.quotas, definitions.deleted_quotas = quotas.read_quotas(changed_quotas)
        return definitions

    def read_unlocked(self, wanted: UnlockedReads) -> UnlockedRows:
        time, reader = self._driver.time, self._reader
        spent = [
            (tenant_id, key.budget_id, key.scope_id, time(key.period_start), place)
            for place, (key, tenant_id) in enumerate(wanted.spent.items())
        ]
        found = self._run(
            [
                Statement(
                    f"{read.DUE} LIMIT {MAX_DUE + 1}",
                    read.TENANT_UNTIL,
                    [(tenant_id, time(until))],
                )
                for tenant_id, until in wanted.due.items()
            ]
            + [Statement(read.HOLDS, read.TENANT, [(tenant_id,)]) for tenant_id in wanted.holds]
            + ([Statement(read.SPENT, read.SPENT_KEY, spent)] if spent else [])
        )
        return UnlockedRows(
            {
                one: DueReservations(until, reader.due(next(found)))
                for one, until in wanted.due.items()
            },
            {tenant_id: reader.holds(next(found)) for tenant_id in wanted.holds},
            reader.spent(next(found), list(wanted.spent)) if spent else {},
        )

    def due_reservations(self, tenant_id: str, now: datetime, most: int) -> list[str]:
        row = (tenant_id, self._driver.time(now))
        (rows,) = self._driver.run(
            [Statement(f"{read.DUE} LIMIT {most:d}", read.TENANT_UNTIL, [row])]
        )
        return [reservation_id for _, reservation_id in self._reader.due(rows)]

    def last_hold(self, tenant_id: str) -> datetime:
        ((row,),) = self._driver.run([Statement(read.LAST_HOLD, read.TENANT, [(tenant_id,)])])
        return self._reader.moment(row)

    # -- writing

    def write(self, changes: Changes) -> None:
        """Gather the group's statements; they run with the commit."""
        before = self._rollups_before(changes) if self._driver.locks_store else None
        self._writes = self._writer.statements(changes, self._stale_answers, before)
        self._writes += self._quotas.statements(changes)

    def _rollups_before(self, changes: Changes) -> list[Row]:
        """The sums that this group adds to, by their places in it."""
        if not changes.rollups:
            return []
        time = repeated(self._driver.time)
        keys = [
            (tenant_id, series_id, time(bucket), place)
            for place, (tenant_id, series_id, bucket) in enumerate(changes.rollups)
        ]
        (rows,) = self._driver.run([Statement(read.ROLLUPS, read.ROLLUP_KEY, keys)])
        return rows

    def commit(self) -> None:
        self._driver.commit(self._writes)
        for found in self._locked:  # only now, as those that were missing went with a rollback
            self._known.add(found)

    def rollback(self) -> None:
        self._driver.rollback()


def _closing_statements(needs: Needs) -> list[Statement]:
    """Lock the reservations and consumptions that are to be closed or changed."""
    statements: list[Statement] = []
    if needs.reservations:
        ids = [(one,) for one in sorted(needs.reservations)]
        statements.append(Statement(read.RESERVATIONS, read.RESERVATION_ID, ids))
    if needs.consumptions:
        ids = [(one,) for one in sorted(needs.consumptions)]
        statements.append(Statement(quotas.CONSUMPTIONS, quotas.CONSUMPTION_ID, ids))
    return statements


def _named_operations(reservations: dict[str, Reservation]) -> set[OperationKey]:
    """The operations that settling these reservations would record."""
    return {
        (reservation.tenant_id, reservation.operation_id)
        for reservation in reservations.values()
        if reservation.operation_id is not None
    }
