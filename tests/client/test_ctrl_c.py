"""Ctrl-C at every call in Fiscus's own client code: nothing stays held, no cost is lost.

Python raises `KeyboardInterrupt` where a function begins or one written in C has returned. Here it
is raised at one such place after the other, until a run gets through without having met it.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import fiscus.client
from fiscus import Client, Fiscus
from tests.client.apis import BUDGET, OPERATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fiscus.client.blocking.api import BlockingApi
    from tests.client.apis import RunningServer

# where it comes before the first step of a call, that step is never made
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

OURS: Final = str(Path(fiscus.client.__file__).parent)
EMBEDDED: Final = str(Path(fiscus.__file__).with_name("embedded"))
MAX_PLACES: Final = 1_000


class CtrlC:
    """Raises `KeyboardInterrupt` once, at the `at`th place from `watching` on."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.came = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        sys.setprofile(self._passed)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _passed(self, frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if self.came or event not in {"call", "c_return"}:
            return
        if not code.co_filename.startswith((OURS, EMBEDDED)):
            return
        caller = None if frame.f_back is None else frame.f_back.f_code.co_name
        if event == "call" and caller in {None, "run", "watched"}:
            return  # before its first line, what was called can do nothing about it
        self.left -= 1
        if self.left < 0:
            self.came = True
            raise KeyboardInterrupt


def at_every_place(run: Callable[[CtrlC], None]) -> int:
    """Run until Ctrl-C comes too late; how many places it came at."""
    for at in range(MAX_PLACES):
        ctrl_c = CtrlC(at)
        try:
            run(ctrl_c)
        except KeyboardInterrupt:
            assert ctrl_c.came
        else:
            assert not ctrl_c.came, "the interruption was swallowed"
            return at
    raise AssertionError("it never got through")


@pytest.fixture(params=["embedded", "http"])
def api(
    request: pytest.FixtureRequest, server: RunningServer, tenant: str, tmp_path: Path
) -> Iterator[BlockingApi]:
    opened: BlockingApi
    if request.param == "http":
        opened = Client(server.url, server.key, tenant=tenant)
    else:
        opened = Fiscus.open(data_dir=tmp_path, tenant=tenant, sqlite_synchronous="OFF")
    with opened:
        yield opened


@pytest.fixture
def budget_id(api: BlockingApi) -> str:
    return api.create_budget(**BUDGET | {"budget_amount": 10_000}).budget_id


def use(api: BlockingApi, budget_id: str) -> tuple[Decimal, Decimal]:
    """What is spent and what is held."""
    now = api.utilization(budget_id).periods[0]
    return now.spent, now.reserved


def test_ctrl_c_while_a_block_gives_back_leaves_nothing_held(
    api: BlockingApi, budget_id: str
) -> None:
    def run(ctrl_c: CtrlC) -> None:
        block = api.reserve(**OPERATION, estimate=1)
        block.__enter__()
        try:
            with ctrl_c.watching():
                block.__exit__(None, None, None)
        finally:
            assert use(api, budget_id) == (0, 0)

    assert at_every_place(run) > 5


def test_ctrl_c_while_a_block_is_entered_leaves_nothing_held(
    api: BlockingApi, budget_id: str
) -> None:
    def run(ctrl_c: CtrlC) -> None:
        block = api.reserve(**OPERATION, estimate=1)
        try:
            with ctrl_c.watching():
                block.__enter__()
        except KeyboardInterrupt:
            assert use(api, budget_id) == (0, 0)
            raise
        assert use(api, budget_id) == (0, 1)
        block.__exit__(None, None, None)

    assert at_every_place(run) > 5


def test_ctrl_c_while_a_nested_block_is_left_settles_what_the_blocks_did_cost(
    api: BlockingApi, budget_id: str
) -> None:
    runs = 0

    def run(ctrl_c: CtrlC) -> None:
        nonlocal runs
        runs += 1
        try:
            with api.reserve(**OPERATION, estimate=2):
                with api.reserve(**OPERATION, estimate=1) as inner:
                    inner.settle("0.25")
                block = api.reserve(**OPERATION, estimate=4)
                block.__enter__()
                with ctrl_c.watching():
                    block.__exit__(None, None, None)
        finally:
            assert use(api, budget_id) == (runs * Decimal("0.25"), 0)

    assert at_every_place(run) > 5


def nest(api: BlockingApi, budget_id: str, watched: Callable[[Any, CtrlC], None]) -> None:
    """Run `watched` at every place in an enclosing block that has used 1: each time 2 is spent."""
    runs = 0

    def run(ctrl_c: CtrlC) -> None:
        nonlocal runs
        runs += 1
        try:
            with api.reserve(**OPERATION, estimate=4) as outer:
                with api.reserve(**OPERATION, estimate=1) as inner:
                    inner.settle(1, usage={"tokens": 1}, usage_quantity=1, usage_unit="pages")
                watched(outer, ctrl_c)
        finally:
            assert use(api, budget_id) == (runs * 2, 0)

    assert at_every_place(run) > 5


DETAILS: Final = {"usage": {"tokens": 2}, "usage_quantity": 3, "usage_unit": "tokens"}


@pytest.mark.parametrize("estimate", [2, 5])
def test_ctrl_c_while_a_nested_cost_is_joined_charges_it_once(
    api: BlockingApi, budget_id: str, estimate: int
) -> None:
    def watched(_outer: Any, ctrl_c: CtrlC) -> None:
        with api.reserve(**OPERATION, estimate=estimate) as block, ctrl_c.watching():
            block.settle(1, **DETAILS)

    nest(api, budget_id, watched)


def test_ctrl_c_while_the_enclosing_block_settles_loses_no_nested_cost(
    api: BlockingApi, budget_id: str
) -> None:
    def watched(outer: Any, ctrl_c: CtrlC) -> None:
        with ctrl_c.watching():
            outer.settle(1, **DETAILS)

    nest(api, budget_id, watched)


def test_ctrl_c_while_the_enclosing_block_is_released_loses_no_nested_cost(
    api: BlockingApi, budget_id: str
) -> None:
    def watched(outer: Any, ctrl_c: CtrlC) -> None:
        with api.reserve(**OPERATION, estimate=1) as inner:
            inner.settle(1)
        with ctrl_c.watching():
            outer.release()

    nest(api, budget_id, watched)


def test_ctrl_c_while_a_block_in_a_block_is_left_loses_no_nested_cost(
    api: BlockingApi, budget_id: str
) -> None:
    def watched(_outer: Any, ctrl_c: CtrlC) -> None:
        middle = api.reserve(**OPERATION, estimate=2)
        middle.__enter__()
        with api.reserve(**OPERATION, estimate=1) as inner:
            inner.settle(1, **DETAILS)
        with ctrl_c.watching():
            middle.__exit__(None, None, None)

    nest(api, budget_id, watched)


def test_ctrl_c_while_the_enclosing_block_is_left_loses_no_nested_cost(
    api: BlockingApi, budget_id: str
) -> None:
    runs = 0

    def run(ctrl_c: CtrlC) -> None:
        nonlocal runs
        runs += 1
        outer = api.reserve(**OPERATION, estimate=2)
        outer.__enter__()
        with api.reserve(**OPERATION, estimate=1) as inner:
            inner.settle(1)
        try:
            with ctrl_c.watching():
                outer.__exit__(None, None, None)
        finally:
            assert use(api, budget_id) == (runs, 0)

    assert at_every_place(run) > 5


def test_ctrl_c_while_a_nested_block_is_entered_leaves_nothing_drawn(
    api: BlockingApi, budget_id: str
) -> None:
    def run(ctrl_c: CtrlC) -> None:
        with api.reserve(**OPERATION, estimate=2):
            block = api.reserve(**OPERATION, estimate=2)
            try:
                with ctrl_c.watching():
                    block.__enter__()
                block.__exit__(None, None, None)
            finally:
                with api.reserve(**OPERATION, estimate=2) as all_of_it:
                    assert all_of_it.reservation_id is None

    assert at_every_place(run) > 5
    assert use(api, budget_id) == (0, 0)


def test_ctrl_c_while_it_is_settled_does_not_lose_the_cost(
    api: BlockingApi, budget_id: str
) -> None:
    settled = 0

    def run(ctrl_c: CtrlC) -> None:
        nonlocal settled
        try:
            with api.reserve(**OPERATION, estimate=1) as block, ctrl_c.watching():
                block.settle("0.25")
        finally:
            settled += 1
            assert use(api, budget_id) == (settled * Decimal("0.25"), 0)

    assert at_every_place(run) > 5


def test_ctrl_c_while_an_amount_of_a_quota_is_taken_leaves_nothing_taken(api: BlockingApi) -> None:
    quota_id = api.allocate_quota(
        scope_type="project", scope_id="search", resource_type="gpu_hours", allocated_amount=100
    ).quota_id

    def run(ctrl_c: CtrlC) -> None:
        block = api.quota("gpu_hours", 1, project="search", give_back_on_error=True)
        try:
            with ctrl_c.watching():
                block.__enter__()
        except KeyboardInterrupt:
            assert api.get_quota(quota_id).remaining_amount == 100
            raise
        failed = LookupError("the block's")
        block.__exit__(type(failed), failed, None)
        assert api.get_quota(quota_id).remaining_amount == 100

    assert at_every_place(run) > 5


def test_ctrl_c_while_a_failed_block_gives_its_amount_back_leaves_nothing_taken(
    api: BlockingApi,
) -> None:
    quota_id = api.allocate_quota(
        scope_type="project", scope_id="search", resource_type="gpu_hours", allocated_amount=100
    ).quota_id

    def run(ctrl_c: CtrlC) -> None:
        block = api.quota("gpu_hours", 1, project="search", give_back_on_error=True)
        block.__enter__()
        failed = LookupError("the block's")
        try:
            with ctrl_c.watching():
                block.__exit__(type(failed), failed, None)
        finally:
            assert api.get_quota(quota_id).remaining_amount == 100

    assert at_every_place(run) > 5
