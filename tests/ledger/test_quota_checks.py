"""What a consumption takes from quotas, what its answer says, and what comes back."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from fiscus import match_limits
from fiscus.clock import ManualClock
from fiscus.costs.port import CostFilter
from fiscus.engine import Engine
from fiscus.errors import (
    Conflict,
    IdempotencyConflict,
    InternalError,
    NotFound,
    PayloadTooLarge,
    ValidationError,
)
from fiscus.ids import uuid7
from fiscus.ledger.commands import Command
from fiscus.ledger.definitions import DefinitionCache
from fiscus.ledger.group import GroupRunner
from fiscus.paging import PageRequest
from fiscus.quotas.calls import ConsumptionView, QuotaCheckAnswer
from fiscus.quotas.model import UsageKind
from fiscus.stores.sql.database import Database
from tests.ledger.books import read_books
from tests.ledger.quota_books import read_quota_books
from tests.ledger.quota_desk import QuotaDesk, quota_check

APRIL = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
def desk(engine: Engine) -> QuotaDesk:
    return QuotaDesk(engine, f"acme-{secrets.token_hex(4)}")


@pytest.fixture(autouse=True)
def books_are_in_order(desk: QuotaDesk, store_url: str) -> Iterator[None]:
    yield
    assert read_quota_books(store_url, desk.tenant_id).faults() == []
    assert read_books(store_url, desk.tenant_id).faults() == []


# -- taking


def test_a_consumption_is_taken_from_every_quota_that_matches(desk: QuotaDesk) -> None:
    project = desk.quota(10)
    user = desk.quota(20, scope_type="user", scope_id="u")
    tenant = desk.quota(30, scope_type="tenant", scope_id=desk.tenant_id)
    others = [
        desk.quota(10, resource_type="gpu"),
        desk.quota(10, scope_id="q"),
        desk.quota(10, scope_type="feature", scope_id="f"),
    ]
    answer = desk.consume("4", user_id="u", operation_id="op")
    assert (answer.allowed, answer.matched) == (True, 3)
    assert answer.quota_id == user.quota_id  # the most specific
    assert {line.quota_id for line in answer.quotas} == {
        one.quota_id for one in (project, user, tenant)
    }
    assert (answer.remaining_amount, answer.max_allowed_amount) == (16, 6)
    assert [desk.quota_used(one)[0] for one in (project, user, tenant)] == [4, 4, 4]
    assert [desk.quota_used(one)[0] for one in others] == [0, 0, 0]


def test_a_denied_consumption_changes_no_quota_and_explains_itself(desk: QuotaDesk) -> None:
    large = desk.quota(100, scope_type="user", scope_id="u")
    small = desk.quota(3)
    desk.take("2")
    answer = desk.consume("1.5", user_id="u")
    assert not answer.allowed
    assert (answer.quota_id, answer.consumption_id) == (small.quota_id, None)
    assert (answer.remaining_amount, answer.max_allowed_amount) == (1, 1)
    assert answer.message == "The llm quota of project p has no room: 1 of 3 left, 1.5 needed."
    assert {line.quota_id: line.decision for line in answer.quotas} == {
        small.quota_id: "deny",
        large.quota_id: "allow",
    }
    assert answer.fits_at is None  # it does not renew itself
    assert desk.quota_used(small) == (2, 0)
    assert desk.quota_used(large) == (0, 0)
    assert len(desk.history(large)) == 0
    assert desk.consume(answer.max_allowed_amount, user_id="u").allowed


def test_a_clock_that_was_far_ahead_and_is_put_right_finds_the_quotas_of_its_time(
    desk: QuotaDesk, clock: ManualClock
) -> None:
    desk.quota(10)
    right = clock.now()
    clock.advance(days=65)
    assert desk.consume("11").matched == 0, "that of March is over"
    clock.set(right)
    answer = desk.consume("11")
    assert (answer.matched, answer.allowed) == (1, False)


def test_a_clock_that_is_put_right_step_by_step_finds_the_quotas_of_its_time(
    desk: QuotaDesk, clock: ManualClock
) -> None:
    right = clock.now()
    end = right + timedelta(hours=12)
    desk.quota("1", period_type="custom", period_start=right, period_end=end)
    clock.advance(days=2)
    assert desk.consume("2").matched == 0
    clock.advance(hours=-23)
    desk.quota("1", scope_id="other")
    assert desk.consume("2").matched == 0
    clock.set(right + timedelta(hours=2))
    assert not desk.consume("2").allowed


def test_burst_is_tracked_apart_and_levels_are_told_once(desk: QuotaDesk) -> None:
    quota = desk.quota(10, max_burst_amount=5)
    told = [desk.consume(amount).quotas[0] for amount in ("7", "1", "3", "0.5", "3.5")]
    assert [line.from_burst for line in told] == [0, 0, 1, Decimal("0.5"), Decimal("3.5")]
    assert [line.level for line in told] == ["ok", "warning_80", *["exhausted_100"] * 3]
    assert [line.crossed for line in told] == [
        [],
        ["warning_80"],
        ["critical_90", "exhausted_100"],
        [],
        [],
    ]
    assert [line.remaining_amount for line in told] == [8, 7, 4, Decimal("3.5"), 0]
    assert told[-1].utilization_ratio == Decimal("1.5")
    assert desk.quota_used(quota) == (10, 5)
    assert not desk.consume("0.000000000001").allowed
    assert desk.consume("0").allowed


def test_only_looking_takes_nothing(desk: QuotaDesk) -> None:
    quota = desk.quota(10, max_burst_amount=5, burst_premium_rate=1)
    answer = desk.consume("15", consume=False)
    assert (answer.allowed, answer.consumption_id) == (True, None)
    assert (answer.remaining_amount, answer.max_allowed_amount) == (15, 15)
    assert (answer.quotas[0].from_burst, answer.quotas[0].crossed) == (0, [])
    assert not desk.consume("15.000000000001", consume=False).allowed
    assert desk.quota_used(quota) == (0, 0)
    assert desk.history(quota) == []


def test_a_quota_for_every_id_is_a_quota_for_each(desk: QuotaDesk) -> None:
    quota = desk.quota(2, scope_type="user", scope_id="*")
    assert desk.consume("2", user_id="u").allowed
    denial = desk.consume("1", user_id="u")
    assert (denial.allowed, denial.quotas[0].scope) == (False, {"type": "user", "id": "u"})
    assert desk.consume("2", user_id="v").allowed
    assert desk.consume("9").matched == 0
    assert [(row.scope_id, row.used_after) for row in desk.history(quota)] == [("u", 2), ("v", 2)]


def test_what_no_quota_matches_is_allowed_unless_the_tenant_requires_one(desk: QuotaDesk) -> None:
    answer = desk.consume("1")
    assert (answer.allowed, answer.matched, answer.consumption_id) == (True, 0, None)
    assert (answer.quota_id, answer.max_allowed_amount) == (None, None)
    desk.settings(require_quota=True)
    answer = desk.consume("1")
    assert (answer.allowed, answer.matched, answer.max_allowed_amount) == (False, 0, 0)
    assert answer.message == "No quota matches this operation. This tenant requires one."


def test_definitions_are_read_again_when_they_changed(desk: QuotaDesk) -> None:
    assert desk.consume("1").matched == 0
    quota = desk.quota(1)
    assert desk.consume("1").allowed
    assert not desk.consume("1").allowed
    quota = desk.replace_quota(quota, 2)
    assert desk.consume("1").allowed
    desk.replace_quota(quota, 1)
    cut = desk.consume("1")
    assert (cut.remaining_amount, cut.max_allowed_amount) == (-1, 0)
    desk.delete_quota(quota)
    assert desk.consume("1").matched == 0


def test_a_quota_counts_in_its_period_and_not_before_or_after(
    desk: QuotaDesk, clock: ManualClock
) -> None:
    april = desk.quota(5, period_start=APRIL)
    march = desk.quota(1)
    desk.take("1")
    denial = desk.consume("5")
    assert denial.fits_at == APRIL  # the next period has its quota already
    assert desk.consume("5.1").fits_at is None
    clock.set(APRIL - timedelta(microseconds=1))
    assert not desk.consume("1").allowed
    clock.set(APRIL)
    assert desk.consume("5").quota_id == april.quota_id
    assert desk.quota_used(march) == (1, 0)


def test_a_denial_fits_when_a_quota_that_renews_itself_does(desk: QuotaDesk) -> None:
    desk.quota(2, auto_renew=True, max_burst_amount=1)
    desk.take("3")
    assert desk.consume("3").fits_at == APRIL
    assert desk.consume("3.1").fits_at is None
    assert desk.consume("0.1", consume=False).fits_at == APRIL
    desk.quota(1, scope_type="user", scope_id="u")  # does not
    assert desk.consume("2", user_id="u").fits_at is None


def test_what_a_renewal_by_usage_will_give_is_not_known(desk: QuotaDesk) -> None:
    desk.quota(2, auto_renew=True, renewal_amount="by_usage")
    assert desk.consume("3").fits_at is None
    desk.quota(1, scope_id="q", auto_renew=True)
    desk.take("1", project_id="q")
    assert desk.consume("1", project_id="q").fits_at == APRIL
    desk.quota(9, scope_id="*", auto_renew=True, renewal_amount="by_usage")
    assert desk.consume("1", project_id="q").fits_at is None, "one that allows now"


def test_what_allows_now_may_have_less_when_a_denial_would_fit(
    desk: QuotaDesk, clock: ManualClock
) -> None:
    desk.quota(5, auto_renew=True)
    desk.take("5")
    user = {"scope_type": "user", "scope_id": "u"}
    desk.quota(20, **user)
    assert desk.consume("4", user_id="u").fits_at == APRIL, "nothing is known to deny it then"
    desk.quota(3, **user, period_start=APRIL, auto_renew=True)
    assert desk.consume("4", user_id="u").fits_at is None
    may, june = (datetime(2026, month, 1, tzinfo=UTC) for month in (5, 6))
    desk.quota(4, **user, period_start=may)
    denial = desk.consume("4", user_id="u")
    assert denial.fits_at == may
    assert desk.consume("3", user_id="u").fits_at == APRIL
    tenant = {"scope_type": "tenant", "scope_id": desk.tenant_id}
    desk.quota(1, **tenant, period_start=may)  # not met yet
    assert desk.consume("4", user_id="u").fits_at is None
    desk.quota(9, **tenant, period_start=june)
    assert desk.consume("4", user_id="u").fits_at == june
    clock.set(june)
    assert [line.decision for line in desk.consume("4", user_id="u").quotas] == ["allow"]


def test_a_quota_that_is_to_begin_stands_in_nobodys_way_before(desk: QuotaDesk) -> None:
    desk.quota(5, auto_renew=True)
    desk.take("5")
    user = {"scope_type": "user", "scope_id": "u"}
    desk.quota(3, **user, period_start=datetime(2026, 5, 1, tzinfo=UTC))
    assert desk.consume("4", user_id="u").fits_at == APRIL
    desk.quota(3, **user, period_start=APRIL)  # begins before one that was allocated before it
    assert desk.consume("4", user_id="u").fits_at is None


def test_what_no_quota_matches_where_one_is_required_fits_once_one_has_begun(
    desk: QuotaDesk, clock: ManualClock
) -> None:
    desk.settings(require_quota=True)
    assert desk.consume("1").fits_at is None, "no quota is to come"
    desk.quota(3, period_start=APRIL, auto_renew=True)
    denial = desk.consume("3")
    assert (denial.allowed, denial.matched, denial.fits_at) == (False, 0, APRIL)
    clock.set(APRIL - timedelta(microseconds=1))
    assert not desk.consume("3").allowed
    assert desk.consume("4").fits_at is None
    user = {"scope_type": "user", "scope_id": "u"}
    may, june = (datetime(2026, month, 1, tzinfo=UTC) for month in (5, 6))
    desk.quota(9, **user, period_start=may)
    assert desk.consume("3", user_id="u").fits_at == APRIL, "before that of the user begins"
    desk.quota(1, period_start=may)
    desk.quota(5, period_start=june)
    assert desk.consume("4", user_id="u").fits_at == june
    clock.set(APRIL)
    assert desk.consume("3").allowed


@pytest.mark.parametrize(
    ("period_type", "begins", "fits"),
    [
        ("daily", "2026-03-18T00:00:00Z", "2026-03-16T00:00:00Z"),
        ("daily", "2026-03-16T09:00:00Z", "2026-03-16T09:00:00Z"),
        ("daily", "2026-03-16T00:00:00Z", "2026-03-16T00:00:00Z"),
        ("custom", "2026-03-18T00:00:00Z", "2026-03-16T00:00:00Z"),
        ("custom", "2026-03-16T09:00:00Z", "2026-03-16T09:00:00Z"),
        ("weekly", "2026-03-18T00:00:00Z", "2026-03-18T00:00:00Z"),
    ],
)
def test_a_renewal_that_would_overlap_the_next_quota_is_none_that_is_required(
    desk: QuotaDesk, clock: ManualClock, period_type: str, begins: str, fits: str
) -> None:
    clock.set(datetime(2026, 3, 15, 12, tzinfo=UTC))  # a Sunday
    desk.settings(require_quota=True)
    monday = "2026-03-16T00:00:00Z"
    own = {"period_start": "2026-03-15T00:00:00Z", "period_end": monday}
    desk.quota(5, period_type=period_type, auto_renew=True, **own)
    desk.quota(9, period_type="custom", period_start=begins, period_end="2026-03-31T00:00:00Z")
    desk.take("5")
    assert desk.consume("5").fits_at == datetime.fromisoformat(fits)
    desk.quota(9, scope_type="user", scope_id="u")
    assert desk.consume("5", user_id="u").fits_at == datetime.fromisoformat(monday), "one holds"


def test_a_next_quota_at_the_end_of_time_is_like_another(desk: QuotaDesk) -> None:
    desk.settings(require_quota=True)
    desk.quota(5, auto_renew=True)
    last = {"period_start": "9998-12-20T00:00:00Z", "period_end": "9998-12-30T00:00:00Z"}
    desk.quota(9, period_type="custom", **last)
    desk.take("5")
    assert desk.consume("5").fits_at == APRIL


# -- the premium of a burst


def test_burst_with_a_premium_is_recorded_as_a_cost_and_charged(desk: QuotaDesk) -> None:
    budget = desk.budget(100)
    quota = desk.quota(10, max_burst_amount=10, burst_premium_rate="0.25")
    desk.take("10")
    assert desk.used(budget) == ("0", "0")
    consumption_id = desk.take("4", user_id="u", feature_id="f")
    assert desk.used(budget) == ("1", "0")
    (record,) = costs(desk)
    assert (record.cost_amount, record.currency, record.charge_category) == (1, "USD", "usage")
    assert record.tags == {"quota_id": quota.quota_id, "charge": "burst"}
    assert (record.resource_type, record.user_id, record.feature_id) == ("llm", "u", "f")
    desk.give_back(consumption_id, "1")
    desk.give_back(consumption_id)
    assert [
        (one.cost_amount, one.charge_category)
        for one in costs(desk)
        if one.record_id != record.record_id
    ] == [(Decimal("-0.75"), "adjustment"), (Decimal("-0.25"), "adjustment")]
    assert desk.used(budget)[0] == "0"
    assert desk.quota_used(quota) == (10, 0)


def test_parts_given_back_reverse_exactly_what_was_charged(desk: QuotaDesk) -> None:
    desk.quota(1, max_burst_amount=10, burst_premium_rate="0.333333333333")
    consumption_id = desk.take("2.5")
    for amount in ("0.000000000001", "0.7", "1.3"):
        desk.give_back(consumption_id, amount)
    desk.give_back(consumption_id)
    assert sum(one.cost_amount for one in costs(desk)) == 0


def test_a_premium_is_reversed_as_it_was_whatever_the_quota_says_since(
    desk: QuotaDesk, clock: ManualClock
) -> None:
    """And in the budget's period that it was charged to."""
    budget = desk.budget(100)
    fields = {"max_burst_amount": 5, "currency": "EUR"}
    quota = desk.quota(1, burst_premium_rate="2", **fields)
    consumption_id = desk.take("3")
    desk.replace_quota(quota, 1, burst_premium_rate="7", **fields)
    desk.delete_quota(quota)
    clock.set(APRIL + timedelta(days=40))
    desk.give_back(consumption_id)
    assert [(one.cost_amount, one.currency) for one in costs(desk)] == [(-4, "EUR"), (4, "EUR")]
    assert desk.used(budget) == ("0", "0")
    clock.set(APRIL - timedelta(days=5))
    assert desk.used(budget)[0] == "0"


def test_a_premium_that_no_amount_can_hold_is_refused(desk: QuotaDesk) -> None:
    quota = desk.quota(1, max_burst_amount="1e25", burst_premium_rate="100")
    least = Decimal("1e24") + 1  # its burst costs 1e26
    with pytest.raises(ValidationError, match="out of range"):
        desk.consume(least)
    assert desk.quota_used(quota) == (0, 0)
    desk.take(least - 1)
    assert [one.cost_amount for one in costs(desk)] == [Decimal("1e26") - 100]


def test_a_premium_of_more_digits_than_are_counted_is_refused_as_well(desk: QuotaDesk) -> None:
    quota = desk.quota(1, max_burst_amount="9e25", burst_premium_rate="9e25")
    with pytest.raises(ValidationError, match="out of range"):
        desk.consume("9e25")
    assert desk.quota_used(quota) == (0, 0)


def test_premiums_charge_budgets_whose_windows_begin_with_them(desk: QuotaDesk) -> None:
    budget = desk.budget(100, period_type="rolling")
    desk.quota(1, max_burst_amount=10, burst_premium_rate="1")
    desk.take("3")
    assert desk.used(budget) == ("2", "0")


# -- giving back


def test_giving_back_whole_in_part_and_again(desk: QuotaDesk) -> None:
    project = desk.quota(10, max_burst_amount=5)
    user = desk.quota(20, scope_type="user", scope_id="u")
    consumption_id = desk.take("12", user_id="u", operation_id="op")
    view = desk.give_back(consumption_id, "3")
    assert (view.amount, view.released_amount, view.operation_id) == (12, 3, "op")
    assert set(view.quota_ids) == {project.quota_id, user.quota_id}
    assert desk.quota_used(project) == (9, 0)  # the burst first
    assert desk.quota_used(user) == (9, 0)
    with pytest.raises(Conflict) as caught:
        desk.give_back(consumption_id, "9.000000000001")
    assert caught.value.details["left_to_release"] == "9"
    assert desk.give_back(consumption_id).released_amount == 12
    assert desk.give_back(consumption_id).released_amount == 12
    with pytest.raises(Conflict):
        desk.give_back(consumption_id, "1")
    rows = [(row.kind, row.amount, row.burst, row.used_after) for row in desk.history(project)]
    assert rows == [
        (UsageKind.CONSUME, 12, 2, 12),
        (UsageKind.RELEASE, 3, 2, 9),
        (UsageKind.RELEASE, 9, 0, 0),
    ]


def test_what_comes_back_after_its_period_goes_to_the_period_it_came_from(
    desk: QuotaDesk, clock: ManualClock
) -> None:
    march = desk.quota(5)
    april = desk.quota(5, period_start=APRIL)
    consumption_id = desk.take("5")
    clock.set(APRIL + timedelta(days=3))
    desk.take("2")
    desk.give_back(consumption_id, "4")
    assert desk.quota_used(march) == (1, 0)
    assert desk.quota_used(april) == (2, 0)


def test_what_was_taken_from_a_deleted_quota_can_be_given_back(
    desk: QuotaDesk, store_url: str
) -> None:
    quota = desk.quota(5)
    consumption_id = desk.take("5")
    desk.delete_quota(quota)
    assert desk.give_back(consumption_id).released_amount == 5
    balances = read_quota_books(store_url, desk.tenant_id).balances
    assert [one.used for one in balances.values()] == [0]


def test_a_consumption_of_another_tenant_is_not_found(desk: QuotaDesk) -> None:
    desk.quota(5)
    other = QuotaDesk(desk.engine, f"{desk.tenant_id}-other")
    for consumption_id in (desk.take("1"), uuid7(), "no-uuid"):
        with pytest.raises(NotFound):
            other.give_back(consumption_id)


# -- keys, groups and batches


def test_a_repeated_consumption_takes_once_and_gets_the_same_answer(desk: QuotaDesk) -> None:
    quota = desk.quota(5)
    first = desk.consume("3", key="k")
    assert desk.consume("3", key="k") == first
    with pytest.raises(IdempotencyConflict):
        desk.consume("2", key="k")
    denied = desk.consume("4", key="denied")
    desk.give_back(first.consumption_id, key="back")
    assert desk.consume("4", key="denied") == denied
    assert desk.give_back(first.consumption_id, key="back").released_amount == 3
    assert desk.quota_used(quota) == (0, 0)
    assert desk.consume("3", key="k") == first  # given back since, and not taken again
    assert desk.quota_used(quota) == (0, 0)


def test_a_group_takes_and_gives_back_in_order(desk: QuotaDesk) -> None:
    quota = desk.quota(5)
    first = desk.consume_command("4", key="k")
    held = desk.take("1")
    commands: list[Command] = [
        first,
        desk.consume_command("1"),
        desk.give_back_command(held),
        desk.consume_command("1"),
        first,
        desk.give_back_command(uuid7()),
    ]
    outcomes = desk.outcomes(commands)
    allowed = [one.allowed for one in outcomes if isinstance(one, QuotaCheckAnswer)]
    assert allowed == [True, False, True, True]
    assert outcomes[4] == outcomes[0]
    assert isinstance(outcomes[5], NotFound)
    assert desk.quota_used(quota) == (5, 0)


def test_a_consumption_of_the_same_group_can_be_given_back(desk: QuotaDesk) -> None:
    quota = desk.quota(5, max_burst_amount=1, burst_premium_rate=1)
    taken = desk.consume_command("6")
    outcomes = desk.outcomes([taken, desk.give_back_command(taken.consumption_id)])
    assert isinstance(outcomes[1], ConsumptionView), outcomes
    assert desk.quota_used(quota) == (0, 0)
    assert sum(one.cost_amount for one in costs(desk)) == 0


def test_a_consumption_that_breaks_half_way_has_taken_nothing(
    desk: QuotaDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = desk.quota(5)
    premium = desk.quota(
        1, scope_type="user", scope_id="u", max_burst_amount=9, burst_premium_rate=1
    )

    def breaks(*given: object) -> None:
        raise ZeroDivisionError(given)

    monkeypatch.setattr("fiscus.ledger.quotas.record_cost", breaks)
    outcomes = desk.outcomes(
        [desk.consume_command("1"), desk.consume_command("3", "k", user_id="u")]
    )
    assert isinstance(outcomes[1], InternalError)
    monkeypatch.undo()
    assert desk.quota_used(quota) == (1, 0)
    assert desk.quota_used(premium) == (0, 0)
    assert desk.consume("3", "k", user_id="u").allowed


def test_a_batch_decides_in_order_each_for_itself(desk: QuotaDesk) -> None:
    quota = desk.quota(5)
    checks = [quota_check(amount) for amount in ("3", "3", "2", "0.1")]
    answer = desk.consume_batch([*checks, quota_check("1", resource_type="other")], key="k")
    assert [one.allowed for one in answer.results] == [True, False, True, False, True]
    assert not answer.allowed
    assert desk.quota_used(quota) == (5, 0)
    assert desk.consume_batch([*checks, quota_check("1", resource_type="other")], "k") == answer
    assert desk.quota_used(quota) == (5, 0)


def test_an_invalid_item_rejects_its_batch(desk: QuotaDesk) -> None:
    quota = desk.quota(5)
    desk.consume("1", key="k")
    with pytest.raises(IdempotencyConflict):
        desk.consume_batch([quota_check("1"), quota_check("2", idempotency_key="k")])
    with pytest.raises(ValidationError) as caught:
        desk.consume_batch([quota_check("1"), quota_check("-1")])
    assert caught.value.field == "checks[1].required_amount"
    with pytest.raises(PayloadTooLarge):
        desk.consume_batch([quota_check("0")] * 501)
    assert desk.quota_used(quota) == (1, 0)
    assert desk.consume_batch([quota_check("0.001")] * 500).allowed


def test_a_batch_that_meets_too_many_quotas_and_budgets_takes_nothing(
    desk: QuotaDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_CHECKS", 5)
    whole = desk.quota(10, scope_type="tenant", scope_id=desk.tenant_id)
    one = desk.quota(10, max_burst_amount=5, burst_premium_rate=1)
    assert desk.consume_batch([quota_check("1")] * 2).allowed
    with pytest.raises(PayloadTooLarge) as caught:
        desk.consume_batch([quota_check("1")] * 3)
    assert caught.value.message.startswith("The first 3 of 3 checks meet 6 quotas and budgets")
    desk.budget("10")  # that premiums of the burst are charged to
    with pytest.raises(PayloadTooLarge):
        desk.consume_batch([quota_check("1")] * 2)
    assert (desk.quota_used(whole), desk.quota_used(one)) == ((2, 0), (2, 0))


def test_amounts_are_exact_and_never_negative(desk: QuotaDesk) -> None:
    quota = desk.quota("1e-12", max_burst_amount="1e-12")
    assert desk.consume("0.0000000000010001").allowed  # rounded at the edge
    assert desk.consume("1e-12").allowed
    assert not desk.consume("1e-12").allowed
    assert desk.quota_used(quota) == (Decimal("1e-12"), Decimal("1e-12"))
    for call in (lambda: desk.consume("-1"), lambda: desk.give_back(uuid7(), "-1")):
        with pytest.raises(ValidationError):
            call()


def test_quotas_that_are_long_over_are_neither_read_nor_kept(
    desk: QuotaDesk, clock: ManualClock, store_url: str
) -> None:
    known = DefinitionCache()
    with (
        closing(Database(store_url)) as database,
        closing(database.ledger_store()) as store,
    ):
        runner = GroupRunner(store, desk.engine.rates, known)
        for _ in range(5):
            desk.quota(1, period_type="daily")
            (answer,) = runner.run([desk.consume_command("1")])
            assert isinstance(answer, QuotaCheckAnswer)
            assert answer.consumption_id is not None
            clock.advance(days=1)
        assert len(known.get(desk.tenant_id).quotas) == 2
        late = GroupRunner(store, desk.engine.rates, DefinitionCache())
        (answer,) = late.run([desk.consume_command("1")])
        assert isinstance(answer, QuotaCheckAnswer)
        assert answer.matched == 0
        assert len(late.definitions.get(desk.tenant_id).quotas) == 1


def test_a_change_of_quotas_tells_nobody_of_budgets(desk: QuotaDesk, store_url: str) -> None:
    read: list[str] = []
    with (
        closing(Database(store_url)) as database,
        closing(database.ledger_store()) as store,
    ):
        runner = GroupRunner(
            store, desk.engine.rates, DefinitionCache(), lambda tenant_id, _: read.append(tenant_id)
        )

        def times_read_after(_change: object) -> int:
            runner.run([desk.consume_command("1")])
            return len(read)

        assert times_read_after(desk.quota(10)) == 1
        assert times_read_after(desk.quota(10, resource_type="gpu")) == 1
        budget = desk.budget("10")
        assert times_read_after(budget) == 2
        assert times_read_after(desk.delete(budget)) == 3


# ----------------------------------------------------------------


def costs(desk: QuotaDesk):
    return desk.engine.costs.list(desk.tenant_id, CostFilter(), PageRequest()).items
