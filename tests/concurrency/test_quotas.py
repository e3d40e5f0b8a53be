"""Many callers on the last units of quotas: exactly what fits is admitted, nothing is lost.

Four processes with eight threads each on one PostgreSQL, and 32 threads in one process on SQLite.
"""

from __future__ import annotations

from decimal import Decimal

from fiscus.money import ZERO, add, subtract
from tests.concurrency.runs import COUNT, PROCESSES, TENANT, THREADS, WAIT_SECONDS, Run
from tests.ledger.books import read_books
from tests.ledger.quota_books import read_quota_books
from tests.ledger.quota_desk import QuotaDesk

CALLS = PROCESSES * THREADS * COUNT


def test_of_the_last_units_exactly_what_fits_is_admitted(
    desk: QuotaDesk, url: str, run: Run
) -> None:
    room = CALLS // 2
    # the last 0.05 of the burst is too little for one more
    quota = desk.quota(Decimal(room - 3) / 10, max_burst_amount="0.35")
    every = desk.quota(CALLS, scope_type="user", scope_id="*")
    total = run("consume")
    assert total.counts == {"allowed": room, "denied": CALLS - room}
    assert desk.quota_used(quota) == (Decimal(room - 3) / 10, Decimal("0.3"))
    books = read_quota_books(url, TENANT)
    assert books.faults(one_writer=False) == []
    users = [one.used for (of, _), one in books.balances.items() if of == every.quota_id]
    assert sum(users) == Decimal(room) / 10
    assert len(books.consumptions) == room


def test_taking_and_giving_back_neither_deadlocks_nor_loses_anything(
    desk: QuotaDesk, url: str, run: Run
) -> None:
    for kind, scope_id in (("tenant", TENANT), ("project", "*"), ("user", "*"), ("user", "u1")):
        desk.quota("60", scope_type=kind, scope_id=scope_id)
    for number in range(2):
        desk.quota("5", scope_id=f"p{number}", max_burst_amount=60, burst_premium_rate="0.37")
        desk.budget("1000", period_type="yearly", allocated_to_id=f"p{number}")
    desk.budget("1000", period_type="yearly", allocated_to_type="user", allocated_to_id="*")
    total = run("take_and_give_back")
    assert total.errors == []
    assert total.seconds < WAIT_SECONDS
    books = read_quota_books(url, TENANT)
    assert books.faults(one_writer=False) == []
    assert books.premiums
    assert read_books(url, TENANT).faults() == []
    left = ZERO
    for one in books.consumptions.values():
        left = add(left, subtract(one.amount, one.released))
    assert left == total.held
    assert len(books.consumptions) == total.counts["taken"]
