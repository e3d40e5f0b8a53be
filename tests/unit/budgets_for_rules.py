"""Generated budgets, balances and demands for the tests of rules and matching."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from fiscus.budgets.definitions import define
from fiscus.budgets.model import BalanceKey, Budget, BudgetBalance, BudgetSpec, Converted
from fiscus.budgets.rules import Demand
from fiscus.costs.fx import Rate, convert
from fiscus.money import ONE
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert as as_request

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)


def make_budget(budget_id: str = "b1", amount: object = "10", **fields: Any) -> Budget:
    given = {
        "budget_name": budget_id,
        "budget_amount": amount,
        "period_type": "monthly",
        "allocated_to_type": "project",
        "allocated_to_id": "p",
        **fields,
    }
    return define(
        as_request(given, BudgetSpec),
        TenantSettings(),
        budget_id=budget_id,
        tenant_id="t",
        version=1,
        created_at=NOW,
        now=NOW,
    )


def make_demand(
    budget: Budget,
    estimate: object,
    *,
    spent: object = "0",
    reserved: object = "0",
    credit: object = "0",
    rate: Decimal = ONE,
) -> Demand:
    """A demand whose estimate is given in the currency of the request."""
    balance = BudgetBalance(
        BalanceKey(budget.budget_id, budget.allocated_to_id, START),
        budget.tenant_id,
        END,
        Decimal(str(spent)),
        Decimal(str(reserved)),
        Decimal(str(credit)),
    )
    amount = Decimal(str(estimate))
    if rate is ONE:
        return Demand(budget, balance, amount)
    found = Rate(rate, NOW.date())
    amount = convert(amount, found)
    return Demand(budget, balance, amount, Converted(amount, found.value, found.as_of))


def amounts(most: int = 20) -> st.SearchStrategy[Decimal]:
    return st.integers(0, most * 10**4).map(lambda n: Decimal(n).scaleb(-4))


@st.composite
def demands(draw: st.DrawFn, actions: tuple[str, ...] | None = None) -> list[Demand]:
    """What one operation meets: one to four budgets of any kind, in one or in other currencies."""
    estimate = draw(amounts())
    found: list[Demand] = []
    for index in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["tenant", "project", "user", "feature"]))
        budget = make_budget(
            f"b{index}",
            draw(amounts().filter(bool)),
            allocated_to_type=kind,
            allocated_to_id="t" if kind == "tenant" else "x",
            enforcement_action=draw(
                st.sampled_from(actions or ("hard_stop", "soft_limit", "throttle", "escalate"))
            ),
            shadow=draw(st.sampled_from([False, False, True])),
            frozen=draw(st.sampled_from([False, False, False, True])),
            throttle={
                "start_ratio": draw(st.sampled_from(["0", "0.5", "0.8"])),
                "floor": draw(st.sampled_from(["0", "0.1", "1"])),
            },
        )
        rate = draw(st.sampled_from([ONE, ONE, Decimal("0.9137"), Decimal("141.73"), Decimal(3)]))
        found.append(
            make_demand(
                budget,
                estimate,
                spent=draw(amounts()),
                reserved=draw(amounts()),
                credit=draw(st.sampled_from(["0", "0.3", "0.999999999999"])),
                rate=rate,
            )
        )
    return found
