"""A batch that reserves all or nothing: when its checks fit together, and what they are told."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiscus.budgets.calls import CheckAnswer, CheckRequest
from fiscus.clock import ManualClock
from fiscus.engine import Engine
from tests.ledger.desk import Desk, check_request
from tests.profile import LONG

EXAMPLES = 1000 if LONG else 25
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
OF_USER = {"allocated_to_type": "user", "allocated_to_id": "u"}


def together(desk: Desk, *checks: CheckRequest) -> list[CheckAnswer]:
    return desk.check_batch(list(checks), all_or_nothing=True).results


def test_all_checks_before_count_whatever_they_met_alone(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10", period_type="project")
    desk.reserve("3", ttl_seconds=100)
    fits = [one.fits_at for one in together(desk, *[check_request("3.4")] * 3)]
    assert fits == [None, None, None]  # they never do, and the others are allowed
    fits = [one.fits_at for one in together(desk, *[check_request("3.3")] * 3)]
    assert fits == [None, None, clock.now() + timedelta(seconds=100)]


def test_what_those_before_want_is_counted_in_the_budgets_currency(desk: Desk) -> None:
    budget = desk.budget("10", currency="EUR", period_type="project")
    desk.reserve("5", currency="EUR", ttl_seconds=100)
    rate = desk.engine.rates.rate("USD", "EUR", desk.engine.clock.now().date())
    assert rate is not None
    dollars = Decimal("4.89") / rate.value
    euros = check_request("5.1", currency="EUR")
    first, second = together(desk, check_request(str(round(dollars, 6))), euros)
    assert (first.allowed, second.allowed) == (True, False)
    assert second.fits_at == NOON + timedelta(seconds=100)
    dearer = check_request(str(round(dollars * Decimal("1.01"), 6)))
    assert together(desk, dearer, euros)[1].fits_at is None
    assert desk.used(budget) == ("0", "5")


def test_a_budget_that_begins_later_counts_the_checks_before(
    desk: Desk, clock: ManualClock
) -> None:
    desk.budget("6")
    desk.budget(
        "5",
        allocated_to_type="tenant",
        allocated_to_id=desk.tenant_id,
        start_date="2026-03-11",
        end_date="2026-03-31",
        period_type="custom",
    )
    desk.reserve("3", ttl_seconds=86_400)
    clock.advance(seconds=1)
    fits = together(desk, check_request("3"), check_request("3"))[1].fits_at
    assert fits == datetime(2026, 3, 31, tzinfo=UTC)
    fits = together(desk, check_request("2"), check_request("3"))[1].fits_at
    assert fits == NOON + timedelta(days=1)


def test_the_checks_before_still_pass_when_a_denied_one_fits(desk: Desk) -> None:
    desk.budget("4", period_type="daily")
    desk.budget(
        "1", start_date="2026-03-11", end_date="2026-03-12", period_type="custom", **OF_USER
    )
    desk.record("1.5")
    first, second = together(desk, check_request("2", user_id="u"), check_request("2"))
    assert (first.allowed, second.allowed) == (True, False)
    assert second.fits_at == datetime(2026, 3, 12, tzinfo=UTC)


def test_of_the_checks_before_the_one_that_needs_most_counts(desk: Desk) -> None:
    desk.budget("10", period_type="daily")
    desk.budget("1", period_type="daily", **OF_USER)
    desk.record("5", timestamp="2026-03-11T01:00:00Z")
    desk.record("1", user_id="u", project_id="q")
    denied = check_request("1", user_id="u", project_id="q")
    before = [check_request("1"), check_request("4", reserve=False), check_request("2")]
    assert together(desk, *before, denied)[3].fits_at == datetime(2026, 3, 11, tzinfo=UTC)
    before[1] = check_request("5", reserve=False)
    assert together(desk, *before, denied)[3].fits_at == datetime(2026, 3, 12, tzinfo=UTC)


def test_a_credit_makes_room_for_the_checks_before_in_its_own_period_only(desk: Desk) -> None:
    desk.budget("5")
    desk.budget("1", **OF_USER)
    desk.record("-4", charge_category="credit")
    desk.record("1", user_id="u", project_id="q")
    denied = check_request("1", user_id="u", project_id="q")
    for cost, fits_at in (("5", datetime(2026, 4, 1, tzinfo=UTC)), ("6", None)):
        first, second = together(desk, check_request(cost), denied)
        assert (first.allowed, second.fits_at) == (True, fits_at)


def test_a_denied_check_fits_when_denied_ones_before_it_would_too(desk: Desk) -> None:
    desk.budget("10", period_type="project")
    desk.reserve("5", ttl_seconds=60)
    first, second = together(desk, check_request("6"), check_request("6"))
    assert first.fits_at == NOON + timedelta(seconds=60)
    assert second.fits_at is None
    assert "in the batch" not in second.message  # nothing would have been held before it


def test_what_is_only_looked_at_is_told_that_nothing_is_reserved(desk: Desk) -> None:
    desk.budget("10")
    looked, denied = together(desk, check_request("3", reserve=False), check_request("11"))
    assert looked.message.startswith("Would be allowed; nothing is reserved")
    assert "after the checks before it" not in denied.message


def test_no_time_is_told_for_more_checks_than_a_throttle_lets_pass_in_a_row(
    desk: Desk, clock: ManualClock
) -> None:
    throttle = {"start_ratio": "0.5", "floor": "0.5", "retry_after_ms": 1000}
    budget = desk.budget(
        "10", enforcement_action="throttle", throttle=throttle, period_type="project"
    )
    desk.record("10")
    two = [check_request("0"), check_request("0")]
    for _ in range(5):
        assert together(desk, *two)[1].fits_at is None
    desk.replace(
        budget,
        "10",
        enforcement_action="throttle",
        throttle={**throttle, "floor": "0.6"},
        period_type="project",
    )
    for _ in range(5):
        answers = together(desk, *two)
        if all(one.allowed for one in answers):
            return
        moments = [one.fits_at for one in answers if not one.allowed]
        clock.set(max(moment for moment in moments if moment is not None))
    raise AssertionError("it never passes")


def test_checks_before_count_in_the_next_period_of_a_throttle(desk: Desk) -> None:
    throttle = {"start_ratio": "0", "floor": "0.1", "retry_after_ms": 1000}
    desk.budget("10", period_type="daily", enforcement_action="throttle", throttle=throttle)
    desk.record("200")
    second = together(desk, check_request("5"), check_request("5"))[1]
    assert second.fits_at == datetime(2026, 3, 11, 0, 0, 3, tzinfo=UTC)


def test_many_checks_under_many_budgets_of_which_one_is_required(desk: Desk) -> None:
    desk.settings(require_budget=True)
    for _ in range(4):
        desk.budget("1000", shadow=True)
    desk.budget("39")
    answers = together(desk, *[check_request("1")] * 40)
    assert [one.allowed for one in answers] == [True] * 39 + [False]
    assert answers[-1].fits_at is None


def test_a_throttled_check_waits_until_it_fits_if_that_is_sooner(
    desk: Desk, clock: ManualClock
) -> None:
    throttle = {"floor": "0.01", "retry_after_ms": 60_000}
    desk.budget("10", period_type="daily", enforcement_action="throttle", throttle=throttle)
    desk.record("10")
    clock.set(datetime(2026, 3, 10, 23, 59, 30, tzinfo=UTC))
    allowed, throttled = together(desk, check_request("1", project_id="q"), check_request("1"))
    assert allowed.allowed
    assert throttled.throttle is not None
    assert throttled.throttle.retry_after_ms == 30_000


dates = st.sampled_from([None, "2026-03-09", "2026-03-11", "2026-03-12"])
budgets = st.fixed_dictionaries(
    {
        "budget_amount": st.sampled_from(["2", "4", "6"]),
        "period_type": st.sampled_from(["daily", "project"]),
        "of_user": st.booleans(),
        "start_date": dates,
        "shadow": st.sampled_from([False, False, True]),
    }
)
costs = st.sampled_from(["1", "2", "3"])
checks = st.builds(
    lambda cost, user, reserve: check_request(cost, user_id=user, reserve=reserve),
    costs,
    st.sampled_from(["u", "v"]),
    st.sampled_from([True, True, False]),
)
holds = st.lists(st.tuples(costs, st.integers(1, 24)), max_size=3)
_tenants = itertools.count()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=EXAMPLES)
@given(
    budgets=st.lists(budgets, min_size=1, max_size=3),
    held=holds,
    batch=st.lists(checks, min_size=2, max_size=3),
)
def test_a_denied_check_fits_when_waiting_shows_that_all_up_to_it_pass(
    engine: Engine,
    clock: ManualClock,
    budgets: list[dict[str, Any]],
    held: list[tuple[str, int]],
    batch: list[CheckRequest],
) -> None:
    clock.set(NOON)
    desk = Desk(engine, f"waits-{next(_tenants)}")
    for one in budgets:
        fields = {name: one[name] for name in ("period_type", "start_date", "shadow")}
        desk.budget(one["budget_amount"], **fields, **(OF_USER if one["of_user"] else {}))
    for cost, hours in held:
        desk.check(cost, user_id="u", ttl_seconds=hours * 3600)
    told = together(desk, *batch)
    passed: dict[int, datetime] = {}
    for hours in sorted({0, 12, 36, 60, *(hours for _, hours in held)}):
        clock.set(NOON + timedelta(hours=hours))
        for place in range(len(batch)):
            if together_pass(desk, batch[: place + 1]):
                passed.setdefault(place, clock.now())
    for place, one in enumerate(told):
        assert one.fits_at == (None if one.allowed else passed.get(place))


def together_pass(desk: Desk, checks: list[CheckRequest]) -> bool:
    """Whether they do now; nothing is held afterwards."""
    answer = desk.check_batch(checks, all_or_nothing=True)
    for one in answer.results:
        if one.reservation_id is not None:
            desk.release(one.reservation_id)
    return answer.allowed
