"""The ledger's transactions on SQL: one code, two drivers.

A driver runs a list of statements in one round trip (PostgreSQL) or one after the other (SQLite).
Locks are taken in one order everywhere, reservations by id and then balances by key, so that
groups of several processes wait for each other and never deadlock.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from fiscus.budgets.model import BalanceKey, BudgetBalance, Reservation, ReservationStatus
from fiscus.budgets.rules import Hold
from fiscus.idempotency import IdempotencyKey
from fiscus.ledger.port import (
    Changes,
    Definitions,
    GroupConflict,
    Loaded,
    Needs,
    OperationKey,
)
from fiscus.stores.sql import ledger_read as read
from fiscus.stores.sql import ledger_write as write
from fiscus.stores.sql.bulk import Row, Statement
from fiscus.stores.sql.driver import Driver


class KnownBalances:
    """Keys of balances that surely exist, so that they need not be inserted before locking."""

    def __init__(self, most: int = 500_000) -> None:
        self._keys: set[BalanceKey] = set()
        self._most = most

    def missing(self, balances: dict[BalanceKey, BudgetBalance]) -> list[BudgetBalance]:
        return [blank for key, blank in balances.items() if key not in self._keys]

    def add(self, keys: Collection[BalanceKey]) -> None:
        if len(self._keys) > self._most:
            self._keys.clear()
        self._keys.update(keys)

    def forget(self, keys: Collection[BalanceKey]) -> None:
        self._keys.difference_update(keys)


class SqlLedgerTransaction:
    """One group's transaction on one connection."""

    def __init__(self, driver: Driver, tenants: Collection[str], known: KnownBalances) -> None:
        self._driver = driver
        self._reader = read.LedgerReader(driver)
        self._writer = write.LedgerWriter(driver)
        self._known = known
        self._stale_answers: list[IdempotencyKey] = []
        self._writes: list[Statement] = []
        driver.begin(tenants)

    # -- loading
    def load(self, needs: Needs) -> Loaded:
        driver = self._driver
        reading = [Statement(read.VERSIONS, read.TENANT, [(tenant,) for tenant in needs.tenants])]
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
        ids = [(one,) for one in sorted(needs.reservations)]
        if ids:
            reading.append(Statement(read.RESERVATIONS, read.RESERVATION_ID, ids))
            reading.append(Statement(read.LINES, read.RESERVATION_ID, ids))
        else:
            reading += self._lock_statements(needs.balances)
        results = driver.run(reading)
        ahead = iter(results)
        versions = dict.fromkeys(needs.tenants, 0) | {row[0]: row[1] for row in next(ahead)}
        answers = self._reader.answers(next(ahead)) if needs.idempotency else {}
        self._stale_answers = list(answers)
        operations = self._reader.operations(next(ahead)) if needs.operations else {}
        anchors = self._reader.anchors(next(ahead)) if needs.anchors else {}
        reservations: dict[str, Reservation] = {}
        balances = needs.balances
        if ids:
            reservations = self._reader.reservations(next(ahead), next(ahead))
            balances = needs.balances | self._held(reservations)
            named = _named_operations(reservations) - needs.operations
            statements = self._lock_statements(balances)
            if named:
                statements.insert(0, Statement(read.OPERATIONS, read.OPERATION_KEY, list(named)))
            results = driver.run(statements) if statements else []
            if named:
                operations |= self._reader.operations(results[0])
        return Loaded(
            versions=versions,
            idempotency=answers,
            operations=operations,
            anchors=anchors,
            reservations=reservations,
            balances=self._locked(results[-1] if balances else [], balances),
        )

    def _lock_statements(self, balances: dict[BalanceKey, BudgetBalance]) -> list[Statement]:
        if not balances:
            return []
        statements: list[Statement] = []
        if self._driver.needs_rows_before_locking:
            missing = self._known.missing(balances)
            if missing:
                rows = [self._writer.balance_row(blank) for blank in missing]
                statements.append(Statement(write.ADD_BALANCES, write.BALANCE, rows))
        time = self._driver.time
        keys = [(key.budget_id, key.scope_id, time(key.period_start)) for key in balances]
        statements.append(Statement(read.BALANCES, read.BALANCE_KEY, keys))
        return statements

    def _held(self, reservations: dict[str, Reservation]) -> dict[BalanceKey, BudgetBalance]:
        """The balances that pending reservations hold on; their rows exist already."""
        return {
            line.key: BudgetBalance(line.key, reservation.tenant_id, line.key.period_start)
            for reservation in reservations.values()
            if reservation.status is ReservationStatus.PENDING
            for line in reservation.lines
        }

    def _locked(
        self, rows: list[Row], wanted: dict[BalanceKey, BudgetBalance]
    ) -> dict[BalanceKey, BudgetBalance]:
        found = self._reader.balances(rows)
        if self._driver.needs_rows_before_locking:
            lost = wanted.keys() - found.keys()
            if lost:
                self._known.forget(lost)
                raise GroupConflict("balance rows vanished")
            self._known.add(found.keys())
        return found

    def definitions(self, tenant_id: str, after_version: int) -> Definitions:
        row = [(tenant_id, after_version)]
        settings, budgets = self._driver.run(
            [
                Statement(read.SETTINGS, read.TENANT_AFTER, row),
                Statement(read.CHANGED_BUDGETS, read.TENANT_AFTER, row),
            ]
        )
        return self._reader.definitions(settings, budgets)

    def due_reservations(self, tenant_id: str, now: datetime, most: int | None) -> list[str]:
        sql = read.DUE if most is None else f"{read.DUE} LIMIT {most:d}"
        row = (tenant_id, self._driver.time(now))
        (rows,) = self._driver.run([Statement(sql, read.TENANT_UNTIL, [row])])
        return [row[0] for row in rows]

    def pending_holds(self, key: BalanceKey, tenant_id: str) -> list[tuple[str, Hold]]:
        row = (tenant_id, key.budget_id, key.scope_id, self._driver.time(key.period_start))
        (rows,) = self._driver.run([Statement(read.HOLDS, read.HOLDS_OF, [row])])
        return self._reader.holds(rows)

    # -- writing

    def write(self, changes: Changes) -> None:
        """Gather the group's statements; they run with the commit."""
        self._writes = self._writer.statements(changes, self._stale_answers)

    def commit(self) -> None:
        self._driver.commit(self._writes)

    def rollback(self) -> None:
        self._driver.rollback()


def _named_operations(reservations: dict[str, Reservation]) -> set[OperationKey]:
    """The operations that settling these reservations would record."""
    return {
        (reservation.tenant_id, reservation.operation_id)
        for reservation in reservations.values()
        if reservation.operation_id is not None
    }
