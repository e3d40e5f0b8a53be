"""Bulk statements written once for both databases.

A statement names its rows as `{rows}`: on PostgreSQL an array per column, put together by `unnest`,
on SQLite a `VALUES` list. Either way a whole group is one statement, which the driver runs without
holding Python's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

Row = tuple[Any, ...]

_encode: Final = msgspec.json.Encoder().encode


class Columns:
    """The names and PostgreSQL types of the rows a bulk statement takes."""

    def __init__(self, **types: str) -> None:
        self.names = tuple(types)
        self.list = ", ".join(self.names)
        self._types = types
        self._fewer: dict[tuple[int, ...], Columns] = {}

    @property
    def unnested(self) -> str:
        """`{rows}` on PostgreSQL; one parameter per column."""
        arrays = ", ".join(f"%s::{kind}[]" for kind in self._types.values())
        return f"unnest({arrays}) AS r({self.list})"

    def arrays(self, rows: Sequence[Row]) -> list[str]:
        """The parameters of `unnested`."""
        return [_array(column) for column in zip(*rows, strict=True)]

    def that_have_values(self, rows: Sequence[Row]) -> tuple[Columns, Sequence[Row]]:
        """Without the columns in which no row has a value: to a database each costs as others."""
        columns = list(zip(*rows, strict=True))
        kept = tuple(
            [
                index
                for index, column in enumerate(columns)
                if column[0] is not None or column.count(None) < len(column)
            ]
        )
        if len(kept) == len(columns):
            return self, rows
        fewer = self._fewer.get(kept)
        if fewer is None:
            types = list(self._types.items())
            fewer = self._fewer[kept] = Columns(**dict([types[index] for index in kept]))
        return fewer, list(zip(*[columns[index] for index in kept], strict=True))

    def values(self, count: int) -> str:
        """`{rows}` on SQLite; one parameter per column and row. All-NULL rows count for nothing."""
        named = ", ".join(f"column{i} AS {name}" for i, name in enumerate(self.names, start=1))
        row = "(" + ", ".join("?" * len(self.names)) + ")"
        values = ", ".join([row] * count)
        return f"(SELECT {named} FROM (VALUES {values}) WHERE column1 IS NOT NULL) AS r"


def _array(column: Row) -> str:
    """A column as PostgreSQL writes arrays: JSON in other brackets, where both escape alike."""
    text = _encode(column).decode()
    if "\\" not in text.replace("\\\\", "").replace('\\"', ""):
        return f"{{{text[1:-1]}}}"
    return f"{{{','.join(map(_quoted, column))}}}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def insert(table: str) -> str:
    """Insert rows as they are; `{columns}` are those of theirs in which one has a value."""
    return f"INSERT INTO {table} ({{columns}}) SELECT {{columns}} FROM {{rows}}"


class Statement(NamedTuple):
    """SQL that names its rows `{rows}`, and the rows."""

    sql: str
    columns: Columns
    rows: Sequence[Row]

    def lean(self) -> Statement:
        """The same in as few columns as may be."""
        if "{columns}" not in self.sql:
            return self
        return Statement(self.sql, *self.columns.that_have_values(self.rows))

    @property
    def reads(self) -> bool:
        """Whether it answers rows."""
        return self.sql.lstrip().startswith("SELECT")
