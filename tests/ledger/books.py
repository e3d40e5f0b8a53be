"""The books of a database, read and added up apart from the code that keeps them.

`Books.faults` names every disagreement between balances, the lines of pending reservations, cost
records and rollups. It knows scopes, filters by resource type and one currency per budget; that is
what the tests that use it have.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from fiscus.budgets.model import Budget
from fiscus.money import ZERO, add, plain
from fiscus.stores.sql import tables
from fiscus.stores.sql.database import Database
from fiscus.wire.decoding import decode

BalanceId = tuple[str, str, datetime]


@dataclass
class Books:
    """Everything stored about one tenant."""

    budgets: dict[str, Budget]
    balances: dict[BalanceId, Any]
    reservations: dict[str, Any]
    records: dict[str, Any]
    rollups: list[Any]
    series: dict[str, Any] = field(default_factory=dict)

    def held(self) -> dict[BalanceId, Decimal]:
        """The sum of the lines of pending reservations, per balance; without zeros."""
        sums: dict[BalanceId, Decimal] = defaultdict(lambda: ZERO)
        for one in self.reservations.values():
            for line in json.loads(one.lines) if one.status == "pending" else ():
                budget_id, scope_id, start = line["key"]
                key = (budget_id, scope_id, datetime.fromisoformat(start))
                sums[key] = add(sums[key], Decimal(line["amount"]))
        return _without_zeros(sums)

    def reserved(self) -> dict[BalanceId, Decimal]:
        return _without_zeros({key: one.reserved for key, one in self.balances.items()})

    def spent(self) -> dict[BalanceId, Decimal]:
        return _without_zeros({key: one.spent for key, one in self.balances.items()})

    def charged(self) -> dict[BalanceId, Decimal]:
        """What the cost records add up to, per balance; for budgets of the records' currency."""
        sums: dict[BalanceId, Decimal] = defaultdict(lambda: ZERO)
        for (budget_id, scope_id, start), balance in self.balances.items():
            budget = self.budgets[budget_id]
            for record in self.records.values():
                if start <= record.timestamp < balance.period_end and _counts(
                    budget, scope_id, record
                ):
                    sums[budget_id, scope_id, start] = add(
                        sums[budget_id, scope_id, start], record.cost_amount
                    )
        return _without_zeros(sums)

    def recorded_per_quarter(self) -> dict[tuple[Any, ...], tuple[Decimal, int]]:
        sums: dict[tuple[Any, ...], tuple[Decimal, int]] = defaultdict(lambda: (ZERO, 0))
        for one in self.records.values():
            quarter = one.timestamp.replace(
                minute=one.timestamp.minute // 15 * 15, second=0, microsecond=0
            )
            key = (quarter, one.currency, one.project_id, one.user_id, one.feature_id)
            total, count = sums[key]
            sums[key] = (plain(add(total, one.cost_amount)), count + 1)
        return dict(sums)

    def rolled_up_per_quarter(self) -> dict[tuple[Any, ...], tuple[Decimal, int]]:
        sums: dict[tuple[Any, ...], tuple[Decimal, int]] = defaultdict(lambda: (ZERO, 0))
        for one in self.rollups:
            series = self.series[one.series_id]
            key = (
                one.bucket,
                series.currency,
                series.project_id,
                series.user_id,
                series.feature_id,
            )
            total, count = sums[key]
            sums[key] = (plain(add(total, one.cost_amount)), count + one.record_count)
        return dict(sums)

    def faults(self, *, charges: bool = True) -> list[str]:
        """Every disagreement; empty when the books are in order."""
        found: list[str] = []
        if self.held() != self.reserved():
            found.append(f"reserved {self.reserved()} but pending lines are {self.held()}")
        if charges and self.charged() != self.spent():
            found.append(f"spent {self.spent()} but records are {self.charged()}")
        if self.recorded_per_quarter() != self.rolled_up_per_quarter():
            found.append(
                f"rollups {self.rolled_up_per_quarter()} of records {self.recorded_per_quarter()}"
            )
        settled = [one for one in self.reservations.values() if one.record_id is not None]
        of_records = [one.reservation_id for one in self.records.values() if one.reservation_id]
        if len(of_records) != len(set(of_records)):
            found.append("a reservation has two cost records")
        if not set(of_records) <= {one.reservation_id for one in settled}:
            found.append("a record names a reservation that was not settled")
        if not {one.record_id for one in settled} <= self.records.keys():
            found.append("a settled reservation has no cost record")
        return found


def read_books(url: str, tenant_id: str) -> Books:
    """The books of one tenant as they are committed now."""
    with closing(Database(url)) as database:
        return books_in(database, tenant_id)


def books_in(database: Database, tenant_id: str) -> Books:
    """As `read_books`, of a database that is open."""
    with database.read(tenant_id) as connection:

        def rows(table: sa.Table) -> list[Any]:
            return list(connection.execute(sa.select(table).where(table.c.tenant_id == tenant_id)))

        definitions = [decode(row.definition, Budget) for row in rows(tables.budgets)]
        return Books(
            budgets={one.budget_id: one for one in definitions},
            balances={
                (row.budget_id, row.scope_id, row.period_start): row
                for row in rows(tables.budget_periods)
            },
            reservations={row.reservation_id: row for row in rows(tables.reservations)},
            records={row.record_id: row for row in rows(tables.cost_records)},
            rollups=rows(tables.cost_rollups),
            series={row.series_id: row for row in rows(tables.cost_series)},
        )


def _counts(budget: Budget, scope_id: str, record: Any) -> bool:
    kind = budget.allocated_to_type.value
    given = record.tenant_id if kind == "tenant" else getattr(record, f"{kind}_id")
    wanted = budget.filters.resource_types
    return (
        given == scope_id
        and budget.allocated_to_id in {scope_id, "*"}
        and (not wanted or record.resource_type in wanted)
        and record.currency == budget.currency
    )


def _without_zeros(sums: dict[BalanceId, Decimal]) -> dict[BalanceId, Decimal]:
    return {key: plain(amount) for key, amount in sums.items() if amount}
