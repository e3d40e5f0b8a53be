"""Work done tenant by tenant."""

from __future__ import annotations

import pytest

from fiscus.errors import Conflict
from fiscus.runtime.portions import for_each_tenant, to_the_end


def test_one_whose_work_fails_keeps_no_other_waiting() -> None:
    served: list[str] = []

    def work(tenant_id: str) -> int:
        if tenant_id in {"a", "c"}:
            raise Conflict(tenant_id)
        served.append(tenant_id)
        return 1

    with pytest.raises(Conflict, match="a"):
        for_each_tenant(["a", "b", "c", "d"], work, to_the_end, set())
    assert served == ["b", "d"]


def test_one_whose_work_failed_comes_last_the_next_time_until_it_is_done() -> None:
    tried: list[str] = []
    fails, late = {"a"}, set[str]()

    def work(tenant_id: str) -> int:
        tried.append(tenant_id)
        if tenant_id in fails:
            raise Conflict(tenant_id)
        return 1

    for _ in range(2):
        with pytest.raises(Conflict):
            for_each_tenant(["a", "b", "c"], work, to_the_end, late)
    fails.clear()
    for _ in range(2):
        for_each_tenant(["a", "b", "c"], work, to_the_end, late)
    assert "".join(tried) == "abc" + "bca" + "bca" + "abc"


def test_what_was_done_until_it_went_on_no_more_is_told() -> None:
    goes_on = iter([True, True, False])
    assert for_each_tenant(["a", "b", "c"], lambda _: 2, lambda: next(goes_on), set()) == 4
