"""A quota's life over three months in one go: allocated, used, warned of, burst, exhausted, given
back, renewed; and whatever happened is in the history, to the last digit.

A program with `Fiscus` in it uses the quota, a worker beside it on the same store renews it, and
the test's clock makes the months pass.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import Fiscus, QuotaExhausted
from fiscus.ids import uuid7
from fiscus.money import ZERO
from fiscus.quotas.model import RenewalStatus
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from fiscus.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fiscus.clock import ManualClock
    from fiscus.quotas.calls import QuotaCheckAnswer, QuotaView

pytestmark = pytest.mark.acceptance

USE: dict[str, Any] = {"resource_type": "gpu_hours", "project": "search", "user": "ada"}
RATE = Decimal("0.5")


class Life:
    """One tenant's quota, what uses it and what renews it."""

    def __init__(self, fiscus: Fiscus, worker: Worker, clock: ManualClock) -> None:
        self.fiscus = fiscus
        self.clock = clock
        self._worker = worker

    def take(self, amount: str) -> QuotaCheckAnswer:
        return self.fiscus.check_quota(**USE, required_amount=amount)

    def levels(self, amount: str) -> tuple[str, list[str], Decimal]:
        """How full the quota is after an amount was taken, what that crossed, its burst."""
        (line,) = self.take(amount).quotas
        return line.level, line.crossed, line.from_burst

    def now_is(self, *moment: int) -> None:
        """The worker's round of that moment."""
        self.clock.set(datetime(*moment, tzinfo=UTC))
        self._worker.step()

    def quotas(self) -> list[QuotaView]:
        """The earliest period first."""
        return sorted(self.fiscus.quotas().items, key=lambda quota: quota.period_start)

    def used(self, quota_id: str) -> tuple[Decimal, Decimal]:
        """Of the allocation, and of the burst."""
        quota = self.fiscus.get_quota(quota_id)
        assert quota.used_amount is not None
        assert quota.burst_used is not None
        return quota.used_amount, quota.burst_used

    def premium(self) -> list[Decimal]:
        """Cost records of the burst, oldest first."""
        return [record.cost_amount for record in reversed(self.fiscus.records().items)]

    def require_history_adds_up(self, quota_id: str) -> None:
        """Rows, running totals, days and balance tell the same story."""
        history = self.fiscus.quota_history(quota_id, page_size=1000)
        whole, burst = ZERO, ZERO
        for row in reversed(history.rows):
            sign = 1 if row.kind == "consume" else -1
            whole += sign * row.amount
            burst += sign * row.burst
            assert row.used_after == whole
            assert (row.project_id, row.user_id) == ("search", "ada")
        assert self.used(quota_id) == (whole - burst, burst)
        assert sum(day.consumed - day.released for day in history.days) == whole
        assert sum(day.consumptions for day in history.days) == sum(
            row.kind == "consume" for row in history.rows
        )


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def life(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Life]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    beside = open_engine(Settings(data_dir=tmp_path, database_url=url), clock=clock)
    tenant = f"t-{uuid7()}"
    with Fiscus.open(data_dir=tmp_path, database_url=url, clock=clock, tenant=tenant) as fiscus:
        fiscus.put_tenant(tenant, timezone="Europe/Vienna", require_quota=True)
        yield Life(fiscus, Worker(beside), clock)
    beside.close()


def test_a_quota_lives_through_three_months(life: Life) -> None:
    march = allocate(life)
    use_and_be_warned(life)
    of_both = burst_exhaust_and_give_back(life, march)
    april = renew(life, march)
    give_back_to_the_period_it_came_from(life, march, april, of_both)
    catch_up_in_may(life, april)

    # all of it is there: three unbroken periods, each with the whole of its own history
    quotas = life.quotas()
    assert [one.quota_id for one in quotas[:2]] == [march, april]
    assert [one.period_start for one in quotas[1:]] == [one.period_end for one in quotas[:-1]]
    assert [life.used(one.quota_id) for one in quotas] == [(90, 15), (80, 0), (100, 0)]
    rows = [len(life.fiscus.quota_history(one.quota_id).rows) for one in quotas]
    assert rows == [12, 3, 1]
    for one in quotas:
        life.require_history_adds_up(one.quota_id)
    assert sum(life.premium()) == 15 * RATE


def allocate(life: Life) -> str:
    """In the middle of March, for the whole of it, in local time; its id."""
    fiscus = life.fiscus
    life.now_is(2026, 3, 10, 12)
    march = fiscus.allocate_quota(
        scope_type="project",
        scope_id="search",
        resource_type="gpu_hours",
        allocated_amount=100,
        max_burst_amount=20,
        burst_premium_rate=RATE,
        auto_renew=True,
    ).quota_id
    assert fiscus.get_quota(march).period_start == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert fiscus.get_quota(march).period_end == datetime(2026, 3, 31, 22, tzinfo=UTC)
    return march


def use_and_be_warned(life: Life) -> None:
    """At 80 and at 90 %, each told by the consumption that reached it."""
    assert life.levels("40") == ("ok", [], 0)
    life.now_is(2026, 3, 15, 9)
    assert life.levels("39.999999999999") == ("ok", [], 0)
    assert life.levels("0.000000000001") == ("warning_80", ["warning_80"], 0)
    assert life.levels("9") == ("warning_80", [], 0)
    life.now_is(2026, 3, 16, 9)
    assert life.levels("1") == ("critical_90", ["critical_90"], 0)
    assert life.premium() == []


def burst_exhaust_and_give_back(life: Life, march: str) -> str:
    """The consumption that took of the allocation and of the burst."""
    fiscus = life.fiscus
    # into the burst, at its premium
    half = life.take("15")
    (line,) = half.quotas
    assert (line.level, line.crossed, line.from_burst) == ("exhausted_100", ["exhausted_100"], 5)
    life.now_is(2026, 3, 20, 9)
    last = life.take("15")
    assert last.quotas[0].from_burst == 15
    assert life.used(march) == (100, 20)
    assert life.premium() == [Decimal("2.5"), Decimal("7.5")]

    # exhausted: the smallest amount is refused and nothing changes
    denied = life.take("0.000000000001")
    assert (denied.allowed, denied.quota_id, denied.consumption_id) == (False, march, None)
    assert (denied.max_allowed_amount, denied.remaining_amount) == (0, 0)
    with pytest.raises(QuotaExhausted), fiscus.quota("gpu_hours", 0.5, project="search"):
        raise AssertionError("the block ran")
    assert life.used(march) == (100, 20)

    # given back: the burst first, and its premium with it
    assert last.consumption_id is not None
    fiscus.release_consumption(last.consumption_id, 6)
    assert life.used(march) == (100, 14)
    assert life.premium() == [Decimal("2.5"), Decimal("7.5"), -3]

    # a block that fails gives back what it took
    with (
        pytest.raises(LookupError),
        fiscus.quota("gpu_hours", 2, project="search", user="ada", give_back_on_error=True),
    ):
        raise LookupError
    assert life.used(march) == (100, 14)
    assert sum(life.premium()) == 14 * RATE
    life.require_history_adds_up(march)
    days = fiscus.quota_history(march).days
    assert [(day.day, day.consumed, day.released, day.burst) for day in days] == [
        (date(2026, 3, 10), 40, 0, 0),
        (date(2026, 3, 15), 49, 0, 0),
        (date(2026, 3, 16), 16, 0, 5),
        (date(2026, 3, 20), 17, 8, 17),
    ]
    assert half.consumption_id is not None
    return half.consumption_id


def renew(life: Life, march: str) -> str:
    """A day ahead; until the month ends, March counts. The id of April's quota."""
    fiscus = life.fiscus
    life.now_is(2026, 3, 30, 21, 59)
    assert len(life.quotas()) == 1
    life.now_is(2026, 3, 30, 22)
    _, new = life.quotas()
    april = new.quota_id
    assert (new.renewed_from, new.allocated_amount, new.used_amount) == (march, 100, 0)
    assert fiscus.get_quota(march).renewal_status is RenewalStatus.RENEWED
    denied = life.take("7")
    assert (denied.allowed, denied.quota_id) == (False, march)
    assert denied.fits_at == new.period_start
    assert life.take("6").quota_id == march
    assert life.used(april) == (0, 0)
    return april


def give_back_to_the_period_it_came_from(life: Life, march: str, april: str, of_both: str) -> None:
    """April's quota is unused, to the second; what March's consumption gives back goes to March."""
    fiscus = life.fiscus
    life.now_is(2026, 3, 31, 22)
    taken = life.take("120")
    assert (taken.quota_id, taken.quotas[0].from_burst) == (april, 20)
    assert not life.take("1").allowed
    assert life.used(march) == (100, 20)
    fiscus.release_consumption(of_both)
    assert life.used(march) == (90, 15)
    assert life.used(april) == (100, 20)
    assert not life.take("1").allowed
    life.now_is(2026, 4, 12, 9)
    assert taken.consumption_id is not None
    fiscus.release_consumption(taken.consumption_id, "100.5")
    assert life.used(april) == (Decimal("19.5"), 0)
    assert life.levels("60.5") == ("warning_80", ["warning_80"], 0)
    assert sum(life.premium()) == 15 * RATE
    for quota_id in (march, april):
        life.require_history_adds_up(quota_id)


def catch_up_in_may(life: Life, april: str) -> None:
    """The worker was down when it should have renewed; without a quota, nothing is admitted."""
    life.clock.set(datetime(2026, 5, 20, 9, tzinfo=UTC))
    denied = life.take("1")
    assert (denied.allowed, denied.matched, denied.quota_id) == (False, 0, None)
    life.now_is(2026, 5, 20, 9, 1)
    *_, may = life.quotas()
    assert (may.renewed_from, may.used_amount) == (april, 0)
    assert may.period_start == datetime(2026, 4, 30, 22, tzinfo=UTC)
    assert life.levels("100") == (
        "exhausted_100",
        ["warning_80", "critical_90", "exhausted_100"],
        0,
    )
    life.now_is(2026, 5, 20, 10)
    assert len(life.quotas()) == 3
