"""The statements a ledger's transaction loads and locks with, and how their rows are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal

from fiscus.budgets.intervals import Hold
from fiscus.budgets.model import (
    BalanceKey,
    Budget,
    BudgetBalance,
    Reservation,
    ReservationStatus,
)
from fiscus.costs.model import CostFlag
from fiscus.idempotency import IdempotencyKey, StoredAnswer
from fiscus.ledger.port import (
    MAX_HOLDS,
    AnchorKey,
    Definitions,
    OperationKey,
    RecordedOperation,
)
from fiscus.money import ZERO
from fiscus.operations import Operation
from fiscus.scopes import ScopeType
from fiscus.stores.sql.budgets.lines import read_lines
from fiscus.stores.sql.bulk import Columns, Row
from fiscus.stores.sql.ledger.driver import Values
from fiscus.tenants import TenantSettings
from fiscus.wire.decoding import decode

TENANT = Columns(tenant_id="text")
USE_SEED = 0x666973637574
# On PostgreSQL; until its end no change waits in `Database.without_groups` for its tenants.
IN_USE = f"""
    SELECT pg_advisory_xact_lock_shared(hashtextextended(r.tenant_id, {USE_SEED})) FROM {{rows}}
"""
# Not as a join: PostgreSQL would read all tenants rather than look each up.
VERSIONS = """
    SELECT r.tenant_id,
           (SELECT t.definitions_version FROM tenants t WHERE t.tenant_id = r.tenant_id)
    FROM {rows}
"""

IDEMPOTENCY_KEY = Columns(tenant_id="text", operation="text", key="text")
ANSWERS = """
    SELECT i.tenant_id, i.operation, i.key, i.body_hash, i.answer, i.expires_at
    FROM {rows} JOIN idempotency_keys i
      ON i.tenant_id = r.tenant_id AND i.operation = r.operation AND i.key = r.key
"""

OPERATION_KEY = Columns(tenant_id="text", operation_id="text")
OPERATIONS = """
    SELECT o.tenant_id, o.operation_id, CAST(o.record_id AS TEXT), o.recorded_at, o.timestamp,
           o.cost_amount, o.currency, c.attributed_to_type, c.attributed_to_id, c.flags
    FROM {rows} JOIN cost_operations o
      ON o.tenant_id = r.tenant_id AND o.operation_id = r.operation_id
    JOIN cost_records c ON c.record_id = o.record_id AND c.timestamp = o.timestamp
"""

ANCHOR_KEY = Columns(budget_id="uuid", scope_id="text")
ANCHORS = """
    SELECT CAST(a.budget_id AS TEXT), a.scope_id, a.anchor
    FROM {rows} JOIN budget_anchors a
      ON a.budget_id = r.budget_id AND a.scope_id = r.scope_id
"""

RESERVATION_ID = Columns(reservation_id="uuid")
RESERVATIONS = """
    SELECT CAST(v.reservation_id AS TEXT), v.tenant_id, v.status, v.resource_type, v.estimated_cost,
           v.currency, v.project_id, v.user_id, v.feature_id, v.service_name, v.tags,
           v.operation_id, v.created_at, v.expires_at, CAST(v.record_id AS TEXT), v.actual_cost,
           v.settlement, v.lines
    FROM {rows} JOIN reservations v ON v.reservation_id = r.reservation_id
    {lock_v}
"""

# One start for all would be a constant to PostgreSQL's planner: of a period that is newer than its
# statistics it expects no row, and reads all of them.
BALANCE_KEY = Columns(
    budget_id="uuid",
    scope_id="text",
    period_start="timestamptz",
    place="integer",
)
# Who asks knows the keys; what costs is to read them again, and numbers of fixed places.
BALANCES = """
    SELECT r.place, {text:p.spent}, {text:p.reserved}, {text:p.throttle_credit}
    FROM {rows} JOIN budget_periods p
      ON p.budget_id = r.budget_id AND p.scope_id = r.scope_id
     AND p.period_start = r.period_start
    {lock_p}
"""

ROLLUP_KEY = Columns(
    alike=("bucket",), tenant_id="text", series_id="text", bucket="timestamptz", place="integer"
)
ROLLUPS = """
    SELECT r.place, c.cost_amount, c.usage_quantity, c.record_count
    FROM {rows} JOIN cost_rollups c
      ON c.tenant_id = r.tenant_id AND c.bucket = r.bucket AND c.series_id = r.series_id
"""

# The statements from here on take one row, all but the last. PostgreSQL plans for a hundred unless
# LIMIT says so, and would then rather read every pending reservation or budget than use an index.
TENANT_AFTER = Columns(tenant_id="text", after_version="bigint")
SETTINGS = """
    SELECT t.definitions_version, t.currency, t.timezone, t.require_budget, t.require_quota,
           t.rollup_tags
    FROM (SELECT * FROM {rows} LIMIT 1) AS r JOIN tenants t ON t.tenant_id = r.tenant_id
"""
# Who knows nothing yet need not be told what there is no more.
CHANGED_BUDGETS = """
    SELECT CAST(b.budget_id AS TEXT), b.definition, b.deleted_at
    FROM (SELECT * FROM {rows} LIMIT 1) AS r JOIN budgets b
      ON b.tenant_id = r.tenant_id AND b.definitions_version > r.after_version
    WHERE b.deleted_at IS NULL OR r.after_version > 0
"""

TENANT_UNTIL = Columns(tenant_id="text", until="timestamptz")
DUE = """
    SELECT v.expires_at, CAST(v.reservation_id AS TEXT)
    FROM (SELECT * FROM {rows} LIMIT 1) AS r
    JOIN reservations v ON v.tenant_id = r.tenant_id AND v.expires_at <= r.until
    WHERE v.status = 'pending'
    ORDER BY v.expires_at
"""

# The pending ones are walked in the order of their index, and no further than it takes.
_PENDING = """
    FROM reservations p
    WHERE p.tenant_id = (SELECT r.tenant_id FROM {rows} LIMIT 1) AND p.status = 'pending'
"""
HOLDS = f"""
    SELECT CAST(p.reservation_id AS TEXT), p.expires_at, p.lines {_PENDING}
    ORDER BY p.expires_at LIMIT {MAX_HOLDS}
"""
LAST_HOLD = f"SELECT p.expires_at {_PENDING} ORDER BY p.expires_at DESC LIMIT 1"

SPENT_KEY = Columns(
    tenant_id="text",
    budget_id="uuid",
    scope_id="text",
    period_start="timestamptz",
    place="integer",
)
SPENT = """
    SELECT r.place, p.spent
    FROM {rows} JOIN budget_periods p
      ON p.budget_id = r.budget_id AND p.scope_id = r.scope_id
     AND p.period_start = r.period_start AND p.tenant_id = r.tenant_id
"""


class TenantHolds:
    """`PendingHolds` by their balances."""

    def __init__(self, rows: list[Row], values: Values) -> None:
        self._holds: dict[BalanceKey, list[tuple[str, Hold]]] = {}
        for reservation_id, expires_at, lines in rows:
            expiry = values.read_time(expires_at)
            for line in read_lines(lines):
                hold = Hold(expiry, line.amount)
                self._holds.setdefault(line.key, []).append((reservation_id, hold))

    def on(self, key: BalanceKey) -> list[tuple[str, Hold]]:
        return self._holds.get(key, [])


class LedgerReader:
    """Rows into domain values, by the database's way of giving times and amounts."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def balances(
        self, rows: Iterable[tuple[int, str, str, str]], wanted: Sequence[BudgetBalance]
    ) -> dict[BalanceKey, BudgetBalance]:
        """What was found of the balances `wanted`, by their places there."""
        found: dict[BalanceKey, BudgetBalance] = {}
        for place, spent, reserved, credit in rows:
            blank = wanted[place]
            key = blank.key
            found[key] = BudgetBalance(
                key,
                blank.tenant_id,
                blank.period_end,
                Decimal(spent),
                Decimal(reserved),
                Decimal(credit),
            )
        return found

    def answers(self, rows: list[Row]) -> dict[IdempotencyKey, StoredAnswer]:
        read_time = self._values.read_time
        return {
            IdempotencyKey(tenant, operation, key): StoredAnswer(
                body_hash, answer.encode(), read_time(expires_at)
            )
            for tenant, operation, key, body_hash, answer, expires_at in rows
        }

    def operations(self, rows: list[Row]) -> dict[OperationKey, RecordedOperation]:
        values = self._values
        return {
            (tenant, operation): RecordedOperation(
                record_id,
                values.read_time(recorded_at),
                values.read_time(timestamp),
                values.read_amount(amount),
                currency,
                ScopeType(kind),
                scope_id,
                tuple(map(CostFlag, flags.split(","))) if flags else (),
            )
            for (
                tenant,
                operation,
                record_id,
                recorded_at,
                timestamp,
                amount,
                currency,
                kind,
                scope_id,
                flags,
            ) in rows
        }

    def anchors(self, rows: list[Row]) -> dict[AnchorKey, date]:
        read_date = self._values.read_date
        return {(budget, scope): read_date(anchor) for budget, scope, anchor in rows}

    def reservations(self, rows: list[Row]) -> dict[str, Reservation]:
        return {row[0]: self._reservation(row) for row in rows}

    def _reservation(self, row: Row) -> Reservation:
        values = self._values
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
            lines,
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
                json.loads(tags) if tags else {},
            ),
            operation_id=operation_id,
            estimated_cost=values.read_amount(estimated_cost),
            currency=currency,
            status=ReservationStatus(status),
            created_at=values.read_time(created_at),
            expires_at=values.read_time(expires_at),
            lines=read_lines(lines),
            record_id=record_id,
            actual_cost=None if actual_cost is None else values.read_amount(actual_cost),
            settlement=settlement.encode() if settlement else None,
        )

    def definitions(self, settings: list[Row], budgets: list[Row]) -> Definitions:
        if not settings:
            return Definitions(0, TenantSettings(), [], [])
        version, currency, timezone, require_budget, require_quota, rollup_tags = settings[0]
        return Definitions(
            version=version,
            settings=TenantSettings(
                currency=currency,
                timezone=timezone,
                require_budget=bool(require_budget),
                require_quota=bool(require_quota),
                rollup_tags=json.loads(rollup_tags),
            ),
            budgets=[decode(definition, Budget) for _, definition, gone in budgets if gone is None],
            deleted=[budget_id for budget_id, _, gone in budgets if gone is not None],
        )

    def due(self, rows: list[Row]) -> list[tuple[datetime, str]]:
        read_time = self._values.read_time
        return [(read_time(expires_at), reservation_id) for expires_at, reservation_id in rows]

    def holds(self, rows: list[Row]) -> TenantHolds:
        return TenantHolds(rows, self._values)

    def spent(self, rows: list[Row], wanted: Sequence[BalanceKey]) -> dict[BalanceKey, Decimal]:
        """What is spent of the balances `wanted`, by their places there."""
        read_amount = self._values.read_amount
        return dict.fromkeys(wanted, ZERO) | {
            wanted[place]: read_amount(amount) for place, amount in rows
        }

    def moment(self, row: Row) -> datetime:
        return self._values.read_time(row[0])
