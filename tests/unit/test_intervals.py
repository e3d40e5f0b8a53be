"""When a denied operation would pass: what is worked out is what waiting shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fiscus.budgets.intervals import (
    NOTHING_FREED,
    FuturePeriod,
    Hold,
    Interval,
    first_in_all,
    freed_by,
    intersection,
    passing_intervals,
    union,
    waits_for_holds,
)
from fiscus.budgets.model import Budget, BudgetBalance, EnforcementAction
from fiscus.budgets.rules import Demand, decide, free, throttle_wait_ms
from fiscus.zones import FAR_FUTURE
from tests.unit.budgets_for_rules import NOW, amounts, make_budget, make_demand

MINUTES = 20


def after(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


@dataclass
class Course:
    """A budget with the periods that are ahead of it."""

    budget: Budget
    periods: list[FuturePeriod]

    def passes(self, estimate: Decimal, moment: datetime) -> bool:
        """Whether an operation passes at `moment` if nobody else came."""
        current = [one for one in self.periods if one.start <= moment < one.end]
        if not current:
            return True
        (period,) = current
        balance = period.balance
        moments, amounts = period.freed
        freed = [amount for one, amount in zip(moments, amounts, strict=True) if one <= moment]
        waited = period.start + timedelta(milliseconds=wait_ms(self.budget, balance))
        if moment >= waited and not self.budget.frozen:
            return True
        if period.throttled and not freed:
            return False
        later = free(balance, freed[-1]) if freed else balance
        return decide([Demand(self.budget, later, estimate)], reserve=False).allowed


def wait_ms(budget: Budget, balance: BudgetBalance) -> int:
    """Until so many operations were throttled that one passes, one after the other."""
    each = budget.throttle.retry_after_ms
    if budget.enforcement_action is not EnforcementAction.THROTTLE:
        return 10**9
    demand = Demand(budget, balance, Decimal(0))
    for tries in range(1, MINUTES * 60_000 // each + 1):
        decision = decide([demand], reserve=True)
        if decision.allowed:
            return tries * each
        demand = replace(demand, balance=decision.balances[0])
    return 10**9


budgets = st.one_of(
    st.just(make_budget()),
    st.just(make_budget()),
    st.just(make_budget(enforcement_action="soft_limit", frozen=True)),
    st.builds(
        lambda start, floor: make_budget(
            enforcement_action="throttle",
            throttle={"start_ratio": start, "floor": floor, "retry_after_ms": 60_000},
        ),
        st.sampled_from(["0", "0.5"]),
        st.sampled_from(["0", "0.1", "0.4"]),
    ),
)
used = st.integers(-5 * 10**4, 12 * 10**4).map(lambda n: Decimal(n).scaleb(-4))
holds = st.lists(st.builds(Hold, st.integers(1, 10).map(after), amounts(6)), max_size=6)


@st.composite
def courses(draw: st.DrawFn) -> Course:
    budget = draw(budgets)
    starts = sorted(draw(st.sets(st.integers(0, 12), max_size=3)))
    ends_at = draw(st.just(FAR_FUTURE) | st.integers(13, 16).map(after))
    begins = draw(st.booleans())
    if begins or not starts:
        starts = sorted({0, *starts})
    ends = [*map(after, starts[1:]), ends_at]
    periods: list[FuturePeriod] = []
    for start, end in zip(map(after, starts), ends, strict=True):
        balance = make_demand(budget, "0", spent=draw(used)).balance
        periods.append(FuturePeriod(start, end, balance))
    if begins:
        periods[0] = draw(used_now(budget, periods[0]))
    return Course(budget, periods)


@st.composite
def used_now(draw: st.DrawFn, budget: Budget, period: FuturePeriod) -> FuturePeriod:
    """The same with holds, and perhaps throttled just now."""
    held = draw(holds)
    credit = draw(st.sampled_from(["0", "0.3", "0.7"]))
    balance = replace(
        period.balance,
        reserved=sum((hold.amount for hold in held), Decimal(0)),
        throttle_credit=Decimal(credit),
    )
    decision = decide([Demand(budget, balance, Decimal(0))], reserve=True)
    throttled = "throttle" in decision.verdicts and draw(st.booleans())
    balance = decision.balances[0] if throttled else balance
    return period._replace(balance=balance, freed=freed_by(held), throttled=throttled)


@given(st.lists(courses(), min_size=1, max_size=3), amounts(14))
def test_it_passes_when_waiting_shows_it_does(given: list[Course], estimate: Decimal) -> None:
    each = [passing_intervals(one.budget, estimate, one.periods) for one in given]
    found = first_in_all(each, NOW)
    assert first_in_all([intersection(each)], NOW) == found
    passing = [
        after(minutes)
        for minutes in range(MINUTES)
        if all(one.passes(estimate, after(minutes)) for one in given)
    ]
    if found is None or found >= after(MINUTES):
        assert passing == []
    else:
        assert passing[0] == found


@given(courses(), amounts(14))
def test_holds_that_make_no_difference_need_not_be_known(course: Course, estimate: Decimal) -> None:
    first, *others = course.periods
    if waits_for_holds(course.budget, estimate, first):
        return
    without = [first._replace(freed=NOTHING_FREED), *others]
    assert passing_intervals(course.budget, estimate, course.periods) == passing_intervals(
        course.budget, estimate, without
    )


def test_without_a_rate_there_is_room_only_when_a_budget_counts_nothing() -> None:
    budget = make_budget()
    period = FuturePeriod(after(1), after(2), make_demand(budget, "0").balance)
    before, following = passing_intervals(budget, None, [period])
    assert (before.end, following.start) == (after(1), after(2))


def test_a_throttle_waits_for_as_many_as_are_to_pass_in_a_row() -> None:
    throttle = {"start_ratio": "0.5", "floor": "0.6", "retry_after_ms": 1000}
    budget = make_budget(enforcement_action="throttle", throttle=throttle)
    used_up = make_demand(budget, "0", spent=budget.budget_amount).balance

    def wait_ms(ahead: int, credit: str) -> int | None:
        balance = replace(used_up, throttle_credit=Decimal(credit))
        return throttle_wait_ms(budget, balance, ahead)

    assert [wait_ms(0, "0"), wait_ms(0, "0.9")] == [2000, 1000]
    assert [wait_ms(1, "0"), wait_ms(1, "0.9")] == [3000, 1000]
    assert [wait_ms(2, "0"), wait_ms(2, "0.9")] == [None, None]  # 3 of 5 pass


def test_what_is_open_in_turns_is_never_open_together() -> None:
    first = [Interval(after(0), after(5)), Interval(after(10), after(15))]
    second = [Interval(after(5), after(10)), Interval(after(15), after(20))]
    assert first_in_all([first, second], NOW) is None
    assert intersection([first, second]) == []
    third = [*second, Interval(after(12), after(13))]
    assert first_in_all([first, third], NOW) == after(12)
    assert intersection([first, third]) == [Interval(after(12), after(13))]
    assert first_in_all([], NOW) == NOW


def test_stretches_that_meet_or_overlap_are_one() -> None:
    hours = [(6, 9), (0, 2), (2, 3), (8, 12), (10, 11)]
    found = union(Interval(after(start), after(end)) for start, end in hours)
    assert found == [Interval(after(0), after(3)), Interval(after(6), after(12))]
