"""Many small rows while the interpreter is wanted elsewhere.

For each row that it reads, Python's SQLite lets go of the interpreter's lock and waits to get it
back, which takes an event loop that is busy longer than the row itself. Rows that the background
reads by the thousand therefore come as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

_decode = msgspec.json.Decoder(list[tuple[Any, ...]]).decode


def rows_at_once(
    connection: Connection, columns: Sequence[sa.Column[Any]], where: sa.ColumnElement[bool]
) -> Sequence[Any]:
    """Rows of `columns`, which give their values by name as those of SQLAlchemy do."""
    if connection.dialect.name != "sqlite":
        return connection.execute(sa.select(*columns).where(where)).all()
    gathered = sa.func.json_group_array(sa.func.json_array(*columns))
    found = _decode(connection.execute(sa.select(gathered).where(where)).scalar_one())
    row = _row_of(tuple([str(column.name) for column in columns]))
    readers = [
        column.type.dialect_impl(connection.dialect).result_processor(connection.dialect, None)
        for column in columns
    ]
    return [
        row(
            *[
                value if read is None else read(value)
                for read, value in zip(readers, one, strict=True)
            ]
        )
        for one in found
    ]


@lru_cache(maxsize=64)
def _row_of(names: tuple[str, ...]) -> Any:
    return msgspec.defstruct("_Row", [(name, Any) for name in names])
