"""The yardstick of the stores: the same rows, written by hand-written SQL in groups.

What a competent programmer would write who needs just this and nothing else: plain tuples in, one
transaction per group, one thread, bulk statements, the same tables and indexes, the same
durability. A check reads and locks its balances, sees that every one has room, and writes the
reservation, its two lines and the new balances; a cost writes the record, charges its two budgets
and adds to the quarter-hour sums; what a quota check writes stands in `handwritten_quotas`. All
sums are exact decimals. There are no definitions to look up
or to keep fresh, no validation, no answers to explain, no idempotency, no HTTP.

`handwritten_sqlite` and `handwritten_postgres` hold the SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from itertools import count
from statistics import median, quantiles
from time import perf_counter, thread_time
from typing import Any, Final, NamedTuple, Protocol

from bench.samples import Sample
from bench.workload import CURRENCY, HOLD_SECONDS, PLENTY, Item
from fiscus.ids import uuid7

Row = tuple[Any, ...]
Key = tuple[str, str]
"""Budget or quota, and scope id; the benchmark stays within one period."""


class Month(NamedTuple):
    """The budgets' current period."""

    start: datetime
    end: datetime


def this_month() -> Month:
    start = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Month(start, (start + timedelta(days=32)).replace(day=1))


class Writer(Protocol):
    """Writes whole groups, each durable when the call returns."""

    def check(self, group: Sequence[Item]) -> None: ...
    def record(self, group: Sequence[Item]) -> None: ...
    def close(self) -> None: ...


class NoRoom(Exception):
    """A hard budget or a quota would have been exceeded."""


def keys_of(item: Item) -> tuple[Key, Key]:
    place = item.place
    return (
        (place.of_tenant, place.tenant_id),
        (place.of_project, place.project_id),
    )


def totals(group: Iterable[Item]) -> dict[Key, Decimal]:
    """What a group adds to each balance."""
    added: dict[Key, Decimal] = {}
    for item in group:
        for key in keys_of(item):
            added[key] = added.get(key, 0) + item.amount
    return added


def require_room(spent: Decimal, reserved: Decimal, more: Decimal) -> None:
    if spent + reserved + more > PLENTY:
        raise NoRoom


_LINE: Final = '{"key":["%s","%s","%s"],"amount":"%s"}'


def reservation_rows(
    group: Sequence[Item], now: Any, expires: Any, start: datetime, amount: Any
) -> list[Row]:
    """Rows of `reservations`, in the order of the table's columns."""
    reservations: list[Row] = []
    began = f"{start:%Y-%m-%dT%H:%M:%SZ}"
    for item in group:
        place = item.place
        lines = [_LINE % (*key, began, item.amount) for key in keys_of(item)]
        reservations.append(
            (
                uuid7(),
                place.tenant_id,
                "pending",
                item.resource_type,
                amount(item.amount),
                CURRENCY,
                place.project_id,
                item.user_id,
                now,
                expires,
                f"[{','.join(lines)}]",
            )
        )
    return reservations


def record_rows(group: Sequence[Item], now: Any, amount: Any) -> list[Row]:
    """Rows of `cost_records`."""
    return [
        (
            uuid7(),
            now,
            item.place.tenant_id,
            now,
            item.resource_type,
            amount(item.amount),
            CURRENCY,
            "usage",
            "user",
            item.user_id,
            item.place.project_id,
            item.user_id,
            amount(Decimal(item.quantity)),
            "tokens",
        )
        for item in group
    ]


class Rollup(NamedTuple):
    """What a group adds to one series of the quarter hour."""

    tenant_id: str
    series: Row
    cost: Decimal
    quantity: Decimal
    records: int


def rollups(group: Iterable[Item]) -> dict[str, Rollup]:
    """By series id."""
    added: dict[str, Rollup] = {}
    for item in group:
        place = item.place
        series_id, series = series_of(
            place.tenant_id, item.resource_type, place.project_id, item.user_id
        )
        old = added.get(series_id)
        if old is None:
            added[series_id] = Rollup(
                place.tenant_id, series, item.amount, Decimal(item.quantity), 1
            )
        else:
            added[series_id] = Rollup(
                place.tenant_id,
                series,
                old.cost + item.amount,
                old.quantity + item.quantity,
                old.records + 1,
            )
    return added


@cache
def series_of(tenant_id: str, resource_type: str, project_id: str, user_id: str) -> tuple[str, Row]:
    """The id of a series, and its row."""
    dimensions = (
        tenant_id,
        resource_type,
        project_id,
        user_id,
        "user",
        user_id,
        "usage",
        CURRENCY,
        "tokens",
    )
    series_id = blake2b(repr(dimensions).encode(), digest_size=16).hexdigest()
    return series_id, (series_id, *dimensions)


def quarter_hour(now: datetime) -> datetime:
    return now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0)


def expiry(now: datetime) -> datetime:
    return now + timedelta(seconds=HOLD_SECONDS)


class GroupLoop:
    """Writes groups one after the other for some seconds, beginning where it left off."""

    def __init__(self, write: Callable[[Sequence[Item]], None], groups: Sequence[Sequence[Item]]):
        self._write = write
        self._groups = groups
        self._next = count()

    def run(self, seconds: float) -> Sample:
        """Latencies are those of whole groups, from the first statement to the commit."""
        groups, write = self._groups, self._write
        times: list[float] = []
        operations = 0
        cpu_began = thread_time()
        began = before = perf_counter()
        while before - began < seconds:
            group = groups[next(self._next) % len(groups)]
            write(group)
            after = perf_counter()
            times.append(after - before)
            operations += len(group)
            before = after
        cpu_us = (thread_time() - cpu_began) / operations * 1e6
        hundredths = quantiles(times, n=100) if len(times) > 1 else times * 99
        return Sample(
            operations=operations,
            operations_per_second=operations / (before - began),
            requests_per_second=len(times) / (before - began),
            p50_ms=median(times) * 1000,
            p95_ms=hundredths[94] * 1000,
            p99_ms=hundredths[98] * 1000,
            cpu_us=cpu_us,
        )
