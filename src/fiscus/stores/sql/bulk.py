"""Bulk statements written once for both databases.

A statement names its rows as `{rows}`: on PostgreSQL one JSON document read by
`json_to_recordset`, on SQLite a `VALUES` list. Either way a whole group is one statement, which the
driver runs without holding Python's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

Row = tuple[Any, ...]


class Columns:
    """The names and PostgreSQL types of the rows a bulk statement takes."""

    def __init__(self, **types: str) -> None:
        self.names = tuple(types)
        self.list = ", ".join(self.names)
        self._types = types
        # JSON objects are what json_to_recordset reads; a struct encodes as one, fast.
        self._struct = msgspec.defstruct("_Row", [(name, Any) for name in self.names])
        self._encode = msgspec.json.Encoder().encode

    @property
    def recordset(self) -> str:
        """`{rows}` on PostgreSQL; one parameter."""
        typed = ", ".join(f"{name} {kind}" for name, kind in self._types.items())
        return f"json_to_recordset(%s::json) AS r({typed})"

    def json(self, rows: Sequence[Row]) -> str:
        return self._encode([self._struct(*row) for row in rows]).decode()

    def values(self, count: int) -> str:
        """`{rows}` on SQLite; one parameter per column and row. All-NULL rows count for nothing."""
        named = ", ".join(f"column{i} AS {name}" for i, name in enumerate(self.names, start=1))
        row = "(" + ", ".join("?" * len(self.names)) + ")"
        values = ", ".join([row] * count)
        return f"(SELECT {named} FROM (VALUES {values}) WHERE column1 IS NOT NULL) AS r"


class Statement(NamedTuple):
    """SQL that names its rows `{rows}`, and the rows."""

    sql: str
    columns: Columns
    rows: Sequence[Row]

    @property
    def reads(self) -> bool:
        """Whether it answers rows."""
        return self.sql.lstrip().startswith("SELECT")
