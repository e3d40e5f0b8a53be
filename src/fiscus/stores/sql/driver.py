"""What the ledger's SQL asks of a database driver."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from fiscus.stores.sql.bulk import Row, Statement

T = TypeVar("T")


class Values(Protocol):
    """How a database takes and gives times, dates and amounts."""

    def time(self, moment: datetime) -> Any: ...
    def amount(self, amount: Decimal) -> Any: ...
    def read_time(self, value: Any) -> datetime: ...
    def read_date(self, value: Any) -> date: ...
    def read_amount(self, value: Any) -> Decimal: ...


class Written(dict[T, Any]):
    """Values as the database takes them, each made once: for those that many rows have in common.

    That an equal value was made is found by its hash, which a time works out once, and slowly.
    """

    def __init__(self, make: Callable[[T], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, value: T) -> Any:
        made = self[value] = self._make(value)
        return made


def repeated(make: Callable[[T], Any]) -> Callable[[T], Any]:
    """`make` that keeps what it made last, for values that rows in a row may have in common.

    As `Written`, but by comparing, which for most is sooner done than to work out a hash.
    """
    last: T | None = None
    made: Any = None

    def of(value: T) -> Any:
        nonlocal last, made
        if value is not last and value != last:
            last, made = value, make(value)
        return made

    return of


class Driver(Values, Protocol):
    """One connection, one transaction at a time."""

    locks_store: bool
    """Whether a transaction has the whole store to itself (SQLite), or locks rows, which must
    exist to be locked (PostgreSQL)."""

    def begin(self, tenants: Collection[str]) -> None: ...
    def run(self, statements: Sequence[Statement]) -> list[list[Row]]: ...
    def commit(self, statements: Sequence[Statement]) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...
