"""The statements a ledger's transaction writes with, and how its changes become their rows.

Those of costs are in `costs`, those of quotas in `quotas`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import date
from functools import lru_cache
from typing import Any

from fiscus.budgets.model import BudgetBalance, Reservation
from fiscus.idempotency import IdempotencyKey
from fiscus.ledger.port import AnchorKey, Changes
from fiscus.runtime.repeated import repeated
from fiscus.stores.sql.budgets.lines import lines_as_text
from fiscus.stores.sql.bulk import Columns, Row, Statement, insert
from fiscus.stores.sql.ledger.costs import CostRows
from fiscus.stores.sql.ledger.driver import Values
from fiscus.stores.sql.ledger.read import IDEMPOTENCY_KEY
from fiscus.wire.encoding import encode

BALANCE = Columns(
    alike=("period_start", "period_end", "throttle_credit"),
    budget_id="uuid",
    scope_id="text",
    period_start="timestamptz",
    tenant_id="text",
    period_end="timestamptz",
    spent="numeric",
    reserved="numeric",
    throttle_credit="numeric",
)
ADD_BALANCES = f"""
    INSERT INTO budget_periods ({BALANCE.list})
    SELECT {BALANCE.list} FROM {{rows}} WHERE true
    ORDER BY budget_id, scope_id, period_start
    ON CONFLICT (budget_id, scope_id, period_start) DO NOTHING
"""
_PUT_BALANCES = f"""
    INSERT INTO budget_periods ({BALANCE.list})
    SELECT {BALANCE.list} FROM {{rows}} WHERE true
    ON CONFLICT (budget_id, scope_id, period_start) DO UPDATE SET
        spent = excluded.spent,
        reserved = excluded.reserved,
        throttle_credit = excluded.throttle_credit
"""

_RESERVATION = Columns(
    alike=("status", "currency"),
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
    lines="text",
)
_ADD_RESERVATIONS = insert("reservations")

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

_ANCHOR = Columns(budget_id="uuid", scope_id="text", tenant_id="text", anchor="date")
_ADD_ANCHORS = insert("budget_anchors")

_ANSWER = Columns(
    tenant_id="text",
    operation="text",
    key="text",
    body_hash="text",
    answer="text",
    expires_at="timestamptz",
)
# A key whose window has ended may be used anew; one that another process stored meanwhile may not.
_ADD_ANSWERS = insert("idempotency_keys")
_DROP_ANSWERS = """
    DELETE FROM idempotency_keys WHERE (tenant_id, operation, key) IN
        (SELECT r.tenant_id, r.operation, r.key FROM {rows})
"""


class LedgerWriter:
    """A group's changes as bulk statements, by the database's way of taking values."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._costs = CostRows(values)
        self._time = lru_cache(maxsize=1_000)(values.time)
        self._began = repeated(values.time)
        self._ends = repeated(values.time)

    def statements(
        self,
        changes: Changes,
        stale_answers: Collection[IdempotencyKey],
        rollups_before: Iterable[Row] | None,
    ) -> list[Statement]:
        """Everything a group writes; `stale_answers` are stored already and may be replaced.

        `rollups_before` are those of `ROLLUPS` that the group adds to; without them the database
        adds.
        """
        self._gathered: list[Statement] = []
        add = self._add
        add(_PUT_BALANCES, BALANCE, changes.balances.values(), self.balance_row)
        add(
            _ADD_RESERVATIONS,
            _RESERVATION,
            changes.new_reservations.values(),
            self._reservation_row,
        )
        add(
            _CHANGE_RESERVATIONS,
            _CLOSED,
            changes.changed_reservations.values(),
            self._closed_row,
        )
        if changes.records:
            self._gathered += self._costs.statements(changes, rollups_before)
        add(_ADD_ANCHORS, _ANCHOR, changes.anchors.items(), _anchor_row)
        self._write_answers(changes, stale_answers)
        return self._gathered

    def _add(
        self,
        sql: str,
        columns: Columns,
        values: Collection[Any],
        row: Callable[[Any], Row],
    ) -> None:
        if values:
            self._gathered.append(Statement(sql, columns, [row(value) for value in values]))

    def _write_answers(self, changes: Changes, stale_answers: Collection[IdempotencyKey]) -> None:
        if not changes.answers:
            return
        replaced = [tuple(key) for key in stale_answers if key in changes.answers]
        if replaced:
            self._gathered.append(Statement(_DROP_ANSWERS, IDEMPOTENCY_KEY, replaced))
        time = self._values.time
        rows = [
            (*key, stored.body_hash, stored.answer.decode(), time(stored.expires_at))
            for key, stored in changes.answers.items()
        ]
        self._gathered.append(Statement(_ADD_ANSWERS, _ANSWER, rows))

    def balance_row(self, balance: BudgetBalance) -> Row:
        time, amount = self._time, self._values.amount
        budget_id, scope_id, period_start = balance.key
        return (
            budget_id,
            scope_id,
            time(period_start),
            balance.tenant_id,
            time(balance.period_end),
            amount(balance.spent),
            amount(balance.reserved),
            amount(balance.throttle_credit),
        )

    def _reservation_row(self, one: Reservation) -> Row:
        amount, operation = self._values.amount, one.operation
        return (
            one.reservation_id,
            one.tenant_id,
            str(one.status),
            operation.resource_type,
            amount(one.estimated_cost),
            one.currency,
            operation.project_id,
            operation.user_id,
            operation.feature_id,
            operation.service_name,
            encode(operation.tags).decode() if operation.tags else None,
            one.operation_id,
            self._began(one.created_at),
            self._ends(one.expires_at),
            one.record_id,
            None if one.actual_cost is None else amount(one.actual_cost),
            one.settlement.decode() if one.settlement else None,
            lines_as_text(one.lines),
        )

    def _closed_row(self, reservation: Reservation) -> Row:
        values = self._values
        return (
            reservation.reservation_id,
            str(reservation.status),
            self._ends(reservation.expires_at),
            reservation.record_id,
            None if reservation.actual_cost is None else values.amount(reservation.actual_cost),
            reservation.settlement.decode() if reservation.settlement else None,
        )


def _anchor_row(item: tuple[AnchorKey, tuple[str, date]]) -> Row:
    (budget_id, scope_id), (tenant_id, anchor) = item
    return (budget_id, scope_id, tenant_id, anchor.isoformat())
