"""Errors go to other processes and back whole: pools of processes pickle what they raise."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest

import fiscus
from fiscus import BudgetExceeded, Fiscus, FiscusError, QuotaExhausted, Refused, ValidationError
from fiscus.errors import ERROR_BY_CODE, rebuild_error

if TYPE_CHECKING:
    from pathlib import Path

ERRORS = [
    rebuild_error(kind, f"It is {code}", {"field": "tags.team", "left": Decimal("0.5")}, "Wait.", 7)
    for code, kind in ERROR_BY_CODE.items()
]


def both_ways(error: FiscusError) -> FiscusError:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    return again


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_kind_of_error_is_whole_after_a_pickle(error: FiscusError) -> None:
    error.correlation_id = "c-1"
    error.add_note("in the night run")
    again = both_ways(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert vars(copy.copy(error)) == vars(error)


def test_every_public_error_is_among_the_kinds_or_a_base_of_them() -> None:
    public = {getattr(fiscus, name) for name in fiscus.__all__}
    errors = {one for one in public if isinstance(one, type) and issubclass(one, FiscusError)}
    assert errors - set(ERROR_BY_CODE.values()) <= {FiscusError, Refused}


def test_a_bare_error_and_a_bare_refusal_are_whole_after_a_pickle() -> None:
    for error in (FiscusError("no", details={"a": 1}), Refused("no", answer={"allowed": False})):
        assert vars(both_ways(error)) == vars(error)


def test_a_place_is_still_put_before_the_field_of_an_unpickled_error() -> None:
    again = both_ways(ValidationError("wrong", field="amount"))
    assert isinstance(again, ValidationError)
    assert again.within("records[2]").field == "records[2].amount"


def spend_too_much(data_dir: str) -> None:
    with (
        Fiscus.open(data_dir=data_dir, tenant="acme") as opened,
        opened.reserve(resource_type="llm", estimate=2),
    ):
        raise AssertionError("the block ran")


def use_too_much(data_dir: str) -> None:
    with Fiscus.open(data_dir=data_dir, tenant="acme") as opened, opened.quota("gpu_hours", 3):
        raise AssertionError("the block ran")


def test_a_pool_of_processes_answers_refusals_with_their_answers_and_goes_on(
    tmp_path: Path,
) -> None:
    with Fiscus.open(data_dir=tmp_path, tenant="acme") as opened:
        opened.create_budget(
            budget_name="All",
            budget_amount=1,
            period_type="monthly",
            allocated_to_type="tenant",
            allocated_to_id="acme",
        )
        opened.allocate_quota(
            scope_type="tenant",
            scope_id="acme",
            resource_type="gpu_hours",
            allocated_amount=2,
        )
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for _ in range(2):
            with pytest.raises(BudgetExceeded) as spent:
                pool.submit(spend_too_much, str(tmp_path)).result()
            assert spent.value.answer.max_allowed_cost == 1
        with pytest.raises(QuotaExhausted) as used:
            pool.submit(use_too_much, str(tmp_path)).result()
        assert used.value.answer.max_allowed_amount == 2
