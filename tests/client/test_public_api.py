"""What `import fiscus` offers is exact, typed, described, and costs nothing until it is used."""

from __future__ import annotations

import inspect
import json
import sqlite3
import subprocess
import sys
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

import fiscus
from fiscus import AsyncClient, Client, Fiscus, ValidationError, to_json
from fiscus.client.asynchronous.api import AsyncApi
from fiscus.client.blocking.api import BlockingApi
from tests.client.apis import BUDGET, OPERATION

if TYPE_CHECKING:
    from pathlib import Path

CALLS = {
    "adjust_rate_limit", "allocate_quota", "budgets", "check", "check_batch", "check_quota",
    "check_quotas", "check_rate_limit", "check_rate_limits", "close", "create_budget",
    "create_rate_limit", "delete_budget", "delete_quota", "delete_rate_limit", "distribute_quota",
    "extend", "get_budget", "get_quota", "get_rate_limit",
    "get_tenant", "health", "put_tenant", "quota", "quota_history", "quotas", "rate_limits",
    "record", "record_batch", "records", "release", "release_consumption", "report", "reserve",
    "reset_rate_limit", "settle", "update_budget", "update_quota", "update_rate_limit",
    "utilization",
}  # fmt: skip


def _calls(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_every_public_name_can_be_had_and_no_other() -> None:
    for name in fiscus.__all__:
        assert getattr(fiscus, name).__doc__
    assert fiscus.__version__ == version("fiscus")
    assert set(fiscus.__all__) <= set(dir(fiscus))
    with pytest.raises(AttributeError, match="no attribute 'reservee'"):
        _ = fiscus.reservee


def test_what_is_answered_can_be_handed_on_as_json(tmp_path: Path) -> None:
    with Fiscus.open(data_dir=tmp_path) as here:
        budget = here.create_budget(**BUDGET, thresholds=["0.8"])
        answer = here.check(**OPERATION, estimate="0.25")
        report = here.report(group_by=["project"])
    told = [json.loads(to_json(one), parse_float=Decimal) for one in (budget, answer, report)]
    assert told[0]["thresholds"] == [Decimal("0.8")]
    assert told[1]["budgets"][0]["reserved"] == Decimal("0.25")
    assert told[2]["groups"] == []


def test_importing_the_clients_loads_no_engine_and_no_web_framework() -> None:
    script = "import fiscus, sys; fiscus.Client, fiscus.AsyncClient; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"fastapi", "starlette", "sqlalchemy", "psycopg", "pydantic", "typer"})


def test_all_three_forms_have_the_same_calls() -> None:
    blocking, asynchronous = _calls(BlockingApi), _calls(AsyncApi)
    assert set(blocking) == set(asynchronous) == CALLS
    for name, signature in blocking.items():
        assert asynchronous[name].parameters == signature.parameters
        if name not in {"reserve", "quota"}:
            assert asynchronous[name].return_annotation == signature.return_annotation
    assert issubclass(Fiscus, BlockingApi)
    assert issubclass(Client, BlockingApi)
    assert issubclass(AsyncClient, AsyncApi)


def test_every_call_is_described_with_an_example() -> None:
    for name in CALLS - {"close"}:
        assert ">>> " in (getattr(BlockingApi, name).__doc__ or ""), name


def test_the_module_reserves_with_what_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="nothing to reserve with"):
        fiscus.reserve(**OPERATION, estimate=1)
    with Fiscus.open(data_dir=tmp_path, tenant="acme") as engine:
        budget = engine.create_budget(**BUDGET)
        fiscus.use(engine)
        try:
            with fiscus.reserve(**OPERATION, estimate="0.5") as r:
                r.settle("0.25")
        finally:
            fiscus.use(None)
        assert str(engine.utilization(budget.budget_id).periods[0].spent) == "0.25"


def test_the_module_takes_quotas_with_what_it_was_given(tmp_path: Path) -> None:
    @fiscus.quota("reports", 1)  # before `use`
    def report() -> str:
        return "done"

    with pytest.raises(ValidationError, match="nothing to take with"):
        report()
    with Fiscus.open(data_dir=tmp_path, tenant="acme") as engine:
        quota = engine.allocate_quota(
            scope_type="tenant", scope_id="acme", resource_type="reports", allocated_amount=9
        )
        fiscus.use(engine)
        try:
            assert report() == "done"
            with fiscus.quota("reports", 2.5) as taken:
                taken.release(0.5)
        finally:
            fiscus.use(None)
        assert engine.get_quota(quota.quota_id).used_amount == 3


def test_a_block_is_entered_once_and_used_inside(tmp_path: Path) -> None:
    with Fiscus.open(data_dir=tmp_path, tenant="acme") as engine:
        budget = engine.create_budget(**BUDGET)
        block = engine.reserve(**OPERATION, estimate=1)
        for use in (lambda: block.settle(1), block.release, lambda: block.extend(60)):
            with pytest.raises(RuntimeError, match="before its block"):
                use()
        with block:
            assert engine.utilization(budget.budget_id).periods[0].reserved == 1
        # what was tried before does not keep it from giving back
        assert engine.utilization(budget.budget_id).periods[0].reserved == 0
        with pytest.raises(RuntimeError, match="entered once"), block:
            pass
        assert not engine.records().items


def test_a_decision_without_the_store_holds_nothing_and_is_recorded_later(tmp_path: Path) -> None:
    with Fiscus.open(data_dir=tmp_path, tenant="acme", ledger_deadline_seconds=60) as engine:
        engine.create_budget(**BUDGET, on_store_failure="allow")
        engine.check(**OPERATION, estimate=0, reserve=False)
        blocker = sqlite3.connect(tmp_path / "fiscus.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with engine.reserve(**OPERATION, estimate="0.5") as r:
            blocker.execute("ROLLBACK")
            blocker.close()
            assert r.degraded
            assert r.reservation_id is None
            r.settle("0.25")
        [record] = engine.records().items
        assert (record.cost_amount, record.project_id) == (Decimal("0.25"), "search")


# -- opening an engine


@pytest.mark.parametrize("given", [{}, {"data_dir": "data"}, {"backend": "data", "tenant": "a"}])
def test_fiscus_that_is_called_says_that_it_is_opened(given: dict[str, str]) -> None:
    with pytest.raises(TypeError, match=r"use Fiscus\.open\(data_dir="):
        Fiscus(**given)
    with pytest.raises(TypeError, match=r"use Fiscus\.open\(data_dir="):
        Fiscus(*given.values())


def test_what_was_recorded_is_there_after_opening_again(tmp_path: Path) -> None:
    with Fiscus.open(data_dir=str(tmp_path), tenant="acme") as engine:
        engine.record(resource_type="llm", cost_amount=1)
    with Fiscus.open(data_dir=tmp_path, tenant="acme") as engine:
        assert [one.cost_amount for one in engine.records().items] == [1]
        assert not engine.records(tenant="default").items


def test_a_database_url_and_settings_can_be_given(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    with Fiscus.open(data_dir=tmp_path, database_url=url, default_tenant="mine") as engine:
        answer = engine.check(**OPERATION, estimate=1)
        assert answer.allowed
        assert engine.report().tenant_id == "mine"
    assert (tmp_path / "elsewhere.db").exists()


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"prot": 1}, "prot"), ({"port": 0}, "port"), ({"tenant": "a b"}, "tenant")],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Fiscus.open(data_dir=tmp_path, **settings)
    assert raised.value.field == field
