"""Many callers on few budgets: never past the amount, no refusal while there is room.

Four processes with eight threads each on one PostgreSQL, and 32 threads in one process on SQLite.
What all callers were told must be what the store holds in the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fiscus.money import ZERO
from tests.concurrency.load import run_threads
from tests.ledger.books import Books, read_books
from tests.ledger.desk import Desk, open_at
from tests.servers import PostgresServer, drop_database, fresh_database

LONG = os.environ.get("FISCUS_TEST_PROFILE") == "long"
TENANT = "acme"
PROCESSES, THREADS = 4, 8
COUNT = 400 if LONG else 25
WAIT_SECONDS = 240
ROOT = Path(__file__).parents[2]


class Total(NamedTuple):
    """What the callers of all processes were told."""

    counts: Counter[str]
    held: Decimal
    spent: Decimal
    seconds: float

    @property
    def errors(self) -> list[str]:
        return [what for what in self.counts if what.startswith("error")]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fiscus.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made = fresh_database(server)
    yield made
    drop_database(server, made)


@pytest.fixture
def desk(url: str, tmp_path: Path) -> Iterator[Desk]:
    with closing(open_at(url, tmp_path / "files")) as engine:
        yield Desk(engine, TENANT)


def run(desk: Desk, url: str, work: str) -> Total:
    """32 threads: in one process on SQLite, in four on PostgreSQL."""
    started = time.monotonic()
    if url.startswith("sqlite"):
        told = run_threads(desk.engine, TENANT, work, PROCESSES * THREADS, COUNT)
        return Total(told.counts, told.held, told.spent, time.monotonic() - started)
    answers = run_processes({"url": url, "tenant_id": TENANT, "work": work})
    counts: Counter[str] = Counter()
    for answer in answers:
        counts.update(answer["counts"])
    return Total(
        counts,
        sum((Decimal(one["held"]) for one in answers), ZERO),
        sum((Decimal(one["spent"]) for one in answers), ZERO),
        time.monotonic() - started,
    )


def run_processes(given: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of the processes was told; they begin together."""
    given = {**given, "threads": THREADS, "count": COUNT}
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-X",
                "faulthandler",
                "-m",
                "tests.concurrency.load",
                json.dumps(given),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in running:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        answers = [one.communicate(timeout=WAIT_SECONDS)[0] for one in running]
        assert [one.returncode for one in running] == [0] * PROCESSES
        return [json.loads(answer) for answer in answers]
    finally:
        for one in running:
            if one.poll() is None:
                one.kill()
                one.wait()


def use_of(books: Books, budget_id: str) -> dict[str, Decimal]:
    """Spent and reserved of a budget's single period, per scope id."""
    return {
        scope_id: one.spent + one.reserved
        for (of, scope_id, _), one in books.balances.items()
        if of == budget_id
    }


def test_one_hard_budget_admits_exactly_what_it_has_room_for(desk: Desk, url: str) -> None:
    room = PROCESSES * THREADS * COUNT // 2
    budget = desk.budget(f"{room}.5", period_type="yearly")
    total = run(desk, url, "equal_checks")
    assert total.errors == []
    assert total.counts["allowed"] == room
    assert total.counts["denied"] == PROCESSES * THREADS * COUNT - room
    books = read_books(url, TENANT)
    assert use_of(books, budget.budget_id) == {"p": room}
    assert books.faults() == []


def test_nothing_is_refused_while_there_is_room(desk: Desk, url: str) -> None:
    count = PROCESSES * THREADS * COUNT
    budget = desk.budget(count, period_type="yearly")
    total = run(desk, url, "equal_checks")
    assert total.counts == {"allowed": count}
    assert use_of(read_books(url, TENANT), budget.budget_id) == {"p": count}


def test_every_users_budget_of_a_template_is_full_and_none_is_passed(desk: Desk, url: str) -> None:
    room = COUNT * PROCESSES * THREADS // 8
    template = desk.budget(
        room, period_type="yearly", allocated_to_type="user", allocated_to_id="*"
    )
    project = desk.budget(3 * room, period_type="yearly")
    total = run(desk, url, "equal_checks")
    assert total.errors == []
    assert total.counts["allowed"] == total.held == 3 * room
    books = read_books(url, TENANT)
    assert use_of(books, project.budget_id) == {"p": 3 * room}
    users = use_of(books, template.budget_id)
    assert max(users.values()) <= room
    assert sum(users.values()) == 3 * room
    assert books.faults() == []


def test_mixed_commands_on_overlapping_budgets_neither_deadlock_nor_lose_anything(
    desk: Desk, url: str
) -> None:
    fields = {"period_type": "yearly"}
    for kind, scope_id in (
        ("tenant", TENANT),
        ("project", "*"),
        ("project", "p1"),
        ("user", "*"),
        ("user", "u2"),
        ("feature", "f"),
    ):
        desk.budget("120", allocated_to_type=kind, allocated_to_id=scope_id, **fields)
    total = run(desk, url, "mixed")
    assert total.errors == []
    assert total.seconds < WAIT_SECONDS
    books = read_books(url, TENANT)
    assert books.faults() == []
    recorded = sum((one.cost_amount for one in books.records.values()), ZERO)
    pending = [one for one in books.reservations.values() if one.status == "pending"]
    assert recorded == total.spent
    assert sum((one.estimated_cost for one in pending), ZERO) == total.held
    assert len(books.records) == total.counts["recorded"] + total.counts["settled"]
    unplanned = sum((one.cost_amount for one in books.records.values() if one.flags), ZERO)
    for (budget_id, _, _), balance in books.balances.items():
        past = balance.spent + balance.reserved - books.budgets[budget_id].budget_amount
        assert past <= unplanned  # only costs that no check admitted go past an amount
