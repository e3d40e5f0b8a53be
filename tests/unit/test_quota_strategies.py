"""Sharing a total out: exact sums, fairness and order, as properties; each strategy, by cases."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fiscus.errors import ValidationError
from fiscus.quotas.calls import DistributeRequest, Entity
from fiscus.quotas.model import Strategy
from fiscus.quotas.strategies import TIER_SHARES, share_out
from fiscus.scopes import ScopeType

USER = ScopeType.USER
LAST = 10**12


def users(*names: str, **fields) -> list[Entity]:
    return [Entity(scope_type=USER, scope_id=name, **fields) for name in names]


def user(name: str, **fields) -> Entity:
    return Entity(scope_type=USER, scope_id=name, **fields)


def ask(total, strategy: Strategy, entities: list[Entity], **fields) -> DistributeRequest:
    return DistributeRequest(
        resource_type="gpu_hours",
        total_amount=Decimal(total),
        strategy=strategy,
        entities=entities,
        **fields,
    )


def parts(total, strategy: Strategy, entities: list[Entity], usage=None, **fields) -> list[str]:
    used = {(USER, name): Decimal(amount) for name, amount in (usage or {}).items()}
    return [str(part) for part in share_out(ask(total, strategy, entities, **fields), used)]


# ---------------------------------------------------------------- properties


@st.composite
def requests(draw, *, strategy: Strategy | None = None):
    """A request that is in order, and what its entities used."""
    if strategy is None:
        strategy = draw(st.sampled_from(Strategy))
    then = Strategy.FAIR_SHARE
    if strategy is Strategy.RESERVED:
        then = draw(st.sampled_from([one for one in Strategy if one is not Strategy.RESERVED]))
    names = draw(
        st.lists(
            st.tuples(st.sampled_from(ScopeType), st.text("abc._:-", min_size=1, max_size=4)),
            min_size=1,
            max_size=12,
            unique=True,
        )
    )
    decimals = draw(st.integers(0, 12))
    total = draw(st.integers(len(names), 10 ** draw(st.integers(2, 20))))
    tiered = Strategy.PRIORITY in {strategy, then}
    entities, rest = [], total
    for index, (kind, name) in enumerate(names):
        pool = tier = None
        if strategy is Strategy.RESERVED and (index == 0 or draw(st.booleans())):
            # leaves a unit for everyone who comes after
            pool = draw(st.integers(0, rest - (len(names) - index - 1)))
            rest -= pool
            if index == len(names) - 1 and all(one.reserved_amount is not None for one in entities):
                pool += rest
        elif tiered:
            tier = draw(st.none() | st.integers(1, 3))
        entities.append(
            Entity(
                scope_type=kind,
                scope_id=name,
                tier=tier,
                reserved_amount=None if pool is None else Decimal(pool).scaleb(-decimals),
            )
        )
    without = [one for one in entities if one.reserved_amount is None]
    left = total - sum(
        int(one.reserved_amount.scaleb(decimals)) for one in entities if one not in without
    )
    assume(left >= len(without))
    amounts = st.integers(0, 3) | st.integers(0, LAST**2)
    usage = {name: Decimal(draw(amounts)) / LAST for name in names if draw(st.booleans())}
    total_amount = Decimal(total).scaleb(-decimals)
    return ask(total_amount, strategy, entities, then=then, decimals=decimals), usage


@given(requests())
def test_parts_add_up_to_the_total_exactly_and_none_is_negative(case):
    request, usage = case
    found = share_out(request, usage)
    assert len(found) == len(request.entities)
    assert sum(map(Fraction, found)) == Fraction(request.total_amount)
    assert all(part >= 0 for part in found)


@given(requests())
def test_parts_have_no_more_digits_than_asked_for(case):
    request, usage = case
    for part in share_out(request, usage):
        assert part == part.quantize(Decimal(1).scaleb(-request.decimals))


@given(requests(), st.randoms(use_true_random=False))
def test_order_of_entities_does_not_matter(case, random):
    request, usage = case
    before = dict(zip(_names(request), share_out(request, usage), strict=True))
    shuffled = list(request.entities)
    random.shuffle(shuffled)
    other = ask(
        request.total_amount,
        request.strategy,
        shuffled,
        then=request.then,
        decimals=request.decimals,
    )
    assert dict(zip(_names(other), share_out(other, usage), strict=True)) == before


@given(requests())
def test_equal_entities_get_equal_parts_up_to_one_unit_of_the_last_digit(case):
    request, usage = case
    unit = Decimal(1).scaleb(-request.decimals)
    looks = strategies_of(request)
    alike: dict[object, list[Decimal]] = {}
    for entity, part in zip(request.entities, share_out(request, usage), strict=True):
        used = usage.get((entity.scope_type, entity.scope_id), 0)
        key = (
            entity.reserved_amount,
            (entity.tier or 3) if Strategy.PRIORITY in looks else None,
            used if Strategy.DYNAMIC in looks else None,
        )
        alike.setdefault(key, []).append(part)
    assert all(max(same) - min(same) <= unit for same in alike.values())


@given(requests(strategy=Strategy.DYNAMIC))
def test_dynamic_gives_everyone_a_unit_and_more_to_who_used_more(case):
    request, usage = case
    unit = Decimal(1).scaleb(-request.decimals)
    found = share_out(request, usage)
    assert min(found) >= unit
    by_use = sorted(
        zip([usage.get(name, Decimal(0)) for name in _names(request)], found, strict=True)
    )
    for (less, small), (more, large) in pairwise(by_use):
        assert less == more or small <= large


@given(requests(strategy=Strategy.DYNAMIC))
def test_dynamic_is_in_proportion_among_those_above_the_least(case):
    request, usage = case
    unit = Fraction(1, 10**request.decimals)
    found = [
        (Fraction(usage.get(name, Decimal(0))), Fraction(part))
        for name, part in zip(_names(request), share_out(request, usage), strict=True)
        if Fraction(part) > unit
    ]
    for use, part in found:
        for other_use, other in found:
            # either is less than a unit off its share
            assert abs(part * other_use - other * use) <= unit * (use + other_use)


@given(requests(strategy=Strategy.PRIORITY))
def test_tiers_get_their_percentages_of_what_present_tiers_have(case):
    request, usage = case
    unit = Fraction(1, 10**request.decimals)
    sums: dict[int, Fraction] = {}
    for entity, part in zip(request.entities, share_out(request, usage), strict=True):
        tier = entity.tier or 3
        sums[tier] = sums.get(tier, Fraction(0)) + Fraction(part)
    present = sum(TIER_SHARES[tier] for tier in sums)
    for tier, amount in sums.items():
        exact = Fraction(request.total_amount) * TIER_SHARES[tier] / present
        assert abs(amount - exact) < unit


@given(requests(strategy=Strategy.RESERVED))
def test_reserved_pools_are_exactly_what_was_reserved(case):
    request, usage = case
    for entity, part in zip(request.entities, share_out(request, usage), strict=True):
        if entity.reserved_amount is not None:
            assert part == entity.reserved_amount


def _names(request: DistributeRequest) -> list[tuple[ScopeType, str]]:
    return [(one.scope_type, one.scope_id) for one in request.entities]


def strategies_of(request: DistributeRequest) -> set[Strategy]:
    return {request.strategy, request.then}


# ---------------------------------------------------------------- cases


def test_fair_share_gives_units_left_over_to_the_least_names():
    assert parts(100, Strategy.FAIR_SHARE, users("c", "a", "b")) == ["33", "34", "33"]
    assert parts(1, Strategy.FAIR_SHARE, users("c", "a", "b")) == ["0", "1", "0"]
    assert parts("0.1", Strategy.FAIR_SHARE, users("c", "a", "b"), decimals=2) == [
        "0.03",
        "0.04",
        "0.03",
    ]


def test_priority_gives_half_to_the_first_tier_and_the_rest_to_the_others():
    entities = [user("a", tier=1), user("b", tier=1), user("c", tier=2), user("d")]
    assert parts(1000, Strategy.PRIORITY, entities) == ["250", "250", "300", "200"]


def test_priority_shares_an_empty_tiers_part_in_proportion():
    entities = [user("a", tier=1), user("c", tier=3)]
    assert parts(700, Strategy.PRIORITY, entities) == ["500", "200"]
    assert parts(700, Strategy.PRIORITY, [user("a", tier=2)]) == ["700"]


def test_dynamic_shares_by_use():
    assert parts(1000, Strategy.DYNAMIC, users("a", "b"), {"a": 30, "b": 10}) == ["750", "250"]


def test_dynamic_gives_who_used_nothing_one_unit():
    found = parts(10, Strategy.DYNAMIC, users("a", "b", "c"), {"a": 90, "b": 10})
    assert found == ["8", "1", "1"]
    found = parts(10, Strategy.DYNAMIC, users("a", "b"), {"a": 90}, decimals=1)
    assert found == ["9.9", "0.1"]


def test_dynamic_is_a_fair_share_when_nobody_used_anything():
    assert parts(100, Strategy.DYNAMIC, users("b", "a", "c")) == ["33", "34", "33"]


def test_dynamic_counts_more_given_back_than_used_as_nothing():
    found = parts(100, Strategy.DYNAMIC, users("a", "b"), {"a": -5, "b": 10})
    assert found == ["1", "99"]


def test_reserved_shares_the_rest_over_those_without_a_reservation():
    entities = [user("a", reserved_amount=Decimal(400)), user("b"), user("c")]
    assert parts(1000, Strategy.RESERVED, entities) == ["400", "300", "300"]
    found = parts(1000, Strategy.RESERVED, entities, {"b": 20, "c": 10}, then=Strategy.DYNAMIC)
    assert found == ["400", "400", "200"]


def test_reserved_pools_may_be_everything():
    entities = [user("a", reserved_amount=Decimal(4)), user("b", reserved_amount=Decimal(6))]
    assert parts(10, Strategy.RESERVED, entities) == ["4", "6"]
    entities = [user("a", reserved_amount=Decimal(10)), user("b")]
    assert parts(10, Strategy.RESERVED, entities) == ["10", "0"]


# ---------------------------------------------------------------- bad input


RESERVED = {"strategy": Strategy.RESERVED}


@pytest.mark.parametrize(
    ("field", "entities", "fields"),
    [
        ("total_amount", users("a"), {"total": 0}),
        ("total_amount", users("a"), {"total": -1}),
        ("total_amount", users("a"), {"total": "NaN"}),
        ("total_amount", users("a"), {"total": "Infinity"}),
        ("total_amount", users("a"), {"total": "1.5"}),
        ("total_amount", users("a"), {"total": "1.005", "decimals": 2}),
        ("total_amount", users("a", "b"), {"total": 1, "strategy": Strategy.DYNAMIC}),
        ("decimals", users("a"), {"decimals": 13}),
        ("decimals", users("a"), {"decimals": -1}),
        ("entities", [], {}),
        ("entities", users(*map(str, range(1001))), {}),
        ("entities[2]", users("a", "b", "a"), {}),
        ("entities[1].tier", [user("b"), user("a", tier=4)], {"strategy": Strategy.PRIORITY}),
        ("entities[0].tier", [user("a", tier=0)], {"strategy": Strategy.PRIORITY}),
        ("entities[0].tier", [user("a", tier=1)], {}),
        (
            "entities[0].tier",
            [user("a", tier=1, reserved_amount=Decimal(1)), user("b")],
            {**RESERVED, "then": Strategy.PRIORITY},
        ),
        ("entities[0].reserved_amount", [user("a", reserved_amount=Decimal(1))], {}),
        ("entities[0].reserved_amount", [user("a", reserved_amount=Decimal(-1))], RESERVED),
        ("entities[0].reserved_amount", [user("a", reserved_amount=Decimal("0.5"))], RESERVED),
        ("entities[0].reserved_amount", [user("a", reserved_amount=Decimal("NaN"))], RESERVED),
        ("entities", users("a", "b"), RESERVED),
        ("entities", [user("a", reserved_amount=Decimal(101)), user("b")], RESERVED),
        ("entities", [user("a", reserved_amount=Decimal(99))], RESERVED),
        ("then", users("a"), {**RESERVED, "then": Strategy.RESERVED}),
        ("then", users("a"), {"then": Strategy.DYNAMIC}),
    ],
)
def test_what_cannot_be_shared_out_is_refused_by_field(field, entities, fields):
    given = {"total": 100, "strategy": Strategy.FAIR_SHARE, **fields}
    request = ask(given.pop("total"), given.pop("strategy"), entities, **given)
    with pytest.raises(ValidationError) as caught:
        share_out(request, {})
    assert caught.value.field == field
