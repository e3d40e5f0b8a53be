"""A nested block is settled by another thread, at every line of what its enclosing one does."""

from __future__ import annotations

import contextvars
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import fiscus.client
from fiscus import Fiscus
from fiscus.costs.model import CostFlag
from tests.client.apis import BUDGET, OPERATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

OURS: Final = {
    str(Path(fiscus.client.__file__).with_name(name)) for name in ("holds.py", "lending.py")
}
MAX_LINES: Final = 1_000
MEANWHILE_SECONDS: Final = 0.05
"""How long the other thread is waited for: it may be waiting for a lock that is held there."""


@pytest.fixture
def fiscus_(tmp_path: Path) -> Iterator[Fiscus]:
    with Fiscus.open(data_dir=tmp_path, tenant="acme", sqlite_synchronous="OFF") as opened:
        yield opened


class Meanwhile:
    """Runs `act` in another thread at the `at`th line of the blocks' code in this one."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self._left = at
        self._thread = threading.Thread(target=act)
        self.came = False

    def during(self, call: Callable[[], None]) -> None:
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            call()
        finally:
            sys.settrace(before)
            if not self.came:
                self._thread.start()
            self._thread.join(30)
            assert not self._thread.is_alive()

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in OURS else None

    def _line(self, _frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line" and not self.came:
            self._left -= 1
            if self._left < 0:
                self.came = True
                self._thread.start()
                self._thread.join(MEANWHILE_SECONDS)
        return self._line


@pytest.mark.parametrize("ending", ["settle", "release", "leave"])
@pytest.mark.parametrize("estimate", [1, 6], ids=["drawn", "with a hold of its own"])
def test_a_nested_cost_is_charged_once_whenever_it_comes(
    fiscus_: Fiscus, ending: str, estimate: int
) -> None:
    budget_id = fiscus_.create_budget(**BUDGET | {"budget_amount": 10_000}).budget_id
    for at in range(MAX_LINES):
        outer = fiscus_.reserve(**OPERATION, estimate=4)
        outer.__enter__()
        inner = fiscus_.reserve(**OPERATION, estimate=estimate)
        inside = contextvars.copy_context()
        inside.run(inner.__enter__)

        def settle(inner: Any = inner) -> None:
            inner.settle(1, usage={"tokens": 1})
            inner.__exit__(None, None, None)

        meanwhile = Meanwhile(at, lambda inside=inside, settle=settle: inside.run(settle))
        if ending == "leave":
            meanwhile.during(lambda outer=outer: outer.__exit__(None, None, None))
        elif ending == "release":
            meanwhile.during(outer.release)
            outer.__exit__(None, None, None)
        else:
            meanwhile.during(lambda outer=outer: outer.settle(0) and None)
            outer.__exit__(None, None, None)
        period = fiscus_.utilization(budget_id).periods[0]
        assert (period.spent, period.reserved) == (at + 1, 0)
        if not meanwhile.came:
            flags = {flag for one in fiscus_.records(page_size=1000).items for flag in one.flags}
            assert flags <= {CostFlag.UNRESERVED}  # what came too late, by itself
            assert at > 10
            return
    raise AssertionError("it never got through")
