"""From requests to commands: short forms, limits, times and idempotency keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from fiscus.budgets.calls import CheckBatchRequest, CheckRequest, SettleRequest
from fiscus.costs.calls import RecordBatchRequest, RecordRequest
from fiscus.errors import (
    CostCalculationError,
    PayloadTooLarge,
    ValidationError,
)
from fiscus.ledger.commands import Check, Consume, InvalidRecord, Record, weight
from fiscus.ledger.requests.budgets import (
    check_batch_command,
    check_command,
    extend_command,
    release_command,
    settle_command,
)
from fiscus.ledger.requests.common import tenant_of_checks
from fiscus.ledger.requests.costs import record_batch_command, record_command
from fiscus.ledger.requests.quotas import quota_check_command
from fiscus.quotas.calls import QuotaCheckRequest
from fiscus.wire.converting import convert

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def check(key: str | None = None, **fields: Any) -> Check:
    given = {"resource_type": "llm", "estimated_cost": "1", **fields}
    return check_command(convert(given, CheckRequest), "t", NOW, key)


def record(key: str | None = None, **fields: Any) -> Record:
    given = {"resource_type": "llm", "cost_amount": "1", **fields}
    return record_command(convert(given, RecordRequest), "t", NOW, key)


def refused_field(call: Any, **fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        call(**fields)
    return caught.value.field


def quota_check(key: str | None = None, **fields: Any) -> Consume:
    given = {"resource_type": "llm", "required_amount": "1", **fields}
    return quota_check_command(convert(given, QuotaCheckRequest), "t", NOW, key)


@pytest.mark.parametrize("call", [check, record, quota_check])
@pytest.mark.parametrize("field", ["tenant_id", "project_id", "user_id", "feature_id"])
@pytest.mark.parametrize("text", ["ann@example.com", "a b", "a\n", "ä", "a\0", "", "x" * 129])
def test_what_is_no_id_is_refused_by_name(call: Any, field: str, text: str) -> None:
    assert refused_field(call, **{field: text}) == field


@pytest.mark.parametrize("call", [check, record, quota_check])
def test_a_label_with_a_nul_is_refused_by_name(call: Any) -> None:
    assert refused_field(call, resource_type="l\0m") == "resource_type"
    assert refused_field(record, usage_unit="\0") == "usage_unit"


def test_what_is_no_id_is_told_alike_wherever_it_is_seen() -> None:
    told: list[str] = []
    for field in ("tenant_id", "user_id"):  # read strictly, read loosely
        with pytest.raises(ValidationError) as caught:
            check(**{field: "a b"})
        error = caught.value
        assert error.suggested_action is not None
        told.append((error.message + error.suggested_action).replace(field, "it"))
    assert told[0] == told[1]


def test_what_is_no_id_in_a_batch_is_named_with_its_place() -> None:
    one = {"resource_type": "llm", "estimated_cost": "1"}
    batch = convert({"checks": [one, one | {"user_id": "a b"}]}, CheckBatchRequest)
    with pytest.raises(ValidationError) as caught:
        check_batch_command(batch, "t", NOW)
    assert caught.value.field == "checks[1].user_id"


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        ("project", ("x", None, None)),
        ("user", (None, "x", None)),
        ("feature", (None, None, "x")),
    ],
)
def test_the_short_form_of_a_scope_is_one_of_the_ids(
    kind: str, ids: tuple[str | None, str | None, str | None]
) -> None:
    checked = check(allocated_to_type=kind, allocated_to_id="x").operation
    recorded = record(attributed_to_type=kind, attributed_to_id="x").cost.operation
    for operation in (checked, recorded):
        assert (operation.project_id, operation.user_id, operation.feature_id) == ids
        assert operation.tenant_id == "t"


def test_a_short_form_that_is_half_or_contradicts_is_refused_by_name() -> None:
    assert refused_field(check, allocated_to_type="user") == "allocated_to_id"
    assert refused_field(check, allocated_to_id="x") == "allocated_to_type"
    assert refused_field(record, attributed_to_type="user") == "attributed_to_id"
    both = {"allocated_to_type": "user", "allocated_to_id": "x", "user_id": "y"}
    assert refused_field(check, **both) == "allocated_to_id"
    assert check(**{**both, "user_id": "x"}).operation.user_id == "x"
    of_tenant = {"allocated_to_type": "tenant", "allocated_to_id": "another"}
    assert refused_field(check, **of_tenant) == "allocated_to_id"


def test_amounts_may_not_be_negative_but_for_credits_and_adjustments() -> None:
    assert refused_field(check, estimated_cost="-0.000000000001") == "estimated_cost"
    assert refused_field(record, cost_amount="-1") == "cost_amount"
    assert refused_field(record, usage_quantity="-1") == "usage_quantity"
    for category in ("usage", "purchase", "tax"):
        assert refused_field(record, cost_amount="-1", charge_category=category) == "cost_amount"
    for category in ("credit", "adjustment"):
        assert record(cost_amount="-1", charge_category=category).cost.amount == -1
    settle = convert({"actual_cost": "-1"}, SettleRequest)
    with pytest.raises(ValidationError):
        settle_command("r", settle, "t", NOW)


def test_usage_without_an_amount_is_no_cost_yet() -> None:
    with pytest.raises(CostCalculationError):
        record(cost_amount=None, usage_quantity="5")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("2026-03-10T12:00:00Z", True),
        ("2026-03-10T17:45:00+05:45", True),
        ("2026-03-11T12:00:00Z", True),
        ("2026-03-11T12:00:00.000001Z", False),
        ("2000-03-11T12:00:00Z", True),
        ("1990-01-01T00:00:00Z", False),
        ("0001-01-01T00:00:00Z", False),
        ("9999-12-31T23:59:59Z", False),
        ("0001-01-01T00:00:00+14:00", False),
        ("9999-12-31T23:59:59-14:00", False),
    ],
)
def test_a_cost_arose_within_thirty_years_and_a_day(given: str, taken: bool) -> None:
    timestamp = msgspec.convert(given, datetime)
    if taken:
        moment = record(timestamp=timestamp).cost.timestamp
        assert moment == timestamp
        assert moment.utcoffset() == timedelta(0)
    else:
        assert refused_field(record, timestamp=timestamp) == "timestamp"


def test_no_time_means_now_and_a_naive_one_is_refused() -> None:
    assert record().cost.timestamp == NOW
    assert refused_field(record, timestamp=datetime(2026, 3, 10)) == "timestamp"  # noqa: DTZ001


def test_an_approval_cannot_be_carried_yet() -> None:
    assert refused_field(check, approval_id="a") == "approval_id"


def test_the_key_in_the_header_and_in_the_body_are_one() -> None:
    in_header, in_body = check("k").idempotency, check(idempotency_key="k").idempotency
    assert in_header is not None
    assert in_body is not None
    assert in_header.at == in_body.at
    assert refused_field(check, key="k", idempotency_key="other") == "idempotency_key"
    assert check().idempotency is None


def test_a_key_is_visible_ascii_with_spaces_between() -> None:
    for key in ("a", "a b", "~!", "k" * 256):
        assert check(key).idempotency is not None
    for key in ("", "k" * 257, " a", "a ", "caf\xe9", "a\tb", "a\0"):
        assert refused_field(check, key=key) == "idempotency_key"
        assert refused_field(record, idempotency_key=key) == "idempotency_key"


def test_a_key_is_kept_for_its_window() -> None:
    def window(command: Any) -> timedelta:
        return command.idempotency.expires_at - NOW

    assert window(check("k", ttl_seconds=1)) == timedelta(minutes=5)
    assert window(check("k", ttl_seconds=900)) == timedelta(minutes=15)
    assert window(record("k")) == timedelta(hours=24)
    settle = convert({"actual_cost": "1"}, SettleRequest)
    assert window(settle_command("r", settle, "t", NOW, "k")) == timedelta(hours=24)
    assert window(release_command("r", "t", NOW, "k")) == timedelta(hours=24)
    assert window(extend_command("r", 60, "t", NOW, "k")) == timedelta(hours=24)


def test_the_same_body_has_the_same_hash_however_it_is_written() -> None:
    def hash_of(**fields: Any) -> str:
        made = check("k", **fields).idempotency
        assert made is not None
        return made.body_hash

    assert hash_of(estimated_cost="1.50") == hash_of(estimated_cost=Decimal("1.5"))
    assert hash_of(tags={"a": "1", "b": "2"}) == hash_of(tags={"b": "2", "a": "1"})
    assert hash_of(estimated_cost="1.5") != hash_of(estimated_cost="1.6")
    assert hash_of(tags={"a": "1"}) != hash_of(tags={"a": "2"})
    assert hash_of(reserve=True) != hash_of(reserve=False)


def test_batches_are_bounded_and_of_one_tenant() -> None:
    one = convert({"resource_type": "llm", "estimated_cost": "1"}, CheckRequest)
    with pytest.raises(PayloadTooLarge):
        check_batch_command(CheckBatchRequest(checks=[one] * 501), "t", NOW)
    batch = check_batch_command(CheckBatchRequest(checks=[one] * 500), "t", NOW)
    assert weight(batch) == 500
    raw = msgspec.Raw(b'{"resource_type":"llm","cost_amount":1}')
    with pytest.raises(PayloadTooLarge):
        record_batch_command(RecordBatchRequest(records=[raw] * 1001), "t", NOW)
    stranger = msgspec.structs.replace(one, tenant_id="other")

    def tenant_for(named: str | None) -> str:
        return named or "t"

    assert tenant_of_checks([stranger] * 2, tenant_for) == "other"
    for checks in ([one, stranger], [stranger, one]):
        with pytest.raises(ValidationError) as caught:
            tenant_of_checks(checks, tenant_for)
        assert caught.value.field == "checks[1].tenant_id"


def test_a_wrong_record_of_a_batch_is_an_error_in_its_place() -> None:
    bodies = [
        b'{"resource_type":"llm","cost_amount":1}',
        b'{"resource_type":"llm","cost_amount":-1}',
        b'{"resource_type":"llm"}',
        b'{"resource_type":"llm","cost_amount":1,"surprise":1}',
        b'{"resource_type":"llm","cost_amount":1,"tenant_id":"other"}',
        b"7",
        b'{"resource_type":"\\ud800","cost_amount":1}',
        b'{"resource_type":"llm","cost_amount":2}',
    ]
    request = RecordBatchRequest(records=[msgspec.Raw(body) for body in bodies])
    batch = record_batch_command(request, "t", NOW, "k")
    assert [isinstance(one, Record) for one in batch.records] == [True] + [False] * 6 + [True]
    assert all(isinstance(one, Record | InvalidRecord) for one in batch.records)
    assert weight(batch) == len(bodies)
