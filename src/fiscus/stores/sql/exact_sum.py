"""Exact sums of amounts: SQLite, which keeps amounts as text, has a function of ours for it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from fiscus.stores.sql.column_types import SUM


class ExactSum(FunctionElement[Decimal]):
    """The sum of a column of amounts; NULLs do not count, and of nothing it is 0."""

    type = SUM
    inherit_cache = True


@compiles(ExactSum)
def _on_postgres(element: ExactSum, compiler: SQLCompiler, **options: Any) -> str:
    return f"coalesce(sum({compiler.process(element.clauses, **options)}), 0)"


@compiles(ExactSum, "sqlite")
def _on_sqlite(element: ExactSum, compiler: SQLCompiler, **options: Any) -> str:
    return f"decimal_sum({compiler.process(element.clauses, **options)})"
