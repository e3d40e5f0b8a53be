"""The rules of quotas by themselves: deciding, giving back, levels, periods and renewals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fiscus.errors import ValidationError
from fiscus.money import ZERO, add, parse_positive, subtract
from fiscus.operations import Operation
from fiscus.quotas.definitions import (
    amount_by_usage,
    define,
    remaining,
    renew_from,
    renewed,
    unlike_period,
)
from fiscus.quotas.matching import QuotaIndex
from fiscus.quotas.model import (
    ConsumptionLine,
    Quota,
    QuotaBalance,
    QuotaKey,
    QuotaSpec,
    RenewalStatus,
)
from fiscus.quotas.rules import (
    Demand,
    decide,
    give_back,
    premium_owed,
    reached,
)
from fiscus.scopes import ScopeType
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
APRIL, MAY = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
amounts = st.decimals(min_value=0, max_value=1000, places=12)
positive = st.decimals(min_value="1e-12", max_value=1000, places=12)
scope_types = st.sampled_from(list(ScopeType))


def make_quota(quota_id: str = "a", **given: Any) -> Quota:
    fields = {
        "resource_type": "llm",
        "allocated_amount": 10,
        "scope_type": "project",
        "scope_id": "p",
        **given,
    }
    return define(
        convert(fields, QuotaSpec),
        TenantSettings(),
        quota_id=quota_id,
        tenant_id="t",
        version=1,
        created_at=NOW,
        now=NOW,
    )


@st.composite
def demands(draw: st.DrawFn) -> list[Demand]:
    made: list[Demand] = []
    for index in range(draw(st.integers(1, 4))):
        quota = make_quota(f"q{index}", allocated_amount=draw(positive))
        quota = replace(quota, max_burst_amount=draw(amounts), scope_type=draw(scope_types))
        used = draw(amounts)
        balance = QuotaBalance(QuotaKey(quota.quota_id, "p"), "t", used, draw(amounts))
        made.append(Demand(quota, balance))
    return made


def whole(balance: QuotaBalance) -> Decimal:
    return add(balance.used, balance.burst_used)


# -- deciding


@given(several=demands(), amount=amounts)
def test_an_amount_is_taken_from_all_or_from_none(several: Sequence[Demand], amount: Decimal):
    decision = decide(several, amount)
    rooms = [remaining(one.quota, one.balance.used, one.balance.burst_used) for one in several]
    assert decision.allowed == all(amount <= max(ZERO, room) for room in rooms)
    taken = amount if decision.allowed else ZERO
    for demand, after in zip(several, decision.balances, strict=True):
        assert whole(after) == add(whole(demand.balance), taken)
    assert len(decision.lines) == (len(several) if decision.allowed else 0)


@given(several=demands(), amount=amounts)
def test_the_allocation_is_used_before_the_burst(several: Sequence[Demand], amount: Decimal):
    decision = decide(several, amount)
    for demand, after, line in zip(
        several, decision.balances, decision.lines, strict=decision.allowed
    ):
        quota = demand.quota
        assert line.burst == subtract(after.burst_used, demand.balance.burst_used)
        assert ZERO <= line.burst <= line.amount == amount
        if line.burst:  # nothing is left of the allocation
            assert after.used >= quota.allocated_amount


@given(several=demands(), amount=amounts)
def test_the_deciding_quota_denies_if_any_does(several: Sequence[Demand], amount: Decimal):
    decision = decide(several, amount)
    assert decision.denies[decision.deciding] == (not decision.allowed)
    kind = several[decision.deciding].quota.scope_type
    rivals = [
        demand.quota.scope_type.specificity
        for demand, denies in zip(several, decision.denies, strict=True)
        if denies == decision.denies[decision.deciding]
    ]
    assert kind.specificity == max(rivals)


@given(several=demands(), amount=positive, parts=st.lists(amounts, max_size=4))
def test_what_is_given_back_in_parts_leaves_every_balance_as_it_was(
    several: list[Demand], amount: Decimal, parts: list[Decimal]
):
    several = [
        replace(one, quota=replace(one.quota, burst_premium_rate=Decimal("0.333333333333")))
        for one in several
    ]
    decision = decide(several, amount)
    for demand, balance, line in zip(
        several, decision.balances, decision.lines, strict=decision.allowed
    ):
        now, kept, reversed_premium = balance, line, ZERO
        for part in (*parts, amount):
            wanted = min(part, subtract(kept.amount, kept.released))
            owed = premium_owed(kept)
            now, kept = give_back(now, kept, wanted)
            assert kept.burst_released == min(kept.released, kept.burst)  # the burst first
            reversed_premium = add(reversed_premium, subtract(owed, premium_owed(kept)))
        assert now == demand.balance
        assert reversed_premium == premium_owed(line)
        assert premium_owed(kept) == 0


def test_only_a_rate_above_nothing_makes_a_premium() -> None:
    key = QuotaKey("a", "p")
    for rate, expected in ((None, None), (ZERO, None), (Decimal(2), Decimal(2))):
        quota = replace(make_quota(max_burst_amount=5), burst_premium_rate=rate)
        (line,) = decide([Demand(quota, QuotaBalance(key, "t"))], Decimal(12)).lines
        assert line.premium_rate == expected
        assert premium_owed(line) == 2 * (expected or 0)
    (line,) = decide([Demand(quota, QuotaBalance(key, "t"))], Decimal(10)).lines
    assert line == ConsumptionLine(key, Decimal(10), ZERO)


# -- levels


@given(quota=positive.map(lambda amount: make_quota(allocated_amount=amount)), steps=st.data())
def test_each_level_is_crossed_once_on_the_way_up(quota: Quota, steps: st.DataObject):
    balance = QuotaBalance(QuotaKey("a", "p"), "t")
    told: list[str] = []
    for part in steps.draw(st.lists(st.fractions(0, 1).map(float), max_size=6)):
        used = add(
            balance.used, (quota.allocated_amount * Decimal(part)).quantize(Decimal("1e-12"))
        )
        told += reached(quota, used)[len(reached(quota, balance.used)) :]
        balance = replace(balance, used=used)
        assert reached(quota, balance.used) == ["ok", *told]
    assert told == ["warning_80", "critical_90", "exhausted_100"][: len(told)]


@pytest.mark.parametrize(
    ("used", "burst_used", "expected"),
    [
        ("7.999", 0, "ok"),
        (8, 0, "warning_80"),
        (9, 0, "critical_90"),
        (10, 0, "exhausted_100"),
        (10, 3, "exhausted_100"),
    ],
)
def test_levels_begin_at_their_shares(used: object, burst_used: int, expected: str) -> None:
    quota = make_quota(max_burst_amount=5)
    assert reached(quota, add(Decimal(str(used)), Decimal(burst_used)))[-1] == expected


# -- periods and renewals

zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"])
calendar = st.sampled_from(["daily", "weekly", "monthly", "quarterly", "yearly"])
moments = st.datetimes(datetime(2026, 3, 11), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(kind=calendar, zone=zones, moment=moments, used=amounts)
def test_renewals_are_contiguous_unused_and_of_the_same_kind(kind, zone, moment, used):
    first = make_quota(period_type=kind, timezone=zone, period_start=moment, auto_renew=True)
    assert first.period_start <= moment < first.period_end
    second = renewed(first, "b", used, first.period_end)
    third = renewed(second, "c", used, second.period_end)
    assert (second.period_start, third.period_start) == (first.period_end, second.period_end)
    assert (third.renewed_from, third.version) == ("b", 1)
    assert third.renewal_status is RenewalStatus.PENDING
    again = make_quota(period_type=kind, timezone=zone, period_start=third.period_start)
    assert (again.period_start, again.period_end) == (third.period_start, third.period_end)
    assert first.period_start <= renew_from(first) < first.period_end
    assert first.period_end - renew_from(first) <= timedelta(hours=24)
    assert unlike_period(first, replace(first, allocated_amount=Decimal(3))) == []
    assert "period_start" in unlike_period(first, second)


@given(seconds=st.integers(60, 10_000_000), used=amounts)
def test_a_custom_period_renews_to_one_as_long(seconds: int, used: Decimal) -> None:
    end = NOW + timedelta(seconds=seconds)
    first = make_quota(period_type="custom", period_start=NOW, period_end=end, auto_renew=True)
    second = renewed(first, "b", used, NOW)
    assert (second.period_start, second.period_end - end) == (end, timedelta(seconds=seconds))
    assert end - renew_from(first) == min(timedelta(hours=24), timedelta(seconds=seconds) / 2)


@given(used=amounts, share=st.integers(0, 100))
def test_an_amount_by_usage_follows_the_pace_and_is_whole(used: Decimal, share: int) -> None:
    quota = make_quota()
    now = quota.period_start + (quota.period_end - quota.period_start) * share / 100
    amount = amount_by_usage(quota, used, now)
    assert amount == amount.to_integral_value() >= 1
    assert amount >= used * Decimal("1.2")
    assert amount <= used * Decimal("2.4") + 1


def test_an_amount_by_usage_is_one_that_can_be_sent_again() -> None:
    quota = make_quota()
    amount = amount_by_usage(quota, Decimal("9e25"), quota.period_start)
    assert parse_positive(amount, "allocated_amount") == Decimal("1e26") - 1


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"allocated_amount": 0}, "allocated_amount"),
        ({"allocated_amount": -1}, "allocated_amount"),
        ({"max_burst_amount": -1}, "max_burst_amount"),
        ({"burst_premium_rate": "-0.1"}, "burst_premium_rate"),
        ({"scope_type": "tenant", "scope_id": "*"}, "scope_id"),
        ({"scope_type": "tenant", "scope_id": "other"}, "scope_id"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"period_type": "custom"}, "period_end"),
        ({"period_type": "custom", "period_end": NOW + timedelta(seconds=59)}, "period_end"),
        ({"period_type": "custom", "period_start": NOW, "period_end": NOW}, "period_end"),
        ({"period_end": APRIL + timedelta(days=1)}, "period_end"),
        ({"period_start": NOW - timedelta(days=40)}, "period_start"),
        (
            {
                "period_type": "custom",
                "period_start": NOW - timedelta(days=9),
                "period_end": NOW - timedelta(days=8),
            },
            "period_end",
        ),
        ({"period_start": datetime(9999, 6, 1, tzinfo=UTC)}, "period_start"),
    ],
)
def test_what_no_quota_may_be_names_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_quota(**given)
    assert caught.value.field == field


# -- matching


def test_the_index_finds_by_place_and_period_and_forgets() -> None:
    march, april = make_quota("a"), make_quota("b", period_start=APRIL)
    every = make_quota("c", scope_id="*")
    user = make_quota("d", scope_type="user", scope_id="u")
    index = QuotaIndex([march, april, every, user])
    operation = Operation("t", "llm", project_id="p", user_id="u")

    def found(at: datetime, operation: Operation = operation) -> set[tuple[str, str]]:
        return {(one.quota.quota_id, one.scope_id) for one in index.matches(operation, at)}

    assert found(NOW) == {("a", "p"), ("c", "p"), ("d", "u")}
    assert found(APRIL - timedelta(microseconds=1)) == found(NOW)
    assert found(APRIL) == {("b", "p")}
    assert found(MAY) == set()
    assert found(NOW, Operation("t", "gpu", project_id="p")) == set()
    assert found(NOW, Operation("t", "llm")) == set()
    assert sorted(one.quota_id for one in index.to_come(operation, NOW)) == ["a", "b", "c", "d"]
    assert index.to_come(operation, APRIL) == [april]
    assert index.to_come(Operation("t", "gpu", project_id="p"), NOW) == []
    index.put(replace(march, resource_type="gpu"))
    assert found(NOW) == {("c", "p"), ("d", "u")}
    index.drop_ended(APRIL)
    gpu = Operation("t", "gpu", project_id="p")
    assert [*index.to_come(operation, NOW), *index.to_come(gpu, NOW)] == [april]
    index.remove("b")
    index.remove("b")
    assert index.to_come(operation, NOW) == []
