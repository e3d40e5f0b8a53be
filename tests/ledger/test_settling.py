"""Settling is recording: what a settle, a release, an extension and a late cost do to the books."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fiscus import match_limits
from fiscus.clock import ManualClock
from fiscus.costs.model import CostFlag
from fiscus.errors import (
    Conflict,
    CostCalculationError,
    NotFound,
    PayloadTooLarge,
    ValidationError,
)
from tests.ledger.books import read_books
from tests.ledger.desk import Desk


@pytest.fixture(autouse=True)
def books_are_in_order(desk: Desk, store_url: str):
    """After every test here, balances, lines, records and rollups must agree."""
    yield
    assert read_books(store_url, desk.tenant_id).faults() == []


def test_settling_frees_the_hold_and_charges_the_actual_cost(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4")
    assert desk.used(budget) == ("0", "4")
    answer = desk.settle(held, "1.25")
    assert (answer.charged, answer.flags, answer.reservation_status) == (1.25, [], "settled")
    assert desk.used(budget) == ("1.25", "0")


def test_settling_at_the_estimate_is_no_excess(desk: Desk) -> None:
    desk.budget("10")
    assert desk.settle(desk.reserve("4"), "4").flags == []


def test_settling_above_the_hold_is_recorded_in_full_and_flagged(desk: Desk) -> None:
    budget = desk.budget("10")
    answer = desk.settle(desk.reserve("4"), "12.000000000001")
    assert answer.flags == [CostFlag.EXCESS]
    assert desk.used(budget) == ("12.000000000001", "0")
    assert str(answer.budgets[0].remaining) == "-2.000000000001"


def test_settling_again_with_the_same_amount_is_the_same_answer(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4")
    first = desk.settle(held, "3")
    assert desk.settle(held, "3.00") == first
    assert desk.used(budget) == ("3", "0")


def test_settling_again_with_another_amount_is_a_conflict(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4")
    record_id = desk.settle(held, "3").record_id
    with pytest.raises(Conflict) as caught:
        desk.settle(held, "3.000000000001")
    assert caught.value.details["record_id"] == record_id
    assert desk.used(budget) == ("3", "0")


def test_recording_with_a_reservation_is_settling_it(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4", user_id="u")
    answer = desk.record("3", reservation_id=held, project_id=None)
    assert (answer.reservation_id, answer.flags) == (held, [])
    assert answer.attributed_to_id == "u"  # the reservation's attributes, not the record's
    assert desk.used(budget) == ("3", "0")
    assert desk.settle(held, "3").record_id == answer.record_id


def test_a_record_with_a_reservation_keeps_the_ids_that_the_check_did_not_give(desk: Desk) -> None:
    budget = desk.budget("10")
    of_user = desk.budget("1", allocated_to_type="user", allocated_to_id="u")
    held = desk.reserve("4")
    for _ in range(2):  # again is the same
        answer = desk.record("3", reservation_id=held, user_id="u")
        assert (answer.attributed_to_type, answer.attributed_to_id) == ("user", "u")
        assert answer.flags == [CostFlag.UNRESERVED]
    assert (desk.used(budget), desk.used(of_user)) == (("3", "0"), ("3", "0"))
    record = desk.engine.costs.get(desk.tenant_id, answer.record_id)
    assert (record.project_id, record.user_id) == ("p", "u")


@pytest.mark.parametrize("field", ["resource_type", "project_id", "user_id", "feature_id"])
def test_a_record_for_something_else_than_was_reserved_is_a_conflict(
    desk: Desk, field: str
) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4", user_id="u", feature_id="f")
    for _ in range(2):
        with pytest.raises(Conflict) as caught:
            desk.record("3", reservation_id=held, **{field: "another"})
        assert caught.value.details["field"] == field
    assert desk.used(budget) == ("0", "4")
    assert desk.settle(held, "3").flags == []
    with pytest.raises(Conflict):  # also when it is settled
        desk.record("3", reservation_id=held, **{field: "another"})


def test_a_record_with_a_reservation_keeps_its_operation_and_category(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4")
    cost = {"operation_id": "op", "charge_category": "tax"}
    first = desk.record("3", reservation_id=held, **cost)
    assert desk.record("3", **cost).record_id == first.record_id, "the same operation"
    assert desk.used(budget) == ("3", "0")
    record = desk.engine.costs.get(desk.tenant_id, first.record_id)
    assert (record.operation_id, record.charge_category) == ("op", "tax")


def test_a_reservation_is_settled_for_the_operation_that_was_checked_only(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4", operation_id="checked")
    with pytest.raises(Conflict) as caught:
        desk.record("3", reservation_id=held, operation_id="another")
    assert caught.value.details["field"] == "operation_id"
    assert desk.used(budget) == ("0", "4")
    assert desk.record("3", reservation_id=held, operation_id="checked").flags == []


def test_a_credit_settles_no_reservation(desk: Desk) -> None:
    desk.budget("10")
    held = desk.reserve("4")
    with pytest.raises(ValidationError) as caught:
        desk.record("-3", reservation_id=held, charge_category="credit")
    assert caught.value.field == "cost_amount"


def test_a_repeated_operation_is_answered_with_what_was_recorded(desk: Desk) -> None:
    desk.budget("10")
    first = desk.record("1", operation_id="op")
    again = desk.record("1", operation_id="op", user_id="somebody-else")
    assert (again.attributed_to_type, again.attributed_to_id) == ("project", "p")
    assert (again.record_id, again.flags) == (first.record_id, ["unreserved"])


MANY = 30
"""More budgets than a group starts again."""


def test_a_cost_that_meets_many_budgets_for_the_first_time_is_recorded(
    desk: Desk, clock: ManualClock
) -> None:
    budgets = [desk.budget("10", period_type="daily") for _ in range(MANY)]
    clock.set(datetime(2026, 3, 10, 23, 59, tzinfo=UTC))
    in_time, late, again = (desk.reserve("1", ttl_seconds=ttl) for ttl in (600, 30, 700))
    desk.release(late)
    assert desk.settle(late, "1").flags == [CostFlag.LATE]
    clock.advance(minutes=2)
    assert desk.settle(in_time, "1").flags == [CostFlag.UNRESERVED]
    clock.advance(days=1)
    assert desk.settle(again, "1").flags == [CostFlag.LATE]
    assert len(desk.record("1").budgets) == MANY
    assert {desk.used(budget) for budget in budgets} == {("2", "0")}


def test_costs_that_meet_too_many_budgets_are_refused_together(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_RECORDS", 5)
    budgets = [desk.budget("10") for _ in range(2)]
    cost = {"resource_type": "llm", "cost_amount": 1, "project_id": "p"}
    with pytest.raises(PayloadTooLarge) as caught:
        desk.record_batch([{}, cost, cost, cost])
    assert caught.value.message.startswith("The first 4 of 4 records meet 6 budgets")
    assert {desk.used(budget) for budget in budgets} == {("0", "0")}
    assert desk.record_batch([{}, cost, cost]).recorded == 2


def test_costs_meet_the_budgets_of_the_reservations_that_they_settle(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_RECORDS", 5)
    budgets = [desk.budget("10") for _ in range(2)]
    held = [desk.reserve("1") for _ in range(3)]
    costs = [{"resource_type": "llm", "cost_amount": 1, "reservation_id": one} for one in held]
    with pytest.raises(PayloadTooLarge):
        desk.record_batch(costs)
    assert {desk.used(budget) for budget in budgets} == {("0", "3")}
    assert desk.record_batch(costs[:2]).recorded == 2
    assert {desk.used(budget) for budget in budgets} == {("2", "1")}


@pytest.mark.parametrize("kind", ["check", "record"])
def test_many_budgets_whose_windows_begin_with_their_first_use_begin_together(
    desk: Desk, kind: str
) -> None:
    budgets = [desk.budget("10", period_type="rolling") for _ in range(MANY)]
    if kind == "check":
        desk.reserve("1")
        used = ("0", "1")
    else:
        desk.record("1")
        used = ("1", "0")
    assert {desk.used(budget) for budget in budgets} == {used}


def test_what_a_settle_charges_to_the_next_period_was_not_reserved_there(
    desk: Desk, clock: ManualClock
) -> None:
    budget = desk.budget("10", period_type="daily")
    clock.set(datetime(2026, 3, 10, 23, 59, tzinfo=UTC))
    held = desk.reserve("10", ttl_seconds=600)
    clock.advance(minutes=2)
    desk.settle(desk.reserve("10", ttl_seconds=600), "10")
    assert desk.settle(held, "10").flags == [CostFlag.UNRESERVED]
    assert desk.used(budget) == ("20", "0")


def test_a_budget_that_only_the_settle_made_match_was_not_reserved(desk: Desk) -> None:
    desk.budget("100")
    desk.budget("10", filters={"tags": {"env": "prod"}})
    held = desk.reserve("50")
    assert desk.settle(held, "50", tags={"env": "prod"}).flags == [CostFlag.UNRESERVED]


def test_settling_after_expiry_is_late_and_the_reservation_stays_expired(
    desk: Desk, clock: ManualClock
) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4", ttl_seconds=60)
    clock.advance(seconds=60)
    answer = desk.settle(held, "4")
    assert (answer.flags, answer.reservation_status) == ([CostFlag.LATE], "expired")
    assert desk.used(budget) == ("4", "0")
    assert desk.settle(held, "4") == answer


def test_settling_a_moment_before_expiry_is_not_late(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10")
    held = desk.reserve("4", ttl_seconds=60)
    clock.advance(seconds=60, microseconds=-1)
    assert desk.settle(held, "4").flags == []


def test_settling_after_release_is_late_and_counts(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4")
    desk.release(held)
    answer = desk.settle(held, "5")
    assert answer.flags == [CostFlag.LATE, CostFlag.EXCESS]
    assert answer.reservation_status == "released"
    assert desk.used(budget) == ("5", "0")


def test_a_cost_without_reservation_is_flagged_unreserved_where_it_meets_a_budget(
    desk: Desk,
) -> None:
    budget = desk.budget("10")
    assert desk.record("11").flags == [CostFlag.UNRESERVED]
    assert desk.record("1", project_id="another").flags == []
    assert desk.used(budget) == ("11", "0")


def test_release_gives_everything_back_and_is_idempotent(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("10")
    assert not desk.check("1").allowed
    assert desk.release(held).status == "released"
    assert desk.release(held).status == "released"
    assert desk.used(budget) == ("0", "0")


def test_an_actual_cost_without_a_rate_is_recorded_unconverted_and_no_excess(desk: Desk) -> None:
    budget = desk.budget("10")
    answer = desk.settle(desk.reserve("4"), "1000", currency="XXX")
    assert (answer.charged, answer.currency) == (1000, "XXX")
    assert answer.flags == [CostFlag.UNCONVERTED]
    assert desk.used(budget) == ("0", "0")


def test_the_service_that_was_checked_stays_and_tags_of_the_settle_replace_its_own(
    desk: Desk,
) -> None:
    checked = desk.reserve("4", service_name="checked", tags={"env": "test", "team": "a"})
    settled = {"service_name": "settled", "tags": {"env": "prod", "job": "j"}}
    answer = desk.record("3", reservation_id=checked, **settled)
    record = desk.engine.costs.get(desk.tenant_id, answer.record_id)
    assert record.service_name == "checked"
    assert record.tags == {"env": "prod", "team": "a", "job": "j"}
    answer = desk.record("3", reservation_id=desk.reserve("4"), **settled)
    assert desk.engine.costs.get(desk.tenant_id, answer.record_id).service_name == "settled"


def test_of_more_tags_than_a_record_has_those_by_which_the_money_is_held_are_kept(
    desk: Desk,
) -> None:
    budget = desk.budget("10", filters={"tags": {"held-49": "x"}})
    held = desk.reserve("4", tags={f"held-{number}": "x" for number in range(50)})
    said = {f"settled-{number}": "x" for number in range(49)} | {"held-0": "y"}
    answer = desk.settle(held, "3", tags=said)
    tags = desk.engine.costs.get(desk.tenant_id, answer.record_id).tags
    assert tags == {f"held-{number}": "x" if number else "y" for number in range(50)}
    assert desk.used(budget) == ("3", "0")


def test_a_cost_of_nobody_but_the_tenant_is_tagged_unattributed(desk: Desk) -> None:
    for whose, tags in (
        ({"project_id": None}, {"env": "prod", "unattributed": "true"}),
        ({"project_id": None, "user_id": "u"}, {"env": "prod"}),
        ({"project_id": None, "feature_id": "f"}, {"env": "prod"}),
        ({}, {"env": "prod"}),
    ):
        answer = desk.record("1", tags={"env": "prod"}, **whose)
        assert desk.engine.costs.get(desk.tenant_id, answer.record_id).tags == tags


def test_the_mark_of_a_cost_of_nobody_displaces_none_of_its_tags(desk: Desk) -> None:
    tags = {f"sent-{number}": "x" for number in range(50)}
    held = desk.reserve("1", project_id=None, tags=tags)
    for answer in (desk.record("1", project_id=None, tags=tags), desk.settle(held, "1")):
        record = desk.engine.costs.get(desk.tenant_id, answer.record_id)
        assert record.tags == {**tags, "unattributed": "true"}


def test_a_settled_reservation_cannot_be_released_or_extended(desk: Desk) -> None:
    desk.budget("10")
    held = desk.reserve("4")
    desk.settle(held, "4")
    with pytest.raises(Conflict):
        desk.release(held)
    with pytest.raises(Conflict):
        desk.extend(held, 60)


def test_extending_moves_the_expiry_from_now(desk: Desk, clock: ManualClock) -> None:
    budget = desk.budget("10")
    held = desk.reserve("10", ttl_seconds=60)
    clock.advance(seconds=59)
    view = desk.extend(held, 30)
    assert (view.expires_at - clock.now()).total_seconds() == 30
    clock.advance(seconds=29)
    assert not desk.check("1").allowed
    clock.advance(seconds=1)
    assert desk.check("1").allowed
    assert desk.used(budget) == ("0", "1")
    with pytest.raises(Conflict, match="expired"):
        desk.extend(held, 30)


def test_another_tenants_reservation_is_not_found(desk: Desk) -> None:
    desk.budget("10")
    held = desk.reserve("4")
    stranger = Desk(desk.engine, f"{desk.tenant_id}-x")
    for attempt in (
        lambda: stranger.settle(held, "1"),
        lambda: stranger.release(held),
        lambda: stranger.extend(held, 60),
        lambda: stranger.record("1", reservation_id=held),
        lambda: stranger.settle("no-such-reservation", "1"),
    ):
        with pytest.raises(NotFound):
            attempt()


def test_an_operation_id_recorded_twice_is_one_record(desk: Desk) -> None:
    budget = desk.budget("10")
    first = desk.record("3", operation_id="op")
    again = desk.record("3", operation_id="op")
    assert again.record_id == first.record_id
    assert desk.used(budget) == ("3", "0")
    with pytest.raises(Conflict):
        desk.record("3.1", operation_id="op")
    assert desk.used(budget) == ("3", "0")


def test_a_reservation_of_an_operation_recorded_before_is_answered_whose_cost_it_is(
    desk: Desk,
) -> None:
    held = desk.reserve("4", operation_id="op")
    recorded = desk.record("3", operation_id="op", user_id="u")
    for _ in range(2):
        answer = desk.record("3", reservation_id=held)
        assert answer.record_id == recorded.record_id
        assert (answer.attributed_to_type, answer.attributed_to_id) == ("user", "u")


def test_an_operation_recorded_before_it_is_settled_is_charged_once(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4", operation_id="op")
    recorded = desk.record("3", operation_id="op")
    assert desk.used(budget) == ("3", "4")
    settled = desk.settle(held, "3")
    assert settled.record_id == recorded.record_id
    assert desk.used(budget) == ("3", "0")


def test_an_operation_of_another_tenant_may_have_the_same_id(desk: Desk) -> None:
    desk.record("3", operation_id="op")
    stranger = Desk(desk.engine, f"{desk.tenant_id}-x")
    assert stranger.record("4", operation_id="op").cost_amount == 4


def test_a_cost_before_the_budgets_start_or_after_its_end_does_not_count(
    desk: Desk, clock: ManualClock
) -> None:
    clock.set(clock.now().replace(day=15))
    budget = desk.budget("10", start_date="2026-03-10", end_date="2026-03-15")
    assert desk.record("1", timestamp="2026-03-09T23:59:59.999999Z").budgets == []
    assert len(desk.record("2", timestamp="2026-03-10T00:00:00Z").budgets) == 1
    assert len(desk.record("4", timestamp="2026-03-14T23:59:59.999999Z").budgets) == 1
    assert desk.record("8", timestamp="2026-03-15T00:00:00Z").budgets == []
    clock.set(clock.now().replace(day=14))
    assert desk.used(budget) == ("6", "0")


def test_a_cost_charges_the_period_of_its_own_timestamp(desk: Desk, clock: ManualClock) -> None:
    budget = desk.budget("10", period_type="daily")
    held = desk.reserve("4")
    clock.advance(days=1)
    desk.settle(held, "4", timestamp="2026-03-10T12:00:00Z")
    assert desk.used(budget) == ("0", "0")
    clock.advance(days=-1)
    assert desk.used(budget) == ("4", "0")


def test_a_credit_gives_room_back(desk: Desk) -> None:
    desk.budget("10")
    desk.record("10")
    assert not desk.check("1").allowed
    desk.record("-3", charge_category="credit")
    assert desk.check("3").allowed
    with pytest.raises(ValidationError):
        desk.record("-3")


def test_usage_without_an_amount_has_no_price_yet(desk: Desk) -> None:
    with pytest.raises(CostCalculationError):
        desk.record(None, usage_quantity="100", usage_unit="tokens")


@pytest.mark.parametrize(
    ("cost", "field"),
    [("-1", "actual_cost"), ("NaN", "actual_cost"), ("1e26", "actual_cost")],
)
def test_a_settle_with_a_bad_amount_changes_nothing(desk: Desk, cost: str, field: str) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4")
    with pytest.raises(ValidationError) as caught:
        desk.settle(held, cost)
    assert caught.value.field == field
    assert desk.used(budget) == ("0", "4")


def test_costs_of_all_digits_add_up_to_the_last_one(desk: Desk) -> None:
    budget = desk.budget("99999999999999999999999999.999999999999", period_type="yearly")
    desk.record("12345678901234567890123456.123456789012")
    desk.record("0.000000000001")
    desk.record("-12345678901234567890123456", charge_category="adjustment")
    assert desk.used(budget) == ("0.123456789013", "0")


def test_costs_may_add_up_to_more_than_one_amount_can_be(desk: Desk) -> None:
    budget = desk.budget("10")
    for _ in range(3):
        desk.record("99999999999999999999999999.999999999999")
    assert desk.used(budget) == ("299999999999999999999999999.999999999997", "0")
