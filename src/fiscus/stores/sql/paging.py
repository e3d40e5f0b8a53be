"""Pages by keyset: a token's page starts at an index position, however deep in the list it lies.

A list is ordered by one or more columns, all newest (greatest) first; together they are unique.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fiscus.clock import from_us, to_us
from fiscus.errors import ValidationError
from fiscus.ids import is_uuid
from fiscus.paging import Cursor, Page, PageRequest, build_page
from fiscus.scopes import parse_id

T = TypeVar("T")


class SortKey(NamedTuple):
    """A column of the order, and how its values come back from a page token, which anybody may
    have written."""

    column: sa.Column[Any]
    parse: Callable[[object], object]


def read_page(
    connection: Connection,
    query: sa.Select[Any],
    order: Sequence[SortKey],
    request: PageRequest,
    *,
    read: Callable[[Sequence[Row[Any]]], list[T]],
    position: Callable[[T], list[Any]],
) -> Page[T]:
    """The page of `query` asked for; with its total unless it was asked for by token.

    `read` turns rows into items, one each; `position` gives an item's values of `order`.
    """
    total = None if request.cursor is not None else count(connection, query)
    rows = rows_of(connection, query, order, request, total)
    return build_page(request, read(rows), position, total)


def rows_of(
    connection: Connection,
    query: sa.Select[Any],
    order: Sequence[SortKey],
    request: PageRequest,
    total: int | None,
    *,
    before: int = 0,
) -> Sequence[Row[Any]]:
    """The rows of a page, and one more, in reading direction.

    For a page by number, `total` is how many rows `query` has, and `before` how many the list has
    before them. It is read from the end that it is nearer to, and no further than the last row:
    a filter that hardly anything meets would be tried on all that is left.
    """
    if total is None:
        return connection.execute(slice_of(query, order, request)).all()
    first = max(0, request.offset - before)
    end = min(first + request.page_size + 1, total)
    if end <= first:
        return []
    some = query.limit(end - first)
    after = total - end
    if after < first:
        backwards = some.order_by(*(key.column.asc() for key in order)).offset(after)
        return connection.execute(backwards).all()[::-1]
    forwards = some.order_by(*(key.column.desc() for key in order)).offset(first)
    return connection.execute(forwards).all()


def slice_of(
    query: sa.Select[Any], order: Sequence[SortKey], request: PageRequest
) -> sa.Select[Any]:
    """The rows of a page by token, and one more, in reading direction."""
    cursor = request.cursor
    assert cursor is not None
    limited = query.limit(request.page_size + 1)
    here = sa.tuple_(*(key.column for key in order))
    there = sa.tuple_(
        *(
            sa.literal(value, key.column.type)
            for key, value in zip(order, cursor_values(order, cursor), strict=True)
        )
    )
    if cursor.backwards:
        return limited.where(here > there).order_by(*(key.column.asc() for key in order))
    return limited.where(here < there).order_by(*(key.column.desc() for key in order))


def cursor_values(order: Sequence[SortKey], cursor: Cursor) -> list[Any]:
    """A token's values; raises `ValidationError` when another list made it, or nobody."""
    if len(cursor.values) != len(order):
        _bad_token()
    return [key.parse(value) for key, value in zip(order, cursor.values, strict=True)]


def count(connection: Connection, query: sa.Select[Any]) -> int:
    return connection.execute(
        sa.select(sa.func.count()).select_from(query.order_by(None).subquery())
    ).scalar_one()


def parse_uuid(value: object) -> str:
    if not isinstance(value, str) or not is_uuid(value):
        _bad_token()
    return value


def parse_scope_id(value: object) -> str:
    if not isinstance(value, str):
        _bad_token()
    return parse_id(value, "page_token")


def parse_number(value: object) -> int:
    """A whole number that the databases can hold."""
    if type(value) is not int or not -(2**63) <= value < 2**63:
        _bad_token()
    return value


def parse_time(value: object) -> datetime:
    """A moment from the microseconds that `time_value` made of it."""
    if not isinstance(value, int):
        _bad_token()
    try:
        return from_us(value)
    except OverflowError:
        _bad_token()


def time_value(moment: datetime) -> int:
    return to_us(moment)


def _bad_token() -> NoReturn:
    raise ValidationError(
        "page_token was not made by this list",
        field="page_token",
        suggested_action="Leave page_token out to start at the first page.",
    )
