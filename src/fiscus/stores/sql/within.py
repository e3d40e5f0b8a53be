"""Rows that lie in stretches of time, looked up for one stretch after the other."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa


def rows_within(
    stretches: sa.CTE,
    table: sa.Table,
    wanted: Sequence[sa.ColumnElement[bool]],
    *,
    is_sqlite: bool,
) -> tuple[sa.FromClause, sa.FromClause]:
    """The rows of `table` that are `wanted` in a stretch: by themselves, and beside their stretch.

    PostgreSQL needs the OFFSET to start from the stretches. Where it has no statistics it takes any
    number of rows for one, and then would compare each row with each stretch.
    """
    if is_sqlite:
        return table, stretches.join(table, sa.and_(*wanted))
    rows = sa.select(table).where(*wanted).offset(0).lateral("rows")
    return rows, stretches.join(rows, sa.true())
