"""One engine on each database, and short forms of what the store tests do with it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from fiscus.budgets.calls import CheckAnswer, CheckRequest, SettleRequest
from fiscus.budgets.model import Budget, BudgetSpec
from fiscus.clock import ManualClock
from fiscus.costs.calls import RecordRequest
from fiscus.engine import Engine
from fiscus.ledger.commands import Check, Command, Outcome
from fiscus.ledger.definitions import DefinitionCache
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.loop import answer_or_raise
from fiscus.ledger.port import LedgerTransaction
from fiscus.ledger.requests.budgets import check_command, settle_command
from fiscus.ledger.requests.costs import record_command
from fiscus.settings import Settings
from fiscus.stores.sql import migrate
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.postgres.answering import AnsweringConnection
from fiscus.wire.converting import convert
from fiscus.wiring.engine import open_engine
from fiscus.wiring.ledger_process import open_rates
from tests.servers import PostgresServer

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> str:
    """A database of each kind; a PostgreSQL one is shared by the tests of a module."""
    if request.param == "sqlite":
        path = shutil.copy(migrated / "fiscus.db", tmp_path)
        return f"sqlite:///{path}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def open_on(tmp_path: Path, clock: ManualClock) -> Iterator[Callable[..., Engine]]:
    """Opens engines on a URL, on the test's clock, and closes them all at the end."""
    opened: list[Engine] = []

    def open_one(url: str, **settings: Any) -> Engine:
        given = {
            "data_dir": tmp_path,
            "ledger_deadline_seconds": 20.0,
            "sqlite_synchronous": "OFF",
            **settings,
        }
        engine = open_engine(Settings(database_url=url, **given), clock=clock)
        opened.append(engine)
        return engine

    yield open_one
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_on: Callable[..., Engine], database_url: str) -> Engine:
    return open_on(database_url)


@contextmanager
def answers_of_commits_lost(server: PostgresServer, *, made: bool) -> Iterator[None]:
    """The connection of each change ends with its commit, which the server has made, or has not."""
    commit = AnsweringConnection.commit

    def commit_and_lose_the_answer(connection: AnsweringConnection) -> None:
        if made:
            commit(connection)
        with closing(server.connect()) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])
        connection.execute("SELECT 1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnsweringConnection, "commit", commit_and_lose_the_answer)
        yield


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test knows."""
    return f"t-{uuid4()}"


class Tenant:
    """One tenant's calls against one engine."""

    def __init__(self, engine: Engine, tenant_id: str) -> None:
        self.engine = engine
        self.tenant_id = tenant_id

    @property
    def now(self) -> datetime:
        return self.engine.clock.now()

    def spec(self, **fields: Any) -> BudgetSpec:
        defaults = {
            "budget_name": "Search",
            "budget_amount": "100",
            "period_type": "monthly",
            "allocated_to_type": "tenant",
            "allocated_to_id": self.tenant_id,
        }
        return convert(defaults | fields, BudgetSpec)

    def budget(self, **fields: Any) -> Budget:
        return self.engine.budgets.create(
            self.tenant_id, self.spec(**fields), by="tester", now=self.now
        )

    def check_command(self, cost: str, *, key: str | None = None, **fields: Any) -> Check:
        request = convert({"resource_type": "llm", "estimated_cost": cost} | fields, CheckRequest)
        return check_command(request, self.tenant_id, self.now, key)

    def check(self, cost: str, *, key: str | None = None, **fields: Any) -> CheckAnswer:
        return self.run(self.check_command(cost, key=key, **fields))

    def settle(self, reservation_id: str, cost: str, key: str | None = None) -> Any:
        request = convert({"actual_cost": cost}, SettleRequest)
        return self.run(settle_command(reservation_id, request, self.tenant_id, self.now, key))

    def record(self, cost: str, *, key: str | None = None, **fields: Any) -> Any:
        request = convert({"resource_type": "llm", "cost_amount": cost} | fields, RecordRequest)
        return self.run(record_command(request, self.tenant_id, self.now, key))

    def run(self, command: Any) -> Any:
        return answer_or_raise(self.engine.ledger.execute(command))


@pytest.fixture
def acme(engine: Engine, tenant: str) -> Tenant:
    return Tenant(engine, tenant)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database, for stores that are tested without an engine."""
    migrate.upgrade(database_url)
    opened = Database(database_url)
    yield opened
    opened.close()


@contextmanager
def after_each_statement(database: Database, work: Callable[[], object]) -> Iterator[None]:
    """Do `work` after each statement of a read or a change, before the next."""

    def do(*_: object) -> None:
        work()

    event.listen(database.engine, "after_cursor_execute", do)
    try:
        yield
    finally:
        event.remove(database.engine, "after_cursor_execute", do)


def in_threads(count: int, work: Callable[[], object]) -> None:
    """Run `work` in so many threads that begin together; raises the first error of any."""
    together = threading.Barrier(count)

    def run() -> None:
        together.wait()
        work()

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(run) for _ in range(count)]:
            done.result(60)


def run_beside(
    command: Command, database_url: str, change: Callable[[], object]
) -> tuple[Outcome, Future[object]]:
    """What a command comes to, and a `change` that is begun right before its commit.

    The command is committed once the change waits for it, or is done.
    """
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with closing(Database(database_url)) as database, ThreadPoolExecutor(1) as pool:
        store = database.ledger_store()
        begin = store.begin
        changed: list[Future[object]] = []

        def begin_gated(tenants: Collection[str], *, patient: bool = True) -> LedgerTransaction:
            transaction = begin(tenants, patient=patient)
            commit = transaction.commit

            def commit_while_another_waits() -> None:
                changed.append(pool.submit(change))
                with database.engine.connect() as connection:
                    while not (connection.execute(waiting).scalar_one() or changed[0].done()):
                        connection.rollback()
                commit()

            transaction.commit = commit_while_another_waits  # type: ignore[method-assign]
            return transaction

        store.begin = begin_gated  # type: ignore[method-assign]
        with closing(store):
            runner = GroupRunner(store, open_rates(None, None), DefinitionCache())
            (outcome,) = runner.run([command])
    return outcome, changed[0]


def plan_of(database: Database, read: Callable[[], object], of: str = "") -> str:
    """How the database goes about the last statement of `read` that has `of` in it."""
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if of in statement:
            seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        read()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    (statement, parameters) = seen[-1]
    explain = "EXPLAIN QUERY PLAN"
    with database.engine.connect() as connection:
        if not database.is_sqlite:
            explain = "EXPLAIN"
            # tables as small as those of tests it would scan whole
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
    return "\n".join(row[-1] for row in rows)


def plans_within(
    database: Database, read: Callable[[], object], of: str, *, seqscan: bool = True
) -> list[str]:
    """How PostgreSQL goes about the statements of `read` that have `of` in them, each in its own
    transaction, by what was set there; without `seqscan` as with large tables."""
    plans: list[str] = []

    def explain(connection: Any, _cursor: object, statement: str, parameters: Any, *_: Any) -> None:
        if of in statement and not statement.startswith("EXPLAIN"):
            if not seqscan:
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            rows = connection.exec_driver_sql(f"EXPLAIN (SETTINGS) {statement}", parameters)
            plans.append("\n".join(row[0] for row in rows))

    event.listen(database.engine, "before_cursor_execute", explain)
    try:
        read()
    finally:
        event.remove(database.engine, "before_cursor_execute", explain)
    return plans
