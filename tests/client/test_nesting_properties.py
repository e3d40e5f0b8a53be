"""Whatever is nested in whatever, every settled amount is charged once and nothing stays held."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiscus import BudgetExceeded, Fiscus
from fiscus.costs.model import CostFlag
from fiscus.ids import uuid7
from tests.client.apis import BUDGET, OPERATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fiscus.clock import ManualClock

D = Decimal
ROOM = D(1000)


class Block(NamedTuple):
    """A reserve block to be run: nested blocks first, then its own settle, or none."""

    estimate: Decimal
    nested: list[Block]
    cost: Decimal | None
    fails: bool


class _Failed(Exception):
    pass


amounts = st.integers(0, 40).map(lambda cents: D(cents) / 8)


def _block(nested: st.SearchStrategy[list[Block]]) -> st.SearchStrategy[Block]:
    return st.builds(
        Block, amounts, nested, st.none() | amounts, st.sampled_from([False, False, True])
    )


blocks = st.recursive(
    _block(st.just([])), lambda inner: _block(st.lists(inner, max_size=3)), max_leaves=6
)


def run(fiscus: Fiscus, block: Block) -> Decimal:
    """Run a block; what was settled in it. A refused block settles nothing."""
    settled = D(0)
    try:
        with fiscus.reserve(**OPERATION, estimate=block.estimate) as r:
            for one in block.nested:
                settled += run(fiscus, one)
            if block.cost is not None:
                r.settle(block.cost)
                settled += block.cost
            if block.fails:
                raise _Failed
    except (_Failed, BudgetExceeded):
        pass
    return settled


def _fresh(embedded: tuple[Fiscus, ManualClock], room: Decimal) -> tuple[Fiscus, str]:
    """The engine for a tenant of this example alone, with one budget."""
    fiscus = Fiscus(embedded[0]._backend, f"t-{uuid7()}")
    return fiscus, fiscus.create_budget(**{**BUDGET, "budget_amount": room}).budget_id


same_engine = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@same_engine
@given(block=blocks, room=st.sampled_from([ROOM, D(3)]))
def test_what_is_settled_is_charged_once_and_nothing_stays_held(
    embedded: tuple[Fiscus, ManualClock], block: Block, room: Decimal
) -> None:
    fiscus, budget_id = _fresh(embedded, room)
    settled = run(fiscus, block)
    period = fiscus.utilization(budget_id).periods[0]
    assert (period.spent, period.reserved) == (settled, 0)
    assert sum((one.cost_amount for one in fiscus.records().items), D(0)) == settled


def _fits(block: Block) -> bool:
    """Whether a block's own cost and what its nested blocks estimate fit in its estimate."""
    wanted = (block.cost or D(0)) + sum((one.estimate for one in block.nested), D(0))
    return wanted <= block.estimate and all(_fits(one) for one in block.nested)


@same_engine
@given(block=blocks.filter(_fits))
def test_blocks_that_fit_in_each_other_make_one_record_without_flags(
    embedded: tuple[Fiscus, ManualClock], block: Block
) -> None:
    fiscus, _ = _fresh(embedded, ROOM)
    settled = run(fiscus, block)
    records = fiscus.records().items
    assert len(records) <= 1
    assert sum((one.cost_amount for one in records), D(0)) == settled
    assert all(one.flags == [] for one in records)


@same_engine
@given(block=blocks)
def test_only_flagged_costs_pass_what_was_admitted(
    embedded: tuple[Fiscus, ManualClock], block: Block
) -> None:
    fiscus, budget_id = _fresh(embedded, D(2))
    run(fiscus, block)
    period = fiscus.utilization(budget_id).periods[0]
    flagged = {CostFlag.EXCESS, CostFlag.LATE, CostFlag.UNRESERVED}
    if period.spent > 2:
        assert any(flagged & set(one.flags) for one in fiscus.records().items)


def test_threads_inside_a_block_share_it_exactly(embedded: tuple[Fiscus, ManualClock]) -> None:
    fiscus, budget_id = _fresh(embedded, ROOM)
    together = threading.Barrier(8)

    def step() -> None:
        together.wait(30)
        for _ in range(10):
            with fiscus.reserve(**OPERATION, estimate="0.5") as inner:
                inner.settle("0.125")

    with fiscus.reserve(**OPERATION, estimate=2), ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(contextvars.copy_context().run, step) for _ in range(8)]:
            done.result(60)
    period = fiscus.utilization(budget_id).periods[0]
    assert (period.spent, period.reserved) == (10, 0)


def test_a_bare_thread_is_not_inside_the_block(embedded: tuple[Fiscus, ManualClock]) -> None:
    fiscus, _ = _fresh(embedded, ROOM)

    def step() -> str | None:
        with fiscus.reserve(**OPERATION, estimate=1) as r:
            return r.reservation_id

    with fiscus.reserve(**OPERATION, estimate=1), ThreadPoolExecutor(1) as pool:
        assert pool.submit(step).result(60) is not None


def test_streams_that_take_turns_hold_for_themselves_by_operation_ids_of_their_own(
    embedded: tuple[Fiscus, ManualClock],
) -> None:
    fiscus, budget_id = _fresh(embedded, D(2))

    def stream(number: int) -> Iterator[str]:
        with fiscus.reserve(**OPERATION, operation_id=f"stream-{number}", estimate=1) as r:
            yield "one"
            yield "two"
            r.settle(1)

    streams = [stream(number) for number in range(3)]
    assert [next(streams[0]), next(streams[1])] == ["one", "one"]
    with pytest.raises(BudgetExceeded):
        next(streams[2])
    assert [list(one) for one in streams[:2]] == [["two"], ["two"]]
    period = fiscus.utilization(budget_id).periods[0]
    assert (period.spent, period.reserved) == (2, 0)
    assert all(one.flags == [] for one in fiscus.records().items)
