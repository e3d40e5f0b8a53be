"""A reserve block holds while it runs, and leaves behind exactly what was settled."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from fiscus import BudgetExceeded, Conflict, RateLimitViolated, ValidationError
from fiscus.costs.model import CostFlag
from tests.client.apis import OPERATION

if TYPE_CHECKING:
    from tests.client.apis import Bench

pytestmark = pytest.mark.anyio


async def test_a_settled_block_is_charged_what_it_cost(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate="0.5") as r:
        assert await bench.use(budget) == (0, Decimal("0.5"))
        assert r.answer.budget_id == budget.budget_id
        settled = await r.settle("0.4", usage={"tokens": 7}, tags={"model": "m"}, region="eu")
        assert (settled.charged, settled.flags) == (Decimal("0.4"), [])
    assert await bench.use(budget) == (Decimal("0.4"), 0)
    record = (await bench.api.records()).items[0]
    assert (record.usage, record.tags, record.region) == ({"tokens": 7}, {"model": "m"}, "eu")


async def test_a_block_left_without_settling_gives_the_money_back(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1):
        pass
    assert await bench.use(budget) == (0, 0)


async def test_a_block_left_by_an_exception_gives_the_money_back(bench: Bench) -> None:
    budget = await bench.budget()
    with pytest.raises(LookupError, match="no model"):
        async with bench.api.reserve(**OPERATION, estimate=1):
            raise LookupError("no model")
    assert await bench.use(budget) == (0, 0)


async def test_an_exception_after_settling_keeps_the_cost(bench: Bench) -> None:
    budget = await bench.budget()

    async def settle_and_fail() -> None:
        async with bench.api.reserve(**OPERATION, estimate=1) as r:
            await r.settle("0.3")
            raise LookupError

    with pytest.raises(LookupError):
        await settle_and_fail()
    assert await bench.use(budget) == (Decimal("0.3"), 0)


async def test_a_refusal_raises_what_explains_it_and_the_block_never_runs(bench: Bench) -> None:
    budget = await bench.budget(budget_amount="0.5")
    ran = False
    with pytest.raises(BudgetExceeded, match="no room") as raised:
        async with bench.api.reserve(**OPERATION, estimate=1):
            ran = True
    assert not ran
    answer = raised.value.answer
    assert (answer.allowed, answer.max_allowed_cost) == (False, Decimal("0.5"))
    assert answer.budget_id == budget.budget_id
    assert raised.value.details["fits_at"] == answer.fits_at
    assert await bench.use(budget) == (0, 0)


async def test_a_throttled_refusal_says_when_to_come_back(bench: Bench) -> None:
    await bench.budget(enforcement_action="throttle")
    await bench.api.record(**OPERATION, cost_amount=1)

    async def reserve_again_and_again() -> None:
        for _ in range(3):
            async with bench.api.reserve(**OPERATION, estimate="0.1"):
                pass

    with pytest.raises(RateLimitViolated) as raised:
        await reserve_again_and_again()
    assert raised.value.retriable
    assert raised.value.retry_after_seconds is not None
    assert raised.value.retry_after_seconds >= 1


async def test_settling_twice_with_the_same_amount_is_the_same(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        first = await r.settle("0.50")
        assert (await r.settle(Decimal("0.5"))).record_id == first.record_id
        with pytest.raises(Conflict):
            await r.settle("0.6")
        with pytest.raises(Conflict):
            await r.release()
    assert await bench.costs() == [Decimal("0.5")]


async def test_a_block_can_settle_nothing_spent(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        await r.settle(0)
    assert await bench.costs() == [0]


async def test_more_than_the_estimate_is_recorded_in_full(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate="0.1") as r:
        assert (await r.settle("0.7")).flags == [CostFlag.EXCESS]
    assert await bench.use(budget) == (Decimal("0.7"), 0)


async def test_a_float_cannot_be_estimated_or_settled(bench: Bench) -> None:
    budget = await bench.budget()
    with pytest.raises(ValidationError, match="float, which cannot hold money exactly"):
        async with bench.api.reserve(**OPERATION, estimate=0.1):
            pass
    with pytest.raises(ValidationError, match="float"):
        async with bench.api.reserve(**OPERATION, estimate=1) as r:
            await r.settle(0.1)
    assert await bench.use(budget) == (0, 0)


@pytest.mark.parametrize("field", ["tenant", "tenant_id"])
async def test_a_block_settles_for_its_own_tenant_only(bench: Bench, field: str) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        with pytest.raises(ValidationError) as caught:
            await r.settle("0.5", **{field: "another"})
        assert caught.value.field == field
        await r.settle("0.6")
    assert await bench.costs() == [Decimal("0.6")]


async def test_a_wrong_detail_of_a_settle_can_be_corrected(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        with pytest.raises(ValidationError, match="currency"):
            await r.settle("0.5", currency="dollars")
        await r.settle("0.6")
    assert await bench.costs() == [Decimal("0.6")]


async def test_what_is_released_by_hand_is_not_released_again(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        await r.release()
        assert await bench.use(budget) == (0, 0)
    late = (await bench.api.check(**OPERATION, estimate=1)).allowed
    assert late


async def test_a_cost_settled_after_giving_back_is_recorded_late(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        await r.release()
        assert (await r.settle("0.5")).flags == [CostFlag.LATE]
    assert await bench.use(budget) == (Decimal("0.5"), 0)


async def test_a_hold_is_extended_from_inside(bench: Bench) -> None:
    await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1, ttl_seconds=10) as r:
        await r.extend(3600)
        bench.clock.advance(seconds=11)
        assert not (await bench.api.check(**OPERATION, estimate=1)).allowed
        assert (await r.settle(1)).flags == []


async def test_a_reservation_settled_by_its_id_is_left_alone(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        await bench.api.settle(r.reservation_id, "0.2")
    assert await bench.costs() == [Decimal("0.2")]


async def test_without_a_matching_budget_the_cost_is_recorded_all_the_same(bench: Bench) -> None:
    async with bench.api.reserve(resource_type="llm", estimate=1) as r:
        assert r.answer.budget_id is None
        await r.settle("0.2")
    assert await bench.costs() == [Decimal("0.2")]


async def test_reserve_does_not_only_look(bench: Bench) -> None:
    with pytest.raises(ValidationError, match="always holds"):
        async with bench.api.reserve(**OPERATION, estimate=1, reserve=False):
            pass
    with pytest.raises(ValidationError, match="key of its own"):
        async with bench.api.reserve(**OPERATION, estimate=1, idempotency_key="k"):
            pass
    with pytest.raises(ValidationError, match="on_unreachable"):
        async with bench.api.reserve(**OPERATION, estimate=1, on_unreachable="maybe"):
            pass
