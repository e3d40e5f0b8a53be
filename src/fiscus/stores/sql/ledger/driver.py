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


def repeated(make: Callable[[T], Any]) -> Callable[[T], Any]:
    """`make` that keeps what it made last, for values that rows in a row may have in common.

    By comparing, which for most is sooner done than to work out a hash as `cache` does.
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

    def others_wrote(self) -> bool:
        """Whether anybody but this connection may have written since the transaction before, of
        which this is asked once each. A store that cannot tell says so always."""
        ...

    def begin(self, tenants: Collection[str], *, patient: bool) -> None: ...
    def run(self, statements: Sequence[Statement]) -> list[list[Row]]: ...
    def commit(self, statements: Sequence[Statement]) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...
