"""The store fails: what each budget's `on_store_failure` says, and how all works again after."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psycopg
import pytest

from fiscus.batching.thread_batcher import GroupOutcomeUnknown
from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer
from fiscus.budgets.model import BalanceKey, BudgetBalance
from fiscus.clock import ManualClock
from fiscus.costs.calls import RecordAnswer
from fiscus.engine import Engine
from fiscus.errors import FiscusError, ServiceUnavailable
from fiscus.ledger.commands import CheckBatch, Command
from fiscus.ledger.port import MAX_DUE, Needs, StoreUnavailable
from fiscus.runtime.breaker import BreakerState
from fiscus.stores.sql.database import Database
from tests.crash.own_postgres import OwnPostgres
from tests.ledger.books import read_books
from tests.ledger.desk import Desk, open_at
from tests.servers import drop_database, fresh_database


class Store(Protocol):
    """A store that can be made to fail, and mended."""

    url: str

    def fail(self) -> None: ...
    def mend(self) -> None: ...


class FullDisk:
    """SQLite whose write-ahead log can grow no further, as on a full disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "fiscus.db"
        self.url = f"sqlite:///{self._path}"
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fail(self) -> None:
        log_bytes = self._path.with_name("fiscus.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(log_bytes, 4096), self._before[1]))

    def mend(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


class KilledServer:
    """PostgreSQL, killed and started again."""

    def __init__(self, server: OwnPostgres) -> None:
        self._server = server
        self._is_up = True
        self.url = fresh_database(server.server)

    def fail(self) -> None:
        self._server.kill()
        self._is_up = False

    def mend(self) -> None:
        if not self._is_up:
            self._server.start()
            self._is_up = True


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        disk = FullDisk(tmp_path)
        yield disk
        disk.mend()
        return
    own = request.getfixturevalue("own_postgres")
    killed = KilledServer(own)
    yield killed
    killed.mend()
    drop_database(own.server, killed.url)


@pytest.fixture
def engine(store: Store, tmp_path: Path, clock: ManualClock) -> Iterator[Engine]:
    engine = open_at(store.url, tmp_path / "files", clock)
    yield engine
    store.mend()
    engine.close()


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine, "acme")


def journal(tmp_path: Path) -> list[dict[str, object]]:
    path = tmp_path / "files" / "degraded.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_deny_answers_unavailable_and_nothing_is_promised(
    desk: Desk, store: Store, tmp_path: Path, clock: ManualClock
) -> None:
    budget = desk.budget("10")
    held = desk.reserve("1")
    store.fail()
    for attempt in (
        lambda: desk.check("1"),
        lambda: desk.record("1"),
        lambda: desk.settle(held, "1"),
        lambda: desk.release(held),
    ):
        with pytest.raises(ServiceUnavailable) as caught:
            attempt()
        assert caught.value.retriable
        assert caught.value.retry_after_seconds == 1
    assert journal(tmp_path) == []
    store.mend()
    clock.advance(seconds=2)
    assert desk.used(budget) == ("0", "1")
    assert desk.settle(held, "1").charged == 1
    assert read_books(store.url, desk.tenant_id).faults() == []


def test_allow_answers_degraded_and_is_journaled(
    desk: Desk, store: Store, tmp_path: Path, clock: ManualClock
) -> None:
    budget = desk.budget("10", on_store_failure="allow")
    desk.reserve("1")
    store.fail()
    answer = desk.check("4", operation_id="op", user_id="u")
    assert answer.allowed
    assert answer.degraded
    assert (answer.reservation_id, answer.budgets) == (None, [])
    with pytest.raises(ServiceUnavailable):
        desk.record("1")  # a cost must never be said to be recorded when it is not
    (line,) = journal(tmp_path)
    assert line["tenant_id"] == desk.tenant_id
    assert (line["operation_id"], line["estimated_cost"], line["user_id"]) == ("op", "4", "u")
    store.mend()
    clock.advance(seconds=2)
    assert not desk.check("4").degraded
    assert desk.used(budget) == ("0", "5")  # the degraded one holds nothing


def test_one_budget_that_denies_is_enough_to_refuse(
    desk: Desk, store: Store, tmp_path: Path
) -> None:
    desk.budget("10", on_store_failure="allow")
    desk.budget("10", allocated_to_type="user", allocated_to_id="*")
    desk.budget("10", allocated_to_id="q", on_store_failure="allow", frozen=True)
    desk.reserve("1", user_id="u")
    store.fail()
    with pytest.raises(ServiceUnavailable):
        desk.check("1", user_id="u")
    # frozen: refused in any case, decided by a store that can still be read
    with contextlib.suppress(ServiceUnavailable):
        assert not desk.check("1", project_id="q").allowed
    with pytest.raises(ServiceUnavailable):
        desk.check("1", project_id="no-budget")
    assert desk.check("1").degraded
    assert len(journal(tmp_path)) == 1


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
@pytest.mark.postgres
def test_a_tenant_never_seen_is_not_let_through(desk: Desk, store: Store) -> None:
    desk.budget("10", on_store_failure="allow")
    store.fail()
    with pytest.raises(ServiceUnavailable):
        desk.check("1")


def test_the_breaker_opens_and_closes_and_all_works_again(
    desk: Desk, store: Store, clock: ManualClock
) -> None:
    budget = desk.budget("10")
    assert desk.engine.ledger.breaker_state is BreakerState.CLOSED
    store.fail()
    for _ in range(6):
        with pytest.raises(ServiceUnavailable):
            desk.check("1")
    assert desk.engine.ledger.breaker_state is BreakerState.OPEN
    store.mend()
    with pytest.raises(ServiceUnavailable):  # not asked: the pause is not over
        desk.check("1")
    clock.advance(seconds=1)
    assert desk.check("1").allowed
    assert desk.engine.ledger.breaker_state is BreakerState.CLOSED
    assert desk.used(budget) == ("0", "1")


def test_a_breaker_whose_trial_fails_stays_open(
    desk: Desk, store: Store, clock: ManualClock
) -> None:
    desk.budget("10")
    store.fail()
    for _ in range(6):
        with pytest.raises(ServiceUnavailable):
            desk.check("1")
    clock.advance(seconds=1)
    with pytest.raises(ServiceUnavailable):
        desk.check("1")
    assert desk.engine.ledger.breaker_state is BreakerState.OPEN
    store.mend()
    with pytest.raises(ServiceUnavailable):
        desk.check("1")
    clock.advance(seconds=1)
    assert desk.check("1").allowed


def test_a_sqlite_that_another_process_holds_is_waited_for(
    tmp_path: Path, clock: ManualClock
) -> None:
    engine = open_at(f"sqlite:///{tmp_path / 'fiscus.db'}", tmp_path, clock)
    desk = Desk(engine, "acme")
    budget = desk.budget("10")
    with (
        contextlib.closing(engine),
        contextlib.closing(sqlite3.connect(tmp_path / "fiscus.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        done = threading.Event()

        def check() -> None:
            desk.check("4")
            done.set()

        thread = threading.Thread(target=check)
        thread.start()
        assert not done.wait(0.2)
        other.execute("COMMIT")
        thread.join(30)
        assert done.is_set()
        assert desk.used(budget) == ("0", "4")


@pytest.mark.postgres
def test_a_server_that_hangs_is_answered_for_within_the_deadline(
    own_postgres: OwnPostgres, tmp_path: Path, clock: ManualClock
) -> None:
    url = fresh_database(own_postgres.server)
    engine = open_at(url, tmp_path, clock, ledger_deadline_seconds=2)
    desk = Desk(engine, "acme")
    budget = desk.budget("10")
    desk.reserve("1", "first")
    own_postgres.freeze()
    try:
        for _ in range(2):
            with pytest.raises(ServiceUnavailable):
                desk.check("1", "second")
    finally:
        own_postgres.thaw()
    deadline = threading.Event()
    for _ in range(100):
        with contextlib.suppress(FiscusError):
            desk.check("1", "second")
            break
        deadline.wait(0.1)
    assert desk.used(budget) == ("0", "2")  # however often it was tried, its key counts once
    engine.close()
    drop_database(own_postgres.server, url)


@pytest.mark.postgres
def test_a_row_that_another_keeps_locked_keeps_no_other_operation_waiting(
    own_postgres: OwnPostgres, tmp_path: Path, clock: ManualClock
) -> None:
    url = fresh_database(own_postgres.server)
    with contextlib.closing(open_at(url, tmp_path, clock, ledger_deadline_seconds=2)) as engine:
        acme, globex = Desk(engine, "acme"), Desk(engine, "globex")
        ours = acme.budget("100")
        acme.budget("100", allocated_to_id="q")
        globex.budget("100")

        def answered(count: int) -> list[bool]:
            """Which are, of `count` checks that need the row and two that do not."""
            group: list[Command] = [acme.check_command("1") for _ in range(count)]
            group += [acme.check_command("1", project_id="q"), globex.check_command("1")]
            return [isinstance(outcome, CheckAnswer) for outcome in acme.outcomes(group)]

        assert answered(1) == [True] * 3
        with psycopg.connect(url) as other:
            other.execute("SELECT set_config('fiscus.tenants', '*', false)")
            lock = "SELECT 1 FROM budget_periods WHERE budget_id = %s FOR UPDATE"
            assert other.execute(lock, [ours.budget_id]).fetchone()
            assert answered(2) == [False] * 2 + [True] * 2
            # of a tenant with many that are locked out the rest is refused: others would wait
            assert answered(20) == [False] * 21 + [True]
            with pytest.raises(ServiceUnavailable) as caught:
                acme.check("1")
        assert caught.value.retry_after_seconds == 1
        assert engine.ledger.breaker_state is BreakerState.CLOSED
        assert acme.check("1").allowed
        for tenant_id in ("acme", "globex"):
            assert read_books(url, tenant_id).faults() == []
    drop_database(own_postgres.server, url)


@pytest.mark.postgres
def test_a_table_that_only_denials_look_into_keeps_no_other_operation_waiting_while_it_is_locked(
    own_postgres: OwnPostgres, tmp_path: Path, clock: ManualClock
) -> None:
    """As `VACUUM FULL`, `REINDEX` and `ALTER TABLE` lock it."""
    url = fresh_database(own_postgres.server)
    with contextlib.closing(open_at(url, tmp_path, clock, ledger_deadline_seconds=2)) as engine:
        acme, globex = Desk(engine, "acme"), Desk(engine, "globex")
        acme.budget("1")
        globex.budget("1", on_store_failure="allow")
        for desk in (acme, globex):
            desk.reserve("1")
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE reservations IN ACCESS EXCLUSIVE MODE")
            group: list[Command] = [acme.check_command("1") for _ in range(40)]
            group += [globex.check_command("1"), globex.record_command("0.5", project_id="q")]
            *denied, recorded = acme.outcomes(group)
            assert {type(one) for one in denied} == {ServiceUnavailable}
            assert isinstance(recorded, RecordAnswer)
            with pytest.raises(ServiceUnavailable) as caught:
                globex.check("1")
        assert caught.value.retry_after_seconds == 1
        assert engine.ledger.breaker_state is BreakerState.CLOSED
        assert not globex.check("1").allowed
    drop_database(own_postgres.server, url)


@pytest.mark.postgres
def test_locked_rows_of_very_many_due_holds_keep_no_other_operation_waiting(
    own_postgres: OwnPostgres, tmp_path: Path, clock: ManualClock
) -> None:
    """The holds are freed in a group of its own, which is tried for no more checks than others."""
    url = fresh_database(own_postgres.server)
    with contextlib.closing(open_at(url, tmp_path, clock)) as engine:
        acme, globex = Desk(engine, "acme"), Desk(engine, "globex")
        ours = acme.budget("10000")
        acme.budget("10", allocated_to_id="full")
        acme.budget("10", allocated_to_id="free")
        globex.budget("10")
        for _ in range(MAX_DUE // 500 + 1):
            held = [acme.check_command("1", ttl_seconds=60) for _ in range(500)]
            now = clock.now()
            batch = CheckBatch(tenant_id="acme", checks=held, all_or_nothing=False, now=now)
            assert acme.run(batch, CheckBatchAnswer).allowed
        acme.reserve("10", project_id="full")
    clock.advance(seconds=60)
    with (
        contextlib.closing(open_at(url, tmp_path, clock, ledger_deadline_seconds=2)) as engine,
        psycopg.connect(url) as other,
    ):
        acme, globex = Desk(engine, "acme"), Desk(engine, "globex")
        other.execute("SELECT set_config('fiscus.tenants', '*', false)")
        lock = "SELECT 1 FROM budget_periods WHERE budget_id = %s FOR UPDATE"
        assert other.execute(lock, [ours.budget_id]).fetchone()
        group: list[Command] = [acme.check_command("1", project_id="full") for _ in range(20)]
        group += [acme.check_command("1", project_id="free"), globex.check_command("1")]
        answered = [isinstance(outcome, CheckAnswer) for outcome in acme.outcomes(group)]
        assert answered == [False] * 21 + [True]
    with contextlib.closing(open_at(url, tmp_path, clock)) as engine:
        acme = Desk(engine, "acme")
        assert not acme.check("1", project_id="full").allowed
        assert acme.used(ours) == ("0", "0")
    assert read_books(url, "acme").faults() == []
    drop_database(own_postgres.server, url)


@pytest.mark.postgres
def test_a_process_that_is_frozen_within_a_group_loses_its_locks(
    own_postgres: OwnPostgres, tmp_path: Path, clock: ManualClock
) -> None:
    url = fresh_database(own_postgres.server)
    with (
        contextlib.closing(open_at(url, tmp_path, clock, ledger_deadline_seconds=2)) as engine,
        contextlib.closing(Database(url)) as database,
        contextlib.closing(database.ledger_store(deadline_seconds=0.5)) as store,
    ):
        desk = Desk(engine, "acme")
        budget = desk.budget("100")
        desk.reserve("1")
        (key,) = (BalanceKey(*one) for one in read_books(url, "acme").balances)
        needs = Needs(tenants={"acme"}, balances={key: BudgetBalance(key, "acme", clock.now())})
        frozen = store.begin({"acme"})
        assert frozen.load(needs).balances[key].reserved == 1
        for _ in range(10):  # each waits for the locks, until the server has ended that session
            with contextlib.suppress(ServiceUnavailable):
                desk.reserve("1")
                break
        assert desk.used(budget) == ("0", "2")
        with pytest.raises(
            (GroupOutcomeUnknown, StoreUnavailable)
        ):  # how it was told depends on when
            frozen.commit()
        frozen.rollback()
        again = store.begin({"acme"})
        assert again.load(needs).balances[key].reserved == 2
        again.rollback()
    drop_database(own_postgres.server, url)


def make_read_only(own: OwnPostgres, name: str, state: str) -> None:
    """Whether sessions of a database that begin from here on may only read: `on` or `off`."""
    with contextlib.closing(own.server.connect()) as admin:
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {state}')


def end_sessions(own: OwnPostgres, name: str) -> None:
    with contextlib.closing(own.server.connect()) as admin:
        ours = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        admin.execute(ours, [name])


@pytest.mark.postgres
def test_a_server_that_may_only_be_read_is_a_store_that_failed(
    own_postgres: OwnPostgres, tmp_path: Path, clock: ManualClock
) -> None:
    url = fresh_database(own_postgres.server)
    name = url.rpartition("/")[2]

    def make(state: str) -> None:
        """As a failover does: who is connected goes on with a server that is another now."""
        make_read_only(own_postgres, name, state)
        end_sessions(own_postgres, name)

    with contextlib.closing(open_at(url, tmp_path, clock)) as engine:
        desk = Desk(engine, "acme")
        budget = desk.budget("10", on_store_failure="allow")
        other = desk.budget("10", allocated_to_id="q")
        desk.reserve("1")
        make("on")
        for _ in range(5):
            assert desk.check("1").degraded
        assert engine.ledger.breaker_state is BreakerState.OPEN
        assert desk.used(budget) == ("0", "1")  # it can still be read
        with pytest.raises(ServiceUnavailable):
            desk.replace(other, "20")
        with pytest.raises(ServiceUnavailable, match="may only be read"):
            engine.store.ping_ms()
        make("off")
        desk.replace(other, "20")
        assert engine.store.ping_ms() > 0
        clock.advance(seconds=1)
        assert not desk.check("1").degraded
        assert desk.used(budget) == ("0", "2")
    drop_database(own_postgres.server, url)


@pytest.mark.postgres
def test_sessions_that_began_when_the_server_could_only_be_read_are_given_up(
    own_postgres: OwnPostgres, tmp_path: Path, clock: ManualClock
) -> None:
    url = fresh_database(own_postgres.server)
    name = url.rpartition("/")[2]
    with contextlib.closing(open_at(url, tmp_path, clock)) as engine:
        make_read_only(own_postgres, name, "on")
        end_sessions(own_postgres, name)
        with pytest.raises(ServiceUnavailable, match="may only be read"):
            engine.store.ping_ms()
        make_read_only(own_postgres, name, "off")  # as an administrator does: no session is ended
        assert engine.store.ping_ms() > 0
    drop_database(own_postgres.server, url)


def test_a_file_that_is_damaged_is_a_store_that_failed(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "fiscus.db"
    with contextlib.closing(open_at(f"sqlite:///{path}", tmp_path / "files", clock)) as engine:
        desk = Desk(engine, "acme")
        budget = desk.budget("10")
        desk.reserve("1")
    whole = path.read_bytes()
    with contextlib.closing(open_at(f"sqlite:///{path}", tmp_path / "files", clock)) as engine:
        desk = Desk(engine, "acme")
        with path.open("r+b") as file:  # all but the list of tables
            file.seek(page_bytes := 4096 * 2)
            file.write(b"\xa5" * (len(whole) - page_bytes))
        for _ in range(5):
            with pytest.raises(ServiceUnavailable):
                desk.check("1")
        assert engine.ledger.breaker_state is BreakerState.OPEN
        with pytest.raises(ServiceUnavailable):
            desk.used(budget)
        with pytest.raises(ServiceUnavailable):
            desk.budget("20")
        with pytest.raises(ServiceUnavailable, match="malformed"):
            engine.store.ping_ms()
        path.write_bytes(whole)
        clock.advance(seconds=1)
        assert engine.store.ping_ms() > 0
        assert desk.check("1").allowed
        assert desk.used(budget) == ("0", "2")


def test_a_connection_that_could_not_be_made_ready_is_made_anew(
    tmp_path: Path, migrated: Path
) -> None:
    path = Path(shutil.copy(migrated / "fiscus.db", tmp_path))
    in_the_way = path.with_name("fiscus.db-wal")
    with (
        contextlib.closing(Database(f"sqlite:///{path}")) as database,
        contextlib.closing(database.ledger_store()) as store,
    ):
        in_the_way.mkdir()
        with pytest.raises(StoreUnavailable, match="unable to open"):
            store.begin({"acme"})
        in_the_way.rmdir()
        store.begin({"acme"}).rollback()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_nothing_is_written_to_a_log_that_was_removed(
    tmp_path: Path, clock: ManualClock, is_replaced: bool
) -> None:
    path = tmp_path / "fiscus.db"
    log = path.with_name("fiscus.db-wal")
    with contextlib.closing(open_at(f"sqlite:///{path}", tmp_path / "files", clock)) as engine:
        desk = Desk(engine, "acme")
        desk.budget("10")
        desk.reserve("1")
        log.unlink()
        if is_replaced:
            log.touch()
        for write in (lambda: desk.check("1"), lambda: desk.budget("10")):
            with pytest.raises(ServiceUnavailable):
                write()
        with pytest.raises(ServiceUnavailable, match="cannot be read"):
            engine.store.ping_ms()
    # the last connection has put into the file what it had written to the log
    with contextlib.closing(open_at(f"sqlite:///{path}", tmp_path / "files", clock)) as engine:
        desk = Desk(engine, "acme")
        desk.check("1")
        assert len(read_books(f"sqlite:///{path}", "acme").reservations) == 2


@pytest.mark.parametrize("is_open_in_ledger", [False, True])
def test_a_file_that_was_removed_is_told_of_and_not_made_anew(
    tmp_path: Path, clock: ManualClock, is_open_in_ledger: bool
) -> None:
    path = tmp_path / "fiscus.db"
    with contextlib.closing(open_at(f"sqlite:///{path}", tmp_path / "files", clock)) as engine:
        desk = Desk(engine, "acme")
        budget = desk.budget("10")
        if is_open_in_ledger:
            desk.reserve("1")
        path.rename(tmp_path / "gone.db")
        for write in (lambda: desk.check("1"), lambda: desk.budget("10")):
            with pytest.raises(ServiceUnavailable):
                write()
        with pytest.raises(ServiceUnavailable, match="removed or replaced"):
            engine.store.ping_ms()
        engine.close_stores()  # what is asked for from now on is opened anew
        with pytest.raises(ServiceUnavailable):
            engine.budgets.get("acme", budget.budget_id)
        assert not path.exists()
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE budgets (name TEXT)")
        with pytest.raises(ServiceUnavailable, match="removed or replaced"):
            engine.store.ping_ms()
