"""Renewal of quotas: due, made once, caught up with, tried again and given up."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from fiscus.errors import ValidationError
from fiscus.paging import page_request
from fiscus.quotas.model import Quota, RenewalStatus
from fiscus.quotas.port import DueRenewal, QuotaFilter
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.quotas import rows as quota_rows
from fiscus.stores.sql.quotas.store import SqlQuotas
from fiscus.stores.sql.quotas.tables import quotas as t
from tests.stores.conftest import in_threads
from tests.stores.quota_desk import NOW, QuotaDesk, at

DUE = at("2026-03-31")
"""When a quota of March is due, in UTC: a day before its end."""


@pytest.fixture
def desk(database: Database, tenant: str) -> QuotaDesk:
    return QuotaDesk(database, tenant)


def renew(desk: QuotaDesk, quota: Quota, now: datetime = DUE) -> Quota | None:
    return desk.quotas.renew(desk.tenant_id, quota.quota_id, now)


def due(desk: QuotaDesk, now: datetime, most: int = 10_000) -> list[str]:
    """Ids of this tenant's quotas; the database has other tests' as well."""
    found = desk.quotas.due_renewals(now, most)
    return [one.quota_id for one in found if one.tenant_id == desk.tenant_id]


def everything(desk: QuotaDesk) -> list[Quota]:
    return desk.quotas.list(desk.tenant_id, QuotaFilter(), page_request(page_size=1000)).items


def test_a_quota_is_due_a_day_before_its_end_and_short_ones_at_half_time(desk: QuotaDesk) -> None:
    month = desk.allocate(auto_renew=True)
    hour = desk.allocate(
        auto_renew=True,
        scope_id="gemini",
        period_type="custom",
        period_end="2026-03-10T13:00:00Z",
    )
    desk.allocate(scope_id="mercury")
    assert due(desk, NOW + timedelta(minutes=30) - timedelta(microseconds=1)) == []
    assert due(desk, NOW + timedelta(minutes=30)) == [hour.quota_id]
    assert due(desk, DUE - timedelta(microseconds=1)) == [hour.quota_id]
    # earliest end first
    assert due(desk, DUE) == [hour.quota_id, month.quota_id]
    assert len(desk.quotas.due_renewals(DUE, 1)) == 1


def test_due_quotas_of_all_tenants_are_told(desk: QuotaDesk) -> None:
    other = QuotaDesk(desk.database, f"{desk.tenant_id}-other")
    made = [one.allocate(auto_renew=True) for one in (desk, other)]
    found = desk.quotas.due_renewals(DUE, 10_000)
    assert {DueRenewal(one.tenant_id, one.quota_id) for one in made} <= set(found)


def test_the_next_period_follows_and_is_unused(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True, max_burst_amount="5", burst_premium_rate="2")
    desk.use(old, "90")
    new = renew(desk, old)
    assert new is not None
    assert desk.get(new) == desk.get(new, 1) == new
    assert (new.version, new.period_start, new.period_end) == (
        1,
        at("2026-04-01"),
        at("2026-05-01"),
    )
    assert (new.allocated_amount, new.max_burst_amount, new.renewed_from) == (
        100,
        5,
        old.quota_id,
    )
    assert desk.quotas.balances(desk.tenant_id, [new.quota_id]) == {}
    assert desk.quotas.balances(desk.tenant_id, [old.quota_id])[old.quota_id].used == 90
    after = desk.get(old)
    assert (after.renewal_status, after.version) == (RenewalStatus.RENEWED, 1)
    assert desk.row(new).renewed_from == old.quota_id
    assert desk.row(new).definitions_version > desk.row(old).version
    assert due(desk, DUE) == []
    assert due(desk, at("2026-04-30")) == [new.quota_id]


def test_months_are_those_of_the_zone_when_clocks_change(desk: QuotaDesk) -> None:
    """In New York March 2026 begins at 5:00 UTC and ends at 4:00, November the other way."""
    old = desk.allocate(auto_renew=True, timezone="America/New_York")
    for start in ("2026-04-01T04:00", "2026-05-01T04:00"):
        new = renew(desk, old, old.period_end - timedelta(hours=24))
        assert new is not None
        assert (new.period_start, new.timezone) == (old.period_end, "America/New_York")
        assert new.period_start == at(start)
        old = new
    november = desk.allocate(
        auto_renew=True,
        timezone="America/New_York",
        period_start="2026-11-15T00:00:00Z",
        scope_id="gemini",
    )
    assert november.period_start == at("2026-11-01T04:00")
    new = renew(desk, november, november.period_end)
    assert new is not None
    assert new.period_start == at("2026-12-01T05:00")


def test_a_renewal_by_usage_goes_by_the_pace(desk: QuotaDesk) -> None:
    old = desk.allocate(
        auto_renew=True,
        renewal_amount="by_usage",
        period_type="custom",
        period_end="2026-03-20T12:00:00Z",
    )
    desk.use(old, "45", burst="5")
    new = renew(desk, old, at("2026-03-19T12:00"))
    assert new is not None
    # 45 in 9 of 10 days, and a fifth more
    assert new.allocated_amount == 60


def test_a_quota_for_all_is_renewed_by_the_id_that_used_most(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True, renewal_amount="by_usage", scope_id="*")
    desk.use(old, "9", scope_id="apollo")
    desk.use(old, "30", scope_id="gemini", burst="10")
    new = renew(desk, old, old.period_end)
    assert new is not None
    assert new.allocated_amount == 36


def test_what_is_not_due_is_not_renewed(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True)
    never = desk.allocate(scope_id="gemini")
    deleted = desk.allocate(auto_renew=True, scope_id="mercury")
    desk.quotas.delete(desk.tenant_id, deleted.quota_id, force=True, by="ann", now=NOW)
    # also by a clock that went back after it had told that the quota is due
    assert renew(desk, old, DUE - timedelta(microseconds=1)) is None
    assert renew(desk, never) is None
    assert renew(desk, deleted) is None
    assert desk.quotas.renew(desk.tenant_id, "nothing", DUE) is None
    other = QuotaDesk(desk.database, f"{desk.tenant_id}-other")
    assert renew(other, old) is None
    assert len(everything(desk)) == 2


def test_a_quota_is_renewed_once_however_often_it_is_asked(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True)
    assert renew(desk, old) is not None
    assert renew(desk, old) is None
    assert renew(desk, old, at("2027-01-01")) is None
    # nor again after its renewal was deleted, or when somebody changes it
    new = everything(desk)[0]
    desk.quotas.delete(desk.tenant_id, new.quota_id, force=True, by="ann", now=DUE)
    changed = desk.replace(old, allocated_amount="7", auto_renew=True, now=DUE)
    assert changed.renewal_status is RenewalStatus.RENEWED
    assert renew(desk, old) is None
    assert [one.quota_id for one in everything(desk)] == [old.quota_id]


def test_two_workers_renew_a_quota_once(desk: QuotaDesk, database_url: str) -> None:
    other = Database(database_url)
    stores = [desk.quotas, SqlQuotas(other)] * 4
    old = desk.allocate(auto_renew=True)
    made: list[Quota | None] = []
    try:
        in_threads(8, lambda: made.append(stores.pop().renew(desk.tenant_id, old.quota_id, DUE)))
    finally:
        other.close()
    assert len([one for one in made if one is not None]) == 1
    assert len(everything(desk)) == 2


def test_the_table_itself_refuses_a_second_renewal(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True)
    new = renew(desk, old)
    assert new is not None
    twice = {**desk.row(new)._mapping, "quota_id": old.quota_id[:-12] + "ffffffffffff"}
    with pytest.raises(IntegrityError):
        desk.write(lambda connection: connection.execute(sa.insert(t).values(twice)))


@pytest.mark.parametrize("step", ["insert", "mark_renewal"])
def test_a_crash_between_the_steps_leaves_nothing_and_the_renewal_due(
    desk: QuotaDesk, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = desk.allocate(auto_renew=True)
    before = desk.definitions_version()
    done = getattr(quota_rows, step)

    def do_and_fail(*arguments: Any, **options: Any) -> None:
        done(*arguments, **options)
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(quota_rows, step, do_and_fail)
    with pytest.raises(RuntimeError):
        renew(desk, old)
    monkeypatch.undo()
    assert everything(desk) == [old]
    assert desk.definitions_version() == before
    assert due(desk, DUE) == [old.quota_id]
    assert renew(desk, old) is not None


def test_missed_periods_are_caught_up_with_one_by_one(desk: QuotaDesk) -> None:
    first = desk.allocate(auto_renew=True, period_type="daily")
    now = at("2026-03-14T12:00")
    made: list[Quota] = []
    while todo := due(desk, now):
        for quota_id in todo:
            new = desk.quotas.renew(desk.tenant_id, quota_id, now)
            assert new is not None
            made.append(new)
    # the last is tomorrow's, as a day is renewed from its noon on
    assert [one.period_start.day for one in made] == [11, 12, 13, 14, 15]
    periods = [(one.period_start, one.period_end) for one in [first, *made]]
    assert all(one[1] == other[0] for one, other in pairwise(periods))


def test_a_quota_that_somebody_allocated_supersedes_the_renewal(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True)
    other = desk.allocate(
        period_type="custom",
        period_start="2026-04-30T00:00:00Z",
        period_end="2026-05-02T00:00:00Z",
    )
    before = desk.definitions_version()
    assert renew(desk, old) is None
    assert desk.get(old).renewal_status is RenewalStatus.SUPERSEDED
    assert due(desk, DUE) == []
    assert len(everything(desk)) == 2
    assert desk.definitions_version() == before + 1
    # a person may have it tried again, once there is room
    desk.quotas.delete(desk.tenant_id, other.quota_id, force=True, by="ann", now=DUE)
    desk.replace(old, auto_renew=True, now=DUE)
    assert renew(desk, old) is not None


def test_a_renewal_is_tried_three_times_with_pauses_of_1_and_5_minutes(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True)
    one = DueRenewal(desk.tenant_id, old.quota_id)
    fail = desk.quotas.renewal_failed
    assert not fail(one, "the database was away", DUE)
    # another worker that failed at the same time does not count
    assert not fail(one, "the database was away", DUE)
    assert due(desk, DUE + timedelta(seconds=59)) == []
    assert renew(desk, old, DUE + timedelta(seconds=59)) is None
    second = DUE + timedelta(minutes=1)
    assert due(desk, second) == [old.quota_id]
    assert not fail(one, "still away", second)
    third = second + timedelta(minutes=5)
    assert due(desk, third - timedelta(seconds=1)) == []
    assert due(desk, third) == [old.quota_id]
    assert (desk.row(old).renewal_tries, desk.row(old).renewal_error) == (2, "still away")
    assert fail(one, "gone for good", third)
    assert desk.row(old).renewal_error == "gone for good"
    assert desk.get(old).renewal_status is RenewalStatus.FAILED
    assert due(desk, at("2027-01-01")) == []
    assert renew(desk, old, at("2027-01-01")) is None
    assert not fail(one, "again", third)


def test_a_later_try_may_succeed(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True)
    desk.quotas.renewal_failed(DueRenewal(desk.tenant_id, old.quota_id), "away", DUE)
    assert renew(desk, old, DUE + timedelta(minutes=1)) is not None
    assert desk.row(old).renewal_error is None


def test_a_renewal_given_up_is_tried_again_after_a_change(desk: QuotaDesk) -> None:
    old = desk.allocate(auto_renew=True)
    now = DUE
    for pause in (1, 5, 0):
        desk.quotas.renewal_failed(DueRenewal(desk.tenant_id, old.quota_id), "away", now)
        now += timedelta(minutes=pause)
    assert desk.get(old).renewal_status is RenewalStatus.FAILED
    changed = desk.replace(old, auto_renew=True, now=now)
    assert changed.renewal_status is RenewalStatus.PENDING
    assert (desk.row(old).renewal_tries, desk.row(old).renewal_error) == (0, None)
    assert renew(desk, old, now) is not None


def test_a_period_beyond_all_time_cannot_be_renewed(desk: QuotaDesk) -> None:
    last = desk.allocate(auto_renew=True, period_type="yearly", period_start="9997-06-01T00:00:00Z")
    with pytest.raises(ValidationError):
        renew(desk, last, last.period_end)
    assert everything(desk) == [last]
    assert not desk.quotas.renewal_failed(
        DueRenewal(desk.tenant_id, last.quota_id), "out of range", last.period_end
    )
