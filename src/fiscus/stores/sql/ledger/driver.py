"""What the ledger's SQL asks of a database driver."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from fiscus.stores.sql.bulk import Row, Statement


class Values(Protocol):
    """How a database takes and gives times, dates and amounts."""

    def time(self, moment: datetime) -> Any: ...
    def amount(self, amount: Decimal) -> Any: ...
    def read_time(self, value: Any) -> datetime: ...
    def read_date(self, value: Any) -> date: ...
    def read_amount(self, value: Any) -> Decimal: ...


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
