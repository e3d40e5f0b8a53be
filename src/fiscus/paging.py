"""Pages of lists: by number, or by a token that goes on where the last page ended."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from fiscus.errors import ValidationError

T = TypeVar("T")

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000
MAX_PAGE: Final = 1_000_000


class Pagination(Struct, frozen=True, kw_only=True):
    """Where a page stands. By token, the counts are null: they would cost more than the page."""

    page: int | None
    page_size: int
    total_count: int | None
    total_pages: int | None
    next_page_token: str | None
    prev_page_token: Annotated[str | None, Meta(description="The page before, if any.")]


class Cursor(NamedTuple):
    """A position in an ordered list: the sort values of a row, and which way to read from it."""

    values: list[Any]
    backwards: bool = False


class PageRequest(NamedTuple):
    """Which page is wanted: `cursor` when a token was sent, else the number `page`."""

    page: int = 1
    page_size: int = DEFAULT_PAGE_SIZE
    cursor: Cursor | None = None

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.page_size


class Page(NamedTuple, Generic[T]):
    items: list[T]
    pagination: Pagination


def page_request(
    page: int | None = None, page_size: int | None = None, page_token: str | None = None
) -> PageRequest:
    """The page asked for; raises `ValidationError` naming the parameter."""
    size = DEFAULT_PAGE_SIZE if page_size is None else page_size
    if not 1 <= size <= MAX_PAGE_SIZE:
        raise _bad("page_size", f"must be 1 to {MAX_PAGE_SIZE}")
    if page_token is not None:
        if page is not None:
            raise _bad("page_token", "cannot be sent together with page")
        return PageRequest(page_size=size, cursor=_read_token(page_token))
    number = 1 if page is None else page
    if not 1 <= number <= MAX_PAGE:
        raise _bad("page", f"must be 1 to {MAX_PAGE}")
    return PageRequest(page=number, page_size=size)


def build_page(
    request: PageRequest,
    rows: Sequence[T],
    position: Callable[[T], list[Any]],
    total_count: int | None,
) -> Page[T]:
    """A page of up to `page_size + 1` rows that were read in reading direction.

    The row too many tells whether there is more. `position` gives a row's sort values.
    `total_count` is None when the page was asked for by token.
    """
    size = request.page_size
    more = len(rows) > size
    items = list(rows[:size])
    backwards = request.cursor is not None and request.cursor.backwards
    if backwards:
        items.reverse()
    first = request.cursor is None and request.page == 1
    has_next = bool(items) and (more or backwards)
    has_previous = bool(items) and (more if backwards else not first)
    return Page(
        items,
        Pagination(
            page=None if request.cursor else request.page,
            page_size=size,
            total_count=total_count,
            total_pages=None if total_count is None else max(1, -(-total_count // size)),
            next_page_token=_token(Cursor(position(items[-1]))) if has_next else None,
            prev_page_token=_token(Cursor(position(items[0]), True)) if has_previous else None,
        ),
    )


_read_cursor: Final = msgspec.json.Decoder(Cursor).decode


def _token(cursor: Cursor) -> str:
    raw = msgspec.json.encode(cursor)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read_token(token: str) -> Cursor:
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        cursor = _read_cursor(raw)
    except (binascii.Error, ValueError, RecursionError, msgspec.DecodeError):
        raise _bad("page_token", "was not made by this list") from None
    if not 1 <= len(cursor.values) <= 4 or not all(
        isinstance(value, str | int) for value in cursor.values
    ):
        raise _bad("page_token", "was not made by this list")
    return cursor


def _bad(name: str, what: str) -> ValidationError:
    return ValidationError.of_field(name, what, f"Correct {name}, or leave it out.")
