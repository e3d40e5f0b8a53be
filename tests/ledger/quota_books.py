"""The books of quotas, read and added up apart from the code that keeps them."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from fiscus.money import ZERO, add, multiply, plain, round_half_even, subtract
from fiscus.stores.sql import tables
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.quotas import tables as quota_tables

Key = tuple[str, str]


@dataclass
class QuotaBooks:
    """Everything stored about the use of one tenant's quotas."""

    balances: dict[Key, Any]
    consumptions: dict[str, Any]
    lines: list[Any]
    usage: list[Any]
    premiums: dict[str, Decimal]
    """What the cost records of bursts add up to, per quota."""

    def faults(self, *, one_writer: bool = True) -> list[str]:
        """Every disagreement; empty when the books are in order.

        With several writers the order of times is not the order of commits, so the last row of a
        history need not be the one that was written last.
        """
        found: list[str] = []
        stored = {key: (one.used, one.burst_used) for key, one in self.balances.items()}
        if _without_zeros(stored) != _without_zeros(self._by_lines()):
            found.append(f"balances {stored} but lines are {self._by_lines()}")
        if _without_zeros(stored) != _without_zeros(self._by_history()):
            found.append(f"balances {stored} but history is {self._by_history()}")
        for key, one in self.balances.items():
            rows = [row for row in self.usage if (row.quota_id, row.scope_id) == key]
            after = {plain(row.used_after) for row in rows}
            if one_writer:
                after = {plain(row.used_after) for row in rows[-1:]}
            if rows and plain(add(one.used, one.burst_used)) not in after:
                found.append(f"{key} has used {one} but the last row says {after}")
        lines: dict[str, list[Any]] = defaultdict(list)
        for line in self.lines:
            lines[line.consumption_id].append(line)
        if lines.keys() != self.consumptions.keys():
            found.append("a consumption without lines, or lines without a consumption")
        for consumption_id, one in self.consumptions.items():
            if {(line.amount, line.released) for line in lines[consumption_id]} != {
                (one.amount, one.released)
            }:
                found.append(f"consumption {one} but its lines are {lines[consumption_id]}")
        if self.premiums != self._premiums_of_lines():
            found.append(f"premiums {self.premiums}, of lines {self._premiums_of_lines()}")
        return found

    def _by_lines(self) -> dict[Key, tuple[Decimal, Decimal]]:
        sums: dict[Key, tuple[Decimal, Decimal]] = defaultdict(lambda: (ZERO, ZERO))
        for line in self.lines:
            burst = subtract(line.burst, line.burst_released)
            whole = subtract(line.amount, line.released)
            _add(sums, (line.quota_id, line.scope_id), subtract(whole, burst), burst)
        return sums

    def _by_history(self) -> dict[Key, tuple[Decimal, Decimal]]:
        sums: dict[Key, tuple[Decimal, Decimal]] = defaultdict(lambda: (ZERO, ZERO))
        for row in self.usage:
            sign = Decimal(1 if row.kind == "consume" else -1)
            used = multiply(sign, subtract(row.amount, row.burst))
            _add(sums, (row.quota_id, row.scope_id), used, multiply(sign, row.burst))
        return sums

    def _premiums_of_lines(self) -> dict[str, Decimal]:
        sums: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for line in self.lines:
            if line.premium_rate is not None:
                burst = subtract(line.burst, line.burst_released)
                owed = round_half_even(multiply(burst, line.premium_rate))
                sums[line.quota_id] = plain(add(sums[line.quota_id], owed))
        return {quota_id: amount for quota_id, amount in sums.items() if amount}


def read_quota_books(url: str, tenant_id: str) -> QuotaBooks:
    """The books of one tenant as they are committed now."""
    with closing(Database(url)) as database:
        return quota_books_in(database, tenant_id)


def quota_books_in(database: Database, tenant_id: str) -> QuotaBooks:
    """As `read_quota_books`, of a database that is open."""
    with database.read(tenant_id) as connection:

        def rows(table: sa.Table, *order: sa.Column[Any]) -> list[Any]:
            query = sa.select(table).where(table.c.tenant_id == tenant_id).order_by(*order)
            return list(connection.execute(query))

        usage = quota_tables.quota_usage
        consumptions = rows(quota_tables.quota_consumptions)
        premiums: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for record in rows(tables.cost_records):
            tags = json.loads(record.tags or "{}")
            if tags.get("charge") == "burst":
                quota_id = tags["quota_id"]
                premiums[quota_id] = plain(add(premiums[quota_id], record.cost_amount))
        return QuotaBooks(
            balances={
                (row.quota_id, row.scope_id): row for row in rows(quota_tables.quota_balances)
            },
            consumptions={row.consumption_id: row for row in consumptions},
            lines=[line for row in consumptions for line in _lines(row)],
            usage=rows(usage, usage.c.at, usage.c.usage_id),
            premiums={quota_id: amount for quota_id, amount in premiums.items() if amount},
        )


@dataclass
class Line:
    """What a consumption took from one quota, as it is stored."""

    consumption_id: str
    quota_id: str
    scope_id: str
    amount: Decimal
    burst: Decimal
    released: Decimal
    burst_released: Decimal
    premium_rate: Decimal | None


def _lines(row: Any) -> list[Line]:
    return [
        Line(
            row.consumption_id,
            *line["key"],
            amount=Decimal(line["amount"]),
            burst=Decimal(line.get("burst", 0)),
            released=Decimal(line.get("released", 0)),
            burst_released=Decimal(line.get("burst_released", 0)),
            premium_rate=Decimal(line["premium_rate"]) if line.get("premium_rate") else None,
        )
        for line in json.loads(row.lines)
    ]


def _add(sums: dict[Key, tuple[Decimal, Decimal]], key: Key, used: Decimal, burst: Decimal) -> None:
    before = sums[key]
    sums[key] = (add(before[0], used), add(before[1], burst))


def _without_zeros(
    sums: dict[Key, tuple[Decimal, Decimal]],
) -> dict[Key, tuple[Decimal, Decimal]]:
    return {key: (plain(one), plain(two)) for key, (one, two) in sums.items() if one or two}
