"""Budgets in the store: what may change and be deleted beside their use; on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import count

import pytest

from fiscus.budgets.calls import CheckAnswer
from fiscus.budgets.model import Budget
from fiscus.budgets.port import BudgetFilter
from fiscus.clock import ManualClock
from fiscus.engine import Engine
from fiscus.errors import Conflict, NotFound, ServiceUnavailable
from fiscus.ledger.commands import Expire
from fiscus.ledger.requests.budgets import release_command
from fiscus.paging import PageRequest
from fiscus.periods import PeriodType
from fiscus.scopes import ScopeType
from fiscus.stores.sql.budgets.store import SqlBudgets
from fiscus.tenants import TenantSpec
from tests.servers import PostgresServer
from tests.stores.conftest import (
    Tenant,
    after_each_statement,
    answers_of_commits_lost,
    in_threads,
    plan_of,
    run_beside,
)


def replaced(acme: Tenant, budget: Budget, expected: int | None = None, **fields: object) -> Budget:
    return acme.engine.budgets.replace(
        acme.tenant_id,
        budget.budget_id,
        acme.spec(**fields),
        expected_version=expected,
        by="tester",
        now=acme.now,
    )


def deleted(acme: Tenant, budget: Budget, *, force: bool = False) -> None:
    acme.engine.budgets.delete(
        acme.tenant_id, budget.budget_id, force=force, by="tester", now=acme.now
    )


def test_a_budget_is_read_as_it_was_made(acme: Tenant) -> None:
    budget = acme.budget(budget_amount="12345678901234567890.123456789012")
    assert acme.engine.budgets.get(acme.tenant_id, budget.budget_id) == budget
    assert budget.budget_amount == Decimal("12345678901234567890.123456789012")
    assert (budget.version, budget.created_at) == (1, acme.now)


def test_defaults_are_the_tenants_own(acme: Tenant) -> None:
    acme.engine.tenants.put(
        acme.tenant_id,
        TenantSpec(currency="EUR", timezone="Europe/Berlin"),
        expected_version=None,
        now=acme.now,
    )
    budget = acme.budget()
    assert (budget.currency, budget.timezone) == ("EUR", "Europe/Berlin")


def test_a_new_version_keeps_currency_and_time_zone_where_it_names_none(acme: Tenant) -> None:
    budget = acme.budget(timezone="Asia/Tokyo")
    acme.check("1")
    acme.engine.tenants.put(
        acme.tenant_id,
        TenantSpec(currency="EUR", timezone="Europe/Berlin"),
        expected_version=None,
        now=acme.now,
    )
    new = replaced(acme, budget, budget_amount="7")
    assert (new.currency, new.timezone, new.budget_amount) == ("USD", "Asia/Tokyo", 7)


@pytest.mark.parametrize(
    "change",
    [
        {"period_type": "daily"},
        {"timezone": "Asia/Tokyo"},
        {"currency": "EUR"},
        {"allocated_to_type": "project", "allocated_to_id": "p"},
        {"start_date": "2026-03-05"},
    ],
)
def test_period_zone_currency_and_scope_are_fixed_once_used(
    acme: Tenant, change: dict[str, object]
) -> None:
    unused = acme.budget()
    assert replaced(acme, unused, **change).version == 2
    deleted(acme, unused)
    budget = acme.budget()
    acme.check("1")
    with pytest.raises(Conflict) as caught:
        replaced(acme, budget, **change)
    assert set(caught.value.details["fields"]) <= set(change)  # type: ignore[call-overload]
    assert replaced(acme, budget, budget_amount="7", end_date="2027-01-01").version == 2


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("change", ["replace", "delete"])
def test_a_group_in_flight_is_waited_for_before_a_budget_counts_as_unused(
    acme: Tenant, database_url: str, change: str
) -> None:
    """Of what it holds nobody else sees anything before it commits."""
    budget = acme.budget()
    answer, changed = run_beside(
        acme.check_command("9"),
        database_url,
        lambda: (
            replaced(acme, budget, currency="EUR") if change == "replace" else deleted(acme, budget)
        ),
    )
    assert isinstance(answer, CheckAnswer)
    assert answer.allowed
    with pytest.raises(Conflict):
        changed.result()
    assert acme.engine.budgets.get(acme.tenant_id, budget.budget_id) == budget


def test_a_changed_end_date_binds_the_period_that_runs(acme: Tenant, clock: ManualClock) -> None:
    dates = {"period_type": "custom", "start_date": "2026-03-01"}
    budget = acme.budget(**dates, end_date="2026-03-12")
    acme.record("4")
    replaced(acme, budget, **dates, end_date="2026-03-20")
    clock.set(datetime(2026, 3, 15, tzinfo=UTC))
    acme.record("1")
    used = acme.engine.budgets.utilization(
        acme.tenant_id, budget.budget_id, PageRequest(), scope_id=None, now=acme.now
    )
    (period,) = used.periods
    assert (period.spent, period.current) == (5, True)
    assert period.period_end == datetime(2026, 3, 20, tzinfo=UTC)
    with pytest.raises(Conflict):
        deleted(acme, budget)


def test_a_period_that_has_ended_is_held_against_the_amount_it_ended_with(
    acme: Tenant, clock: ManualClock
) -> None:
    budget = acme.budget(budget_amount="50")
    acme.record("40")
    clock.advance(seconds=60)
    budget = replaced(acme, budget, budget_amount="100")
    clock.set(datetime(2026, 4, 1, tzinfo=UTC))
    budget = replaced(acme, budget, budget_amount="1000")
    acme.record("500")
    clock.set(datetime(2026, 5, 3, tzinfo=UTC))
    replaced(acme, budget, budget_amount="10")
    acme.record("4")
    acme.record("1", timestamp="2026-02-27T00:00:00Z")  # before there was any
    used = acme.engine.budgets.utilization(
        acme.tenant_id, budget.budget_id, PageRequest(), scope_id=None, now=acme.now
    )
    told = [(use.amount, use.remaining, use.utilization_ratio) for use in used.periods]
    ratios = [Decimal(text) for text in ("0.4", "0.5", "0.4", "0.02")]
    assert told == list(zip([10, 1000, 100, 50], [6, 500, 60, 49], ratios, strict=True))


def test_what_was_only_looked_at_is_no_period_of_a_template(acme: Tenant) -> None:
    budget = acme.budget(allocated_to_type="user", allocated_to_id="*")
    for user in ("u1", "u2"):
        acme.check("1", user_id=user, reserve=False)
    acme.check("1", user_id="u3")
    used = acme.engine.budgets.utilization(
        acme.tenant_id, budget.budget_id, PageRequest(), scope_id=None, now=acme.now
    )
    assert [period.scope_id for period in used.periods] == ["u3"]


def test_utilization_is_of_one_moment_whatever_is_used_meanwhile(acme: Tenant) -> None:
    budget = acme.budget(allocated_to_type="user", allocated_to_id="*", period_type="daily")
    store = acme.engine.budgets
    assert isinstance(store, SqlBudgets)
    for place in range(1, 8):
        user_id, statements = f"u{place}", count(1)

        def use(place: int = place, user_id: str = user_id, read: count[int] = statements) -> None:
            if next(read) == place:
                acme.record("1", user_id=user_id)

        with after_each_statement(store._database, use):
            used = store.utilization(
                acme.tenant_id, budget.budget_id, PageRequest(), scope_id=user_id, now=acme.now
            )
        assert used.pagination is not None
        assert (len(used.periods), used.pagination.total_count) == (1, 1)


def test_a_throttled_period_in_which_nothing_is_left_is_no_period_of_a_template(
    acme: Tenant,
) -> None:
    budget = acme.budget(
        budget_amount="1",
        allocated_to_type="user",
        allocated_to_id="*",
        enforcement_action="throttle",
        throttle={"start_ratio": "0", "floor": "0.5"},
    )
    held = [acme.check(estimate, user_id="u") for estimate in ("1", "0", "0")]
    assert [one.allowed for one in held] == [True, False, True]
    for one in held:
        if one.reservation_id is not None:
            acme.run(release_command(one.reservation_id, acme.tenant_id, acme.now))
    used = acme.engine.budgets.utilization(
        acme.tenant_id, budget.budget_id, PageRequest(), scope_id=None, now=acme.now
    )
    assert used.periods == []


def test_released_money_was_no_usage(acme: Tenant) -> None:
    budget = acme.budget()
    answer = acme.check("1")
    assert answer.reservation_id is not None
    acme.run(release_command(answer.reservation_id, acme.tenant_id, acme.now))
    assert replaced(acme, budget, currency="EUR").currency == "EUR"


def test_a_deleted_budget_binds_no_more(acme: Tenant) -> None:
    budget = acme.budget(budget_amount="1")
    assert not acme.check("2").allowed
    deleted(acme, budget)
    answer = acme.check("2")
    assert (answer.allowed, answer.budget_id) == (True, None)


def test_open_reservations_keep_a_budget(acme: Tenant) -> None:
    budget = acme.budget()
    answer = acme.check("1", ttl_seconds=60)
    with pytest.raises(Conflict) as caught:
        deleted(acme, budget)
    assert caught.value.details["open_reservations"] == 1
    assert answer.reservation_id is not None
    acme.run(release_command(answer.reservation_id, acme.tenant_id, acme.now))
    deleted(acme, budget)


def test_a_reservation_that_is_due_keeps_no_budget(acme: Tenant, clock: ManualClock) -> None:
    budget = acme.budget()
    acme.check("1", ttl_seconds=60)
    clock.advance(seconds=60)
    deleted(acme, budget)
    with pytest.raises(NotFound):
        acme.engine.budgets.get(acme.tenant_id, budget.budget_id)


def test_a_hold_that_is_due_is_no_use_before_it_is_freed(acme: Tenant, clock: ManualClock) -> None:
    budget = acme.budget()
    acme.check("40", ttl_seconds=60)
    acme.check("30", ttl_seconds=61)
    clock.advance(seconds=60)

    def shown() -> list[tuple[Decimal, Decimal, Decimal]]:
        used = acme.engine.budgets.utilization(
            acme.tenant_id, budget.budget_id, PageRequest(), scope_id=None, now=acme.now
        )
        return [(one.reserved, one.remaining, one.utilization_ratio) for one in used.periods]

    assert shown() == [(Decimal(30), Decimal(70), Decimal("0.3"))]
    with pytest.raises(Conflict):
        replaced(acme, budget, currency="EUR")
    clock.advance(seconds=1)
    assert replaced(acme, budget, currency="EUR").currency == "EUR"
    acme.run(Expire(tenant_id=acme.tenant_id, now=acme.now))
    assert shown() == [(Decimal(0), Decimal(100), Decimal(0))]


def test_whether_a_budget_is_in_use_is_looked_up_among_what_holds_and_what_runs(
    acme: Tenant,
) -> None:
    """Not among all reservations there are, nor all periods the budget ever had."""
    budgets = acme.engine.budgets
    assert isinstance(budgets, SqlBudgets)
    database = budgets._database
    every_user = {"allocated_to_type": "user", "allocated_to_id": "*"}

    def refused(budget: Budget) -> None:
        with pytest.raises(Conflict):
            deleted(acme, budget)

    for kind in ("daily", "rolling"):
        budget = acme.budget(period_type=kind, **every_user)
        acme.record("1", user_id="ann")
        holds = plan_of(database, partial(refused, budget), "FROM reservations")
        periods = plan_of(database, partial(refused, budget), "FROM budget_periods")
        if database.is_sqlite:
            assert "SEARCH reservations USING INDEX ix_reservations_pending_by_expiry" in holds
            assert "period_start>? AND period_start<?" in periods
        else:
            assert "Seq Scan" not in holds + periods
            assert "AND (period_start >= " in periods


def test_what_was_spent_and_given_back_to_the_last_digit_was_no_usage(acme: Tenant) -> None:
    """Also for SQLite, which compares texts: nothing is kept as `0`, however it came about."""
    budget = acme.budget()
    acme.record("1.50")
    acme.record("-1.50", charge_category="credit")
    assert replaced(acme, budget, period_type="weekly").period_type is PeriodType.WEEKLY
    acme.record("0.000000000001")
    with pytest.raises(Conflict):
        replaced(acme, budget, period_type="daily")


def test_a_window_of_a_floating_budget_is_current_to_its_end(
    acme: Tenant, clock: ManualClock
) -> None:
    acme.engine.tenants.put(
        acme.tenant_id,
        TenantSpec(timezone="Europe/Berlin"),
        expected_version=None,
        now=acme.now,
    )
    clock.set(datetime(2026, 10, 20, 22, 0, tzinfo=UTC))  # midnight of a day; 25 October is longer
    budget = acme.budget(period_type="rolling", rolling_days=7)
    acme.record("1")
    clock.set(datetime(2026, 10, 27, 22, 59, tzinfo=UTC))
    with pytest.raises(Conflict):
        deleted(acme, budget)
    clock.set(datetime(2026, 10, 27, 23, 0, tzinfo=UTC))
    deleted(acme, budget)


def test_usage_of_the_current_period_keeps_a_budget_and_of_past_ones_does_not(
    acme: Tenant, clock: ManualClock
) -> None:
    budget = acme.budget()
    acme.record("1")
    with pytest.raises(Conflict):
        deleted(acme, budget)
    clock.advance(days=31)
    deleted(acme, budget)


def test_force_deletes_what_is_in_use(acme: Tenant) -> None:
    budget = acme.budget()
    answer = acme.check("1")
    acme.record("1")
    deleted(acme, budget, force=True)
    assert acme.check("1000").budget_id is None
    # The hold was made while the budget stood; settling it still works.
    assert answer.reservation_id is not None
    assert acme.settle(answer.reservation_id, "1").budgets == []


def test_lists_show_what_is_asked_for(acme: Tenant) -> None:
    acme.budget(budget_name="Search 100%")
    acme.budget(budget_name="search two", allocated_to_type="project", allocated_to_id="p")
    acme.budget(budget_name="Ads_x", period_type="daily", enforcement_action="throttle")
    acme.budget(budget_name="Adsyx ÜBER", currency="EUR")

    def names(**wanted: object) -> list[str]:
        page = acme.engine.budgets.list(
            acme.tenant_id,
            BudgetFilter(**wanted),  # type: ignore[arg-type]
            PageRequest(),
        )
        return [budget.budget_name for budget in page.items]

    assert names() == ["Adsyx ÜBER", "Ads_x", "search two", "Search 100%"]
    assert names(name_contains="SEARCH") == ["search two", "Search 100%"]
    assert names(name_contains="100%") == ["Search 100%"]
    assert names(name_contains="s_x") == ["Ads_x"]
    assert names(name_contains="über") == ["Adsyx ÜBER"]
    assert names(allocated_to_type=ScopeType.PROJECT) == ["search two"]
    assert names(allocated_to_id="p") == ["search two"]
    assert names(currency="EUR") == ["Adsyx ÜBER"]
    assert names(period_type="daily", enforcement_action="throttle") == ["Ads_x"]


def test_a_budget_is_used_until_the_last_of_its_ids_windows_ends(
    acme: Tenant, clock: ManualClock
) -> None:
    budget = acme.budget(
        allocated_to_type="user",
        allocated_to_id="*",
        period_type="rolling",
        rolling_days=7,
        timezone="America/New_York",
    )
    acme.record("1", user_id="ann")
    clock.advance(days=3)
    acme.record("1", user_id="bob")
    clock.set(datetime(2026, 3, 20, 3, 59, tzinfo=UTC))
    with pytest.raises(Conflict):
        deleted(acme, budget)
    clock.set(datetime(2026, 3, 20, 4, tzinfo=UTC))
    deleted(acme, budget)


def test_changes_of_one_tenant_at_once_all_come_through(acme: Tenant) -> None:
    in_threads(8, lambda: [acme.budget() for _ in range(5)])
    page = acme.engine.budgets.list(acme.tenant_id, BudgetFilter(), PageRequest())
    assert page.pagination.total_count == 40
    assert len(acme.check("1").budgets) == 40


def test_a_change_binds_from_the_next_group_on_also_in_another_process(
    acme: Tenant, open_on: Callable[..., Engine], database_url: str
) -> None:
    other = Tenant(open_on(database_url), acme.tenant_id)
    budget = acme.budget(budget_amount="10")
    assert (acme.check("6").allowed, other.check("6").allowed) == (True, False)
    replaced(acme, budget, budget_amount="20")
    assert (other.check("6").allowed, acme.check("6").allowed) == (True, True)
    replaced(other, budget, budget_amount="20", frozen=True)
    assert (acme.check("1").allowed, other.check("1").allowed) == (False, False)


@pytest.mark.postgres
@pytest.mark.parametrize("made", [True, False])
def test_a_change_whose_commit_is_not_answered_is_told_as_one_that_may_have_been_made(
    made: bool,
    open_on: Callable[..., Engine],
    postgres_url: str,
    postgres_server: PostgresServer,
    tenant: str,
) -> None:
    acme = Tenant(open_on(postgres_url), tenant)
    budget = acme.budget(budget_amount="10")
    with (
        answers_of_commits_lost(postgres_server, made=made),
        pytest.raises(ServiceUnavailable) as caught,
    ):
        replaced(acme, budget, budget.version, budget_amount="20")
    assert not caught.value.retriable
    now = acme.engine.budgets.get(tenant, budget.budget_id)
    assert now.budget_amount == (20 if made else 10)
