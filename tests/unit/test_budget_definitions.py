"""What a budget as asked for becomes, and what is refused, by field."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from fiscus.budgets.definitions import define, unlike_usage
from fiscus.budgets.model import Budget, BudgetSpec
from fiscus.errors import ValidationError
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode

NOW = datetime(2026, 3, 10, 23, 30, tzinfo=UTC)
REQUIRED: dict[str, Any] = {
    "budget_name": "Search",
    "budget_amount": "100.50",
    "period_type": "monthly",
    "allocated_to_type": "project",
    "allocated_to_id": "search",
}


def defined(settings: TenantSettings | None = None, **fields: Any) -> Budget:
    return define(
        convert(REQUIRED | fields, BudgetSpec),
        settings or TenantSettings(),
        budget_id="b",
        tenant_id="acme",
        version=1,
        created_at=NOW,
        now=NOW,
    )


def test_what_is_left_out_is_the_tenants() -> None:
    budget = defined(TenantSettings(currency="EUR", timezone="Europe/Berlin"))
    assert (budget.currency, budget.timezone) == ("EUR", "Europe/Berlin")
    assert budget.thresholds == [Decimal("0.8"), Decimal("0.9"), Decimal(1)]
    assert budget.budget_type == budget.allocated_to_type == "project"


def test_what_is_given_wins_over_the_tenants() -> None:
    budget = defined(
        TenantSettings(currency="EUR", timezone="Europe/Berlin"),
        currency="JPY",
        timezone="Asia/Tokyo",
    )
    assert (budget.currency, budget.timezone) == ("JPY", "Asia/Tokyo")


def test_amounts_become_plain_decimals() -> None:
    budget = defined(thresholds=["0.50", "1.0"])
    assert type(budget.budget_amount) is Decimal
    assert [type(one) for one in budget.thresholds] == [Decimal, Decimal]
    assert str(budget.budget_amount) == "100.5"


def test_a_definition_survives_its_way_to_the_store_and_back() -> None:
    budget = defined(
        budget_amount="12345678901234567890.123456789012",
        throttle={"start_ratio": "0.5", "floor": "0.05"},
        filters={"tags": {"team": "a"}, "resource_types": ["llm"]},
        start_date="2026-01-31",
    )
    assert decode(encode(budget), Budget) == budget


def test_thresholds_are_sorted_and_said_once() -> None:
    assert defined(thresholds=["1", "0.5", "1.00"]).thresholds == [Decimal("0.5"), Decimal(1)]
    assert defined(thresholds=[]).thresholds == []


def test_a_project_starts_on_the_local_day_of_its_creation() -> None:
    budget = defined(period_type="project", timezone="Asia/Tokyo")
    assert budget.start_date == date(2026, 3, 11)
    assert defined(period_type="monthly").start_date is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"budget_amount": "0"}, "budget_amount"),
        ({"budget_amount": "-1"}, "budget_amount"),
        ({"budget_amount": "0.0000000000001"}, "budget_amount"),
        ({"budget_type": "user"}, "budget_type"),
        ({"allocated_to_type": "tenant", "allocated_to_id": "other"}, "allocated_to_id"),
        ({"allocated_to_type": "tenant", "allocated_to_id": "*"}, "allocated_to_id"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"period_type": "custom"}, "start_date"),
        ({"period_type": "custom", "start_date": "2026-01-01"}, "end_date"),
        ({"start_date": "2026-02-01", "end_date": "2026-02-01"}, "end_date"),
        ({"period_type": "project", "end_date": "2026-03-10"}, "end_date"),
        ({"thresholds": ["0.8", "0"]}, "thresholds[1]"),
        ({"thresholds": ["-0.1"]}, "thresholds[0]"),
        ({"thresholds": ["10.1"]}, "thresholds[0]"),
        ({"throttle": {"start_ratio": "1"}}, "throttle.start_ratio"),
        ({"throttle": {"start_ratio": "-0.1"}}, "throttle.start_ratio"),
        ({"throttle": {"floor": "1.1"}}, "throttle.floor"),
        ({"throttle": {"floor": "-0.1"}}, "throttle.floor"),
    ],
)
def test_a_wrong_definition_is_refused_by_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        defined(**fields)
    assert caught.value.field == named


@pytest.mark.parametrize(
    "fields",
    [
        {"throttle": {"start_ratio": "0", "floor": "0"}},
        {"throttle": {"floor": "1"}},
        {"thresholds": ["10"]},
        {"allocated_to_id": "*"},
        {"allocated_to_type": "tenant", "allocated_to_id": "acme", "budget_type": "tenant"},
        {"budget_amount": "0.000000000001"},
    ],
)
def test_the_last_values_that_are_right_pass(fields: dict[str, Any]) -> None:
    assert isinstance(defined(**fields), Budget)


@pytest.mark.parametrize(
    ("fields", "parted"),
    [
        ({"period_type": "daily"}, ["period_type"]),
        ({"timezone": "Asia/Tokyo"}, ["timezone"]),
        ({"currency": "EUR"}, ["currency"]),
        ({"allocated_to_id": "other"}, ["allocated_to_id"]),
        ({"allocated_to_type": "user"}, ["allocated_to_type"]),
        ({"start_date": "2026-01-15"}, ["start_date"]),
        ({"period_type": "rolling", "rolling_days": 7}, ["period_type", "rolling_days"]),
        ({"rolling_days": 7}, []),
        ({"end_date": "2027-01-01"}, []),
        ({"budget_amount": "1", "budget_name": "New", "frozen": True}, []),
        ({"enforcement_action": "throttle", "filters": {"resource_types": ["llm"]}}, []),
    ],
)
def test_changes_that_part_a_budget_from_its_usage_are_named(
    fields: dict[str, Any], parted: list[str]
) -> None:
    assert unlike_usage(defined(), defined(**fields)) == parted
