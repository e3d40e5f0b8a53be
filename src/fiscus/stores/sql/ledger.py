"""The ledger's transactions on SQL: one code, two drivers.

A driver runs a list of statements in one round trip (PostgreSQL) or one after the other (SQLite).
Locks are taken in one order everywhere, reservations by id and then balances by key, so that
groups of several processes wait for each other and never deadlock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from fiscus.budgets.model import (
    BalanceKey,
    Budget,
    BudgetBalance,
    Reservation,
    ReservationLine,
    ReservationStatus,
)
from fiscus.budgets.rules import Hold
from fiscus.costs.model import CostRecord
from fiscus.costs.rollups import RollupKey, RollupSum, Series
from fiscus.idempotency import IdempotencyKey, StoredAnswer
from fiscus.ledger.port import (
    AnchorKey,
    Changes,
    Definitions,
    GroupConflict,
    Loaded,
    Needs,
    OperationKey,
    RecordedOperation,
)
from fiscus.operations import NO_TAGS, Operation
from fiscus.stores.sql.bulk import Columns, Row, Statement
from fiscus.tenants import TenantSettings
from fiscus.wire import decode, encode


class Driver(Protocol):
    """One connection, one transaction at a time."""

    needs_rows_before_locking: bool
    """Whether balances must exist to be locked (PostgreSQL), or the whole store is locked (SQLite)."""

    def time(self, moment: datetime) -> Any: ...
    def amount(self, amount: Decimal) -> Any: ...
    def read_time(self, value: Any) -> datetime: ...
    def read_date(self, value: Any) -> date: ...
    def read_amount(self, value: Any) -> Decimal: ...
    def begin(self, tenants: Collection[str]) -> None: ...
    def run(self, statements: Sequence[Statement]) -> list[list[Row]]: ...
    def commit(self, statements: Sequence[Statement]) -> None: ...
    def rollback(self) -> None: ...


# -- reading

_TENANT = Columns(tenant_id="text")
_VERSIONS = """
    SELECT t.tenant_id, t.definitions_version
    FROM {rows} JOIN tenants t ON t.tenant_id = r.tenant_id
"""

_IDEMPOTENCY_KEY = Columns(tenant_id="text", operation="text", key="text")
_ANSWERS = """
    SELECT i.tenant_id, i.operation, i.key, i.body_hash, i.answer, i.expires_at
    FROM {rows} JOIN idempotency_keys i
      ON i.tenant_id = r.tenant_id AND i.operation = r.operation AND i.key = r.key
"""

_OPERATION_KEY = Columns(tenant_id="text", operation_id="text")
_OPERATIONS = """
    SELECT o.tenant_id, o.operation_id, CAST(o.record_id AS TEXT), o.recorded_at, o.timestamp,
           o.cost_amount, o.currency
    FROM {rows} JOIN cost_operations o
      ON o.tenant_id = r.tenant_id AND o.operation_id = r.operation_id
"""

_ANCHOR_KEY = Columns(budget_id="uuid", scope_id="text")
_ANCHORS = """
    SELECT CAST(a.budget_id AS TEXT), a.scope_id, a.anchor
    FROM {rows} JOIN budget_anchors a
      ON a.budget_id = r.budget_id AND a.scope_id = r.scope_id
"""

_RESERVATION_ID = Columns(reservation_id="uuid")
_RESERVATION_COLUMNS = """
    CAST(v.reservation_id AS TEXT), v.tenant_id, v.status, v.resource_type, v.estimated_cost,
    v.currency, v.project_id, v.user_id, v.feature_id, v.service_name, v.tags, v.operation_id,
    v.created_at, v.expires_at, CAST(v.record_id AS TEXT), v.actual_cost, v.settlement
"""
_RESERVATIONS = f"""
    SELECT {_RESERVATION_COLUMNS}
    FROM {{rows}} JOIN reservations v ON v.reservation_id = r.reservation_id
    {{lock_v}}
"""
_LINES = """
    SELECT CAST(l.reservation_id AS TEXT), CAST(l.budget_id AS TEXT), l.scope_id, l.period_start,
           l.amount, l.rate, l.rate_date
    FROM {rows} JOIN reservation_lines l ON l.reservation_id = r.reservation_id
    ORDER BY l.reservation_id, l.budget_id, l.scope_id
"""

_BALANCE_KEY = Columns(budget_id="uuid", scope_id="text", period_start="timestamptz")
_BALANCES = """
    SELECT CAST(p.budget_id AS TEXT), p.scope_id, p.period_start, p.tenant_id, p.period_end,
           p.spent, p.reserved, p.throttle_credit
    FROM {rows} JOIN budget_periods p
      ON p.budget_id = r.budget_id AND p.scope_id = r.scope_id
     AND p.period_start = r.period_start
    {lock_p}
"""

_TENANT_AFTER = Columns(tenant_id="text", after_version="bigint")
_SETTINGS = """
    SELECT t.definitions_version, t.currency, t.timezone, t.require_budget, t.rollup_tags
    FROM {rows} JOIN tenants t ON t.tenant_id = r.tenant_id
"""
_CHANGED_BUDGETS = """
    SELECT CAST(b.budget_id AS TEXT), b.definition, b.deleted_at
    FROM {rows} JOIN budgets b
      ON b.tenant_id = r.tenant_id AND b.definitions_version > r.after_version
"""

_TENANT_UNTIL = Columns(tenant_id="text", until="timestamptz")
_DUE = """
    SELECT CAST(v.reservation_id AS TEXT)
    FROM {rows} JOIN reservations v ON v.tenant_id = r.tenant_id AND v.expires_at <= r.until
    WHERE v.status = 'pending'
    ORDER BY v.expires_at LIMIT 1000
"""

_HOLDS_OF = Columns(tenant_id="text", budget_id="uuid", scope_id="text", period_start="timestamptz")
_HOLDS = """
    SELECT CAST(v.reservation_id AS TEXT), v.expires_at, l.amount
    FROM {rows}
    JOIN reservations v ON v.tenant_id = r.tenant_id AND v.status = 'pending'
    JOIN reservation_lines l ON l.reservation_id = v.reservation_id
     AND l.budget_id = r.budget_id AND l.scope_id = r.scope_id AND l.period_start = r.period_start
    ORDER BY v.expires_at LIMIT 1000
"""

# -- writing

_BALANCE = Columns(
    budget_id="uuid",
    scope_id="text",
    period_start="timestamptz",
    tenant_id="text",
    period_end="timestamptz",
    spent="numeric",
    reserved="numeric",
    throttle_credit="numeric",
)
_ADD_BALANCES = f"""
    INSERT INTO budget_periods ({_BALANCE.list})
    SELECT {_BALANCE.list} FROM {{rows}} WHERE true
    ORDER BY budget_id, scope_id, period_start
    ON CONFLICT (budget_id, scope_id, period_start) DO NOTHING
"""
_PUT_BALANCES = f"""
    INSERT INTO budget_periods ({_BALANCE.list})
    SELECT {_BALANCE.list} FROM {{rows}} WHERE true
    ON CONFLICT (budget_id, scope_id, period_start) DO UPDATE SET
        spent = excluded.spent,
        reserved = excluded.reserved,
        throttle_credit = excluded.throttle_credit
"""

_RESERVATION = Columns(
    reservation_id="uuid",
    tenant_id="text",
    status="text",
    resource_type="text",
    estimated_cost="numeric",
    currency="text",
    project_id="text",
    user_id="text",
    feature_id="text",
    service_name="text",
    tags="text",
    operation_id="text",
    created_at="timestamptz",
    expires_at="timestamptz",
    record_id="uuid",
    actual_cost="numeric",
    settlement="text",
)
_ADD_RESERVATIONS = f"""
    INSERT INTO reservations ({_RESERVATION.list}) SELECT {_RESERVATION.list} FROM {{rows}}
"""

_CLOSED = Columns(
    reservation_id="uuid",
    status="text",
    expires_at="timestamptz",
    record_id="uuid",
    actual_cost="numeric",
    settlement="text",
)
_CHANGE_RESERVATIONS = """
    UPDATE reservations SET status = r.status, expires_at = r.expires_at, record_id = r.record_id,
           actual_cost = r.actual_cost, settlement = r.settlement
    FROM {rows} WHERE reservations.reservation_id = r.reservation_id
"""

_LINE = Columns(
    reservation_id="uuid",
    budget_id="uuid",
    scope_id="text",
    period_start="timestamptz",
    tenant_id="text",
    amount="numeric",
    rate="numeric",
    rate_date="date",
)
_ADD_LINES = f"INSERT INTO reservation_lines ({_LINE.list}) SELECT {_LINE.list} FROM {{rows}}"

_RECORD = Columns(
    record_id="uuid",
    timestamp="timestamptz",
    tenant_id="text",
    recorded_at="timestamptz",
    resource_type="text",
    cost_amount="numeric",
    currency="text",
    charge_category="text",
    attributed_to_type="text",
    attributed_to_id="text",
    project_id="text",
    user_id="text",
    feature_id="text",
    usage_quantity="numeric",
    usage_unit="text",
    usage="text",
    resource_id="text",
    service_name="text",
    region="text",
    tags="text",
    flags="text",
    reservation_id="uuid",
    operation_id="text",
)
_ADD_RECORDS = f"INSERT INTO cost_records ({_RECORD.list}) SELECT {_RECORD.list} FROM {{rows}}"

_SERIES = Columns(
    series_id="text",
    tenant_id="text",
    resource_type="text",
    service_name="text",
    region="text",
    project_id="text",
    user_id="text",
    feature_id="text",
    attributed_to_type="text",
    attributed_to_id="text",
    charge_category="text",
    currency="text",
    usage_unit="text",
    tags="text",
)
_ADD_SERIES = f"""
    INSERT INTO cost_series ({_SERIES.list})
    SELECT {_SERIES.list} FROM {{rows}} WHERE true ORDER BY series_id
    ON CONFLICT (series_id) DO NOTHING
"""

_ROLLUP = Columns(
    tenant_id="text",
    bucket="timestamptz",
    series_id="text",
    cost_amount="numeric",
    usage_quantity="numeric",
    record_count="bigint",
)
_ADD_ROLLUPS = f"""
    INSERT INTO cost_rollups ({_ROLLUP.list})
    SELECT {_ROLLUP.list} FROM {{rows}} WHERE true ORDER BY tenant_id, bucket, series_id
    ON CONFLICT (tenant_id, bucket, series_id) DO UPDATE SET
        cost_amount = {{sum:cost_rollups.cost_amount:excluded.cost_amount}},
        usage_quantity = {{sum:cost_rollups.usage_quantity:excluded.usage_quantity}},
        record_count = cost_rollups.record_count + excluded.record_count
"""

_OPERATION = Columns(
    tenant_id="text",
    operation_id="text",
    record_id="uuid",
    recorded_at="timestamptz",
    timestamp="timestamptz",
    cost_amount="numeric",
    currency="text",
)
_ADD_OPERATIONS = f"""
    INSERT INTO cost_operations ({_OPERATION.list}) SELECT {_OPERATION.list} FROM {{rows}}
"""

_ANCHOR = Columns(budget_id="uuid", scope_id="text", tenant_id="text", anchor="date")
_ADD_ANCHORS = f"INSERT INTO budget_anchors ({_ANCHOR.list}) SELECT {_ANCHOR.list} FROM {{rows}}"

_ANSWER = Columns(
    tenant_id="text",
    operation="text",
    key="text",
    body_hash="text",
    answer="text",
    expires_at="timestamptz",
)
# A key whose window has ended may be used anew; one that another process stored meanwhile may not.
_ADD_ANSWERS = """
    INSERT INTO idempotency_keys (tenant_id, operation, key, body_hash, answer, expires_at)
    SELECT tenant_id, operation, key, body_hash, answer, expires_at FROM {rows}
"""
_DROP_ANSWERS = """
    DELETE FROM idempotency_keys WHERE (tenant_id, operation, key) IN
        (SELECT r.tenant_id, r.operation, r.key FROM {rows})
"""


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
        self._known = known
        self._stale_answers: list[IdempotencyKey] = []
        self._writes: list[Statement] = []
        driver.begin(tenants)

    # -- loading

    def load(self, needs: Needs) -> Loaded:
        driver = self._driver
        reading = [Statement(_VERSIONS, _TENANT, [(tenant,) for tenant in needs.tenants])]
        optional = (
            (_ANSWERS, _IDEMPOTENCY_KEY, needs.idempotency),
            (_OPERATIONS, _OPERATION_KEY, needs.operations),
            (_ANCHORS, _ANCHOR_KEY, needs.anchors),
        )
        reading += [
            Statement(sql, columns, [tuple(key) for key in keys])
            for sql, columns, keys in optional
            if keys
        ]
        ids = [(one,) for one in sorted(needs.reservations)]
        if ids:
            reading.append(Statement(_RESERVATIONS, _RESERVATION_ID, ids))
            reading.append(Statement(_LINES, _RESERVATION_ID, ids))
            balance_rows = None
        else:
            reading += self._lock_statements(needs.balances)
        results = iter(driver.run(reading))
        versions = dict.fromkeys(needs.tenants, 0) | {row[0]: row[1] for row in next(results)}
        answers = self._read_answers(next(results)) if needs.idempotency else {}
        operations = self._read_operations(next(results)) if needs.operations else {}
        anchors = self._read_anchors(next(results)) if needs.anchors else {}
        reservations: dict[str, Reservation] = {}
        if ids:
            reservations = self._read_reservations(next(results), next(results))
            balances = needs.balances | self._held(reservations)
            balance_rows = driver.run(self._lock_statements(balances))[-1] if balances else []
        else:
            balances = needs.balances
            balance_rows = list(results)[-1] if balances else []
        return Loaded(
            versions=versions,
            idempotency=answers,
            operations=operations,
            anchors=anchors,
            reservations=reservations,
            balances=self._read_balances(balance_rows, balances),
        )

    def _lock_statements(self, balances: dict[BalanceKey, BudgetBalance]) -> list[Statement]:
        if not balances:
            return []
        statements: list[Statement] = []
        if self._driver.needs_rows_before_locking:
            missing = self._known.missing(balances)
            if missing:
                rows = [self._balance_row(blank) for blank in missing]
                statements.append(Statement(_ADD_BALANCES, _BALANCE, rows))
        time = self._driver.time
        keys = [(key.budget_id, key.scope_id, time(key.period_start)) for key in balances]
        statements.append(Statement(_BALANCES, _BALANCE_KEY, keys))
        return statements

    def _held(self, reservations: dict[str, Reservation]) -> dict[BalanceKey, BudgetBalance]:
        """The balances that pending reservations hold on; their rows exist, so blanks are unused."""
        return {
            line.key: BudgetBalance(line.key, reservation.tenant_id, line.key.period_start)
            for reservation in reservations.values()
            if reservation.status is ReservationStatus.PENDING
            for line in reservation.lines
        }

    def _read_balances(
        self, rows: list[Row], wanted: dict[BalanceKey, BudgetBalance]
    ) -> dict[BalanceKey, BudgetBalance]:
        driver = self._driver
        read_time, read_amount = driver.read_time, driver.read_amount
        found: dict[BalanceKey, BudgetBalance] = {}
        for budget_id, scope_id, start, tenant_id, end, spent, reserved, credit in rows:
            key = BalanceKey(budget_id, scope_id, read_time(start))
            found[key] = BudgetBalance(
                key,
                tenant_id,
                read_time(end),
                read_amount(spent),
                read_amount(reserved),
                read_amount(credit),
            )
        if driver.needs_rows_before_locking:
            lost = wanted.keys() - found.keys()
            if lost:
                self._known.forget(lost)
                raise GroupConflict("balance rows vanished")
            self._known.add(found.keys())
        return found

    def _read_answers(self, rows: list[Row]) -> dict[IdempotencyKey, StoredAnswer]:
        read_time = self._driver.read_time
        found = {
            IdempotencyKey(tenant, operation, key): StoredAnswer(
                body_hash, answer.encode(), read_time(expires_at)
            )
            for tenant, operation, key, body_hash, answer, expires_at in rows
        }
        self._stale_answers = list(found)
        return found

    def _read_operations(self, rows: list[Row]) -> dict[OperationKey, RecordedOperation]:
        driver = self._driver
        return {
            (tenant, operation): RecordedOperation(
                record_id,
                driver.read_time(recorded_at),
                driver.read_time(timestamp),
                driver.read_amount(amount),
                currency,
            )
            for tenant, operation, record_id, recorded_at, timestamp, amount, currency in rows
        }

    def _read_anchors(self, rows: list[Row]) -> dict[AnchorKey, date]:
        read_date = self._driver.read_date
        return {(budget, scope): read_date(anchor) for budget, scope, anchor in rows}

    def _read_reservations(self, rows: list[Row], line_rows: list[Row]) -> dict[str, Reservation]:
        driver = self._driver
        lines: dict[str, list[ReservationLine]] = {}
        for reservation_id, budget_id, scope_id, start, amount, rate, rate_date in line_rows:
            key = BalanceKey(budget_id, scope_id, driver.read_time(start))
            lines.setdefault(reservation_id, []).append(
                ReservationLine(
                    key,
                    driver.read_amount(amount),
                    driver.read_amount(rate),
                    driver.read_date(rate_date),
                )
            )
        return {row[0]: read_reservation(row, tuple(lines.get(row[0], ())), driver) for row in rows}

    def definitions(self, tenant_id: str, after_version: int) -> Definitions:
        row = [(tenant_id, after_version)]
        settings, budgets = self._driver.run(
            [
                Statement(_SETTINGS, _TENANT_AFTER, row),
                Statement(_CHANGED_BUDGETS, _TENANT_AFTER, row),
            ]
        )
        if not settings:
            return Definitions(0, TenantSettings(), [], [])
        version, currency, timezone, require_budget, rollup_tags = settings[0]
        return Definitions(
            version=version,
            settings=TenantSettings(
                currency=currency,
                timezone=timezone,
                require_budget=bool(require_budget),
                rollup_tags=json.loads(rollup_tags),
            ),
            budgets=[decode(definition, Budget) for _, definition, gone in budgets if gone is None],
            deleted=[budget_id for budget_id, _, gone in budgets if gone is not None],
        )

    def due_reservations(self, tenant_id: str, now: datetime) -> list[str]:
        row = (tenant_id, self._driver.time(now))
        (rows,) = self._driver.run([Statement(_DUE, _TENANT_UNTIL, [row])])
        return [row[0] for row in rows]

    def pending_holds(self, key: BalanceKey, tenant_id: str) -> list[tuple[str, Hold]]:
        driver = self._driver
        row = (tenant_id, key.budget_id, key.scope_id, driver.time(key.period_start))
        (rows,) = driver.run([Statement(_HOLDS, _HOLDS_OF, [row])])
        return [
            (reservation_id, Hold(driver.read_time(expires_at), driver.read_amount(amount)))
            for reservation_id, expires_at, amount in rows
        ]

    # -- writing

    def write(self, changes: Changes) -> None:
        """Gather the group's statements; they run with the commit."""
        add = self._add
        add(_PUT_BALANCES, _BALANCE, changes.balances.values(), self._balance_row)
        if changes.new_reservations:
            add(
                _ADD_RESERVATIONS,
                _RESERVATION,
                changes.new_reservations.values(),
                self._reservation_row,
            )
            rows = [
                row
                for reservation in changes.new_reservations.values()
                for row in self._line_rows(reservation)
            ]
            if rows:
                self._writes.append(Statement(_ADD_LINES, _LINE, rows))
        add(
            _CHANGE_RESERVATIONS,
            _CLOSED,
            changes.changed_reservations.values(),
            self._closed_row,
        )
        add(_ADD_SERIES, _SERIES, changes.series.values(), _series_row)
        add(_ADD_RECORDS, _RECORD, changes.records.values(), self._record_row)
        add(_ADD_ROLLUPS, _ROLLUP, changes.rollups.items(), self._rollup_row)
        add(_ADD_OPERATIONS, _OPERATION, changes.operations.items(), self._operation_row)
        add(_ADD_ANCHORS, _ANCHOR, changes.anchors.items(), _anchor_row)
        self._write_answers(changes)

    def commit(self) -> None:
        self._driver.commit(self._writes)

    def rollback(self) -> None:
        self._driver.rollback()

    def _add(
        self,
        sql: str,
        columns: Columns,
        values: Collection[Any],
        row: Callable[[Any], Row],
    ) -> None:
        if values:
            self._writes.append(Statement(sql, columns, [row(value) for value in values]))

    def _write_answers(self, changes: Changes) -> None:
        if not changes.answers:
            return
        replaced = [tuple(key) for key in self._stale_answers if key in changes.answers]
        if replaced:
            self._writes.append(Statement(_DROP_ANSWERS, _IDEMPOTENCY_KEY, replaced))
        time = self._driver.time
        rows = [
            (*key, stored.body_hash, stored.answer.decode(), time(stored.expires_at))
            for key, stored in changes.answers.items()
        ]
        self._writes.append(Statement(_ADD_ANSWERS, _ANSWER, rows))

    def _balance_row(self, balance: BudgetBalance) -> Row:
        driver = self._driver
        time, amount = driver.time, driver.amount
        key = balance.key
        return (
            key.budget_id,
            key.scope_id,
            time(key.period_start),
            balance.tenant_id,
            time(balance.period_end),
            amount(balance.spent),
            amount(balance.reserved),
            amount(balance.throttle_credit),
        )

    def _reservation_row(self, reservation: Reservation) -> Row:
        driver = self._driver
        operation = reservation.operation
        return (
            reservation.reservation_id,
            reservation.tenant_id,
            reservation.status.value,
            operation.resource_type,
            driver.amount(reservation.estimated_cost),
            reservation.currency,
            operation.project_id,
            operation.user_id,
            operation.feature_id,
            operation.service_name,
            _json_or_none(operation.tags),
            reservation.operation_id,
            driver.time(reservation.created_at),
            driver.time(reservation.expires_at),
            reservation.record_id,
            None if reservation.actual_cost is None else driver.amount(reservation.actual_cost),
            reservation.settlement.decode() if reservation.settlement else None,
        )

    def _line_rows(self, reservation: Reservation) -> list[Row]:
        driver = self._driver
        return [
            (
                reservation.reservation_id,
                line.key.budget_id,
                line.key.scope_id,
                driver.time(line.key.period_start),
                reservation.tenant_id,
                driver.amount(line.amount),
                driver.amount(line.rate),
                line.rate_date.isoformat(),
            )
            for line in reservation.lines
        ]

    def _closed_row(self, reservation: Reservation) -> Row:
        driver = self._driver
        return (
            reservation.reservation_id,
            reservation.status.value,
            driver.time(reservation.expires_at),
            reservation.record_id,
            None if reservation.actual_cost is None else driver.amount(reservation.actual_cost),
            reservation.settlement.decode() if reservation.settlement else None,
        )

    def _record_row(self, record: CostRecord) -> Row:
        driver = self._driver
        quantity = record.usage_quantity
        return (
            record.record_id,
            driver.time(record.timestamp),
            record.tenant_id,
            driver.time(record.recorded_at),
            record.resource_type,
            driver.amount(record.cost_amount),
            record.currency,
            record.charge_category.value,
            record.attributed_to_type.value,
            record.attributed_to_id,
            record.project_id,
            record.user_id,
            record.feature_id,
            None if quantity is None else driver.amount(quantity),
            record.usage_unit,
            None if record.usage is None else encode(record.usage).decode(),
            record.resource_id,
            record.service_name,
            record.region,
            _json_or_none(record.tags),
            ",".join(record.flags) or None,
            record.reservation_id,
            record.operation_id,
        )

    def _rollup_row(self, item: tuple[RollupKey, RollupSum]) -> Row:
        key, total = item
        driver = self._driver
        return (
            key.tenant_id,
            driver.time(key.bucket),
            key.series_id,
            driver.amount(total.cost_amount),
            driver.amount(total.usage_quantity),
            total.record_count,
        )

    def _operation_row(self, item: tuple[OperationKey, RecordedOperation]) -> Row:
        (tenant_id, operation_id), recorded = item
        driver = self._driver
        return (
            tenant_id,
            operation_id,
            recorded.record_id,
            driver.time(recorded.recorded_at),
            driver.time(recorded.timestamp),
            driver.amount(recorded.cost_amount),
            recorded.currency,
        )


def _series_row(series: Series) -> Row:
    return (*series[:-1], _json_or_none(dict(series.tags)))


def _anchor_row(item: tuple[AnchorKey, tuple[str, date]]) -> Row:
    (budget_id, scope_id), (tenant_id, anchor) = item
    return (budget_id, scope_id, tenant_id, anchor.isoformat())


def _json_or_none(tags: Any) -> str | None:
    return encode(dict(tags)).decode() if tags else None


class ReadsValues(Protocol):
    def read_time(self, value: Any) -> datetime: ...
    def read_amount(self, value: Any) -> Decimal: ...


def read_reservation(
    row: Sequence[Any], lines: tuple[ReservationLine, ...], driver: ReadsValues
) -> Reservation:
    """A reservation from a row in the order of its table's columns."""
    (
        reservation_id,
        tenant_id,
        status,
        resource_type,
        estimated_cost,
        currency,
        project_id,
        user_id,
        feature_id,
        service_name,
        tags,
        operation_id,
        created_at,
        expires_at,
        record_id,
        actual_cost,
        settlement,
    ) = row
    return Reservation(
        reservation_id=reservation_id,
        tenant_id=tenant_id,
        operation=Operation(
            tenant_id,
            resource_type,
            project_id,
            user_id,
            feature_id,
            service_name,
            json.loads(tags) if tags else NO_TAGS,
        ),
        operation_id=operation_id,
        estimated_cost=driver.read_amount(estimated_cost),
        currency=currency,
        status=ReservationStatus(status),
        created_at=driver.read_time(created_at),
        expires_at=driver.read_time(expires_at),
        lines=lines,
        record_id=record_id,
        actual_cost=None if actual_cost is None else driver.read_amount(actual_cost),
        settlement=settlement.encode() if settlement else None,
    )
