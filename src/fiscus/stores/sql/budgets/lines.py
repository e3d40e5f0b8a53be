"""What reservations hold of budgets: JSON in their rows, which is read as a whole."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from fiscus.budgets.model import ReservationLine
from fiscus.stores.sql.tables import reservations

_decode: Final = msgspec.json.Decoder(tuple[ReservationLine, ...]).decode
_encode: Final = msgspec.json.Encoder().encode
"""Amounts as strings: SQLite's own functions for JSON would read numbers as floats."""
_key_of: Final = attrgetter("key")


def lines_as_text(lines: tuple[ReservationLine, ...]) -> str:
    return _encode(lines).decode()


def read_lines(text: str) -> tuple[ReservationLine, ...]:
    """By their keys."""
    return tuple(sorted(_decode(text), key=_key_of))


class _HoldsOf(FunctionElement[bool]):
    type = sa.Boolean()
    inherit_cache = True


def holds_of(budget_id: str) -> sa.ColumnElement[bool]:
    """Whether a reservation's lines have one of the budget."""
    return _HoldsOf(reservations.c.lines, sa.literal(budget_id, sa.Text()))


@compiles(_HoldsOf)
def _on_postgres(element: _HoldsOf, compiler: SQLCompiler, **options: Any) -> str:
    lines, budget_id = (compiler.process(one, **options) for one in element.clauses)
    each = f"json_array_elements(CAST({lines} AS json)) AS line"
    return f"EXISTS (SELECT 1 FROM {each} WHERE line #>> '{{key,0}}' = {budget_id})"


@compiles(_HoldsOf, "sqlite")
def _on_sqlite(element: _HoldsOf, compiler: SQLCompiler, **options: Any) -> str:
    lines, budget_id = (compiler.process(one, **options) for one in element.clauses)
    of_line = "json_extract(line.value, '$.key[0]')"
    return f"EXISTS (SELECT 1 FROM json_each({lines}) AS line WHERE {of_line} = {budget_id})"
