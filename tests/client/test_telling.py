"""What is wrong with a call is told in Python's words, by the names that the caller used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import fiscus
from fiscus import ValidationError
from tests.client.apis import BUDGET, OPERATION

if TYPE_CHECKING:
    from tests.client.apis import Bench

pytestmark = pytest.mark.anyio

AN_AMOUNT = 'Give a Decimal, an int or text such as "0.02".'
RATE_LIMIT = {"scope_type": "user", "scope_id": "*", "resource_type": "api", "limit_value": 1.5}


@pytest.mark.parametrize(
    ("call", "given", "message", "todo"),
    [
        ("check", {**OPERATION, "estimate": 0.02}, "estimate: is a float, which cannot", AN_AMOUNT),
        ("check", {**OPERATION, "estimated_cost": 0.5}, "estimated_cost: is a float,", AN_AMOUNT),
        ("check", {**OPERATION, "estimate": "2e"}, "estimate: is not a decimal number", AN_AMOUNT),
        ("check", {**OPERATION, "estimate": -1}, "estimate must not be neg", "Give 0 or more."),
        ("check", {"resource_type": "llm"}, "estimated_cost is missing", "Give estimated_cost."),
        ("check", {**OPERATION, "estimate": None}, "estimate is missing", "Give estimate."),
        (
            "check",
            {"project": "a b", "resource_type": "llm", "estimate": 1},
            "project: must be 1 to 128",
            "Correct project.",
        ),
        (
            "check_batch",
            {"checks": [{**OPERATION, "estimated_cost": 1}, {**OPERATION, "estimate": 0.5}]},
            "checks[1].estimate: is a float,",
            AN_AMOUNT,
        ),
        ("record", {**OPERATION, "cost_amount": 0.5}, "cost_amount: is a float,", AN_AMOUNT),
        ("create_budget", {**BUDGET, "budget_amount": 0.5}, "budget_amount: is a", AN_AMOUNT),
        (
            "report",
            {"group_by": "project"},
            "group_by: Expected `list`, got `str`",
            "Give group_by as a list.",
        ),
        (
            "check",
            {**OPERATION, "estimate": 1, "tags": ["a"]},
            "tags: Expected `dict`, got `list`",
            "Give tags as a dict.",
        ),
        (
            "create_rate_limit",
            RATE_LIMIT,
            "limit_value: Expected `int`, got `float`",
            "Give limit_value as an int.",
        ),
    ],
)
async def test_a_wrong_argument_is_told_by_its_name_in_python_with_what_to_give(
    bench: Bench, call: str, given: dict[str, Any], message: str, todo: str
) -> None:
    with pytest.raises(ValidationError) as told:
        await getattr(bench.api, call)(**given)
    error = told.value
    assert error.message.startswith(message)
    assert error.suggested_action == todo
    assert str(error) == error.message
    assert error.field == error.details["field"]
    assert message.startswith(error.field)


async def test_an_item_of_a_batch_is_told_by_the_names_it_has(bench: Bench) -> None:
    short, full = {**OPERATION, "estimate": 0.5}, {**OPERATION, "estimated_cost": 0.5}
    for items, field in (([short, full], "checks[0].estimate"), ([full], "checks[0].estimated_")):
        with pytest.raises(ValidationError) as told:
            await bench.api.check_batch(items)
        assert told.value.field.startswith(field)
        assert told.value.suggested_action == AN_AMOUNT


async def test_blocks_tell_it_the_same_way(bench: Bench) -> None:
    with pytest.raises(ValidationError, match=r"^estimate: is a float") as told:
        async with bench.api.reserve(**OPERATION, estimate=0.02):
            pass
    assert told.value.suggested_action == AN_AMOUNT
    with pytest.raises(ValidationError, match=r"^estimate must not be negative"):
        async with bench.api.reserve(**OPERATION, estimate=-1):
            pass
    with pytest.raises(ValidationError, match=r"^feature: must be 1 to 128"):
        async with bench.api.reserve(**OPERATION, feature="a b", estimate=1):
            pass
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        with pytest.raises(ValidationError, match=r"^actual_cost is a float") as told:
            await r.settle(0.5)
        assert told.value.suggested_action == AN_AMOUNT
        with pytest.raises(ValidationError, match=r"^tags: Expected `dict`, got `str`"):
            await r.settle("0.5", tags="a")
        await r.settle("0.5")
    with pytest.raises(ValidationError) as told:
        async with bench.api.quota("gpu_hours", "2e"):
            pass
    assert (told.value.field, told.value.suggested_action) == ("amount", AN_AMOUNT)


def test_so_does_what_names_no_client() -> None:
    with pytest.raises(ValidationError) as told:
        fiscus.quota("gpu_hours", None)  # type: ignore[arg-type]
    assert told.value.suggested_action == AN_AMOUNT
