"""After a replay: do the budget, the records and the report tell the same, to the last digit?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from msgspec import Struct

from fiscus.budgets.calls import Utilization
from fiscus.cli.api import Api
from fiscus.cli.replay.run import CURRENCY, TAG, Tally
from fiscus.costs.report_model import Report
from fiscus.money import ZERO, add, plain, subtract
from fiscus.paging import MAX_PAGE_SIZE


class Finding(NamedTuple):
    """One question, what was found, what it had to be, and whether it is so."""

    question: str
    found: str
    wanted: str
    holds: bool


class _Cost(Struct, frozen=True):
    cost_amount: Decimal


class _Next(Struct, frozen=True):
    next_page_token: str | None


class _Records(Struct, frozen=True):
    records: list[_Cost]
    pagination: _Next


class Replayed(NamedTuple):
    """What a replay left in the server: everything that carries the tag `replay: run_id`."""

    tenant_id: str
    budget_id: str
    run_id: str
    amount: Decimal
    since: datetime


def audit(api: Api, replayed: Replayed, tally: Tally) -> Iterator[Finding]:
    """Look everything up again through the API and compare."""
    spent, reserved = _use(api, replayed)
    recorded, count = _recorded(api, replayed)
    reported = _reported(api, replayed)
    yield _same("the budget's spent is what the settles charged", spent, tally.spent)
    yield _same("and equals the sum of the cost records", spent, recorded)
    yield _same("and the report's total", spent, reported)
    yield Finding(
        "one cost record per settled operation",
        f"{count:,}",
        f"{tally.admitted:,}",
        count == tally.admitted,
    )
    yield _same("nothing is left reserved", reserved, ZERO)
    yield Finding(
        "no check was admitted past the budget",
        f"{tally.admitted_past_the_amount:,} admitted past it",
        "0",
        tally.admitted_past_the_amount == 0,
    )
    beyond = max(ZERO, subtract(spent, replayed.amount))
    yield Finding(
        "spent is above the budget by no more than settles were above their holds"
        if tally.excess_count
        else "spent is not above the budget",
        f"{plain(beyond):f}",
        f"at most {plain(tally.excess):f}",
        beyond <= tally.excess,
    )


def _same(question: str, found: Decimal, wanted: Decimal) -> Finding:
    return Finding(question, f"{plain(found):f}", f"{plain(wanted):f}", found == wanted)


def _use(api: Api, replayed: Replayed) -> tuple[Decimal, Decimal]:
    path = f"/budgets/{replayed.budget_id}/utilization"
    use = api.get(path, Utilization, tenant_id=replayed.tenant_id)
    spent = reserved = ZERO
    for period in use.periods:
        spent, reserved = add(spent, period.spent), add(reserved, period.reserved)
    return spent, reserved


def _recorded(api: Api, replayed: Replayed) -> tuple[Decimal, int]:
    total, count = ZERO, 0
    token: str | None = None
    while True:
        page = api.get(
            "/cost-tracking/records",
            _Records,
            tenant_id=replayed.tenant_id,
            tags=f"{TAG}:{replayed.run_id}",
            page_size=MAX_PAGE_SIZE,
            page_token=token,
        )
        for record in page.records:
            total = add(total, record.cost_amount)
        count += len(page.records)
        token = page.pagination.next_page_token
        if token is None:
            return total, count


def _reported(api: Api, replayed: Replayed) -> Decimal:
    wanted: dict[str, Any] = {
        "tenant_id": replayed.tenant_id,
        "report_type": "summary",
        "start_date": replayed.since,
        "currency": CURRENCY,
        "tags": {TAG: replayed.run_id},
    }
    return api.post("/cost-tracking/reports", wanted, Report).total_cost
