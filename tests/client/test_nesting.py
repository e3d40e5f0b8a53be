"""A nested reserve for the same operation draws from the enclosing one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import BudgetExceeded, Client, Conflict, ValidationError
from fiscus.client import holds
from fiscus.costs.model import CostFlag
from tests.client.apis import OPERATION

if TYPE_CHECKING:
    from tests.client.apis import Bench, RunningServer

pytestmark = pytest.mark.anyio

D = Decimal


async def test_a_nested_block_holds_nothing_more(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.6") as inner:
            assert await bench.use(budget) == (0, 1)
            assert inner.reservation_id is None
            assert inner.answer == outer.answer
            first = await inner.settle("0.5")
            assert (first.record_id, first.charged) == (None, 0)
            assert await inner.settle("0.5") == first
            with pytest.raises(Conflict):
                await inner.settle("0.4")
        assert await bench.use(budget) == (0, 1)
        settled = await outer.settle("0.3")
        assert (settled.charged, settled.flags) == (D("0.8"), [])
    assert await bench.use(budget) == (D("0.8"), 0)
    assert await bench.costs() == [D("0.8")]


async def test_nested_costs_are_settled_when_the_enclosing_block_is_left(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1):
        for cost in ("0.1", "0.2"):
            async with bench.api.reserve(**OPERATION, estimate="0.5") as inner:
                await inner.settle(cost)
    assert await bench.use(budget) == (D("0.3"), 0)
    assert await bench.costs() == [D("0.3")]


async def test_nested_costs_are_settled_when_the_enclosing_block_fails(bench: Bench) -> None:
    async def fail_after_a_nested_cost() -> None:
        async with bench.api.reserve(**OPERATION, estimate=1):
            async with bench.api.reserve(**OPERATION, estimate="0.5") as inner:
                await inner.settle("0.2")
            raise LookupError

    with pytest.raises(LookupError):
        await fail_after_a_nested_cost()
    assert await bench.costs() == [D("0.2")]


async def test_a_nested_block_left_without_settling_gives_back_what_it_drew(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1):
        for _ in range(3):
            async with bench.api.reserve(**OPERATION, estimate=1) as inner:
                assert inner.reservation_id is None


async def test_only_the_missing_part_is_held_besides_and_spent_first(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate="0.5") as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.7") as inner:
            assert await bench.use(budget) == (0, D("0.7"))
            extra = await inner.settle("0.6")
            assert (extra.charged, extra.flags) == (D("0.2"), [])
        assert await bench.use(budget) == (D("0.2"), D("0.5"))
        settled = await outer.settle("0.1")
        assert (settled.charged, settled.flags) == (D("0.5"), [])
    assert await bench.use(budget) == (D("0.7"), 0)
    assert await bench.costs() == [D("0.5"), D("0.2")]


async def test_what_a_nested_block_spends_more_than_all_its_holds_is_flagged(bench: Bench) -> None:
    async with (
        bench.api.reserve(**OPERATION, estimate="0.5"),
        bench.api.reserve(**OPERATION, estimate="0.7") as inner,
    ):
        extra = await inner.settle("0.9")
        assert (extra.charged, extra.flags) == (D("0.4"), [CostFlag.EXCESS])
    assert await bench.costs() == [D("0.5"), D("0.4")]


async def test_costs_within_their_holds_pass_no_budget_whatever_others_reserve_meanwhile(
    bench: Bench,
) -> None:
    budget = await bench.budget(budget_amount=3, allocated_to_type="project", allocated_to_id="*")
    async with bench.api.reserve(**OPERATION, estimate=1) as run:
        async with bench.api.reserve(**OPERATION, estimate=3) as step:
            await step.settle(2)
        with pytest.raises(BudgetExceeded):
            async with bench.api.reserve(**OPERATION, user="ada", estimate="0.1"):
                pass
        settled = await run.settle("0.5")
        assert settled.flags == []
    assert (await bench.api.utilization(budget.budget_id, scope_id="search")).periods[0].spent == D(
        "2.5"
    )


async def test_a_missing_part_that_was_not_needed_is_given_back(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate="0.5"):
        async with bench.api.reserve(**OPERATION, estimate="0.7") as inner:
            assert (await inner.settle("0.1")).charged == D("0.1")
        assert await bench.use(budget) == (D("0.1"), D("0.5"))
        async with bench.api.reserve(**OPERATION, estimate="0.7") as inner:
            assert (await inner.settle(0)).record_id is None
        assert await bench.use(budget) == (D("0.1"), D("0.5"))
    assert await bench.costs() == [D("0.1")]


async def test_a_missing_part_that_does_not_fit_refuses_the_nested_block(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate="0.9"):
        with pytest.raises(BudgetExceeded) as raised:
            async with bench.api.reserve(**OPERATION, estimate="1.5"):
                pass
        assert raised.value.answer.max_allowed_cost == D("0.1")
        assert await bench.use(budget) == (0, D("0.9"))
        async with bench.api.reserve(**OPERATION, estimate="0.9") as inner:
            assert inner.reservation_id is None
    assert await bench.use(budget) == (0, 0)


async def test_what_a_settled_block_did_not_need_is_there_at_once(bench: Bench) -> None:
    async with (
        bench.api.reserve(**OPERATION, estimate=1),
        bench.api.reserve(**OPERATION, estimate=1) as first,
    ):
        await first.settle("0.25")
        async with bench.api.reserve(**OPERATION, estimate="0.75") as second:
            assert second.reservation_id is None


async def test_siblings_share_what_is_left(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate="0.5"):
        async with bench.api.reserve(**OPERATION, estimate="0.3") as first:
            await first.settle("0.3")
        async with bench.api.reserve(**OPERATION, estimate="0.3"):
            assert await bench.use(budget) == (0, D("0.6"))
    assert await bench.use(budget) == (D("0.3"), 0)


async def test_blocks_nest_to_any_depth(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as one:
        async with bench.api.reserve(**OPERATION, estimate="0.8") as two:
            async with bench.api.reserve(**OPERATION, estimate="0.5") as three:
                await three.settle("0.25")
            await two.settle("0.25")
        await one.settle("0.125")
    assert await bench.costs() == [D("0.625")]


async def test_an_operation_id_makes_the_same_operation_and_one_record(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate="0.5", operation_id="op-1") as outer:
        async with bench.api.reserve(
            user="u-9", resource_type="gpu", estimate="0.2", operation_id="op-1"
        ) as inner:
            assert inner.reservation_id is None
            await inner.settle("0.1")
        async with bench.api.reserve(**OPERATION, estimate="0.2") as unnamed:
            await unnamed.settle("0.1")
        async with bench.api.reserve(**OPERATION, estimate="0.9", operation_id="op-1") as more:
            await more.settle("0.8")
        await outer.settle("0.1")
    [named] = (await bench.api.records(operation_id="op-1")).items
    assert sum(await bench.costs()) == D("1.1")
    assert named.cost_amount == D("0.5")


@pytest.mark.parametrize(
    "other",
    [
        {"project": "other", "resource_type": "llm"},
        {"project": "search", "resource_type": "gpu"},
        {"project": "search", "resource_type": "llm", "user": "u-1"},
        {"project": "search", "resource_type": "llm", "currency": "EUR"},
        {"project": "search", "resource_type": "llm", "service_name": "s"},
        {"project": "search", "resource_type": "llm", "tags": {"team": "a"}},
        {"project": "search", "resource_type": "llm", "operation_id": "op-2"},
        {"project": "search", "resource_type": "llm", "tenant": "another"},
    ],
)
async def test_another_operation_has_a_hold_of_its_own(bench: Bench, other: dict[str, str]) -> None:
    async with (
        bench.api.reserve(**OPERATION, estimate=1),
        bench.api.reserve(**other, estimate="0.1") as inner,
    ):
        assert inner.reservation_id is not None


async def test_the_short_form_of_a_scope_is_the_same_operation(bench: Bench) -> None:
    short = {"allocated_to_type": "project", "allocated_to_id": "search", "resource_type": "llm"}
    async with (
        bench.api.reserve(**OPERATION, tags={"team": "a"}, service_name="s", estimate=1),
        bench.api.reserve(**short, estimate="0.1", tags={"team": "a"}) as inner,
    ):
        assert inner.reservation_id is None


async def test_an_operation_between_hides_nothing(bench: Bench) -> None:
    async with (
        bench.api.reserve(**OPERATION, estimate=1),
        bench.api.reserve(project="other", resource_type="llm", estimate=1),
        bench.api.reserve(**OPERATION, estimate="0.1") as inner,
    ):
        assert inner.reservation_id is None


async def test_a_settled_block_lends_nothing_more(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        await outer.settle("0.5")
        async with bench.api.reserve(**OPERATION, estimate="0.1") as inner:
            assert inner.reservation_id is not None
            await inner.settle("0.1")
    assert await bench.costs() == [D("0.1"), D("0.5")]


async def test_what_follows_a_block_is_not_inside_it(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1):
        pass
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        assert r.reservation_id is not None


async def test_a_cost_settled_after_its_enclosing_block_is_recorded_by_itself(
    bench: Bench,
) -> None:
    budget = await bench.budget()
    outer = bench.api.reserve(**OPERATION, estimate=1)
    async with outer as entered:
        inner = bench.api.reserve(**OPERATION, estimate="0.5")
        nested = await inner.__aenter__()
        await entered.settle("0.2")
    recorded = await nested.settle("0.3")
    assert recorded.flags == [CostFlag.UNRESERVED]
    await inner.__aexit__(None, None, None)
    assert sorted(await bench.costs()) == [D("0.2"), D("0.3")]
    assert await bench.use(budget) == (D("0.5"), 0)


async def test_usage_of_nested_blocks_adds_up(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        for tokens in (100, 20):
            async with bench.api.reserve(**OPERATION, estimate="0.1") as inner:
                await inner.settle(
                    "0.1",
                    usage={"tokens": tokens, "by": {"model": 1}, "note": "a"},
                    usage_quantity=tokens,
                    usage_unit="tokens",
                    tags={"step": "retrieve"},
                    region="eu",
                )
        await outer.settle(
            0, usage={"tokens": 3}, usage_quantity=1, usage_unit="tokens", tags={"model": "m"}
        )
    [record] = (await bench.api.records()).items
    assert record.usage == {"tokens": 123, "by": {"model": 2}, "note": "a"}
    assert (record.usage_quantity, record.usage_unit) == (121, "tokens")
    assert record.tags == {"step": "retrieve", "model": "m"}
    assert record.region == "eu"


@pytest.mark.parametrize(("enclosing", "recorded"), [(None, 2), (1, 1)])
async def test_the_one_record_has_the_enclosing_blocks_time_or_the_last_nested_one(
    bench: Bench, enclosing: int | None, recorded: int
) -> None:
    def days_ago(number: int | None) -> datetime | None:
        return None if number is None else bench.clock.now() - timedelta(days=number)

    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        for days in (3, 2, None):
            async with bench.api.reserve(**OPERATION, estimate="0.25") as inner:
                await inner.settle("0.25", timestamp=days_ago(days))
        async with bench.api.reserve(**OPERATION, operation_id="own", estimate="0.25") as apart:
            await apart.settle("0.25", timestamp=days_ago(40))
        await outer.settle("0.25", timestamp=days_ago(enclosing))
    times = {one.cost_amount: one.timestamp for one in (await bench.api.records()).items}
    assert times == {D(1): days_ago(recorded), D("0.25"): days_ago(40)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"usage_quantity": -5, "usage_unit": "tokens"},
        # years off by the real clock, which is the one that a client has
        {"timestamp": datetime.now(UTC) + timedelta(days=4000)},
        {"timestamp": datetime.now(UTC) - timedelta(days=366 * 31)},
    ],
    ids=["negative", "ahead", "long ago"],
)
async def test_a_nested_settle_refuses_what_no_record_can_hold(
    bench: Bench, wrong: dict[str, Any]
) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.5") as inner:
            with pytest.raises(ValidationError) as raised:
                await inner.settle("0.25", **wrong)
            assert raised.value.field in wrong
            await inner.settle("0.25")
        await outer.settle("0.5")
    assert await bench.costs() == [D("0.75")]


async def test_of_more_tags_than_a_record_has_the_enclosing_blocks_own_are_kept(
    bench: Bench,
) -> None:
    budget = await bench.budget()
    checked = {f"checked-{number}": "x" for number in range(5)}
    async with bench.api.reserve(**OPERATION, estimate=1, tags=checked) as outer:
        for number in range(60):
            async with bench.api.reserve(**OPERATION, estimate="0.01") as inner:
                await inner.settle("0.01", tags={f"step-{number}": "x", "model": "small"})
        await outer.settle("0.125", tags={"model": "large"})
    [record] = (await bench.api.records()).items
    assert record.tags["model"] == "large"
    assert record.tags.items() >= checked.items()
    assert len(record.tags) == 50
    assert await bench.use(budget) == (D("0.725"), 0)


async def test_sums_that_are_too_large_lose_no_cost(bench: Bench) -> None:
    huge = {"usage": {"n": D("9e999999")}, "usage_quantity": D("9e25"), "usage_unit": "bytes"}
    async with bench.api.reserve(**OPERATION, estimate=1):
        for _ in range(2):
            async with bench.api.reserve(**OPERATION, estimate="0.25") as inner:
                await inner.settle("0.25", **huge)
    [record] = (await bench.api.records()).items
    assert (record.cost_amount, record.usage_quantity) == (D("0.5"), D("9e25"))
    assert record.usage["bytes"] == D("9e25")


async def test_nested_costs_whose_sum_is_no_amount_are_recorded_one_by_one(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1):
        for _ in range(2):
            async with bench.api.reserve(**OPERATION, estimate=0) as inner:
                await inner.settle(D("9e25"))
    assert await bench.costs() == [D("9e25"), D("9e25")]


async def test_nested_details_that_cannot_be_recorded_are_left_out_and_said_and_the_cost_is_not(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.5") as inner:
            # by the clock here it is true, but that of the engine stands in the past
            await inner.settle("0.25", timestamp=datetime.now(UTC), region="eu")
        settled = await outer.settle("0.5", usage={"tokens": 3})
        assert settled.charged == D("0.75")
    assert await bench.use(budget) == (D("0.75"), 0)
    [record] = (await bench.api.records()).items
    assert (record.usage, record.region) == ({"tokens": 3}, None)
    assert "details of nested operations are not recorded: timestamp" in caplog.text


async def test_a_refused_settle_leaves_the_block_open(bench: Bench) -> None:
    ahead = bench.clock.now() + timedelta(days=3)
    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        with pytest.raises(ValidationError, match="timestamp"):
            await outer.settle("0.25", timestamp=ahead)
        async with bench.api.reserve(**OPERATION, estimate="0.5") as inner:
            assert inner.reservation_id is None
            await inner.settle("0.25")
        assert (await outer.settle("0.5")).charged == D("0.75")
    assert await bench.costs() == [D("0.75")]


async def test_a_refused_settle_is_not_made_again_when_the_block_is_left(bench: Bench) -> None:
    budget = await bench.budget()
    ahead = bench.clock.now() + timedelta(days=3)
    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        with pytest.raises(ValidationError, match="timestamp"):
            await outer.settle("0.25", timestamp=ahead)
    assert await bench.use(budget) == (0, 0)
    assert await bench.costs() == []


async def test_a_cost_in_two_records_is_charged_as_their_sum(bench: Bench) -> None:
    outer = bench.api.reserve(**OPERATION, estimate="0.5")
    async with outer as entered:
        inner = bench.api.reserve(**OPERATION, estimate="0.75")
        nested = await inner.__aenter__()
        await entered.settle(0)
        assert (await nested.settle("0.625")).charged == D("0.625")
        await inner.__aexit__(None, None, None)
    assert sorted(await bench.costs()) == [0, D("0.25"), D("0.375")]


async def test_a_hold_that_has_expired_lends_nothing_until_it_is_extended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0
    monkeypatch.setattr(holds, "monotonic", lambda: seconds)
    async with bench.api.reserve(**OPERATION, estimate=1, ttl_seconds=60) as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.5") as middle:
            seconds = 59.0
            async with bench.api.reserve(**OPERATION, estimate="0.25") as inner:
                assert inner.reservation_id is None
            seconds = 60.0
            async with bench.api.reserve(**OPERATION, estimate="0.25") as inner:
                assert inner.reservation_id is not None  # the middle one holds nothing itself
                await inner.settle("0.25")
            await middle.extend(30)
            seconds = 89.0
            async with bench.api.reserve(**OPERATION, estimate="0.25") as inner:
                assert inner.reservation_id is None
        await outer.settle("0.5")
    assert sorted(await bench.costs()) == [D("0.25"), D("0.5")]


def test_a_block_of_another_client_holds_for_itself(server: RunningServer, tenant: str) -> None:
    with (
        Client(server.url, server.key, tenant=tenant) as one,
        Client(server.url, server.key, tenant=tenant) as other,
        one.reserve(**OPERATION, estimate=1) as outer,
    ):
        with other.reserve(**OPERATION, estimate="0.5") as inner:
            assert inner.reservation_id is not None
            inner.settle("0.25")
        assert outer.settle("0.5").charged == D("0.5")


async def test_a_nested_cost_in_another_currency_is_a_record_of_its_own(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1, operation_id="op-1") as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.5") as inner:
            async with bench.api.reserve(**OPERATION, estimate="0.25") as innermost:
                await innermost.settle("0.125")
            apart = await inner.settle("0.3", currency="EUR", usage={"tokens": 3})
            assert await inner.settle("0.3", currency="EUR", usage={"tokens": 3}) == apart
        assert (apart.charged, apart.currency) == (D("0.3"), "EUR")
        assert apart.flags == [CostFlag.UNRESERVED]
        async with bench.api.reserve(**OPERATION, estimate="0.875") as after:
            assert after.reservation_id is None  # nothing of it was taken from what is held
        settled = await outer.settle("0.25")
        assert settled.charged == D("0.375")
    whole, own = (await bench.api.records()).items
    assert (whole.cost_amount, whole.currency, whole.operation_id) == (D("0.375"), "USD", "op-1")
    assert (own.cost_amount, own.currency, own.operation_id) == (D("0.3"), "EUR", None)
    assert (own.record_id, own.usage) == (apart.record_id, {"tokens": 3})
    spent, reserved = await bench.use(budget)
    assert reserved == 0
    assert spent == settled.charged + apart.budgets[0].charged


async def test_a_nested_cost_in_another_currency_is_spent_of_the_blocks_own_hold(
    bench: Bench,
) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate="0.125"):
        async with bench.api.reserve(**OPERATION, estimate="0.875") as inner:
            apart = await inner.settle("0.25", currency="EUR")
        assert apart.flags == []
        assert await bench.use(budget) == (apart.budgets[0].charged, D("0.125"))
    assert await bench.costs() == [D("0.25")]


async def test_a_nested_cost_in_another_currency_needs_no_enclosing_block(bench: Bench) -> None:
    outer = bench.api.reserve(**OPERATION, estimate=1)
    async with outer as entered:
        inner = bench.api.reserve(**OPERATION, estimate="0.5")
        nested = await inner.__aenter__()
        async with bench.api.reserve(**OPERATION, estimate="0.25") as innermost:
            await innermost.settle("0.125")
        await entered.settle("0.25")
    assert (await nested.settle("0.3", currency="EUR")).currency == "EUR"
    await inner.__aexit__(None, None, None)
    assert sorted(await bench.costs()) == [D("0.125"), D("0.25"), D("0.3")]


async def test_an_enclosing_cost_in_another_currency_leaves_the_nested_ones_to_another_record(
    bench: Bench,
) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1, operation_id="op-1") as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.5") as inner:
            await inner.settle("0.125", usage={"tokens": 3})
        own = await outer.settle("0.25", currency="EUR")
        assert (own.charged, own.currency, own.flags) == (D("0.25"), "EUR", [])
    nested, first = (await bench.api.records()).items
    assert (first.record_id, first.operation_id) == (own.record_id, "op-1")
    assert (nested.cost_amount, nested.currency, nested.usage) == (D("0.125"), "USD", {"tokens": 3})
    assert await bench.use(budget) == (own.budgets[0].charged + D("0.125"), 0)


async def test_the_same_operation_id_is_in_one_currency(bench: Bench) -> None:
    async with bench.api.reserve(**OPERATION, estimate=1, operation_id="op-1"):
        with pytest.raises(ValidationError, match="another currency"):
            async with bench.api.reserve(
                **OPERATION, estimate=1, operation_id="op-1", currency="EUR"
            ):
                pass


async def test_a_task_that_outlives_the_block_it_was_started_in_holds_for_itself(
    bench: Bench,
) -> None:
    async def later() -> str | None:
        async with bench.api.reserve(**OPERATION, estimate="0.5") as r:
            return r.reservation_id

    async with bench.api.reserve(**OPERATION, estimate=1):
        task = asyncio.create_task(later())
    assert await task is not None


async def test_releasing_the_enclosing_block_settles_what_nested_ones_spent(bench: Bench) -> None:
    budget = await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1) as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.1") as inner:
            await inner.settle("0.1")
        await outer.release()
        assert await bench.use(budget) == (D("0.1"), 0)


async def test_extending_a_nested_block_extends_what_it_draws_from(bench: Bench) -> None:
    await bench.budget()
    async with bench.api.reserve(**OPERATION, estimate=1, ttl_seconds=10) as outer:
        async with bench.api.reserve(**OPERATION, estimate="0.1") as inner:
            await inner.extend(3600)
        bench.clock.advance(seconds=11)
        assert (await outer.settle(1)).flags == []


@pytest.mark.parametrize("over", ["expired", "settled"])
async def test_extending_a_nested_block_that_draws_nothing_extends_its_own_hold_alone(
    bench: Bench, over: str
) -> None:
    async with bench.api.reserve(**OPERATION, estimate=0, ttl_seconds=60) as outer:
        if over == "expired":
            bench.clock.advance(seconds=60)
        async with bench.api.reserve(**OPERATION, estimate="0.25", ttl_seconds=10) as inner:
            if over == "settled":
                await outer.settle("0.125")
            await inner.extend(3600)
            bench.clock.advance(seconds=11)
            assert (await inner.settle("0.25")).flags == []


async def test_tasks_inside_a_block_draw_from_it(bench: Bench) -> None:
    budget = await bench.budget()

    async def step(cost: str) -> None:
        async with bench.api.reserve(**OPERATION, estimate="0.25") as inner:
            await asyncio.sleep(0)
            await inner.settle(cost)

    async with bench.api.reserve(**OPERATION, estimate=1):
        await asyncio.gather(*(step("0.125") for _ in range(4)))
        assert await bench.use(budget) == (0, 1)
    assert await bench.costs() == [D("0.5")]


async def test_of_two_settles_at_once_with_different_amounts_one_is_charged(bench: Bench) -> None:
    async with (
        bench.api.reserve(**OPERATION, estimate=1),
        bench.api.reserve(**OPERATION, estimate="0.1") as inner,
    ):
        answers = await asyncio.gather(
            inner.settle("0.04"), inner.settle("0.05"), return_exceptions=True
        )
    assert [type(one).__name__ for one in answers] == ["Settlement", "Conflict"]
    assert await bench.costs() == [D("0.04")]


async def test_two_settles_at_once_with_one_amount_are_charged_once(bench: Bench) -> None:
    async with (
        bench.api.reserve(**OPERATION, estimate="0.5"),
        bench.api.reserve(**OPERATION, estimate="0.7") as inner,
    ):
        first, second = await asyncio.gather(inner.settle("0.6"), inner.settle("0.6"))
    assert first == second
    assert await bench.costs() == [D("0.4"), D("0.2")]
