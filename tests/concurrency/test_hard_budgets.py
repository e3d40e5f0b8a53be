"""Many callers on few budgets: never past the amount, no refusal while there is room.

Four processes with eight threads each on one PostgreSQL, and 32 threads in one process on SQLite.
What all callers were told must be what the store holds in the end.
"""

from __future__ import annotations

from decimal import Decimal

from fiscus.money import ZERO
from tests.concurrency.runs import COUNT, PROCESSES, TENANT, THREADS, WAIT_SECONDS, Run
from tests.ledger.books import Books, read_books
from tests.ledger.desk import Desk


def use_of(books: Books, budget_id: str) -> dict[str, Decimal]:
    """Spent and reserved of a budget's single period, per scope id."""
    return {
        scope_id: one.spent + one.reserved
        for (of, scope_id, _), one in books.balances.items()
        if of == budget_id
    }


def test_one_hard_budget_admits_exactly_what_it_has_room_for(
    desk: Desk, url: str, run: Run
) -> None:
    room = PROCESSES * THREADS * COUNT // 2
    budget = desk.budget(f"{room}.5", period_type="yearly")
    total = run("equal_checks")
    assert total.errors == []
    assert total.counts["allowed"] == room
    assert total.counts["denied"] == PROCESSES * THREADS * COUNT - room
    books = read_books(url, TENANT)
    assert use_of(books, budget.budget_id) == {"p": room}
    assert books.faults() == []


def test_nothing_is_refused_while_there_is_room(desk: Desk, url: str, run: Run) -> None:
    count = PROCESSES * THREADS * COUNT
    budget = desk.budget(count, period_type="yearly")
    total = run("equal_checks")
    assert total.counts == {"allowed": count}
    assert use_of(read_books(url, TENANT), budget.budget_id) == {"p": count}


def test_every_users_budget_of_a_template_is_full_and_none_is_passed(
    desk: Desk, url: str, run: Run
) -> None:
    room = COUNT * PROCESSES * THREADS // 8
    template = desk.budget(
        room, period_type="yearly", allocated_to_type="user", allocated_to_id="*"
    )
    project = desk.budget(3 * room, period_type="yearly")
    total = run("equal_checks")
    assert total.errors == []
    assert total.counts["allowed"] == total.held == 3 * room
    books = read_books(url, TENANT)
    assert use_of(books, project.budget_id) == {"p": 3 * room}
    users = use_of(books, template.budget_id)
    assert max(users.values()) <= room
    assert sum(users.values()) == 3 * room
    assert books.faults() == []


def test_mixed_commands_on_overlapping_budgets_neither_deadlock_nor_lose_anything(
    desk: Desk, url: str, run: Run
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
    total = run("mixed")
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
