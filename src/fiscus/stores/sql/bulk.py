"""Bulk statements written once for both databases.

A statement names its rows as `{rows}`: on PostgreSQL an array per column, put together by `unnest`,
on SQLite a `VALUES` list. Either way a whole group is one statement, which the driver runs without
holding Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from operator import is_, itemgetter
from typing import Any, Final, NamedTuple

import msgspec

Row = tuple[Any, ...]
_Places = tuple[int, ...]
SHAPES_KEPT: Final = 512
"""Of how many shapes of rows it is kept what is made for them; when there are more, none is."""
PADDING: Final = ""
"""What no row begins with. (NULL would do, but to bind it Python looks for an adapter first.)"""

_encode: Final = msgspec.json.Encoder().encode


class Columns:
    """The names and PostgreSQL types of the rows a bulk statement takes."""

    def __init__(
        self, once: Mapping[str, str] | None = None, *, alike: Collection[str] = (), **types: str
    ) -> None:
        """Of those in `once` there is one value for all rows, of the others one for each.

        `alike` are names of columns in which the rows of a group mostly have the same value.
        """
        self._once = once or {}
        self._types = types
        self.width = len(types)
        """How many values a row has."""
        self.list = ", ".join((*self._once, *types))
        self._alike = [index for index, name in enumerate(types) if name in alike]
        self._fewer: dict[tuple[_Places, _Places], _Fewer] = {}
        """By the places of those given once and of those left out."""

    @property
    def unnested(self) -> str:
        """`{rows}` on PostgreSQL; a parameter for each of `once`, then one per column."""
        arrays = ", ".join(f"%s::{kind}[]" for kind in self._types.values())
        rows = f"unnest({arrays}) AS r({', '.join(self._types)})"
        if not self._once:
            return rows
        once = ", ".join(f"%s::{kind} AS {name}" for name, kind in self._once.items())
        return f"(SELECT {once}, r.* FROM {rows}) AS r"

    def arrays(self, rows: Sequence[Row]) -> list[str]:
        """The parameters of `unnested` that are columns."""
        return [_array(column) for column in zip(*rows, strict=True)]

    def lean(self, rows: Sequence[Row], *, leave_out: bool) -> tuple[Columns, Row, Sequence[Row]]:
        """Columns, values for all rows, and rows that say the same in fewer values.

        To a database each value costs as the others, also when there is none or when the row
        before had the same. One of the same is given once, and when `leave_out`, a column without
        any is left out.
        """
        if not self._alike and not leave_out:
            return self, (), rows
        columns: list[Row] = list(zip(*rows, strict=True))
        first, count = rows[0], len(rows)
        once = [i for i in self._alike if columns[i].count(first[i]) == count]
        without: list[int] = []
        if leave_out:
            once = [i for i in once if first[i] is not None]
            no_value = _places(tuple(map(is_, first, repeat(None))))
            without = [i for i in no_value if columns[i].count(None) == count]
        if not (once or without):
            return self, (), rows
        spared = tuple(once), tuple(without)
        fewer = self._fewer.get(spared)
        if fewer is None:
            if len(self._fewer) >= SHAPES_KEPT:
                self._fewer.clear()
            fewer = self._fewer[spared] = self._without(*spared)
        return fewer.columns, fewer.once(first), list(zip(*fewer.each(columns), strict=True))

    def _without(self, once: _Places, left_out: _Places) -> _Fewer:
        """These columns without some."""
        types = list(self._types.items())
        each = [i for i in range(self.width) if i not in once and i not in left_out]
        columns = Columns(dict([types[i] for i in once]), **dict([types[i] for i in each]))
        return _Fewer(columns, _picking(once), _picking(each))

    def values(self, count: int) -> str:
        """`{rows}` on SQLite; a parameter for each of `once`, then one per row and column.

        Rows of `PADDING` count for nothing.
        """
        named = [f"? AS {name}" for name in self._once]
        named += [f"column{i} AS {name}" for i, name in enumerate(self._types, start=1)]
        row = "(" + ", ".join("?" * self.width) + ")"
        values = ", ".join([row] * count)
        return f"(SELECT {', '.join(named)} FROM (VALUES {values}) WHERE column1 <> '') AS r"


class _Fewer(NamedTuple):
    """Columns of which some are given once or left out, and how to pick from those they are of."""

    columns: Columns
    once: Callable[[Row], Row]
    each: Callable[[Sequence[Row]], Sequence[Row]]


@lru_cache(maxsize=10_000)
def _places(marks: tuple[bool, ...]) -> _Places:
    """Where the marks are."""
    return tuple([i for i, mark in enumerate(marks) if mark])


def _picking(places: Sequence[int]) -> Callable[[Sequence[Any]], Row]:
    """`operator.itemgetter`, which gives tuples only of two or more."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple([values[i] for i in places])


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
    once: Row = ()
    """What all rows have in common, apart from them."""

    def lean(self) -> Statement:
        """The same in as few values as may be."""
        columns, once, rows = self.columns.lean(self.rows, leave_out="{columns}" in self.sql)
        return self if columns is self.columns else Statement(self.sql, columns, rows, once)

    @property
    def reads(self) -> bool:
        """Whether it answers rows."""
        return self.sql.lstrip().startswith("SELECT")
