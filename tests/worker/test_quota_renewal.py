"""Quotas renew themselves: ahead, once, after downtime, with three tries; old history goes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from fiscus.clock import ManualClock
from fiscus.engine import Engine
from fiscus.errors import Conflict, ServiceUnavailable
from fiscus.ids import uuid7
from fiscus.ledger.loop import answer_or_raise
from fiscus.ledger.requests.quotas import quota_check_command
from fiscus.paging import PageRequest
from fiscus.quotas.calls import QuotaCheckAnswer, QuotaCheckRequest, QuotaHistory
from fiscus.quotas.model import Quota, QuotaSpec, RenewalStatus
from fiscus.quotas.port import QuotaFilter
from fiscus.runtime.portions import to_the_end
from fiscus.settings import Settings
from fiscus.wire.converting import convert
from fiscus.wiring.engine import open_engine
from fiscus.worker import Worker, rounds
from tests.fiscus_process import fiscus_server
from tests.log_lines import told

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
OpenOne = Callable[[str], Engine]


@pytest.fixture
def open_one(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> Iterator[OpenOne]:
    opened: list[Engine] = []

    def open_on(kind: str) -> Engine:
        url = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
        settings = Settings(
            data_dir=tmp_path,
            database_url=url,
            ledger_deadline_seconds=20.0,
            sqlite_synchronous="OFF",
        )
        opened.append(open_engine(settings, clock=clock))
        return opened[-1]

    yield open_on
    for engine in opened:
        engine.close()


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, open_one: OpenOne) -> Engine:
    return open_one(request.param)


def allocate(engine: Engine, tenant_id: str | None = None, **fields: Any) -> Quota:
    tenant_id = tenant_id or f"t-{uuid7()}"
    spec = convert(
        {
            "scope_type": "project",
            "scope_id": "search",
            "resource_type": "gpu_hours",
            "allocated_amount": 100,
            "auto_renew": True,
            **fields,
        },
        QuotaSpec,
    )
    return engine.quotas.allocate(tenant_id, spec, by="test", now=engine.clock.now())


def all_of(engine: Engine, tenant_id: str) -> list[Quota]:
    """A tenant's quotas, the earliest period first."""
    page = engine.quotas.list(tenant_id, QuotaFilter(), PageRequest(page_size=1000))
    return sorted(page.items, key=lambda quota: quota.period_start)


def use(engine: Engine, tenant_id: str, amount: int) -> QuotaCheckAnswer:
    request = convert(
        {"resource_type": "gpu_hours", "required_amount": amount, "project_id": "search"},
        QuotaCheckRequest,
    )
    command = quota_check_command(request, tenant_id, engine.clock.now())
    return answer_or_raise(engine.ledger.execute(command))


def history(engine: Engine, quota: Quota) -> QuotaHistory:
    return engine.quotas.history(
        quota.tenant_id, quota.quota_id, PageRequest(), scope_id=None, since=None, until=None
    )


def used(engine: Engine, quota: Quota) -> Decimal:
    balance = engine.quotas.balances(quota.tenant_id, [quota.quota_id]).get(quota.quota_id)
    return Decimal(0) if balance is None else balance.used


# The clock stands at Tuesday 2026-03-10, noon.


def test_the_next_period_is_allocated_a_day_ahead_and_starts_unused(
    engine: Engine, clock: ManualClock
) -> None:
    first = allocate(engine)
    use(engine, first.tenant_id, 30)
    worker = Worker(engine)
    clock.set(datetime(2026, 3, 30, 23, 59, 59, tzinfo=UTC))
    worker.step()
    assert len(all_of(engine, first.tenant_id)) == 1
    clock.advance(seconds=30)
    worker.step()
    old, new = all_of(engine, first.tenant_id)
    assert (old.renewal_status, new.renewal_status) == (
        RenewalStatus.RENEWED,
        RenewalStatus.PENDING,
    )
    assert (new.renewed_from, new.version, new.allocated_amount) == (first.quota_id, 1, 100)
    assert (new.period_start, new.period_end) == (
        first.period_end,
        datetime(2026, 5, 1, tzinfo=UTC),
    )
    # until the period ends, the old one counts
    assert use(engine, first.tenant_id, 5).quota_id == first.quota_id
    clock.set(new.period_start)
    assert use(engine, first.tenant_id, 100).quota_id == new.quota_id
    assert (used(engine, old), used(engine, new)) == (35, 100)
    assert [row.amount for row in history(engine, old).rows] == [5, 30]


def test_a_short_period_renews_at_its_half(engine: Engine, clock: ManualClock) -> None:
    start = clock.now()
    first = allocate(
        engine,
        period_type="custom",
        period_start=start.isoformat(),
        period_end=(start + timedelta(hours=8)).isoformat(),
    )
    worker = Worker(engine)
    clock.advance(hours=4, seconds=-1)
    worker.step()
    assert len(all_of(engine, first.tenant_id)) == 1
    clock.advance(seconds=31)
    worker.step()
    _, new = all_of(engine, first.tenant_id)
    assert (new.period_start, new.period_end) == (
        start + timedelta(hours=8),
        start + timedelta(hours=16),
    )


def test_periods_missed_during_downtime_are_caught_up_in_one_round(
    engine: Engine, clock: ManualClock
) -> None:
    first = allocate(engine, period_type="daily", timezone="Europe/Vienna")
    # over the night in which the clocks go forward
    clock.set(datetime(2026, 4, 2, 10, 0, tzinfo=UTC))
    Worker(engine).step()
    quotas = all_of(engine, first.tenant_id)
    # 10 March to 3 April, as tomorrow's is allocated a day ahead
    assert len(quotas) == 25
    for before, after in pairwise(quotas):
        assert after.period_start == before.period_end
        assert after.renewed_from == before.quota_id
    assert min(one.period_end - one.period_start for one in quotas) == timedelta(hours=23)
    assert quotas[-1].renewal_status is RenewalStatus.PENDING
    assert use(engine, first.tenant_id, 1).quota_id == quotas[-2].quota_id


def test_a_period_that_nobody_could_use_does_not_cut_the_next(
    engine: Engine, clock: ManualClock
) -> None:
    first = allocate(engine, period_type="daily", renewal_amount="by_usage")
    assert use(engine, first.tenant_id, 80).allowed
    clock.advance(days=4)
    Worker(engine).step()
    amounts = [int(one.allocated_amount) for one in all_of(engine, first.tenant_id)]
    assert amounts[0] == 100
    assert amounts[1:5] == [96] * 4
    assert use(engine, first.tenant_id, 96).allowed


def test_what_is_overdue_is_caught_up_before_anybody_is_let_in_also_where_another_leads(
    engine: Engine,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = allocate(engine, period_type="daily")
    clock.advance(days=5)
    assert use(engine, first.tenant_id, 101).allowed  # no quota applies
    monkeypatch.setattr(type(engine.maintenance), "try_lead", lambda _: False)
    monkeypatch.setattr(rounds, "CATCH_UP_SECONDS", 0)
    caplog.set_level(logging.INFO)
    Worker(engine).catch_up()
    logs = [one.fields for one in told(caplog)]
    assert [(one["count"], one["some_are_left"]) for one in logs] == [(0, True)]
    monkeypatch.setattr(rounds, "CATCH_UP_SECONDS", 60)
    Worker(engine).catch_up()
    assert [one.fields["some_are_left"] for one in told(caplog)] == [False]
    assert not use(engine, first.tenant_id, 101).allowed
    assert use(engine, first.tenant_id, 100).allowed


def test_a_server_listens_once_it_has_caught_up(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    before = open_engine(settings, clock=ManualClock(datetime.now(UTC) - timedelta(days=4)))
    for number in range(50):  # so that the worker's first round takes a while
        allocate(before, settings.default_tenant, period_type="daily", scope_id=f"p{number}")
    before.close()
    with fiscus_server(tmp_path) as server:
        answer = httpx.post(
            f"{server.url}/budget/v1/quotas/check",
            headers={"X-API-Key": server.key},
            json={"resource_type": "gpu_hours", "required_amount": 101, "project_id": "p49"},
            timeout=30,
        )
        assert answer.json()["allowed"] is False
        assert "quotas_caught_up" in server.output()


def test_a_store_that_is_down_keeps_no_server_from_starting(
    engine: Engine, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    first = allocate(engine)
    clock.set(datetime(2026, 3, 31, 1, 0, tzinfo=UTC))
    down = Failing(engine, {first.tenant_id}, ServiceUnavailable("down"))
    caplog.set_level(logging.INFO)
    Worker(replace(engine, quotas=down)).catch_up()
    assert told(caplog)[-1].event == "quotas_not_caught_up"


def test_a_round_does_no_more_than_its_share(
    open_one: OpenOne, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "RENEW_PORTION", 1)
    engine = open_one("sqlite")  # a store of its own: the share is of all tenants
    first = allocate(engine, period_type="daily")
    clock.advance(days=5)
    goes_on = iter([True] * 3 + [False])
    assert Worker(engine)._renew_quotas(clock.now(), lambda: next(goes_on)) == 3
    assert len(all_of(engine, first.tenant_id)) == 4
    Worker(engine).step()
    assert len(all_of(engine, first.tenant_id)) == 7


def test_a_clock_that_jumps_back_renews_nothing_twice(engine: Engine, clock: ManualClock) -> None:
    first = allocate(engine, period_type="daily")
    worker = Worker(engine)
    clock.advance(days=3)
    worker.step()
    before = all_of(engine, first.tenant_id)
    assert len(before) == 5
    for jump in (-2, 2, -3, 3):
        clock.advance(days=jump)
        worker.step()
        clock.advance(seconds=31)
        worker.step()
    assert all_of(engine, first.tenant_id) == before


def test_a_quota_that_does_not_renew_itself_ends(engine: Engine, clock: ManualClock) -> None:
    first = allocate(engine, period_type="daily", auto_renew=False)
    clock.advance(days=3)
    Worker(engine).step()
    assert len(all_of(engine, first.tenant_id)) == 1


def test_a_quota_somebody_allocated_for_the_next_period_is_left_alone(
    engine: Engine, clock: ManualClock
) -> None:
    first = allocate(engine, period_type="daily")
    mine = allocate(
        engine,
        first.tenant_id,
        period_type="daily",
        period_start=first.period_end.isoformat(),
        allocated_amount=7,
        auto_renew=False,
    )
    clock.advance(days=2)
    Worker(engine).step()
    old, new = all_of(engine, first.tenant_id)
    assert (old.renewal_status, new.quota_id) == (RenewalStatus.SUPERSEDED, mine.quota_id)


def renew_at_once(engines: list[Engine], now: datetime) -> None:
    """A worker of each engine renews, all at the same time."""
    barrier = threading.Barrier(len(engines))
    failures: list[BaseException] = []

    def renew(engine: Engine) -> None:
        try:
            barrier.wait(30)
            Worker(engine)._renew_quotas(now, to_the_end)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=renew, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_workers_at_once_renew_once(open_one: OpenOne, clock: ManualClock) -> None:
    """Only one leads, but a leader that was cut off may not know yet that another one leads."""
    engine = open_one("sqlite")
    first = allocate(engine, period_type="daily")
    clock.advance(days=10)
    renew_at_once([engine] * 4, clock.now())
    quotas = all_of(engine, first.tenant_id)
    assert len(quotas) == len({one.period_start for one in quotas}) == 12


@pytest.mark.postgres
def test_workers_of_two_engines_at_once_renew_once(open_one: OpenOne, clock: ManualClock) -> None:
    one, other = open_one("postgresql"), open_one("postgresql")
    first = allocate(one, period_type="daily")
    clock.advance(days=10)
    renew_at_once([one, other], clock.now())
    quotas = all_of(one, first.tenant_id)
    assert len(quotas) == len({quota.period_start for quota in quotas}) == 12


# -- when it fails


class Failing:
    """The engine's quotas, whose renewals fail as told, for some tenants."""

    def __init__(self, engine: Engine, tenants: set[str], error: Exception) -> None:
        self._quotas = engine.quotas
        self._tenants = tenants
        self.error: Exception | None = error
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._quotas, name)

    def renew(self, tenant_id: str, quota_id: str, now: datetime) -> Quota | None:
        if tenant_id in self._tenants and self.error is not None:
            self.tries += 1
            raise self.error
        return self._quotas.renew(tenant_id, quota_id, now)


def rounds_of(engine: Engine, clock: ManualClock, quotas: Failing, seconds: int) -> None:
    """A round every 30 s for so long."""
    worker = Worker(replace(engine, quotas=quotas))
    worker.step()
    for _ in range(0, seconds, 30):
        clock.advance(seconds=30)
        worker.step()


@pytest.mark.parametrize("error", [Conflict("no"), RuntimeError("no")], ids=repr)
def test_a_failing_renewal_is_tried_three_times_and_told_with_its_tenant(
    engine: Engine, clock: ManualClock, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    failing, fine = allocate(engine), allocate(engine)
    clock.set(datetime(2026, 3, 31, 1, 0, tzinfo=UTC))
    quotas = Failing(engine, {failing.tenant_id}, error)
    rounds_of(engine, clock, quotas, 270)
    assert quotas.tries == 2  # at once, and after a minute
    assert not [one for one in told(caplog) if one.event == "quota_renewal_failed"]
    rounds_of(engine, clock, quotas, 3600)
    assert quotas.tries == 3
    (line,) = [one for one in told(caplog) if one.event == "quota_renewal_failed"]
    assert line.level == "ERROR"
    assert line.fields["tenant_id"] == failing.tenant_id
    assert line.fields["quota_id"] == failing.quota_id
    assert "no" in line.fields["reason"]
    # one tenant's fault holds up nobody else
    assert len(all_of(engine, fine.tenant_id)) == 2
    (left,) = all_of(engine, failing.tenant_id)
    assert left.renewal_status is RenewalStatus.FAILED


def test_a_renewal_that_failed_once_is_done_later(engine: Engine, clock: ManualClock) -> None:
    first = allocate(engine)
    clock.set(datetime(2026, 3, 31, 1, 0, tzinfo=UTC))
    quotas = Failing(engine, {first.tenant_id}, Conflict("not now"))
    rounds_of(engine, clock, quotas, 0)
    quotas.error = None
    rounds_of(engine, clock, quotas, 60)
    assert len(all_of(engine, first.tenant_id)) == 2


def test_a_store_that_is_down_costs_a_quota_none_of_its_tries(
    engine: Engine, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    first = allocate(engine)
    clock.set(datetime(2026, 3, 31, 1, 0, tzinfo=UTC))
    quotas = Failing(engine, {first.tenant_id}, ServiceUnavailable("down"))
    rounds_of(engine, clock, quotas, 300)
    assert quotas.tries > 3
    assert "job_failed" in {one.event for one in told(caplog)}
    quotas.error = None
    rounds_of(engine, clock, quotas, 30)
    assert len(all_of(engine, first.tenant_id)) == 2


def test_a_tenant_whose_rows_cannot_be_had_keeps_no_other_from_being_renewed(
    open_one: OpenOne, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "RENEW_PORTION", 1)
    engine = open_one("sqlite")  # a store of its own, in which these three are due first
    locked = [allocate(engine, "locked", resource_type=f"r{number}") for number in range(3)]
    fine = allocate(engine)
    clock.set(datetime(2026, 3, 31, 1, 0, tzinfo=UTC))
    quotas = Failing(engine, {"locked"}, ServiceUnavailable("locked"))
    rounds_of(engine, clock, quotas, 0)
    assert len(all_of(engine, fine.tenant_id)) == 2
    assert quotas.tries == 1
    assert engine.background.trouble == "these failed and are tried again: renew_quotas"
    quotas.error = None
    rounds_of(engine, clock, quotas, 0)
    assert len(all_of(engine, "locked")) == 2 * len(locked)


def test_tenants_whose_rows_cannot_be_had_come_last_in_the_next_round(
    open_one: OpenOne, clock: ManualClock
) -> None:
    engine = open_one("sqlite")  # a store of its own, in which these are due first
    locked = {allocate(engine).tenant_id for _ in range(3)}
    clock.advance(seconds=1)
    fine = allocate(engine)
    clock.set(datetime(2026, 3, 31, 1, 0, tzinfo=UTC))
    quotas = Failing(engine, locked, ServiceUnavailable("locked"))
    worker = Worker(replace(engine, quotas=quotas))

    def renew() -> None:
        most = quotas.tries + len(locked)  # who waits for so many has no time left for another
        worker._renew_quotas(clock.now(), lambda: quotas.tries < most)

    with pytest.raises(ServiceUnavailable):
        renew()
    with pytest.raises(ServiceUnavailable):
        renew()
    assert len(all_of(engine, fine.tenant_id)) == 2
    quotas.error = None
    renew()
    assert {len(all_of(engine, one)) for one in locked} == {2}


# -- history


def test_a_worker_that_is_told_to_stop_begins_no_other_renewal(
    open_one: OpenOne, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_one("sqlite")
    both = [allocate(engine), allocate(engine)]
    clock.set(datetime(2026, 3, 31, 1, 0, tzinfo=UTC))
    worker = Worker(engine)
    renew = type(engine.quotas).renew

    def renew_and_stop(store: Any, *given: Any) -> Any:
        worker.stop()
        return renew(store, *given)

    monkeypatch.setattr(type(engine.quotas), "renew", renew_and_stop)
    worker.step()
    assert sorted(len(all_of(engine, one.tenant_id)) for one in both) == [1, 2]


def test_history_older_than_the_setting_is_forgotten(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "_renew_quotas", lambda *_: 0)  # of the other tests, by now
    first = allocate(engine, period_type="yearly")
    use(engine, first.tenant_id, 1)
    clock.advance(days=200)
    use(engine, first.tenant_id, 2)
    clock.advance(days=199)
    worker = Worker(engine)
    worker.step()
    assert [row.amount for row in history(engine, first).rows] == [2, 1]
    clock.advance(days=2)
    worker.step()
    assert [row.amount for row in history(engine, first).rows] == [2]
    # what is used stays used
    assert used(engine, first) == 3
