"""What a check holds, on which budgets, and what its answer says."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from fiscus import match_limits
from fiscus.budgets import matching
from fiscus.budgets.calls import CheckAnswer, CheckBatchRequest
from fiscus.clock import ManualClock
from fiscus.costs.model import CostFlag
from fiscus.errors import PayloadTooLarge, ValidationError
from fiscus.ledger.requests.budgets import check_batch_command
from tests.ledger.books import read_books
from tests.ledger.desk import Desk, check_request, open_at


@pytest.fixture(autouse=True)
def books_are_in_order(desk: Desk, store_url: str):
    yield
    assert read_books(store_url, desk.tenant_id).faults(charges=False) == []


def test_a_denied_check_changes_no_balance_and_explains_itself(
    desk: Desk, clock: ManualClock
) -> None:
    small = desk.budget("3", budget_name="small")
    large = desk.budget("100", budget_name="large")
    desk.reserve("2")
    answer = desk.check("1.5")
    assert not answer.allowed
    assert (answer.budget_id, answer.remaining_budget) == (small.budget_id, 1)
    assert answer.reservation_id is None
    assert answer.max_allowed_cost == 1
    assert answer.fits_at == clock.now() + timedelta(seconds=300)  # when the hold is due
    assert "small" in answer.message
    assert desk.used(small) == ("0", "2")
    assert desk.used(large) == ("0", "2")


def test_what_a_denial_says_would_pass_passes_when_it_says(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10", period_type="daily")
    desk.reserve("3", ttl_seconds=100)
    desk.reserve("3", ttl_seconds=200)
    desk.record("3")
    denial = desk.check("5", reserve=False)
    assert denial.max_allowed_cost is not None
    assert denial.fits_at is not None
    assert desk.check(denial.max_allowed_cost, reserve=False).allowed
    assert not desk.check(denial.max_allowed_cost + Decimal("1e-12"), reserve=False).allowed
    clock.set(denial.fits_at - timedelta(microseconds=1))
    assert not desk.check("5", reserve=False).allowed
    clock.set(denial.fits_at)
    assert desk.check("5", reserve=False).allowed


def test_what_never_fits_this_period_fits_at_the_next(desk: Desk) -> None:
    desk.budget("10", period_type="daily")
    desk.record("9")
    answer = desk.check("2")
    assert answer.fits_at is not None
    assert answer.fits_at.isoformat() == "2026-03-11T00:00:00+00:00"


def test_what_is_larger_than_the_budget_never_fits(desk: Desk) -> None:
    desk.budget("10", period_type="daily")
    assert desk.check("10.000000000001").fits_at is None


def test_credit_makes_room_for_more_than_the_amount(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10", period_type="project")
    desk.record("-5", charge_category="credit")
    desk.reserve("5", ttl_seconds=60)
    denial = desk.check("12", reserve=False)
    assert denial.fits_at == clock.now() + timedelta(seconds=60)
    clock.advance(seconds=60)
    assert desk.check("12", reserve=False).allowed


def test_very_many_holds_are_over_when_the_last_of_them_is(desk: Desk, clock: ManualClock) -> None:
    desk.budget("2260", period_type="project")
    desk.budget("1", period_type="project", allocated_to_type="user", allocated_to_id="u")
    for ttl_seconds in (300, 301, 302, 303, 304):
        held = [check_request("1", ttl_seconds=ttl_seconds)] * 450
        assert desk.check_batch(held).allowed
    desk.reserve("1", ttl_seconds=304, user_id="u", project_id="q")
    desk.reserve("1", ttl_seconds=310, project_id="q")
    for cost, seconds in (("450", 300), ("1810", 303), ("2010", 304), ("2011", 310), ("2260", 310)):
        assert desk.check(cost).fits_at == clock.now() + timedelta(seconds=seconds), cost
    assert desk.check("1", user_id="u").fits_at == clock.now() + timedelta(seconds=310)


def test_a_budget_that_has_ended_refuses_nothing(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10", end_date="2026-03-12")
    desk.record("10")
    denial = desk.check("1", reserve=False)
    assert denial.fits_at == datetime(2026, 3, 12, tzinfo=UTC)
    clock.set(denial.fits_at)
    assert desk.check("1", reserve=False).allowed
    clock.set(datetime(2026, 3, 11, tzinfo=UTC))
    desk.settings(require_budget=True)
    assert desk.check("1", reserve=False).fits_at is None, "then no budget is left"


def test_a_frozen_budget_refuses_until_it_ends_whatever_comes_free(desk: Desk) -> None:
    budget = desk.budget("10", period_type="daily", end_date="2026-03-20")
    desk.reserve("8", ttl_seconds=60)
    budget = desk.replace(budget, "10", period_type="daily", end_date="2026-03-20", frozen=True)
    assert desk.check("1").fits_at == datetime(2026, 3, 20, tzinfo=UTC)
    desk.replace(budget, "10", period_type="daily", frozen=True)
    assert desk.check("1").fits_at is None


def test_a_cost_stamped_ahead_fills_the_next_period_already(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10", period_type="daily")
    desk.record("10")
    desk.record("8", timestamp=clock.now() + timedelta(hours=20))
    assert desk.check("2").fits_at == datetime(2026, 3, 11, tzinfo=UTC)
    assert desk.check("3").fits_at == datetime(2026, 3, 12, tzinfo=UTC)


def test_a_throttle_without_a_floor_admits_when_use_has_fallen(
    desk: Desk, clock: ManualClock
) -> None:
    throttle = {"floor": "0", "retry_after_ms": 1000}
    desk.budget("10", period_type="project", enforcement_action="throttle", throttle=throttle)
    desk.reserve("10", ttl_seconds=60)
    denial = desk.check("1", reserve=False)
    assert (denial.allowed, denial.max_allowed_cost) == (False, 0)
    assert denial.fits_at == clock.now() + timedelta(seconds=60)
    assert denial.throttle is not None
    assert denial.throttle.retry_after_ms == 60_000
    clock.advance(seconds=60)
    assert desk.check("1", reserve=False).allowed
    desk.record("10")
    assert desk.check("1").fits_at is None, "this one never starts again"


def test_a_throttle_starts_again_with_its_period(desk: Desk, clock: ManualClock) -> None:
    throttle = {"floor": "0.01", "retry_after_ms": 60_000}
    desk.budget("10", period_type="daily", enforcement_action="throttle", throttle=throttle)
    desk.record("10")
    clock.set(datetime(2026, 3, 10, 23, 59, 30, tzinfo=UTC))
    denial = desk.check("1")
    assert denial.fits_at == datetime(2026, 3, 11, tzinfo=UTC)
    assert denial.throttle is not None
    assert denial.throttle.retry_after_ms == 30_000


def test_it_fits_when_all_budgets_have_room_together(desk: Desk, clock: ManualClock) -> None:
    clock.set(datetime(2026, 3, 31, 12, tzinfo=UTC))
    desk.budget("10", period_type="daily")
    of_tenant = {"allocated_to_type": "tenant", "allocated_to_id": desk.tenant_id}
    zone = {"timezone": "Pacific/Auckland", "start_date": "2026-03-01"}
    desk.budget("10", period_type="rolling", rolling_days=1, **of_tenant, **zone)
    desk.reserve("6", ttl_seconds=60)
    desk.record("7", timestamp=clock.now() + timedelta(hours=13))
    # the first has room in a minute but not tomorrow, the other from tomorrow 11:00 on
    denial = desk.check("5", reserve=False)
    assert denial.fits_at == datetime(2026, 4, 2, tzinfo=UTC)
    clock.set(denial.fits_at - timedelta(microseconds=1))
    assert not desk.check("5", reserve=False).allowed
    clock.set(denial.fits_at)
    assert desk.check("5", reserve=False).allowed


def test_a_budget_that_begins_later_has_to_have_room_too(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10", period_type="daily")
    of_tenant = {"allocated_to_type": "tenant", "allocated_to_id": desk.tenant_id}
    later = {"start_date": "2026-03-11", "end_date": "2026-03-20", "period_type": "custom"}
    desk.budget("5", **later, **of_tenant)
    desk.record("6")
    assert desk.check("5").fits_at == datetime(2026, 3, 11, tzinfo=UTC)
    assert desk.check("7").fits_at == datetime(2026, 3, 20, tzinfo=UTC)
    desk.record("1", timestamp=clock.now() + timedelta(hours=13))
    assert desk.check("5").fits_at == datetime(2026, 3, 20, tzinfo=UTC)


def test_a_tenant_that_requires_a_budget_waits_for_one_to_begin(desk: Desk) -> None:
    desk.settings(require_budget=True)
    assert desk.check("1").fits_at is None
    desk.budget("5", start_date="2026-03-15", end_date="2026-03-20", period_type="custom")
    assert desk.check("1").fits_at == datetime(2026, 3, 15, tzinfo=UTC)
    assert desk.check("6").fits_at is None


def test_a_budget_that_cannot_be_asked_is_none_where_one_is_required(
    desk: Desk, clock: ManualClock
) -> None:
    desk.settings(require_budget=True)
    desk.budget("4", shadow=True, currency="XXX")
    assert desk.check("1").fits_at is None
    desk.budget("4", start_date="2026-03-12", currency="XXX", enforcement_action="soft_limit")
    assert desk.check("1").fits_at is None
    desk.budget("4", start_date="2026-03-11")
    assert desk.check("1").fits_at == datetime(2026, 3, 11, tzinfo=UTC)


def test_budgets_that_overlap_or_follow_one_another_are_one_where_one_is_required(
    desk: Desk,
) -> None:
    desk.settings(require_budget=True)
    custom = {"period_type": "custom", "shadow": True}
    desk.budget("9", start_date="2026-03-11", end_date="2026-03-13", **custom)
    desk.budget("9", start_date="2026-03-12", end_date="2026-03-14", **custom)
    desk.budget("1", start_date="2026-03-09", end_date="2026-03-10", **custom)
    desk.budget("2", start_date="2026-03-11", end_date="2026-03-13", period_type="custom")
    assert desk.check("1").fits_at == datetime(2026, 3, 11, tzinfo=UTC)
    assert desk.check("3").fits_at == datetime(2026, 3, 13, tzinfo=UTC)


def test_looking_at_a_throttle_tells_the_wait_after_that_look(
    desk: Desk, clock: ManualClock
) -> None:
    throttle = {"start_ratio": "0.5", "floor": "0.25", "retry_after_ms": 1000}
    desk.budget("10", enforcement_action="throttle", throttle=throttle)
    desk.record("10")
    looked = desk.check("1", reserve=False)
    assert looked.throttle is not None
    wait = timedelta(milliseconds=looked.throttle.retry_after_ms)
    assert looked.fits_at == clock.now() + wait
    assert desk.check("1").fits_at == looked.fits_at


def test_what_is_over_costs_a_denial_nothing(
    store_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    with closing(open_at(store_url, tmp_path, clock, ledger_deadline_seconds=2)) as engine:
        desk = Desk(engine, "over")
        desk.budget("1", start_date="1000-01-01", end_date="2026-03-01", period_type="daily")
        desk.budget("1", period_type="project")
        assert desk.check("2").fits_at is None


def test_a_throttle_counts_although_another_budget_denies(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10", period_type="daily")
    throttle = {"floor": "0.1", "retry_after_ms": 1000}
    desk.budget("5", period_type="monthly", enforcement_action="throttle", throttle=throttle)
    desk.record("5")
    denial = desk.check("6")
    assert (denial.max_allowed_cost, denial.throttle) == (0, None)
    assert not desk.check("0", reserve=False).allowed, "as it says"
    assert denial.fits_at == datetime(2026, 3, 11, tzinfo=UTC)
    clock.set(datetime(2026, 3, 10, 23, 59, 55, tzinfo=UTC))
    assert desk.check("6").fits_at == datetime(2026, 3, 11, 0, 0, 5, tzinfo=UTC)


def test_only_looking_holds_nothing(desk: Desk) -> None:
    budget = desk.budget("10")
    answer = desk.check("10", reserve=False)
    assert answer.allowed
    assert answer.reservation_id is None
    assert desk.used(budget) == ("0", "0")


def test_all_budgets_that_match_hold_the_estimate(desk: Desk) -> None:
    project = desk.budget("10")
    user = desk.budget("10", allocated_to_type="user", allocated_to_id="u")
    tenant = desk.budget("10", allocated_to_type="tenant", allocated_to_id=desk.tenant_id)
    other = desk.budget("10", allocated_to_id="q")
    answer = desk.check("4", user_id="u")
    assert {line.budget_id for line in answer.budgets} == {
        project.budget_id,
        user.budget_id,
        tenant.budget_id,
    }
    assert [desk.used(one)[1] for one in (project, user, tenant, other)] == ["4", "4", "4", "0"]


def test_one_denying_budget_keeps_the_others_unchanged(desk: Desk) -> None:
    project = desk.budget("10")
    user = desk.budget("1", allocated_to_type="user", allocated_to_id="u")
    assert desk.check("4", user_id="u").budget_id == user.budget_id
    assert desk.used(project) == ("0", "0")


def test_a_template_gives_every_user_a_budget_of_their_own(desk: Desk) -> None:
    budget = desk.budget("10", allocated_to_type="user", allocated_to_id="*")
    for user in ("ann", "bob"):
        assert desk.check("10", user_id=user).allowed
        assert not desk.check("0.000000000001", user_id=user).allowed
    assert desk.used(budget, "ann") == ("0", "10")
    assert desk.check("11", project_id=None).budget_id is None


def test_due_holds_are_freed_before_anything_is_denied(desk: Desk, clock: ManualClock) -> None:
    budget = desk.budget("10")
    desk.reserve("10", ttl_seconds=5)
    clock.advance(seconds=5, microseconds=-1)
    assert not desk.check("10").allowed
    clock.advance(microseconds=1)
    assert desk.check("10").allowed
    assert desk.used(budget) == ("0", "10")


def test_more_due_holds_than_are_read_at_once_are_freed_before_a_denial(
    desk: Desk, clock: ManualClock
) -> None:
    budget = desk.budget("1200")
    for _ in range(3):
        batch = desk.check_batch([check_request("1", ttl_seconds=5) for _ in range(400)])
        assert batch.allowed
    clock.advance(seconds=5)
    assert desk.check("1200").allowed
    assert desk.used(budget) == ("0", "1200")


def test_a_hold_due_between_two_checks_of_one_group_is_freed_for_the_second(
    desk: Desk, clock: ManualClock
) -> None:
    desk.budget("10")
    desk.reserve("10", ttl_seconds=5)
    clock.advance(seconds=4)
    before = desk.check_command("10")
    clock.advance(seconds=1)
    after = desk.check_command("10")
    first, second = desk.outcomes([before, after])
    assert not first.allowed  # type: ignore[union-attr]
    assert second.allowed  # type: ignore[union-attr]


def test_the_worker_frees_due_holds_in_time(desk: Desk, clock: ManualClock) -> None:
    budget = desk.budget("10")
    desk.reserve("4", ttl_seconds=5)
    desk.reserve("4", ttl_seconds=50)
    clock.advance(seconds=5)
    assert desk.expire() == 1
    assert desk.expire() == 0
    assert desk.used(budget) == ("0", "4")


def test_no_matching_budget_allows_unless_the_tenant_requires_one(desk: Desk) -> None:
    answer = desk.check("5")
    assert answer.allowed
    assert answer.budget_id is None
    assert answer.reservation_id is not None
    desk.settings(require_budget=True)
    answer = desk.check("5")
    assert not answer.allowed
    assert answer.max_allowed_cost == 0


def test_a_changed_definition_binds_from_the_next_check(desk: Desk) -> None:
    budget = desk.budget("10")
    assert desk.check("6").allowed
    budget = desk.replace(budget, "5")
    denial = desk.check("1")
    assert (denial.allowed, denial.remaining_budget) == (False, -1)
    budget = desk.replace(budget, "7")
    assert desk.check("1").allowed
    budget = desk.replace(budget, "100", frozen=True)
    assert desk.check("0").budgets[0].decision == "frozen"
    desk.delete(budget)
    assert desk.check("1000").budget_id is None


def test_a_shadow_budget_counts_and_never_denies(desk: Desk) -> None:
    budget = desk.budget("1", shadow=True)
    answer = desk.check("5")
    assert answer.allowed
    assert answer.budgets[0].decision == "shadow_deny"
    assert desk.used(budget) == ("0", "5")


def test_what_is_let_pass_without_room_says_why_and_what_was_left_before_it(desk: Desk) -> None:
    throttle = {"start_ratio": "0", "floor": "0"}
    said = {
        "soft": "is a soft limit and allows this past its amount",
        "shadow": "only watches and would have refused",
        "frozen": "only watches and would have refused, as it is frozen",
        "throttled": "only watches and would have throttled this",
        "passing": "is throttled and lets this pass its amount",
    }
    for project, fields in {
        "soft": {"enforcement_action": "soft_limit"},
        "shadow": {"shadow": True},
        "frozen": {"shadow": True, "frozen": True},
        "throttled": {"enforcement_action": "throttle", "shadow": True, "throttle": throttle},
        "passing": {"enforcement_action": "throttle", "throttle": {"floor": "1"}},
    }.items():
        desk.budget("3", allocated_to_id=project, budget_name="B", **fields)
        desk.record("2", project_id=project)
        for reserve in (False, True):
            answer = desk.check("1.5", project_id=project, reserve=reserve)
            assert answer.allowed
            assert answer.message == (
                f"Budget 'B' (project {project}) {said[project]}: 1 of 3 USD left, 1.5 needed."
            )


def test_a_shadow_budget_without_a_rate_is_left_out(desk: Desk) -> None:
    counted = desk.budget("10")
    desk.budget("10", currency="XXX", shadow=True)
    answer = desk.check("4")
    assert answer.allowed
    assert [line.budget_id for line in answer.budgets] == [counted.budget_id]
    desk.budget("10", currency="XXX", budget_name="Points")
    with pytest.raises(ValidationError) as caught:
        desk.check_batch([check_request("1", currency="XXX"), check_request("1")])
    assert caught.value.field == "checks[0].currency"
    assert "'B' is in USD" in caught.value.message


def test_an_escalating_budget_denies_and_says_an_approval_would_be_needed(desk: Desk) -> None:
    desk.budget("1", enforcement_action="escalate")
    answer = desk.check("5")
    assert (answer.allowed, answer.requires_approval) == (False, True)


def test_an_estimate_in_another_currency_is_held_in_the_budgets_own(desk: Desk) -> None:
    budget = desk.budget("1000", currency="EUR")
    answer = desk.check("100", currency="USD")
    line = answer.budgets[0]
    rate = desk.engine.rates.rate("USD", "EUR", line.exchange_rate_date)
    assert rate is not None
    assert line.exchange_rate == rate.value
    exact = (Decimal(100) * rate.value).quantize(Decimal("1e-12"))
    assert line.reserved == exact
    assert Decimal(desk.used(budget)[1]) == exact


def test_a_currency_without_a_rate_is_refused_by_name(desk: Desk) -> None:
    budget = desk.budget("1000")
    with pytest.raises(ValidationError) as caught:
        desk.check("1", currency="XXX")
    assert caught.value.field == "currency"
    assert desk.record("1", currency="XXX").flags == ["unconverted"]
    assert desk.used(budget) == ("0", "0")


def test_a_rolling_budget_counts_its_windows_from_its_first_hold(
    desk: Desk, clock: ManualClock
) -> None:
    budget = desk.budget("10", period_type="rolling", rolling_days=3)
    clock.advance(days=1)
    assert desk.check("1000").allowed is False  # a denial anchors nothing
    clock.advance(days=1)
    held = desk.check("6")
    assert held.budgets[0].period_start.isoformat() == "2026-03-12T00:00:00+00:00"
    assert held.reservation_id is not None
    desk.settle(held.reservation_id, "6")
    clock.advance(days=2)
    assert not desk.check("6").allowed
    clock.advance(days=1)
    answer = desk.check("6")
    assert answer.allowed
    assert answer.budgets[0].period_start.isoformat() == "2026-03-15T00:00:00+00:00"
    assert desk.used(budget) == ("0", "6")


def test_batch_checks_are_decided_in_order_each_for_itself(desk: Desk) -> None:
    budget = desk.budget("10")
    batch = desk.check_batch([check_request(cost) for cost in ("6", "5", "4", "1")])
    assert [one.allowed for one in batch.results] == [True, False, True, False]
    assert not batch.allowed
    assert desk.used(budget) == ("0", "10")


def test_all_or_nothing_reserves_nothing_unless_every_check_is_allowed(desk: Desk) -> None:
    budget = desk.budget("10")
    checks = [check_request(cost) for cost in ("6", "5", "4")]
    batch = desk.check_batch(checks, all_or_nothing=True)
    assert not batch.allowed
    assert [one.allowed for one in batch.results] == [True, False, True]
    assert [one.reservation_id for one in batch.results] == [None, None, None]
    assert desk.used(budget) == ("0", "0")
    assert desk.check_batch(checks[::2], all_or_nothing=True).allowed
    assert desk.used(budget) == ("0", "10")


def test_what_was_answered_before_stands_in_a_batch_that_reserves_nothing(desk: Desk) -> None:
    budget = desk.budget("10")
    first = desk.check("10", "key")
    again, denied = desk.check_batch(
        [check_request("10", idempotency_key="key"), check_request("5")], all_or_nothing=True
    ).results
    assert again == first
    assert not denied.allowed
    assert desk.used(budget) == ("0", "10")


def test_a_key_of_a_batch_that_reserves_nothing_is_free_again(desk: Desk) -> None:
    budget = desk.budget("10")
    checks = [check_request("6", idempotency_key="key"), check_request("5")]
    twice = [checks[0], *checks]
    first, second, _ = desk.check_batch(twice, all_or_nothing=True).results
    assert first == second
    assert (first.allowed, first.reservation_id) == (True, None)
    assert desk.used(budget) == ("0", "0")
    assert desk.check_batch(checks[:1], all_or_nothing=True).results[0].reservation_id is not None


def test_a_denied_check_of_a_batch_fits_when_those_before_it_do_too(
    desk: Desk, clock: ManualClock
) -> None:
    desk.budget("10", period_type="daily")
    desk.reserve("3", ttl_seconds=100)
    fits, never = (
        desk.check_batch([check_request("4"), check_request(cost)], all_or_nothing=True).results[1]
        for cost in ("5", "7")
    )
    assert (fits.allowed, never.allowed) == (False, False)
    assert "after the checks before it in the batch" in fits.message
    assert fits.fits_at == clock.now() + timedelta(seconds=100)
    assert never.fits_at is None


def test_what_is_only_looked_at_in_a_batch_is_not_waited_for(
    desk: Desk, clock: ManualClock
) -> None:
    desk.budget("10", period_type="project")
    desk.reserve("5", ttl_seconds=60)
    checks = [check_request("3", reserve=False), check_request("8")]
    denied = desk.check_batch(checks, all_or_nothing=True).results[1]
    assert denied.fits_at == clock.now() + timedelta(seconds=60)


def test_a_batch_that_very_many_budgets_deny_says_of_each_check_when_it_fits(
    desk: Desk, clock: ManualClock
) -> None:
    every_user = {"allocated_to_type": "user", "allocated_to_id": "*"}
    desk.budget("10", period_type="daily", **every_user)
    users = [f"u{i}" for i in range(40)]
    ends = [clock.now() + timedelta(seconds=60 + i) for i in range(40)]
    for i, user in enumerate(users):
        desk.record("3", user_id=user, timestamp=clock.now() + timedelta(hours=13))
        desk.reserve("6", user_id=user, ttl_seconds=60 + i)

    def fits_at(cost: str) -> list[datetime | None]:
        checks = [check_request(cost, user_id=user) for user in users]
        return [one.fits_at for one in desk.check_batch(checks).results]

    assert fits_at("5") == ends
    assert fits_at("11") == [None] * 40
    for user in users:
        desk.record("3", user_id=user)
    assert fits_at("8") == [datetime(2026, 3, 12, tzinfo=UTC)] * 40


@pytest.mark.parametrize(
    ("action", "shadow", "decision"),
    [
        ("hard_stop", True, "shadow_deny"),
        ("soft_limit", False, "warn"),
        ("throttle", True, "shadow_throttle"),
        ("throttle", False, "throttle"),
    ],
)
def test_nothing_is_told_of_holds_that_are_due(
    desk: Desk, clock: ManualClock, action: str, shadow: bool, decision: str
) -> None:
    throttle = {"start_ratio": "0.5", "floor": "0.1"}
    budget = desk.budget("10", enforcement_action=action, shadow=shadow, throttle=throttle)
    desk.reserve("9", ttl_seconds=60)
    assert desk.check("5", reserve=False).budgets[0].decision == decision
    clock.advance(seconds=60)
    answer = desk.check("5")
    assert (answer.budgets[0].decision, answer.budgets[0].reserved) == ("allow", 5)
    assert desk.used(budget) == ("0", "5")


def test_batches_with_many_new_ids_on_a_rolling_budget_are_decided(desk: Desk) -> None:
    desk.budget("10", period_type="rolling", allocated_to_type="user", allocated_to_id="*")
    users = [f"u{i}" for i in range(60)]
    checks = [check_request("1", user_id=user) for user in users]
    assert desk.check_batch(checks[:30]).allowed
    records = [{"resource_type": "llm", "cost_amount": 1, "user_id": user} for user in users]
    assert desk.record_batch(records).recorded == 60
    assert desk.check_batch(checks).allowed


def test_windows_stay_where_they_are_for_more_ids_than_are_remembered(
    desk: Desk, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_MAX_SCOPE_IDS", 3)
    of_users = {"allocated_to_type": "user", "allocated_to_id": "*"}
    desk.budget("10", period_type="rolling", rolling_days=3, **of_users)
    users = [f"u{i}" for i in range(8)]
    for user in users:
        desk.record("6", user_id=user)
    clock.advance(days=2)
    denied = [desk.check("6", user_id=user) for user in users]
    assert not any(one.allowed for one in denied)
    assert {str(one.fits_at) for one in denied} == {"2026-03-13 00:00:00+00:00"}
    clock.advance(days=1)
    assert all(desk.check("6", user_id=user).allowed for user in users)


def test_a_batch_refused_by_a_throttle_passes_in_the_end(desk: Desk) -> None:
    desk.budget("100", enforcement_action="throttle")
    desk.record("90")
    checks = [check_request("0"), check_request("0")]
    answers = [desk.check_batch(checks, all_or_nothing=True).allowed for _ in range(20)]
    assert True in answers
    assert False in answers


def test_an_invalid_check_rejects_its_batch_by_its_place(desk: Desk) -> None:
    budget = desk.budget("10")
    with pytest.raises(ValidationError) as caught:
        desk.check_batch([check_request("1"), check_request("-1")])
    assert caught.value.field == "checks[1].estimated_cost"
    with pytest.raises(ValidationError):
        desk.check_batch([check_request("1"), check_request("1", currency="XXX")])
    with pytest.raises(PayloadTooLarge):
        desk.check_batch([check_request("0")] * 501)
    assert desk.used(budget) == ("0", "0")


MANY = 11
"""More budgets than each check of a full batch may meet."""


def test_a_batch_that_meets_too_many_budgets_is_refused_and_fails_no_other(desk: Desk) -> None:
    budgets = [desk.budget("1000") for _ in range(MANY)]
    now = desk.engine.clock.now()
    request = CheckBatchRequest(checks=[check_request("1")] * 500)
    batch = check_batch_command(request, desk.tenant_id, now)
    *others, refused = desk.outcomes([desk.check_command("1"), desk.check_command("1"), batch])
    assert isinstance(refused, PayloadTooLarge)
    assert refused.message == (
        "The first 455 of 500 checks meet 5005 budgets; at most 5000 are met at once"
    )
    assert [isinstance(one, CheckAnswer) and one.allowed for one in others] == [True, True]
    assert {desk.used(budget) for budget in budgets} == {("0", "2")}
    assert desk.check_batch([check_request("1")] * 454).allowed


def test_budgets_that_begin_with_their_first_use_count_for_a_batch(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_CHECKS", 5)
    budgets = [desk.budget("10", period_type="rolling") for _ in range(3)]
    with pytest.raises(PayloadTooLarge):
        desk.check_batch([check_request("1")] * 2)
    assert {desk.used(budget) for budget in budgets} == {("0", "0")}
    assert desk.check_batch([check_request("1")]).allowed


def test_one_check_alone_is_a_batch_however_many_budgets_it_meets(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_CHECKS", 2)
    for _ in range(3):
        desk.budget("10")
    assert desk.check_batch([check_request("1")]).allowed
    assert desk.check("1").allowed


def test_a_batch_that_was_answered_is_answered_again_when_more_budgets_match(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_CHECKS", 5)
    checks = [check_request("1")] * 2
    first = desk.check_batch(checks, "k")
    for _ in range(3):
        desk.budget("10")
    again = desk.check_batch(checks, "k")
    assert [one.reservation_id for one in again.results] == [
        one.reservation_id for one in first.results
    ]
    with pytest.raises(PayloadTooLarge):
        desk.check_batch(checks, "other")


def test_a_throttled_budget_admits_its_share_over_many_checks(desk: Desk) -> None:
    budget = desk.budget(
        "100",
        enforcement_action="throttle",
        throttle={"start_ratio": "0.5", "floor": "0.2", "retry_after_ms": 500},
    )
    desk.record("75")  # half way from 0.5 to 1.0: a share of 0.6
    answers = [desk.check("0") for _ in range(50)]
    assert sum(one.allowed for one in answers) == 30
    denied = next(one for one in answers if not one.allowed)
    assert denied.throttle is not None
    assert denied.throttle.multiplier == Decimal("0.6")
    assert denied.throttle.retry_after_ms % 500 == 0
    assert denied.fits_at is not None
    assert desk.used(budget) == ("75", "0")


def test_an_excess_is_measured_at_the_rate_of_the_costs_own_day(
    desk: Desk, clock: ManualClock
) -> None:
    clock.set(datetime(2025, 3, 10, 12, tzinfo=UTC))
    budget = desk.budget("20", period_type="yearly")
    january = datetime(2025, 1, 13, tzinfo=UTC)  # a euro cost less then
    then, now = desk.reserve("10"), desk.reserve("10")
    assert desk.settle(then, "9.5", currency="EUR", timestamp=january).flags == []
    assert desk.settle(now, "9.5", currency="EUR").flags == [CostFlag.EXCESS]
    assert desk.used(budget)[1] == "0"


def test_a_rate_of_another_day_may_charge_more_than_was_held(
    desk: Desk, clock: ManualClock
) -> None:
    clock.set(datetime(2025, 3, 10, 12, tzinfo=UTC))
    budget = desk.budget("9", currency="EUR", period_type="yearly")
    held = desk.reserve("9.5", currency="USD")
    january = datetime(2025, 1, 13, tzinfo=UTC)  # a euro cost less then
    assert desk.settle(held, "9.5", timestamp=january).flags == [CostFlag.EXCESS]
    assert desk.used(budget)[0] > "9.2"
