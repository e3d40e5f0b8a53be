"""Pages: following tokens visits every row once, both ways, and strange tokens are refused."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.errors import ValidationError
from fiscus.paging import Page, PageRequest, build_page, page_request


def read(rows: list[int], request: PageRequest) -> Page[int]:
    """A page of ascending `rows`, read as a store does."""
    cursor = request.cursor
    if cursor is None:
        found = rows[request.offset : request.offset + request.page_size + 1]
        return build_page(request, found, lambda row: [row], len(rows))
    (position,) = cursor.values
    if cursor.backwards:
        found = [row for row in reversed(rows) if row < position]
    else:
        found = [row for row in rows if row > position]
    return build_page(request, found[: request.page_size + 1], lambda row: [row], None)


@given(st.lists(st.integers(), unique=True, max_size=30).map(sorted), st.integers(1, 9))
def test_following_tokens_visits_every_row_once_and_back_again(rows: list[int], size: int) -> None:
    page = read(rows, page_request(page_size=size))
    seen = [page.items]
    while page.pagination.next_page_token:
        page = read(rows, page_request(None, size, page.pagination.next_page_token))
        seen.append(page.items)
        assert page.pagination.total_count is None
    assert [row for items in seen for row in items] == rows
    back = [page.items]
    while page.pagination.prev_page_token:
        page = read(rows, page_request(None, size, page.pagination.prev_page_token))
        if page.items:
            back.insert(0, page.items)
    assert [row for items in back for row in items] == rows


@given(st.integers(0, 50), st.integers(1, 9))
def test_pages_by_number_cover_all_rows_and_count_them(count: int, size: int) -> None:
    rows = list(range(count))
    first = read(rows, page_request(page_size=size)).pagination
    assert first.total_count == count
    assert first.total_pages is not None
    pages = [read(rows, page_request(number, size)) for number in range(1, first.total_pages + 1)]
    assert [row for page in pages for row in page.items] == rows
    assert pages[-1].pagination.next_page_token is None
    assert pages[0].pagination.prev_page_token is None


@pytest.mark.parametrize(
    ("page", "size", "token", "field"),
    [
        (0, None, None, "page"),
        (-1, None, None, "page"),
        (10**7, None, None, "page"),
        (None, 0, None, "page_size"),
        (None, 1001, None, "page_size"),
        (1, None, "W1tdXQ", "page_token"),
        (None, None, "", "page_token"),
        (None, None, "!", "page_token"),
        (None, None, "é", "page_token"),
        (None, None, "W1tdXQ", "page_token"),
        (None, None, base64.urlsafe_b64encode(b'[[{"a":1}],false]').decode(), "page_token"),
        (None, None, base64.urlsafe_b64encode(b"[[1,1,1,1,1],false]").decode(), "page_token"),
        (None, None, base64.urlsafe_b64encode(b"[" * 10_000).decode(), "page_token"),
        (None, None, base64.urlsafe_b64encode(b"\xff\xfe").decode(), "page_token"),
    ],
)
def test_a_page_that_cannot_be_is_refused_by_name(
    page: int | None, size: int | None, token: str | None, field: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        page_request(page, size, token)
    assert caught.value.field == field


@given(
    st.text(max_size=40)
    | st.binary(max_size=30).map(lambda b: base64.urlsafe_b64encode(b).decode())
)
def test_no_token_raises_anything_but_a_validation_error(token: str) -> None:
    with suppress(ValidationError):
        assert page_request(page_token=token).cursor is not None
