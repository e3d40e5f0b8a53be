"""Quotas' history: rows by page, days of the quota's zone, and what is forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from fiscus.clock import ManualClock
from fiscus.errors import NotFound, ServiceUnavailable, ValidationError
from fiscus.paging import Cursor, PageRequest, page_request
from fiscus.quotas.calls import QuotaHistory
from fiscus.quotas.model import Quota, UsageKind
from fiscus.quotas.port import QuotaFilter
from fiscus.stores.sql.database import ALL_TENANTS, Database
from fiscus.stores.sql.maintenance import SqlMaintenance
from fiscus.stores.sql.quotas.tables import quota_usage
from tests.stores.conftest import plan_of
from tests.stores.quota_desk import NOW, QuotaDesk, at


@pytest.fixture
def desk(database: Database, tenant: str) -> QuotaDesk:
    return QuotaDesk(database, tenant)


def history(
    desk: QuotaDesk,
    quota: Quota,
    *,
    scope_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    **page: Any,
) -> QuotaHistory:
    return desk.quotas.history(
        desk.tenant_id,
        quota.quota_id,
        page_request(**page),
        scope_id=scope_id,
        since=since,
        until=until,
    )


def test_a_quota_that_was_never_used_has_no_history(desk: QuotaDesk) -> None:
    found = history(desk, desk.allocate())
    assert (found.rows, found.days) == ([], [])
    assert found.pagination is not None
    assert found.pagination.total_count == 0
    with pytest.raises(NotFound):
        desk.quotas.history(
            desk.tenant_id, "nothing", page_request(), scope_id=None, since=None, until=None
        )


def test_rows_are_newest_first_and_days_add_up(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    other = desk.allocate(scope_id="gemini")
    consumption = desk.usage(quota, "10.5", "2026-03-02T08:00", burst="0.5")
    desk.usage(quota, "0.000000000001", "2026-03-02T09:00")
    desk.usage(
        quota,
        "4",
        "2026-03-05T00:00",
        kind=UsageKind.RELEASE,
        consumption_id=consumption,
        burst="0.5",
    )
    desk.usage(other, "1000", "2026-03-02T09:00")
    found = history(desk, quota)
    assert [(row.kind, row.amount, row.burst) for row in found.rows] == [
        (UsageKind.RELEASE, 4, Decimal("0.5")),
        (UsageKind.CONSUME, Decimal("0.000000000001"), 0),
        (UsageKind.CONSUME, Decimal("10.5"), Decimal("0.5")),
    ]
    assert found.rows[0].consumption_id == found.rows[2].consumption_id == consumption
    assert [
        (day.day, day.consumed, day.released, day.burst, day.consumptions) for day in found.days
    ] == [
        (date(2026, 3, 2), Decimal("10.500000000001"), 0, Decimal("0.5"), 2),
        (date(2026, 3, 5), 0, 4, 0, 0),
    ]


def test_days_are_those_of_the_quotas_zone_when_clocks_change(desk: QuotaDesk) -> None:
    """In Berlin 29 March 2026 has 23 hours, and 25 October 2026 has 25."""
    quota = desk.allocate(timezone="Europe/Berlin", period_type="yearly")
    for moment in ("2026-03-28T22:59", "2026-03-28T23:00", "2026-03-29T21:59", "2026-03-29T22:00"):
        desk.usage(quota, "1", moment)
    for moment in ("2026-10-24T21:59", "2026-10-24T22:00", "2026-10-25T22:59", "2026-10-25T23:00"):
        desk.usage(quota, "1", moment)
    spring = history(desk, quota, until=at("2026-04-01")).days
    assert [(day.day.day, day.consumptions) for day in spring] == [(28, 1), (29, 2), (30, 1)]
    autumn = history(desk, quota).days
    assert [(day.day.day, day.consumptions) for day in autumn] == [(24, 1), (25, 2), (26, 1)]


def test_days_that_begin_where_midnight_is_skipped_or_happens_twice(desk: QuotaDesk) -> None:
    """In Havana clocks go from 0:00 to 1:00 in spring, and from 1:00 to 0:00 in autumn."""
    quota = desk.allocate(timezone="America/Havana", period_type="yearly")
    for moment in ("2026-03-08T04:59", "2026-03-08T05:00", "2026-03-09T03:59", "2026-03-09T04:00"):
        desk.usage(quota, "1", moment)
    for moment in ("2026-11-01T03:59", "2026-11-01T04:00", "2026-11-01T05:00", "2026-11-02T05:00"):
        desk.usage(quota, "1", moment)
    spring = history(desk, quota, until=at("2026-04-01")).days
    assert [(day.day.day, day.consumptions) for day in spring] == [(7, 1), (8, 2), (9, 1)]
    autumn = history(desk, quota).days
    assert [(day.day.day, day.consumptions) for day in autumn] == [(31, 1), (1, 2), (2, 1)]


def test_a_range_is_from_since_to_before_until(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    for hour in (9, 10, 11, 12):
        desk.usage(quota, str(hour), f"2026-03-02T{hour:02}:00")
    found = history(desk, quota, since=at("2026-03-02T10:00"), until=at("2026-03-02T12:00"))
    assert [row.amount for row in found.rows] == [11, 10]
    assert [day.consumed for day in found.days] == [21]
    empty = history(desk, quota, since=at("2026-03-03"))
    assert (empty.rows, empty.days) == ([], [])


def test_without_a_range_days_are_the_last_30_and_rows_are_all(desk: QuotaDesk) -> None:
    quota = desk.allocate(period_type="yearly")
    for moment in ("2026-01-31T23:59", "2026-02-01T00:00", "2026-03-02T10:00"):
        desk.usage(quota, "1", moment)
    found = history(desk, quota)
    assert len(found.rows) == 3
    assert [day.day for day in found.days] == [date(2026, 2, 1), date(2026, 3, 2)]


def test_a_range_of_years_has_the_days_of_its_last_year(desk: QuotaDesk) -> None:
    quota = desk.allocate(period_type="custom", period_end="2036-01-01T00:00:00Z")
    for moment in ("2026-03-10T12:00", "2034-01-02T00:00", "2035-01-02T00:00"):
        desk.usage(quota, "1", moment)
    found = history(desk, quota, since=at("2020-01-01"))
    assert len(found.rows) == 3
    assert [day.day for day in found.days] == [date(2034, 1, 2), date(2035, 1, 2)]


def test_days_are_looked_up_one_by_one(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    desk.usage(quota, "1", "2026-03-02")
    plan = plan_of(desk.database, lambda: history(desk, quota), of="days")
    if desk.database.is_sqlite:
        assert "SCAN quota_usage" not in plan
    else:
        assert "Join Filter" not in plan  # each row would be compared with each day


def test_one_id_of_a_quota_for_all_is_looked_at_alone(desk: QuotaDesk) -> None:
    quota = desk.allocate(scope_id="*")
    desk.usage(quota, "1", "2026-03-02", scope_id="apollo")
    desk.usage(quota, "2", "2026-03-02", scope_id="gemini")
    assert [row.scope_id for row in history(desk, quota).rows] == ["gemini", "apollo"]
    found = history(desk, quota, scope_id="apollo")
    assert [row.scope_id for row in found.rows] == ["apollo"]
    assert [day.consumed for day in found.days] == [1]


def test_pages_by_token_have_rows_only(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    for number in range(5):
        # three at the very same moment
        desk.usage(quota, str(number), "2026-03-02" if number < 3 else "2026-03-03")
    first = history(desk, quota, page_size=2)
    assert first.pagination is not None
    assert first.pagination.total_count == 5
    assert len(first.days) == 2
    second = history(desk, quota, page_size=2, page_token=first.pagination.next_page_token)
    assert second.pagination is not None
    assert second.days == []
    third = history(desk, quota, page_size=2, page_token=second.pagination.next_page_token)
    rows = first.rows + second.rows + third.rows
    assert [row.amount for row in rows] == [4, 3, 2, 1, 0]
    back = history(desk, quota, page_size=2, page_token=second.pagination.prev_page_token)
    assert back.rows == first.rows


def test_a_token_of_another_list_is_refused(desk: QuotaDesk) -> None:
    desk.allocate(scope_id="one")
    quota = desk.allocate(scope_id="other")
    page = desk.quotas.list(desk.tenant_id, QuotaFilter(), page_request(page_size=1))
    with pytest.raises(ValidationError) as caught:
        history(desk, quota, page_token=page.pagination.next_page_token)
    assert caught.value.field == "page_token"


@pytest.mark.parametrize("values", [[1], [1, "x"], [1, True], [1, 2**63], [2**70, 1]])
def test_a_token_that_was_made_up_is_refused(desk: QuotaDesk, values: list[Any]) -> None:
    quota = desk.allocate()
    page = PageRequest(cursor=Cursor(values))
    with pytest.raises(ValidationError) as caught:
        desk.quotas.history(
            desk.tenant_id, quota.quota_id, page, scope_id=None, since=None, until=None
        )
    assert caught.value.field == "page_token"


def test_the_history_of_a_deleted_quota_stays(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    desk.usage(quota, "5", "2026-03-02")
    desk.quotas.delete(desk.tenant_id, quota.quota_id, force=True, by="ann", now=NOW)
    assert [row.amount for row in history(desk, quota).rows] == [5]


# -- forgetting


def clear(desk: QuotaDesk) -> None:
    desk.quotas.drop_history_before(at("2999-01-01"))


def test_rows_from_before_a_moment_are_forgotten_of_all_tenants(desk: QuotaDesk) -> None:
    clear(desk)
    other = QuotaDesk(desk.database, f"{desk.tenant_id}-other")
    for one in (desk, other):
        quota = one.allocate()
        for moment in ("2025-12-31T23:59", "2026-02-15T00:00", "2026-02-15T00:01"):
            one.usage(quota, "1", moment)
    assert desk.quotas.drop_history_before(at("2026-02-15T00:01")) == 4
    assert desk.quotas.drop_history_before(at("2026-02-15T00:01")) == 0
    clear(desk)


def test_more_than_one_chunk_is_forgotten(desk: QuotaDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    clear(desk)
    monkeypatch.setattr("fiscus.stores.sql.quotas.history._BATCH", 2)
    quota = desk.allocate()
    for minute in range(5):
        desk.usage(quota, "1", f"2026-02-15T00:{minute:02}")
    assert desk.quotas.drop_history_before(at("2026-02-15T00:05")) == 5
    assert history(desk, quota).rows == []


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_whole_months_go_with_their_partitions(desk: QuotaDesk) -> None:
    clear(desk)
    database = desk.database
    maintenance = SqlMaintenance(database, ManualClock(NOW))
    assert any(name.startswith("quota_usage_") for name in maintenance.prepare_partitions())
    assert maintenance.prepare_partitions() == []
    months = partitions(database)
    first, second = (
        datetime.fromisoformat(f"{name[12:].replace('_', '-')}-05T00:00:00+00:00")
        for name in months[:2]
    )
    quota = desk.allocate()
    for moment in (first, first, second):
        desk.usage(quota, "1", moment.replace(tzinfo=None).isoformat())
    assert desk.quotas.drop_history_before(second) == 2
    assert partitions(database) == months[1:]
    assert len(history(desk, quota).rows) == 1
    assert desk.quotas.drop_history_before(second.replace(day=6)) == 1
    assert partitions(database) == months[1:]
    # the worker's next round makes the month again that it is allowed to have
    assert maintenance.prepare_partitions() == months[:1]


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_month_that_would_wait_for_a_long_reader_is_made_later(desk: QuotaDesk) -> None:
    """Who comes after a change that waits for a table waits with it: nobody could be charged."""
    maintenance = SqlMaintenance(desk.database, ManualClock(NOW))
    maintenance.prepare_partitions()
    last = partitions(desk.database)[-1]
    with desk.database.engine.begin() as connection:
        connection.execute(sa.text("RESET ROLE"))
        connection.execute(sa.text(f"DROP TABLE {last}"))
    with ThreadPoolExecutor(1) as pool, desk.database.read(desk.tenant_id) as reader:
        reader.execute(sa.select(sa.func.count()).select_from(quota_usage))
        making = pool.submit(maintenance.prepare_partitions)
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while not (reader.execute(waiting).scalar_one() or making.done()):
            pass
        with desk.database.engine.begin() as writer:  # behind it, and less patient than it was
            writer.execute(sa.text("SET LOCAL lock_timeout = '2s'"))
            writer.execute(sa.text("LOCK TABLE quota_usage IN ROW EXCLUSIVE MODE"))
        with pytest.raises(ServiceUnavailable):
            making.result()
    assert maintenance.prepare_partitions() == [last]


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_month_that_has_rows_already_is_left_without_a_lock(desk: QuotaDesk) -> None:
    """To try it every hour would hold up everybody every hour."""
    clear(desk)
    maintenance = SqlMaintenance(desk.database, ManualClock(NOW))
    now = datetime.now(tz=UTC)
    this_month = f"quota_usage_{now:%Y_%m}"
    desk.usage(desk.allocate(), "1", now.replace(tzinfo=None).isoformat())
    assert maintenance.prepare_partitions()
    assert this_month not in partitions(desk.database)
    with desk.database.read(desk.tenant_id) as reader:
        reader.execute(sa.select(sa.func.count()).select_from(quota_usage))
        assert maintenance.prepare_partitions() == []
    desk.quotas.drop_history_before(now + timedelta(seconds=1))
    assert this_month in maintenance.prepare_partitions()


def partitions(database: Database) -> list[str]:
    query = "SELECT relname FROM pg_class WHERE relname ~ '^quota_usage_[0-9]' AND relkind = 'r'"
    with database.read(ALL_TENANTS) as connection:
        return sorted(connection.execute(sa.text(query)).scalars())


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_every_month_has_the_indexes(desk: QuotaDesk) -> None:
    query = "SELECT indexdef FROM pg_indexes WHERE tablename = :name"
    name = f"quota_usage_{datetime.now(tz=NOW.tzinfo):%Y_%m}"
    SqlMaintenance(desk.database, ManualClock(NOW)).prepare_partitions()
    with desk.database.read(ALL_TENANTS) as connection:
        found = " ".join(connection.execute(sa.text(query), {"name": name}).scalars())
    for wanted in ("USING brin (at)", "UNIQUE INDEX", "(quota_id, at, usage_id)"):
        assert wanted in found
