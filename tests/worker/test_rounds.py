"""The worker's rounds, on both databases, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fiscus.budgets.calls import CheckAnswer, CheckRequest
from fiscus.budgets.model import BudgetSpec, ReservationStatus
from fiscus.clock import ManualClock
from fiscus.engine import Engine
from fiscus.errors import ServiceUnavailable
from fiscus.ids import uuid7
from fiscus.ledger.commands import Command, Outcome
from fiscus.ledger.loop import answer_or_raise
from fiscus.ledger.requests.budgets import check_command
from fiscus.paging import PageRequest
from fiscus.runtime.portions import ShouldContinue
from fiscus.settings import Settings
from fiscus.stores.sql import maintenance
from fiscus.stores.sql.database import Database
from fiscus.wire.converting import convert
from fiscus.wiring.engine import open_engine
from fiscus.worker import Worker, rounds
from tests.servers import PostgresServer

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture
def open_one(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> Iterator[Callable[[str], Engine]]:
    opened: list[Engine] = []

    def open_on(kind: str) -> Engine:
        url = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
        settings = Settings(data_dir=tmp_path, database_url=url, ledger_deadline_seconds=20.0)
        opened.append(open_engine(settings, clock=clock))
        return opened[-1]

    yield open_on
    for engine in opened:
        engine.close()


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, open_one: Callable[[str], Engine]) -> Engine:
    return open_one(request.param)


def reserve(engine: Engine, tenant_id: str, key: str | None = None) -> CheckAnswer:
    request = convert(
        {"resource_type": "llm", "estimated_cost": "1", "ttl_seconds": 60}, CheckRequest
    )
    return answer_or_raise(
        engine.ledger.execute(check_command(request, tenant_id, engine.clock.now(), key))
    )


def with_budget(engine: Engine) -> tuple[str, str]:
    """A tenant with a budget: their ids."""
    tenant_id = f"t-{uuid7()}"
    spec = convert(
        {
            "budget_name": "all",
            "budget_amount": "100",
            "period_type": "monthly",
            "allocated_to_type": "tenant",
            "allocated_to_id": tenant_id,
        },
        BudgetSpec,
    )
    budget = engine.budgets.create(tenant_id, spec, by="test", now=engine.clock.now())
    return tenant_id, budget.budget_id


def reserved(engine: Engine, tenant_id: str, budget_id: str) -> object:
    use = engine.budgets.utilization(
        tenant_id, budget_id, PageRequest(), scope_id=None, now=engine.clock.now()
    )
    return use.periods[0].reserved


def test_due_reservations_are_freed(engine: Engine, clock: ManualClock) -> None:
    tenant_id, budget_id = with_budget(engine)
    held = reserve(engine, tenant_id)
    worker = Worker(engine)
    worker.step()
    assert reserved(engine, tenant_id, budget_id) == 1
    clock.advance(seconds=61)
    worker.step()
    assert reserved(engine, tenant_id, budget_id) == 0
    assert held.reservation_id is not None
    kept = engine.reservations.get(tenant_id, held.reservation_id, clock.now())
    assert kept.status is ReservationStatus.EXPIRED


def test_a_tenant_whose_rows_are_locked_keeps_no_others_holds(
    engine: Engine, clock: ManualClock
) -> None:
    locked, fine = with_budget(engine)[0], with_budget(engine)[0]
    reserve(engine, locked)
    reserve(engine, fine)
    clock.advance(seconds=61)

    class Locked:
        def execute(self, command: Command) -> Outcome:
            if command.tenant_id == locked:
                raise ServiceUnavailable("locked")
            return engine.ledger.execute(command)

    Worker(replace(engine, ledger=Locked())).step()
    due = engine.reservations.tenants_with_due(clock.now())
    assert (locked in due, fine in due) == (True, False)
    assert engine.background.trouble == "these failed and are tried again: expire_reservations"


def test_expired_answers_are_forgotten(engine: Engine, clock: ManualClock) -> None:
    tenant_id, _ = with_budget(engine)
    first = reserve(engine, tenant_id, "k-1")
    assert reserve(engine, tenant_id, "k-1").reservation_id == first.reservation_id
    clock.advance(minutes=6)
    Worker(engine).step()
    assert engine.maintenance.drop_expired_answers() == 0
    assert reserve(engine, tenant_id, "k-1").reservation_id != first.reservation_id


def test_answers_are_forgotten_in_portions_for_as_long_as_it_goes_on(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_BATCH", 2)
    tenant_id, _ = with_budget(engine)
    for number in range(5):
        reserve(engine, tenant_id, f"k-{number}")
    clock.advance(minutes=6)
    engine.maintenance.drop_expired_answers(lambda: False)
    goes_on = iter([True, False])
    assert engine.maintenance.drop_expired_answers(lambda: next(goes_on)) == 2
    assert engine.maintenance.drop_expired_answers() >= 3


def test_a_process_that_leads_no_more_leaves_the_rest_of_its_round_to_the_next(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "LEAD_SECONDS", 0)  # asked before each piece of work
    tenant_id, _ = with_budget(engine)
    reserve(engine, tenant_id)
    clock.advance(seconds=61)
    leads = True

    class Reservations:
        def tenants_with_due(self, now: datetime) -> list[str]:
            nonlocal leads
            due = engine.reservations.tenants_with_due(now)
            leads = False  # reading them took so long that another one leads
            return due

    monkeypatch.setattr(type(engine.maintenance), "try_lead", lambda _: leads)
    worker = Worker(replace(engine, reservations=Reservations()))
    worker.step()
    assert not worker.leads
    assert tenant_id in engine.reservations.tenants_with_due(clock.now())
    leads = True
    Worker(engine).step()
    assert tenant_id not in engine.reservations.tenants_with_due(clock.now())


def test_a_job_that_lasts_leaves_the_others_their_turns_and_is_gone_on_with_at_once(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "SHARE_SECONDS", 0)
    portions = 0

    def drop_many(_: object, goes_on: ShouldContinue) -> int:
        nonlocal portions
        while portions < 10:
            portions += 1
            if not goes_on():
                break
        return 1

    monkeypatch.setattr(type(engine.maintenance), "drop_expired_answers", drop_many)
    tenant_id, _ = with_budget(engine)
    reserve(engine, tenant_id)
    clock.advance(seconds=61)
    worker = Worker(engine)
    assert worker.step() == 0
    assert portions == 1
    monkeypatch.undo()
    worker.step()
    assert tenant_id not in engine.reservations.tenants_with_due(clock.now())


def test_a_job_that_fails_is_not_tried_again_before_it_is_due_however_long_it_took(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "SHARE_SECONDS", 0)
    tries = 0

    def fail(_: object, goes_on: ShouldContinue) -> int:
        nonlocal tries
        tries += 1
        raise ServiceUnavailable("the connection was cut" if goes_on() else "after its share")

    monkeypatch.setattr(type(engine.maintenance), "drop_expired_answers", fail)
    worker = Worker(engine)
    worker.step()
    worker.step()
    assert tries == 1
    clock.advance(seconds=rounds.ANSWERS_SECONDS)
    worker.step()
    assert tries == 2


def test_work_is_done_when_due_and_not_before(engine: Engine, clock: ManualClock) -> None:
    tenant_id, budget_id = with_budget(engine)
    worker = Worker(engine)
    assert worker.step() == 2
    reserve(engine, tenant_id)
    clock.advance(seconds=1)
    assert worker.step() == 1
    clock.advance(seconds=62)
    worker.step()
    assert reserved(engine, tenant_id, budget_id) == 0


def test_clock_set_back_does_not_put_work_off(engine: Engine, clock: ManualClock) -> None:
    tenant_id, budget_id = with_budget(engine)
    worker = Worker(engine)
    worker.step()
    clock.advance(days=-1)
    reserve(engine, tenant_id)
    clock.advance(seconds=61)
    worker.step()
    assert reserved(engine, tenant_id, budget_id) == 0


def test_failing_job_does_not_keep_the_others_from_being_done(
    engine: Engine, clock: ManualClock
) -> None:
    tenant_id, budget_id = with_budget(engine)
    reserve(engine, tenant_id)
    clock.advance(seconds=61)

    class NoPartitions:
        try_lead = staticmethod(engine.maintenance.try_lead)
        drop_expired_answers = staticmethod(engine.maintenance.drop_expired_answers)
        close = None

        def prepare_partitions(self) -> list[str]:
            raise ServiceUnavailable("no room for another partition")

    worker = Worker(replace(engine, maintenance=NoPartitions()))
    worker.step()
    assert reserved(engine, tenant_id, budget_id) == 0
    failed = "these failed and are tried again: prepare_partitions"
    assert engine.background.trouble == failed
    clock.advance(seconds=2)
    worker.step()  # that job is not due yet
    assert engine.background.trouble == failed


def test_a_round_that_fails_is_told_and_tried_again(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id, budget_id = with_budget(engine)
    reserve(engine, tenant_id)
    clock.advance(seconds=61)
    worker = Worker(engine)

    def fail(_: object) -> bool:
        raise RuntimeError("nobody thought of this")

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.maintenance), "try_lead", fail)
        assert worker.step() == 5
    assert engine.background.trouble == "its last round failed: RuntimeError"
    worker.step()
    assert engine.background.trouble is None
    assert reserved(engine, tenant_id, budget_id) == 0


def test_who_leads_again_does_all_at_once_and_tells_nothing_of_before(
    open_one: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_one("sqlite")
    leads, tried = [True, False, True], list[object]()

    def fail(maintenance: object) -> list[str]:
        tried.append(maintenance)
        raise ServiceUnavailable("no room for another partition")

    monkeypatch.setattr(type(engine.maintenance), "try_lead", lambda _: leads.pop(0))
    monkeypatch.setattr(type(engine.maintenance), "prepare_partitions", fail)
    worker = Worker(engine)
    worker.step()
    assert engine.background.trouble is not None
    worker.step()
    assert engine.background.trouble is None
    worker.step()
    assert len(tried) == 2


def test_who_does_not_lead_tells_of_no_work_that_fails(
    open_one: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, leads = open_one("sqlite"), False

    def fail_and_follow(_: object) -> list[str]:
        nonlocal leads
        leads = False
        raise ServiceUnavailable("no room for another partition")

    monkeypatch.setattr(rounds, "LEAD_SECONDS", 0)  # asked before each piece of work
    monkeypatch.setattr(type(engine.maintenance), "try_lead", lambda _: leads)
    monkeypatch.setattr(type(engine.maintenance), "prepare_partitions", fail_and_follow)
    follower = Worker(engine)
    follower.catch_up()
    follower.step()
    assert engine.background.trouble is None
    leads = True
    follower.step()
    assert not follower.leads
    follower.step()
    assert engine.background.trouble is None


@pytest.mark.postgres
def test_a_connection_that_is_lost_while_leading_is_asked_for_is_no_end(
    open_one: Callable[[str], Engine],
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_one("postgresql")
    connect = Database.connect_psycopg

    def lost_at_once(database: Database) -> psycopg.Connection[Any]:
        connection = connect(database)
        with closing(postgres_server.connect()) as admin:
            end = "SELECT pg_terminate_backend(%s, 10000)"
            assert admin.execute(end, [connection.info.backend_pid]).fetchone() == (True,)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(Database, "connect_psycopg", lost_at_once)
        assert not engine.maintenance.try_lead()
    assert engine.maintenance.try_lead()


def test_worker_stops_when_told(engine: Engine) -> None:
    worker = Worker(engine)
    thread = worker.start()
    worker.stop()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_worker_that_is_told_to_stop_begins_with_no_other_tenant(
    open_one: Callable[[str], Engine], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_one("sqlite")
    for _ in range(2):
        reserve(engine, with_budget(engine)[0])
    clock.advance(seconds=61)
    worker = Worker(engine)
    execute, commands = type(engine.ledger).execute, list[object]()

    def execute_and_stop(ledger: Any, command: Any) -> Any:
        commands.append(command)
        worker.stop()
        return execute(ledger, command)

    monkeypatch.setattr(type(engine.ledger), "execute", execute_and_stop)
    worker.step()
    assert len(commands) == 1


@pytest.mark.postgres
def test_one_of_two_workers_leads_and_the_other_follows_up(
    open_one: Callable[[str], Engine], clock: ManualClock
) -> None:
    first, second = open_one("postgresql"), open_one("postgresql")
    leader, follower = Worker(first), Worker(second)
    leader.step()
    follower.step()
    assert leader.leads
    assert not follower.leads
    first.close()
    tenant_id, budget_id = with_budget(second)
    reserve(second, tenant_id)
    clock.advance(seconds=61)
    follower.step()
    assert follower.leads
    assert reserved(second, tenant_id, budget_id) == 0


@pytest.mark.postgres
def test_partitions_of_the_months_ahead_are_there_after_a_round(
    open_one: Callable[[str], Engine],
) -> None:
    engine = open_one("postgresql")
    Worker(engine).step()
    assert engine.maintenance.prepare_partitions() == []


@pytest.mark.postgres
def test_a_month_that_was_not_made_in_time_is_made_before_its_first_cost(
    open_one: Callable[[str], Engine],
    postgres_url: str,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_one("postgresql")
    month = f"cost_records_{datetime.now(UTC):%Y_%m}"
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"ALTER TABLE cost_records DETACH PARTITION {month}")
        owner.execute(f"ALTER TABLE {month} RENAME TO was_never_made")
        monkeypatch.setattr(type(engine.maintenance), "try_lead", lambda _: False)
        Worker(engine).catch_up()
        made = owner.execute("SELECT relispartition FROM pg_class WHERE relname = %s", [month])
        assert made.fetchone() == (True,)
