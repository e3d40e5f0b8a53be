"""The rules of a check: properties over generated budgets, and tables of what is decided."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import permutations
from math import ceil, floor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from fiscus.budgets.model import EnforcementAction
from fiscus.budgets.rules import (
    DENIALS,
    Demand,
    charge,
    decide,
    free,
    headroom,
    largest_cost,
    throttle_share,
)
from fiscus.costs.fx import Rate, convert
from fiscus.money import ONE, QUANTUM, round_half_even
from tests.unit.budgets_for_rules import NOW, amounts, demands, make_budget, make_demand

HARD = (EnforcementAction.HARD_STOP, EnforcementAction.ESCALATE)
THROTTLED = EnforcementAction.THROTTLE


def decisions(given: list[Demand]) -> list[str]:
    return decide(given, reserve=True).verdicts


# -- what is admitted


@given(demands())
def test_a_hard_budget_is_never_admitted_past_its_amount(given: list[Demand]) -> None:
    decision = decide(given, reserve=True)
    for demand, balance in zip(given, decision.balances, strict=True):
        budget = demand.budget
        binds = budget.enforcement_action in HARD and not budget.shadow
        if decision.allowed and binds:
            assert balance.spent + balance.reserved <= budget.budget_amount


@given(demands())
def test_an_allowed_check_holds_its_estimate_on_every_budget(given: list[Demand]) -> None:
    decision = decide(given, reserve=True)
    for demand, balance in zip(given, decision.balances, strict=True):
        held = demand.estimate if decision.allowed else 0
        assert balance.reserved == demand.balance.reserved + held
        assert balance.spent == demand.balance.spent
        assert balance.key == demand.balance.key


@given(demands())
def test_a_denied_check_changes_nothing_but_one_accumulator(given: list[Demand]) -> None:
    decision = decide(given, reserve=True)
    if decision.allowed:
        return
    changed = [
        (demand, balance)
        for demand, balance in zip(given, decision.balances, strict=True)
        if balance != demand.balance
    ]
    assert len(changed) <= 1
    for demand, balance in changed:
        assert demand.budget.enforcement_action is EnforcementAction.THROTTLE
        assert replace(balance, throttle_credit=demand.balance.throttle_credit) == demand.balance
        assert demand.balance.throttle_credit < balance.throttle_credit < 1
        assert decision.verdicts[given.index(demand)] == "throttle"


@given(demands())
def test_a_check_is_allowed_exactly_when_nobody_denies(given: list[Demand]) -> None:
    decision = decide(given, reserve=True)
    assert decision.allowed == (not DENIALS.intersection(decision.verdicts))
    assert (decision.verdicts[decision.deciding] in DENIALS) == (not decision.allowed)


@given(demands())
def test_only_looking_decides_the_same_and_changes_nothing(given: list[Demand]) -> None:
    looked, reserved = decide(given, reserve=False), decide(given, reserve=True)
    assert looked.balances == [demand.balance for demand in given]
    assert (looked.allowed, looked.deciding, looked.verdicts, looked.throttle) == (
        reserved.allowed,
        reserved.deciding,
        reserved.verdicts,
        reserved.throttle,
    )


@given(demands())
def test_the_order_of_the_budgets_does_not_matter(given: list[Demand]) -> None:
    def outcome(order: tuple[int, ...]) -> object:
        decision = decide([given[index] for index in order], reserve=True)
        return (
            decision.allowed,
            given[order[decision.deciding]].budget.budget_id,
            decision.throttle,
            {given[i].budget.budget_id: v for i, v in zip(order, decision.verdicts, strict=True)},
            {b.key.budget_id: b for b in decision.balances},
        )

    orders = list(permutations(range(len(given))))
    assert all(outcome(order) == outcome(orders[0]) for order in orders[1:])


@given(demands())
def test_shadow_never_denies_and_frozen_always_does(given: list[Demand]) -> None:
    decision = decide(given, reserve=True)
    for demand, verdict in zip(given, decision.verdicts, strict=True):
        if demand.budget.shadow:
            assert verdict not in DENIALS
        elif demand.budget.frozen:
            assert verdict == "frozen"
        elif demand.budget.enforcement_action is EnforcementAction.SOFT_LIMIT:
            assert verdict not in DENIALS


@pytest.mark.parametrize(
    ("action", "room", "decision"),
    [
        ("hard_stop", "5", "allow"),
        ("hard_stop", "4.999999999999", "deny"),
        ("escalate", "5", "allow"),
        ("escalate", "4.999999999999", "escalate"),
        ("soft_limit", "5", "allow"),
        ("soft_limit", "-1", "warn"),
        ("throttle", "5", "allow"),
    ],
)
def test_room_is_needed_up_to_the_last_digit(action: str, room: str, decision: str) -> None:
    budget = make_budget(amount="10", enforcement_action=action)
    demand = make_demand(budget, "5", spent=10 - Decimal(room))
    assert decisions([demand]) == [decision]
    shadow = make_demand(make_budget(shadow=True, enforcement_action=action), "5", spent="9")
    assert decide([shadow], reserve=True).allowed


# -- which budget decides


def deciding(given: list[Demand]) -> str:
    return given[decide(given, reserve=True).deciding].budget.budget_id


def test_a_denier_decides_before_a_more_specific_allower() -> None:
    tenant = make_budget("t", "1", allocated_to_type="tenant", allocated_to_id="t")
    feature = make_budget("f", "100", allocated_to_type="feature")
    assert deciding([make_demand(feature, "5"), make_demand(tenant, "5")]) == "t"


def test_then_the_most_specific_scope_then_the_least_headroom_then_the_id() -> None:
    wide = make_budget("a", "100", allocated_to_type="project")
    near = make_budget("z", "900", allocated_to_type="user")
    assert deciding([make_demand(wide, "5"), make_demand(near, "5")]) == "z"
    small = make_budget("y", "50", allocated_to_type="user")
    assert deciding([make_demand(near, "5"), make_demand(small, "5")]) == "y"
    same = make_budget("b", "50", allocated_to_type="user")
    assert deciding([make_demand(small, "5"), make_demand(same, "5")]) == "b"


def test_headrooms_of_different_currencies_are_compared_in_the_requests() -> None:
    yen = make_budget("yen", "9000", currency="JPY")
    dollars = make_budget("dollars", "70")
    given = [make_demand(yen, "5", rate=Decimal(150)), make_demand(dollars, "5")]
    assert deciding(given) == "yen"  # 60 dollars


# -- throttling

throttles = st.builds(
    lambda start, floor_: make_budget(
        amount="100",
        enforcement_action="throttle",
        throttle={"start_ratio": Decimal(start) / 100, "floor": Decimal(floor_) / 100},
    ),
    st.integers(0, 99),
    st.integers(0, 100),
)


def share(budget: object, used: Decimal) -> Decimal:
    demand = make_demand(budget, "0", spent=used)  # type: ignore[arg-type]
    return throttle_share(demand.budget, demand.balance)


@given(throttles, amounts(150), amounts(150))
def test_the_share_never_grows_with_use(budget: object, one: Decimal, other: Decimal) -> None:
    low, high = sorted([one, other])
    assert share(budget, low) >= share(budget, high)


@given(throttles, amounts(150))
def test_the_share_is_one_up_to_the_start_and_the_floor_from_full_use(
    budget: object, used: Decimal
) -> None:
    settings = budget.throttle  # type: ignore[attr-defined]
    found = share(budget, used)
    assert settings.floor <= found <= 1
    if used <= settings.start_ratio * 100:
        assert found == 1
    elif used >= 100:
        assert found == settings.floor
    else:
        line = 1 - (Fraction(used) / 100 - Fraction(settings.start_ratio)) / (
            1 - Fraction(settings.start_ratio)
        ) * (1 - Fraction(settings.floor))
        assert abs(Fraction(found) - line) <= Fraction(1, 10**11)


def test_spent_and_reserved_both_count_as_use() -> None:
    budget = make_budget(amount="100", enforcement_action="throttle")
    demand = make_demand(budget, "0", spent="40", reserved="50")
    assert throttle_share(budget, demand.balance) == Decimal("0.55")


@given(throttles, amounts(150), st.integers(1, 60))
def test_over_n_checks_the_share_is_admitted(budget: object, used: Decimal, n: int) -> None:
    demand = make_demand(budget, "0", spent=used)  # type: ignore[arg-type]
    admitted = 0
    for _ in range(n):
        decision = decide([demand], reserve=True)
        admitted += decision.allowed
        demand = replace(demand, balance=decision.balances[0])
    wanted = Fraction(share(budget, used)) * n
    assert floor(wanted) <= admitted <= ceil(wanted)


@given(throttles, amounts(150))
def test_the_wait_of_a_throttled_check_is_over_when_it_says(budget: object, used: Decimal) -> None:
    demand = make_demand(budget, "0", spent=used)  # type: ignore[arg-type]
    decision = decide([demand], reserve=True)
    if decision.allowed:
        return
    throttle = decision.throttle
    assert throttle is not None
    assert 0 < throttle.retry_after_ms <= 3_600_000
    if not throttle.multiplier or throttle.retry_after_ms == 3_600_000:
        return
    tries = throttle.retry_after_ms // demand.budget.throttle.retry_after_ms
    for attempt in range(1, tries + 1):
        demand = replace(demand, balance=decision.balances[0])
        decision = decide([demand], reserve=True)
        assert decision.allowed == (attempt == tries)


@pytest.mark.parametrize("first", ["0.2", "0.7"])
def test_what_two_throttles_let_pass_is_told_the_tighter_share(first: str) -> None:
    given = [
        make_demand(
            make_budget(
                kind,
                "100",
                allocated_to_type=kind,
                enforcement_action="throttle",
                throttle={"floor": share},
            ),
            "0",
            spent="100",
            credit="0.9",
        )
        for kind, share in (("user", first), ("project", "0.4"))
    ]
    throttle = decide(given, reserve=True).throttle
    assert throttle == (min(Decimal(first), Decimal("0.4")), 0)


def test_a_budget_that_only_watches_tells_no_share() -> None:
    throttle = {"floor": "0.5"}
    shadow = make_budget("a", "100", enforcement_action="throttle", throttle=throttle, shadow=True)
    real = make_budget("b", "100", enforcement_action="throttle", throttle={"floor": "0.6"})
    for credit in ("0.5", "0"):
        watching = make_demand(shadow, "0", spent="100", credit=credit)
        alone = decide([watching], reserve=True)
        assert (alone.allowed, alone.throttle, alone.clear) == (True, None, False)
        beside = decide([watching, make_demand(real, "0", spent="100", credit="0.4")], reserve=True)
        assert beside.throttle == (Decimal("0.6"), 0)


def test_nobody_is_told_to_wait_for_more_than_an_hour() -> None:
    throttle = {"floor": "0.1", "retry_after_ms": 900_000}
    budget = make_budget(amount="100", enforcement_action="throttle", throttle=throttle)
    decision = decide([make_demand(budget, "0", spent="100")], reserve=True)
    assert decision.throttle == (Decimal("0.1"), 3_600_000)  # of nine quarters of an hour
    soon = decide([make_demand(budget, "0", spent="100", credit="0.6")], reserve=True)
    assert soon.throttle == (Decimal("0.1"), 2_700_000)


@given(demands())
@example([make_demand(make_budget(enforcement_action="throttle", frozen=True), "0", spent="10")])
def test_what_no_estimate_passes_is_throttled(given: list[Demand]) -> None:
    decision = decide(given, reserve=True)
    if decision.allowed:
        return
    throttles = [
        one for one in given if one.budget.enforcement_action is THROTTLED and not one.budget.frozen
    ]
    for_nothing = decide(throttles, reserve=False).verdicts if throttles else []
    assert decision.throttled == ("throttle" in for_nothing)


@given(demands())
def test_only_what_is_allowed_without_a_word_is_clear(given: list[Demand]) -> None:
    decision = decide(given, reserve=True)
    throttled = [
        throttle_share(one.budget, one.balance) < 1
        for one in given
        if one.budget.enforcement_action is THROTTLED and not one.budget.frozen
    ]
    assert decision.clear == (set(decision.verdicts) == {"allow"} and not any(throttled))


def test_no_accumulator_moves_when_another_budget_denies() -> None:
    throttled = make_budget("a", "100", enforcement_action="throttle")
    full = make_budget("b", "1", frozen=True)
    given = [make_demand(throttled, "5", spent="95", credit="0.5"), make_demand(full, "5")]
    decision = decide(given, reserve=True)
    assert not decision.allowed
    assert decision.balances == [demand.balance for demand in given]


def test_a_throttle_that_lets_pass_does_not_move_when_another_denies() -> None:
    lets_pass = make_budget("a", "100", enforcement_action="throttle")
    denies = make_budget("b", "200", enforcement_action="throttle")
    given = [
        make_demand(lets_pass, "0", spent="100", credit="0.95"),
        make_demand(denies, "0", spent="190", credit="0.1"),
    ]
    decision = decide(given, reserve=True)
    assert decision.verdicts == ["allow", "throttle"]
    assert decision.balances[0] == given[0].balance
    assert decision.balances[1].throttle_credit == Decimal("0.1") + Decimal("0.325")


def test_of_two_throttles_each_makes_progress() -> None:
    budgets = [
        make_budget(name, "100", enforcement_action="throttle", throttle={"floor": "0.25"})
        for name in ("a", "b")
    ]
    given = [make_demand(budget, "0", spent="100") for budget in budgets]
    admitted = 0
    for _ in range(32):
        decision = decide(given, reserve=True)
        admitted += decision.allowed
        given = [
            replace(demand, balance=balance)
            for demand, balance in zip(given, decision.balances, strict=True)
        ]
    assert admitted >= 2


# -- explanations


@given(demands())
def test_the_largest_cost_passes_and_one_quantum_more_does_not(given: list[Demand]) -> None:
    given = [one for one in given if one.budget.enforcement_action in HARD]
    if not given:
        return
    decision = decide(given, reserve=True)
    rooms = [
        headroom(demand.budget, balance)
        for demand, balance in zip(given, decision.balances, strict=True)
    ]
    each = [
        largest_cost(one.budget, one.rate, room) for one, room in zip(given, rooms, strict=True)
    ]
    largest = min((one for one in each if one is not None), default=None)
    now = [
        replace(demand, balance=balance)
        for demand, balance in zip(given, decision.balances, strict=True)
    ]
    if largest is None:
        assert all(one.budget.shadow for one in given)
        assert decide(_of(now, Decimal("1e20")), reserve=False).allowed
        return
    assert largest >= 0
    if any(one.budget.frozen and not one.budget.shadow for one in given):
        assert largest == 0
        return
    binding = [room for one, room in zip(given, rooms, strict=True) if not one.budget.shadow]
    if min(binding) >= 0:
        assert decide(_of(now, largest), reserve=False).allowed
    assert not decide(_of(now, largest + QUANTUM), reserve=False).allowed


@pytest.mark.parametrize("rate", [Decimal(one) for one in ("0.25", "0.5", "1.5", "2.5")])
def test_the_largest_cost_fits_where_it_is_converted_to_half_a_digit(rate: Decimal) -> None:
    budget = make_budget()
    for digits in range(9):
        room = digits * QUANTUM
        largest = largest_cost(budget, rate, room)
        assert largest is not None
        assert round_half_even(largest * rate) <= room < round_half_even((largest + QUANTUM) * rate)


def _of(given: list[Demand], estimate: Decimal) -> list[Demand]:
    return [
        replace(
            one,
            estimate=estimate if one.rate is ONE else convert(estimate, Rate(one.rate, NOW.date())),
        )
        for one in given
    ]


@given(amounts(), amounts())
def test_freeing_a_hold_and_charging_move_one_figure_each(held: Decimal, cost: Decimal) -> None:
    balance = make_demand(make_budget(), "0", spent="3", reserved=held).balance
    assert free(balance, held) == replace(balance, reserved=Decimal(0))
    assert charge(balance, cost) == replace(balance, spent=3 + cost)
