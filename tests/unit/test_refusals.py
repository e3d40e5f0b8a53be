"""What a refusal suggests names only what its answer says."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from fiscus.budgets import refusals as budgets
from fiscus.budgets.calls import ThrottleAnswer, allowed_without_store
from fiscus.errors import BudgetExceeded, RateLimitViolated
from fiscus.quotas import refusals as quotas
from fiscus.quotas.calls import QuotaCheckAnswer

APRIL = datetime(2026, 4, 1, tzinfo=UTC)
NO_BUDGET = replace(allowed_without_store("No budget."), allowed=False, degraded=False)
DENIED = replace(NO_BUDGET, budget_id="b", max_allowed_cost=Decimal(0))
FULL = QuotaCheckAnswer(False, 1, "q", None, Decimal(0), Decimal(0), None, "Full.", [])


@pytest.mark.parametrize(
    ("said", "action"),
    [
        (
            {"max_allowed_cost": Decimal(1), "fits_at": APRIL},
            "Lower the estimate to max_allowed_cost, or wait until fits_at.",
        ),
        ({"max_allowed_cost": Decimal(1)}, "Lower the estimate to max_allowed_cost."),
        ({"fits_at": APRIL}, "Wait until fits_at."),
        ({}, "Have the budget raised or unfrozen."),
        ({"budget_id": None, "max_allowed_cost": None}, "Make a budget for it."),
    ],
)
def test_a_denial_by_a_budget_suggests_what_helps(said: dict[str, Any], action: str) -> None:
    error = budgets.refusal(replace(DENIED, **said))
    assert isinstance(error, BudgetExceeded)
    assert error.suggested_action == action


def test_a_throttled_denial_names_where_it_says_when_to_come_back() -> None:
    throttle = ThrottleAnswer(multiplier=Decimal("0.4"), retry_after_ms=1500)
    error = budgets.refusal(replace(DENIED, throttle=throttle))
    assert isinstance(error, RateLimitViolated)
    assert error.suggested_action == "Try again after throttle.retry_after_ms."
    assert error.retry_after_seconds == 2


@pytest.mark.parametrize(
    ("said", "action"),
    [
        (
            {"max_allowed_amount": Decimal(1), "fits_at": APRIL},
            "Ask for max_allowed_amount or less, or wait until fits_at.",
        ),
        ({"max_allowed_amount": Decimal(1)}, "Ask for max_allowed_amount or less."),
        ({"fits_at": APRIL}, "Wait until fits_at."),
        ({}, "Ask for more of the quota."),
        ({"matched": 0, "quota_id": None}, "Allocate a quota for it."),
    ],
)
def test_a_denial_by_a_quota_suggests_what_helps(said: dict[str, Any], action: str) -> None:
    assert quotas.refusal(replace(FULL, **said)).suggested_action == action
