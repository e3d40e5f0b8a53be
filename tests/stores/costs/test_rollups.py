"""What reports and lists read to answer: rollups where they can, records where they must.

Recorded through the real ledger, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from fiscus.costs.port import CostFilter, SumQuery, TimeSlice
from fiscus.costs.report_model import ReportSource
from fiscus.costs.rollups import quarter_hours_within
from fiscus.engine import Engine
from fiscus.ids import uuid7
from fiscus.paging import page_request
from fiscus.stores.sql.costs.store import SqlCosts
from tests.stores.conftest import after_each_statement, plan_of, plans_within
from tests.stores.costs.desk import (
    NOON,
    costs_by,
    database_of,
    declare_tags,
    listening,
    record,
    report,
    statements,
)


def rollup_rows(engine: Engine, tenant: str) -> int:
    with database_of(engine).read(tenant) as connection:
        return connection.execute(
            sa.text("SELECT count(*) FROM cost_rollups WHERE tenant_id = :t"), {"t": tenant}
        ).scalar_one()


def test_two_thousand_records_of_one_quarter_hour_are_read_as_one_row(
    engine: Engine, tenant: str
) -> None:
    for _ in range(2):
        record(engine, tenant, *({"cost_amount": Decimal("0.001")} for _ in range(1000)))
    assert rollup_rows(engine, tenant) == 1
    with statements(engine) as seen:
        found = report(engine, tenant)
    assert (found.total_cost, found.record_count) == (Decimal(2), 2000)
    assert found.source is ReportSource.ROLLUPS
    assert any("cost_rollups" in one for one in seen)
    assert not any("cost_records" in one for one in seen)


def test_a_list_counts_its_records_in_the_rollups(engine: Engine, tenant: str) -> None:
    record(engine, tenant, *({} for _ in range(50)))
    with statements(engine) as seen:
        page = engine.costs.list(tenant, CostFilter(resource_type="llm"), page_request(page_size=1))
    assert page.pagination.total_count == 50
    assert any("sum(cost_rollups.record_count)" in one for one in seen)


def test_a_list_by_a_tag_counts_in_the_rollups_of_the_time_since_it_was_declared(
    engine: Engine, tenant: str
) -> None:
    later = NOON + timedelta(hours=1)
    blue, red = {"tags": {"team": "blue"}}, {"tags": {"team": "red"}}
    record(engine, tenant, blue, red, {"resource_type": "gpu"})
    declare_tags(engine, tenant, "team")
    record(engine, tenant, *({**one, "timestamp": later} for one in (blue, red, {}, blue)))

    def counted(**wanted: Any) -> tuple[int | None, bool]:
        by_tag = CostFilter(**wanted, tags=(("team", "blue"),))
        with statements(engine) as seen:
            count = engine.costs.list(tenant, by_tag, page_request()).pagination.total_count
        return count, any("sum(cost_rollups.record_count)" in one for one in seen)

    assert counted() == (3, False)
    assert counted(start=later) == (2, True)
    assert counted(start=later - timedelta(minutes=1)) == (2, True)
    assert counted(start=later, resource_type="gpu") == (0, True)
    assert counted(region="eu") == (0, True)


def test_a_list_counts_without_looking_up_the_series_of_each_rollup(
    engine: Engine, tenant: str
) -> None:
    record(engine, tenant, {})
    database = database_of(engine)

    def count(**wanted: Any) -> None:
        SqlCosts(database).list(tenant, CostFilter(**wanted), page_request())

    assert "cost_series" not in plan_of(database, count, "sum(")
    of_some = partial(count, user_id="u")
    if database.is_sqlite:
        some = plan_of(database, of_some, "sum(")
        assert "cost_series USING INDEX ix_cost_series_tenant_id" in some
    else:
        (some,) = plans_within(database, of_some, "sum(", seqscan=False)
        assert "Nested Loop" not in some  # each series would be looked for among all rollups
        assert "SubPlan" not in some  # of many series: through all for each rollup


def test_counting_the_ends_of_a_range_reads_nothing_in_between(engine: Engine, tenant: str) -> None:
    record(engine, tenant, *({"timestamp": NOON + timedelta(minutes=m)} for m in (1, 20, 50)))
    with statements(engine) as seen:
        for wanted in (CostFilter(start=NOON), CostFilter(start=NOON, user_id="u")):
            engine.costs.list(tenant, wanted, page_request())
    ends = [one for one in seen if "count(*)" in one]
    assert len(ends) == 4
    for one in ends:  # of two bounds on one side SQLite goes by either
        assert max(one.count("timestamp >="), one.count("timestamp <")) <= 1


def test_a_reservations_record_is_looked_up(engine: Engine, tenant: str) -> None:
    record(engine, tenant, {})
    database, wanted = database_of(engine), CostFilter(reservation_id=uuid7())
    costs = SqlCosts(database)
    plan = plan_of(database, lambda: costs.list(tenant, wanted, page_request()), "FROM cost_record")
    if database.is_sqlite:
        assert plan.startswith("SEARCH cost_records USING")
        assert "record_id=?" in plan.partition("\n")[0]
    else:
        assert "Seq Scan" not in plan


def test_sums_of_a_long_time_look_up_no_series_by_itself_on_postgresql(
    engine: Engine, tenant: str
) -> None:
    database = database_of(engine)
    if database.is_sqlite:
        pytest.skip("SQLite has no other way")
    record(engine, tenant, {})

    def plan_since(days: int, **wanted: str) -> str:
        start = NOON - timedelta(days=days)
        read = partial(report, engine, tenant, start_date=start, group_by=["user"], **wanted)
        (plan,) = plans_within(database, read, "sum(costs.record_count)", seqscan=False)
        return plan

    long, short = plan_since(days=93), plan_since(days=31)
    assert "Hash Join" in long
    assert "ix_cost_series_tenant_id" in long
    assert "ix_cost_series_tenant_id" not in short
    of_some = plan_since(days=31, user_id="u")
    for plan in (long, of_some):
        assert "SubPlan" not in plan
        assert "jit = 'off'" in plan
    assert of_some.count("ix_cost_series_tenant_id") == 2


def test_ends_between_quarter_hours_read_only_the_records_there(
    engine: Engine, tenant: str
) -> None:
    minutes = [0, 5, 14, 15, 29, 30, 44, 45, 59]
    record(engine, tenant, *({"timestamp": NOON + timedelta(minutes=m)} for m in minutes))
    start, end = NOON + timedelta(minutes=5), NOON + timedelta(minutes=45, microseconds=1)
    found = report(engine, tenant, start_date=start, end_date=end)
    assert (found.source, found.record_count) == (ReportSource.MIXED, 7)
    within = report(engine, tenant, start_date=start, end_date=start + timedelta(minutes=9))
    assert (within.source, within.record_count) == (ReportSource.MIXED, 1)


def test_days_are_told_apart_only_where_costs_have_to_be_converted(
    engine: Engine, tenant: str
) -> None:
    """Sums of each day and series would be as many as the quarter hours themselves."""
    days = {"start_date": NOON - timedelta(days=9, hours=12), "end_date": NOON}
    slices: list[int] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        given = parameters.values() if isinstance(parameters, dict) else parameters
        if "slices" in statement:
            arrays = [one for one in given if str(one).startswith("[")]
            slices.extend(len(json.loads(one)) for one in arrays)

    def looked_up() -> int:
        slices.clear()
        with listening(engine, note):
            assert report(engine, tenant, **days).source is ReportSource.ROLLUPS
        (count,) = slices
        return count

    moments = [{"timestamp": NOON - timedelta(days=day, hours=1)} for day in range(9)]
    record(engine, tenant, *moments)
    assert looked_up() == 1
    with statements(engine) as seen:
        report(engine, tenant, start_date=NOON - timedelta(hours=1), end_date=NOON)
    # whether any is in another currency takes going through all
    assert not any(one.startswith("SELECT cost_series.series_id") for one in seen)
    record(engine, tenant, {"currency": "EUR", **moments[0]})
    assert looked_up() == 10


def test_what_is_read_of_costs_is_of_one_moment(engine: Engine, tenant: str) -> None:
    """Records that were committed together are in it or are not."""
    at_once = [{"timestamp": NOON + timedelta(minutes=minutes)} for minutes in (5, 20)]
    at_once.append({"timestamp": NOON - timedelta(minutes=5)})
    record(engine, tenant, *at_once)
    wanted = {
        "start_date": NOON + timedelta(minutes=3),
        "end_date": NOON + timedelta(hours=1),
        "compare_previous": True,
    }
    with after_each_statement(database_of(engine), lambda: record(engine, tenant, *at_once)):
        found = report(engine, tenant, NOON + timedelta(hours=2), **wanted)
        page = engine.costs.list(tenant, CostFilter(), page_request(page_size=1000))
    assert found.source is ReportSource.MIXED
    assert found.previous is not None
    assert found.record_count == 2 * found.previous.record_count
    assert found.total_cost == found.record_count
    assert len(page.items) == page.pagination.total_count


def test_a_declared_tag_is_read_from_rollups(engine: Engine, tenant: str) -> None:
    declare_tags(engine, tenant, "team")
    record(
        engine,
        tenant,
        {"tags": {"team": "blue"}},
        {"tags": {"team": "red", "other": "x"}},
        {"tags": {"other": "x"}},
        {},
    )
    found = report(engine, tenant, group_by=["tag:team"])
    assert found.source is ReportSource.ROLLUPS
    assert costs_by(found, "tag:team") == {"blue": 1, "red": 1, None: 2}
    assert report(engine, tenant, tags={"team": "red"}).total_cost == 1


def test_an_undeclared_tag_is_read_from_records(engine: Engine, tenant: str) -> None:
    record(engine, tenant, {"tags": {"team": "blue"}}, {"tags": {"team": "a.b"}}, {})
    found = report(engine, tenant, group_by=["tag:team"])
    assert found.source is ReportSource.RECORDS
    assert costs_by(found, "tag:team") == {"blue": 1, "a.b": 1, None: 1}
    filtered = report(engine, tenant, tags={"team": "blue"})
    assert (filtered.source, filtered.total_cost) == (ReportSource.RECORDS, 1)


@pytest.mark.parametrize("key", ['odd "key"', "$.a", "a.b", "ä", "back\\slash", "0"])
def test_a_tag_key_may_be_any_text(engine: Engine, tenant: str, key: str) -> None:
    record(engine, tenant, {"tags": {key: 'v"1'}}, {})
    assert costs_by(report(engine, tenant, group_by=[f"tag:{key}"]), f"tag:{key}") == {
        'v"1': 1,
        None: 1,
    }
    assert report(engine, tenant, tags={key: 'v"1'}).record_count == 1
    declare_tags(engine, tenant, key)
    later = NOON - timedelta(days=1)
    record(engine, tenant, {"tags": {key: 'v"1'}, "timestamp": later}, {"timestamp": later})
    found = report(engine, tenant, end_date=NOON - timedelta(hours=1), group_by=[f"tag:{key}"])
    assert found.source is ReportSource.ROLLUPS
    assert costs_by(found, f"tag:{key}") == {'v"1': 1, None: 1}


def test_costs_from_before_a_tag_was_declared_are_read_from_records(
    engine: Engine, tenant: str
) -> None:
    record(engine, tenant, {"tags": {"team": "blue"}})
    declare_tags(engine, tenant, "team")
    later = NOON + timedelta(hours=1)
    record(engine, tenant, {"tags": {"team": "blue"}, "timestamp": later})
    end = later + timedelta(hours=1)
    both = report(engine, tenant, end_date=end, group_by=["tag:team"])
    assert (both.source, costs_by(both, "tag:team")) == (ReportSource.RECORDS, {"blue": 2})
    filtered = report(engine, tenant, end_date=end, tags={"team": "blue"})
    assert (filtered.source, filtered.total_cost) == (ReportSource.RECORDS, 2)
    new = report(engine, tenant, start_date=later, end_date=end, group_by=["tag:team"])
    assert (new.source, costs_by(new, "tag:team")) == (ReportSource.ROLLUPS, {"blue": 1})


def test_sums_look_rollups_up_by_tenant_and_time(engine: Engine, tenant: str) -> None:
    """The plan starts from the slices, and finds rollups by their key."""
    record(engine, tenant, {})
    whole = quarter_hours_within(NOON, NOON + timedelta(hours=5))
    assert whole is not None
    query = SumQuery(CostFilter(), ("user_id",), [TimeSlice(*whole, 0)], "USD")
    with engine.costs.sums(tenant) as sums:
        for read in (sums.by_rollups, sums.by_records):
            plan = plan_of(database_of(engine), lambda read=read: read(query))
            if database_of(engine).is_sqlite:
                assert "SCAN slices" in plan
                assert "SCAN cost" not in plan
                assert "tenant_id=? AND" in plan
            else:
                assert "Join Filter" not in plan  # each row would be compared with each slice
                assert ">= given.starts) AND" in plan.partition("Index Cond: ")[2]
