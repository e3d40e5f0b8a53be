"""The budgets and quotas that are used most, over all tenants, as metrics show them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fiscus.ledger.requests.quotas import quota_check_command
from fiscus.paging import page_request
from fiscus.quotas.calls import QuotaCheckRequest
from fiscus.stores.sql.budgets.store import SqlBudgets
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.maintenance import SqlProbe
from fiscus.stores.sql.quotas.store import SqlQuotas
from fiscus.wire.converting import convert
from tests.stores.conftest import Tenant, plan_of
from tests.stores.quota_desk import quota_spec

if TYPE_CHECKING:
    from fiscus.budgets.model import Budget
    from fiscus.clock import ManualClock
    from fiscus.quotas.model import Quota

# other tests of this module may have left their tenants' on the same database
MOST = 100


def used_most(acme: Tenant) -> list[tuple[str, Decimal]]:
    found = acme.engine.budgets.most_used(acme.now, MOST)
    return [
        (use.budget_id, use.utilization_ratio) for use in found if use.tenant_id == acme.tenant_id
    ]


def quotas_used_most(acme: Tenant) -> list[tuple[str, Decimal]]:
    found = acme.engine.quotas.most_used(acme.now, MOST)
    return [
        (use.quota_id, use.utilization_ratio) for use in found if use.tenant_id == acme.tenant_id
    ]


def project(acme: Tenant, scope_id: str = "p", **fields: Any) -> Budget:
    return acme.budget(**{"allocated_to_type": "project", "allocated_to_id": scope_id} | fields)


def allocate(acme: Tenant, **fields: Any) -> Quota:
    spec = quota_spec(**fields)
    return acme.engine.quotas.allocate(acme.tenant_id, spec, by="ann", now=acme.now)


def consume(acme: Tenant, amount: str, **fields: Any) -> None:
    asked = {"resource_type": "gpu_hours", "required_amount": amount} | fields
    request = convert(asked, QuotaCheckRequest)
    assert acme.run(quota_check_command(request, acme.tenant_id, acme.now, None)).allowed


def test_the_most_used_budget_is_first_as_far_as_its_utilization_says(acme: Tenant) -> None:
    little, much = project(acme, "a"), project(acme, "b", budget_amount="30")
    project(acme, "unused")
    acme.record("40", project_id="a")
    acme.record("10", project_id="b")
    acme.check("10", project_id="b")
    assert used_most(acme) == [
        (much.budget_id, Decimal("0.666666666667")),
        (little.budget_id, Decimal("0.4")),
    ]
    for budget_id, ratio in used_most(acme):
        told = acme.engine.budgets.utilization(
            acme.tenant_id, budget_id, page_request(), scope_id=None, now=acme.now
        )
        assert told.periods[0].utilization_ratio == ratio
    (first,) = acme.engine.budgets.most_used(acme.now, 1)
    assert first.utilization_ratio >= Decimal("0.666666666667")


def test_a_budget_for_every_id_is_there_once_by_the_id_that_used_most(acme: Tenant) -> None:
    budget = project(acme, "*")
    for scope_id, cost in (("a", "9"), ("b", "70"), ("c", "100.5"), ("d", "8")):
        acme.record(cost, project_id=scope_id)
    assert used_most(acme) == [(budget.budget_id, Decimal("1.005"))]


def test_past_periods_and_deleted_budgets_are_not_shown(acme: Tenant, clock: ManualClock) -> None:
    monthly, daily = project(acme), project(acme, period_type="daily")
    acme.record("50", project_id="p")
    assert {one for one, _ in used_most(acme)} == {monthly.budget_id, daily.budget_id}
    clock.advance(days=1)
    assert used_most(acme) == [(monthly.budget_id, Decimal("0.5"))]
    acme.engine.budgets.delete(
        acme.tenant_id, monthly.budget_id, force=True, by="tester", now=acme.now
    )
    assert used_most(acme) == []


def test_a_window_that_began_with_its_first_use_runs_for_its_days(
    acme: Tenant, clock: ManualClock
) -> None:
    budget = project(acme, period_type="rolling", rolling_days=7)
    acme.record("50", project_id="p")
    clock.advance(days=6)
    assert used_most(acme) == [(budget.budget_id, Decimal("0.5"))]
    clock.advance(days=1)
    assert used_most(acme) == []


def test_the_end_of_a_budget_is_that_of_its_definition_as_it_is(
    acme: Tenant, clock: ManualClock
) -> None:
    dates = {"period_type": "custom", "start_date": "2026-03-01", "end_date": "2026-03-15"}
    budget, ended = project(acme, **dates), project(acme, budget_name="Ended", **dates)
    acme.record("50", project_id="p")
    clock.advance(days=10)
    assert used_most(acme) == []

    def put(end_date: str) -> None:
        fields = dates | {"allocated_to_type": "project", "allocated_to_id": "p"}
        acme.engine.budgets.replace(
            acme.tenant_id,
            budget.budget_id,
            acme.spec(**fields | {"end_date": end_date}),
            expected_version=None,
            by="tester",
            now=acme.now,
        )

    put("2026-04-01")
    assert used_most(acme) == [(budget.budget_id, Decimal("0.5"))]
    put("2026-03-16")
    assert used_most(acme) == []
    assert ended.version == 1


def test_holds_that_are_due_count_no_more(acme: Tenant, clock: ManualClock) -> None:
    budget = project(acme)
    acme.record("10", project_id="p")
    acme.check("30", project_id="p", ttl_seconds=60)
    assert used_most(acme) == [(budget.budget_id, Decimal("0.4"))]
    clock.advance(seconds=60)
    assert used_most(acme) == [(budget.budget_id, Decimal("0.1"))]


def test_the_most_used_quota_is_first_with_its_burst(acme: Tenant, clock: ManualClock) -> None:
    little = allocate(acme, scope_id="a", auto_renew=False)
    much = allocate(acme, scope_id="b", allocated_amount="12.5", max_burst_amount="5")
    allocate(acme, scope_id="unused")
    consume(acme, "40", project_id="a")
    consume(acme, "15", project_id="b")
    shown = [(much.quota_id, Decimal("1.2")), (little.quota_id, Decimal("0.4"))]
    assert quotas_used_most(acme) == shown
    clock.advance(days=31)
    assert quotas_used_most(acme) == []


def test_a_quota_for_every_id_is_there_once_by_the_id_that_used_most(acme: Tenant) -> None:
    quota = allocate(acme, scope_id="*")
    for scope_id, amount in (("a", "9"), ("b", "70.25"), ("c", "8")):
        consume(acme, amount, project_id=scope_id)
    assert quotas_used_most(acme) == [(quota.quota_id, Decimal("0.7025"))]
    acme.engine.quotas.delete(acme.tenant_id, quota.quota_id, force=True, by="tester", now=acme.now)
    assert quotas_used_most(acme) == []


def test_names_in_values_do_not_pass_for_the_allocation(acme: Tenant) -> None:
    odd = '"allocated_amount":1,'
    quota = allocate(acme, resource_type=odd, allocated_amount="50")
    consume(acme, "25", project_id="apollo", resource_type=odd)
    plain = allocate(acme, allocated_amount="50")
    consume(acme, "30", project_id="apollo")
    assert quotas_used_most(acme) == [
        (plain.quota_id, Decimal("0.6")),
        (quota.quota_id, Decimal("0.5")),
    ]


def test_periods_that_are_past_are_not_read(database: Database, acme: Tenant) -> None:
    plan = plan_of(database, lambda: SqlBudgets(database).most_used(acme.now, MOST), "share")
    assert "ix_budget_periods_newest" in plan
    plan = plan_of(database, lambda: SqlQuotas(database).most_used(acme.now, MOST), "share")
    assert "ix_quotas_running" in plan


def test_the_pool_says_how_many_connections_are_in_use(database: Database) -> None:
    probe = SqlProbe(database)
    before = probe.pool_use()
    assert before.in_use == 0
    with database.read("t"), database.read("t"):
        assert probe.pool_use().in_use == 2
    assert (probe.pool_use().in_use, probe.pool_use().idle) == (0, max(2, before.idle))
