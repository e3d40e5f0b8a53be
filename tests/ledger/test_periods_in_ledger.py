"""Budgets start afresh at the right instant: clock changes, leap days and month ends in five zones.

Each case says, apart from the code that works it out, when in UTC a period begins and ends.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from fiscus.clock import ManualClock
from tests.ledger.books import read_books
from tests.ledger.desk import Desk

TICK = timedelta(microseconds=1)

# zone, period type, start and end of a period in UTC
PERIODS = [
    # the day clocks go forward has 23 hours, the day they go back 25
    ("Europe/Berlin", "daily", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
    ("Europe/Berlin", "daily", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
    ("America/New_York", "daily", "2026-03-08T05:00Z", "2026-03-09T04:00Z"),
    ("America/New_York", "daily", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
    ("Australia/Lord_Howe", "daily", "2026-04-04T13:00Z", "2026-04-05T13:30Z"),
    ("Australia/Lord_Howe", "daily", "2026-10-03T13:30Z", "2026-10-04T13:00Z"),
    ("Asia/Kathmandu", "daily", "2026-03-28T18:15Z", "2026-03-29T18:15Z"),
    ("Pacific/Kiritimati", "daily", "2026-12-30T10:00Z", "2026-12-31T10:00Z"),
    # leap days, and the year that has none
    ("Europe/Berlin", "daily", "2028-02-28T23:00Z", "2028-02-29T23:00Z"),
    ("Asia/Kathmandu", "monthly", "2028-01-31T18:15Z", "2028-02-29T18:15Z"),
    ("America/New_York", "monthly", "2026-02-01T05:00Z", "2026-03-01T05:00Z"),
    ("Pacific/Kiritimati", "yearly", "2027-12-31T10:00Z", "2028-12-31T10:00Z"),
    # months, weeks and quarters across a change of clocks
    ("Europe/Berlin", "monthly", "2026-02-28T23:00Z", "2026-03-31T22:00Z"),
    ("Australia/Lord_Howe", "monthly", "2026-03-31T13:00Z", "2026-04-30T13:30Z"),
    ("America/New_York", "weekly", "2026-03-02T05:00Z", "2026-03-09T04:00Z"),
    ("Europe/Berlin", "quarterly", "2026-09-30T22:00Z", "2026-12-31T23:00Z"),
    ("Pacific/Kiritimati", "monthly", "2026-01-31T10:00Z", "2026-02-28T10:00Z"),
]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", ":00+00:00"))


@pytest.mark.parametrize("case", PERIODS, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def test_a_budget_starts_afresh_at_the_end_of_its_local_period(
    desk: Desk, clock: ManualClock, store_url: str, case: tuple[str, str, str, str]
) -> None:
    zone, kind = case[:2]
    start, end = utc(case[2]), utc(case[3])
    clock.set(start)
    budget = desk.budget("10", period_type=kind, timezone=zone)
    line = desk.check("10").budgets[0]
    assert (line.period_start, line.period_end) == (start, end)
    clock.set(end - TICK)
    held = desk.reserve("10")  # the first has expired
    denied = desk.check("1")
    assert not denied.allowed
    assert denied.fits_at == end
    clock.set(end)
    line = desk.check("10").budgets[0]
    assert line.period_start == end
    assert not desk.check("1").allowed
    # what was held in the old period is settled there when it is told so, at its own time
    desk.settle(held, "7", timestamp=end - TICK)
    assert desk.used(budget) == ("0", "10")
    clock.set(end - TICK)
    assert desk.used(budget) == ("7", "0")
    assert desk.record("1", timestamp=start - TICK).budgets[0].period_start < start
    assert desk.used(budget) == ("7", "0")
    assert read_books(store_url, desk.tenant_id).faults() == []


def test_a_settle_after_midnight_is_charged_to_the_day_it_arose(
    desk: Desk, clock: ManualClock
) -> None:
    clock.set(utc("2026-03-29T21:59Z"))
    budget = desk.budget("10", period_type="daily", timezone="Europe/Berlin")
    held = desk.reserve("10")
    clock.advance(minutes=2)
    desk.settle(held, "9")  # arose now, which is the day after the hold
    assert desk.used(budget) == ("9", "0")
    clock.advance(minutes=-2)
    assert desk.used(budget) == ("0", "0")


def test_a_clock_that_goes_back_over_midnight_finds_the_old_period_as_it_was(
    desk: Desk, clock: ManualClock
) -> None:
    clock.set(utc("2026-03-10T23:59Z"))
    desk.budget("10", period_type="daily")
    desk.record("10")
    clock.advance(minutes=1)
    assert desk.check("10").allowed
    clock.advance(minutes=-1)
    assert not desk.check("1").allowed
