"""A repeated request gets the answer of the first, for as long as its window lasts."""

from __future__ import annotations

import pytest

from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer, CheckBatchRequest
from fiscus.clock import ManualClock
from fiscus.costs.calls import RecordBatchAnswer, RecordBatchRequest
from fiscus.errors import Conflict, IdempotencyConflict, ValidationError
from fiscus.ledger.requests.budgets import check_batch_command
from fiscus.ledger.requests.costs import record_batch_command
from fiscus.ledger.requests.quotas import quota_check_batch_command
from fiscus.quotas.calls import QuotaCheckBatchRequest
from fiscus.wire.decoding import decode
from tests.ledger.desk import Desk, check_request


def test_a_check_repeated_with_its_key_reserves_once(desk: Desk) -> None:
    budget = desk.budget("10")
    first = desk.check("4", "key")
    assert desk.check("4.0", "key") == first  # the same body, written another way
    assert desk.used(budget) == ("0", "4")


def test_a_replayed_check_shows_its_reservation_as_it_is_now(desk: Desk) -> None:
    desk.budget("10")
    first = desk.check("4", "key")
    assert first.reservation_id is not None
    extended = desk.extend(first.reservation_id, 900)
    assert desk.check("4", "key").expires_at == extended.expires_at
    desk.settle(first.reservation_id, "1")
    assert desk.check("4", "key").reservation_status == "settled"


def test_a_replayed_check_shows_a_hold_that_is_due_as_over(desk: Desk, clock: ManualClock) -> None:
    desk.budget("10")
    desk.check("4", "key", ttl_seconds=60)
    clock.advance(seconds=60)
    assert desk.check("4", "key", ttl_seconds=60).reservation_status == "expired"


def test_a_denial_is_replayed_too(desk: Desk) -> None:
    budget = desk.budget("3")
    assert not desk.check("4", "key").allowed
    desk.replace(budget, "100")
    assert not desk.check("4", "key").allowed
    assert desk.check("4", "another key").allowed


def test_a_key_used_with_another_body_is_a_conflict_and_changes_nothing(desk: Desk) -> None:
    budget = desk.budget("10")
    desk.check("4", "key")
    with pytest.raises(IdempotencyConflict):
        desk.check("5", "key")
    with pytest.raises(IdempotencyConflict):
        desk.check("4", "key", user_id="u")
    assert desk.used(budget) == ("0", "4")


def test_keys_of_different_operations_and_tenants_are_apart(desk: Desk) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4", "key")
    desk.settle(held, "3", "key")
    desk.record("2", "key")
    other = Desk(desk.engine, f"{desk.tenant_id}-x")
    other.record("7", "key")
    assert desk.used(budget) == ("5", "0")


def test_the_header_and_the_key_of_an_item_share_one_namespace(desk: Desk) -> None:
    budget = desk.budget("10")
    first = desk.record("4", "key", idempotency_key="key")
    with pytest.raises(ValidationError):
        desk.record("4", "key", idempotency_key="another")
    batch = desk.record_batch(
        [
            {"resource_type": "llm", "cost_amount": 4, "project_id": "p", "idempotency_key": "key"},
            {"resource_type": "llm", "cost_amount": 1, "project_id": "p"},
        ]
    )
    assert batch.results[0].record is not None
    assert batch.results[0].record.record_id == first.record_id
    assert desk.used(budget) == ("5", "0")


def test_an_item_with_the_key_of_its_batch_is_a_conflict(desk: Desk) -> None:
    budget = desk.budget("10")
    with pytest.raises(IdempotencyConflict) as caught:
        desk.check_batch([check_request("1"), check_request("1", idempotency_key="key")], "key")
    assert caught.value.details["field"] == "checks[1].idempotency_key"
    assert desk.used(budget) == ("0", "0")
    quotas = decode(
        b'{"checks": [{"resource_type": "gpu", "required_amount": 1, "idempotency_key": "key"}]}',
        QuotaCheckBatchRequest,
    )
    with pytest.raises(IdempotencyConflict, match=r"checks\[0\].idempotency_key"):
        quota_check_batch_command(quotas, desk.tenant_id, desk.engine.clock.now(), "key")
    item = {"resource_type": "llm", "cost_amount": 1, "project_id": "p"}
    records = [{**item, "idempotency_key": "key"}, {**item, "idempotency_key": "another"}]
    for _ in range(2):
        refused, recorded = desk.record_batch(records, "key").results
        assert refused.error is not None
        assert refused.error.error_code == "IDEMPOTENCY_CONFLICT"
        assert refused.error.details["field"] == "idempotency_key"
        assert recorded.record is not None
    assert desk.record("1", "another").record_id == recorded.record.record_id
    assert desk.used(budget) == ("1", "0")


def test_a_key_means_the_same_in_a_header_beside_the_request_and_in_a_batch(desk: Desk) -> None:
    budget = desk.budget("10")
    first = desk.check("4", "key").reservation_id
    assert desk.check("4", idempotency_key="key").reservation_id == first
    assert desk.check("4", "key", tenant_id=desk.tenant_id).reservation_id == first
    batch = desk.check_batch([check_request("4", idempotency_key="key")])
    assert batch.results[0].reservation_id == first
    assert desk.used(budget) == ("0", "4")


def test_a_batch_of_records_is_the_same_however_its_json_is_written(desk: Desk) -> None:
    budget = desk.budget("10")

    def record(text: str) -> list[str | None]:
        request = decode(text, RecordBatchRequest)
        now = desk.engine.clock.now()
        command = record_batch_command(request, desk.tenant_id, now, "key")
        return [
            one.record.record_id if one.record else None
            for one in desk.run(command, RecordBatchAnswer).results
        ]

    first = record('{"records":[{"resource_type":"llm","cost_amount":1,"project_id":"p"},{"x":1}]}')
    again = record(
        '{"records": [{"project_id": "p", "resource_type": "llm", "cost_amount": 1.0}, {"x":1}]}'
    )
    assert again == first
    assert desk.used(budget) == ("1", "0")
    with pytest.raises(IdempotencyConflict):
        record('{"records":[{"resource_type":"llm","cost_amount":1,"project_id":"p"},{"x":2}]}')


def test_the_window_of_a_check_ends_with_its_hold_but_not_before_five_minutes(
    desk: Desk, clock: ManualClock
) -> None:
    desk.budget("100")
    short = desk.check("1", "short", ttl_seconds=1).reservation_id
    long = desk.check("1", "long", ttl_seconds=900).reservation_id
    clock.advance(seconds=300, microseconds=-1)
    assert desk.check("1", "short", ttl_seconds=1).reservation_id == short
    clock.advance(microseconds=1)
    assert desk.check("1", "short", ttl_seconds=1).reservation_id != short
    clock.advance(seconds=600, microseconds=-1)
    assert desk.check("1", "long", ttl_seconds=900).reservation_id == long
    clock.advance(microseconds=1)
    assert desk.check("2", "long", ttl_seconds=900).reservation_id != long


def test_the_window_of_a_cost_is_a_day(desk: Desk, clock: ManualClock) -> None:
    first = desk.record("1", "key").record_id
    clock.advance(hours=24, microseconds=-1)
    assert desk.record("1", "key").record_id == first
    clock.advance(microseconds=1)
    again = desk.record("1", "key").record_id
    assert again != first
    assert desk.record("1", "key").record_id == again


def test_only_what_was_committed_is_remembered(desk: Desk) -> None:
    desk.budget("10")
    held = desk.reserve("4")
    desk.settle(held, "1")
    with pytest.raises(Conflict):
        desk.settle(held, "2", "key")
    again = desk.reserve("4")
    assert desk.settle(again, "3", "key").charged == 3


def test_a_key_repeated_within_one_group_is_one_effect(desk: Desk) -> None:
    budget = desk.budget("10")
    first, second, third = desk.outcomes(
        [
            desk.record_command("4", "key"),
            desk.record_command("4", "key"),
            desk.record_command("5", "key"),
        ]
    )
    assert first == second
    assert isinstance(third, IdempotencyConflict)
    assert desk.used(budget) == ("4", "0")


def test_a_batch_repeated_with_its_key_is_one_effect(desk: Desk) -> None:
    budget = desk.budget("10")
    checks = [check_request("1"), check_request("2")]
    assert desk.check_batch(checks, "key") == desk.check_batch(checks, "key")
    records = [{"resource_type": "llm", "cost_amount": 4, "project_id": "p"}]
    assert desk.record_batch(records, "key") == desk.record_batch(records, "key")
    assert desk.used(budget) == ("4", "3")
    with pytest.raises(IdempotencyConflict):
        desk.record_batch([*records, *records], "key")


@pytest.mark.parametrize("times", [20, 500])
def test_a_repeated_batch_of_any_size_shows_its_reservations_as_they_are_now(
    desk: Desk, times: int
) -> None:
    budget = desk.budget("1000")
    checks = [check_request("1")] * times
    first = desk.check_batch(checks, "key")
    assert desk.check_batch(checks, "key") == first
    settled = first.results[-1].reservation_id
    assert settled is not None
    desk.settle(settled, "2")
    again = desk.check_batch(checks, "key")
    assert [one.reservation_status for one in again.results] == ["pending"] * (times - 1) + [
        "settled"
    ]
    assert desk.used(budget) == ("2", str(times - 1))


def test_a_batch_and_its_repetition_may_come_in_one_group(desk: Desk) -> None:
    budget = desk.budget("1000")
    request = CheckBatchRequest(checks=[check_request("1")] * 50)
    now = desk.engine.clock.now()
    batch = check_batch_command(request, desk.tenant_id, now, "key")
    first, second, other = desk.outcomes([batch, batch, desk.check_command("1")])
    assert isinstance(first, CheckBatchAnswer)
    assert first == second
    assert isinstance(other, CheckAnswer)
    assert desk.used(budget) == ("0", "51")


@pytest.mark.parametrize("key", ["", "x" * 257, "line\nbreak", "\x00"])
def test_a_key_that_is_no_key_is_refused(desk: Desk, key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        desk.record("1", key)
    assert caught.value.field == "idempotency_key"
