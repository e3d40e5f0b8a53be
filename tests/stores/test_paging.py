"""Pages of the stores' lists: by number, forward and backward, they are the full list."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from fiscus.budgets.port import BudgetFilter, ReservationFilter
from fiscus.clock import ManualClock
from fiscus.errors import ValidationError
from fiscus.ids import uuid7
from fiscus.paging import Cursor, Page, PageRequest, Pagination, page_request
from fiscus.settings import Settings
from fiscus.stores.sql import migrate
from fiscus.stores.sql import tables as t
from fiscus.stores.sql.paging import (
    SortKey,
    parse_number,
    parse_scope_id,
    parse_time,
    parse_uuid,
    rows_of,
    slice_of,
    time_value,
)
from fiscus.wiring.engine import open_engine
from tests.stores.conftest import DATABASES, Tenant

List = Callable[[PageRequest], Page[Any]]
COUNT = 7
SIZES = st.integers(1, COUNT + 1)


@pytest.fixture(scope="module", params=DATABASES)
def lists(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, List]]:
    """Lists of seven: budgets, reservations, and periods of one scope and of many."""
    folder: Path = tmp_path_factory.mktemp("paging")
    url = (
        f"sqlite:///{folder / 'fiscus.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    clock = ManualClock(page_start())
    settings = Settings(database_url=url, data_dir=folder, ledger_deadline_seconds=20)
    engine = open_engine(settings, clock=clock)
    yield _fill(Tenant(engine, f"paging-{request.param}"), clock)
    engine.close()


def page_start() -> datetime:
    return datetime(2026, 3, 10, 12, tzinfo=UTC)


def _fill(acme: Tenant, clock: ManualClock) -> dict[str, List]:
    daily = acme.budget(period_type="daily")
    template = acme.budget(allocated_to_type="user", allocated_to_id="*", period_type="daily")
    for number in range(COUNT - 2):
        acme.budget(budget_name=f"b{number}", allocated_to_type="feature", allocated_to_id="none")
    for number in range(COUNT):
        # Two users a day, and on the last day nothing of the daily budget, which shows as zeros.
        acme.check("1", user_id=f"u{number % 2}")
        if number < COUNT - 1 and number % 2:
            clock.advance(days=1)
    for _ in range(2):
        clock.advance(days=1)
        acme.record("1")
    clock.advance(days=1)
    engine, tenant_id = acme.engine, acme.tenant_id

    def periods(budget_id: str, scope_id: str | None) -> List:
        def read(page: PageRequest) -> Page[Any]:
            found = engine.budgets.utilization(
                tenant_id, budget_id, page, scope_id=scope_id, now=clock.now()
            )
            assert isinstance(found.pagination, Pagination)
            return Page(found.periods, found.pagination)

        return read

    return {
        "budgets": lambda page: engine.budgets.list(tenant_id, BudgetFilter(), page),
        "reservations": lambda page: engine.reservations.list(
            tenant_id, ReservationFilter(), page, clock.now()
        ),
        "periods": periods(daily.budget_id, None),
        "template": periods(template.budget_id, None),
        "scope of template": periods(template.budget_id, "u0"),
    }


NAMES = ["budgets", "reservations", "periods", "template", "scope of template"]


def whole(read: List) -> list[Any]:
    page = read(page_request(page_size=1000))
    assert page.pagination.total_count == len(page.items)
    assert (page.pagination.next_page_token, page.pagination.prev_page_token) == (None, None)
    return page.items


@pytest.mark.parametrize("name", NAMES)
def test_a_list_is_newest_first_without_repeats(lists: dict[str, List], name: str) -> None:
    items = whole(lists[name])
    keys = [
        (item.period_start, item.scope_id) if hasattr(item, "period_start") else _id(item)
        for item in items
    ]
    assert keys == sorted(set(keys), reverse=True)
    assert len(items) == {"template": 7, "periods": 7, "scope of template": 5}.get(name, COUNT)


def _id(item: Any) -> str:
    return item.budget_id if hasattr(item, "budget_id") else item.reservation_id


@pytest.mark.parametrize("name", NAMES)
@given(size=SIZES)
def test_following_tokens_gives_the_whole_list_both_ways(
    lists: dict[str, List], name: str, size: int
) -> None:
    read = lists[name]
    items = whole(read)
    page = read(page_request(page_size=size))
    forward = [page.items]
    while token := page.pagination.next_page_token:
        page = read(page_request(page_size=size, page_token=token))
        assert page.pagination.total_count is None
        assert page.items, "a token never leads to an empty page"
        forward.append(page.items)
    assert [item for part in forward for item in part] == items
    assert all(len(part) == size for part in forward[:-1])
    backward = [page.items]
    while token := page.pagination.prev_page_token:
        page = read(page_request(page_size=size, page_token=token))
        backward.insert(0, page.items)
    assert [item for part in backward for item in part] == items


@pytest.mark.parametrize("name", NAMES)
@given(size=SIZES)
def test_numbered_pages_give_the_whole_list(lists: dict[str, List], name: str, size: int) -> None:
    read = lists[name]
    items = whole(read)
    pages = [read(page_request(page=number, page_size=size)) for number in range(1, COUNT + 3)]
    assert [item for page in pages for item in page.items] == items
    assert {page.pagination.total_count for page in pages} == {len(items)}
    assert pages[0].pagination.total_pages == -(-len(items) // size)


def test_a_numbered_page_is_read_from_the_end_it_is_nearer_to_and_no_further_than_its_rows() -> (
    None
):
    engine = sa.create_engine("sqlite://")
    numbers = sa.Table("numbers", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True))
    order = [SortKey(numbers.c.n, parse_number)]
    looked_at: list[int] = []

    def look(number: int, least: int) -> bool:
        looked_at.append(number)
        return number >= least

    with engine.connect() as connection:
        numbers.create(connection)
        connection.execute(sa.insert(numbers), [{"n": n} for n in range(1, 1001)])
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.create_function("look", 2, look)

        def read(page: int, least: int = 0) -> list[int]:
            looked_at.clear()
            query = sa.select(numbers).where(sa.func.look(numbers.c.n, least))
            request, total = page_request(page=page, page_size=10), 1001 - max(least, 1)
            return [row.n for row in rows_of(connection, query, order, request, total)]

        assert read(100) == list(range(10, 0, -1))
        assert len(looked_at) == 10
        assert read(99) == list(range(20, 9, -1))
        assert len(looked_at) == 20
        assert read(101) == []
        assert len(looked_at) == 0
        assert read(1, least=998) == [1000, 999, 998]
        assert len(looked_at) == 3
    engine.dispose()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values",
    [["x"], [1], ["x", "y"], [1, 2], [2**70, "u"], [-(2**70), "u"], [1, "' OR 1=1"], [1, "u", 3]],
)
def test_a_token_of_another_list_is_refused(
    lists: dict[str, List], name: str, values: list[Any]
) -> None:
    with pytest.raises(ValidationError) as caught:
        lists[name](PageRequest(cursor=Cursor(values)))
    assert caught.value.field == "page_token"


def test_a_page_by_token_is_found_by_index_and_not_sorted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fiscus.db'}"
    migrate.upgrade(url)
    engine = sa.create_engine(url)
    one, moment = uuid7(), page_start()
    cases = {
        "ix_budgets_newest": (t.budgets, [SortKey(t.budgets.c.budget_id, parse_uuid)], [one]),
        "ix_api_keys_newest": (t.api_keys, [SortKey(t.api_keys.c.key_id, parse_uuid)], [one]),
        "ix_budget_periods_newest": (
            t.budget_periods,
            [
                SortKey(t.budget_periods.c.period_start, parse_time),
                SortKey(t.budget_periods.c.scope_id, parse_scope_id),
            ],
            [time_value(moment), "u"],
        ),
        "ix_rate_limit_policies_newest": (
            t.rate_limit_policies,
            [SortKey(t.rate_limit_policies.c.policy_id, parse_uuid)],
            [one],
        ),
        "ix_rate_limit_usage_newest": (
            t.rate_limit_usage,
            [
                SortKey(t.rate_limit_usage.c.window_start, parse_time),
                SortKey(t.rate_limit_usage.c.scope_id, parse_scope_id),
            ],
            [time_value(moment), "u"],
        ),
    }
    of_a_definition = {t.budget_periods: "budget_id", t.rate_limit_usage: "policy_id"}
    with engine.connect() as connection:
        for index, (table, order, values) in cases.items():
            first = table.c[of_a_definition.get(table, "tenant_id")]
            query = slice_of(
                sa.select(table).where(first == one), order, PageRequest(cursor=Cursor(values))
            )
            text = query.compile(engine, compile_kwargs={"literal_binds": True})
            plan = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {text}")).all()
            said = " ".join(row[-1] for row in plan)
            assert index in said, said
            assert "TEMP B-TREE" not in said, said
    engine.dispose()
