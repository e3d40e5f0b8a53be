"""JSON in and out: amounts to the last digit, and every fault named by its field."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from enum import Enum
from time import perf_counter
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.budgets.calls import CheckBatchRequest, CheckRequest, SettleRequest
from fiscus.budgets.model import BudgetSpec
from fiscus.costs.calls import RecordBatchRequest, RecordRequest
from fiscus.errors import NotFound, ValidationError
from fiscus.ledger.commands import InvalidRecord
from fiscus.ledger.requests.costs import record_batch_command, record_item
from fiscus.money import Amount
from fiscus.periods import PeriodType
from fiscus.priorities import Priority
from fiscus.quotas.calls import DistributeRequest
from fiscus.ratelimits.model import CalendarUnit, PolicySpec, ResourcePattern
from fiscus.ratelimits.rules import Algorithm
from fiscus.scopes import ScopeType
from fiscus.tenants import TenantSpec
from fiscus.wire.converting import convert
from fiscus.wire.decoding import decode, decode_any
from fiscus.wire.encoding import encode, encode_canonical
from fiscus.wire.items import item_error
from fiscus.wire.texts import (
    MAX_TAGS,
    Currency,
    Id,
    IdOrEvery,
    Label,
    LooseId,
    LooseLabel,
    Name,
    Tags,
    is_id,
    is_label,
)

KINDS = [
    CheckRequest,
    CheckBatchRequest,
    SettleRequest,
    RecordRequest,
    RecordBatchRequest,
    BudgetSpec,
    TenantSpec,
]
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
RECORDS_1 = "records[1].cost_amount"
amounts = st.integers(-(10**38) + 1, 10**38 - 1).map(
    lambda n: Context(prec=80).scaleb(Decimal(n), -12)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


class Priorities(msgspec.Struct):
    by_name: dict[str, list[Priority | None]]


class Priced(msgspec.Struct):
    amount: Amount


def refused(body: bytes | str, kind: type[Any] = CheckRequest) -> str:
    """The field that a refused body is refused for."""
    with pytest.raises(ValidationError) as caught:
        decode(body, kind)
    error = caught.value
    assert error.details == {"field": error.field}
    assert error.suggested_action
    return error.field


def check_body(**fields: str) -> str:
    """A check with some fields given as raw JSON."""
    given = {"resource_type": '"llm"', "estimated_cost": "1"} | fields
    return "{" + ",".join(f'"{name}":{value}' for name, value in given.items()) + "}"


# -- amounts


@given(amounts)
def test_amounts_keep_every_digit_both_ways(amount: Decimal) -> None:
    digits = format(amount, "f")
    for body in (f'{{"amount":{digits}}}', f'{{"amount":"{digits}"}}'):
        decoded = decode(body, Priced).amount
        assert decoded == amount
        written = encode({"amount": decoded})
        again = json.loads(written, parse_float=Decimal, parse_int=Decimal)["amount"]
        assert again == amount


def test_an_amount_is_written_as_a_number_and_an_integer_without_exponent() -> None:
    assert encode([Decimal("12.5"), Amount("1200"), decode("1e3", Amount)]) == (b"[12.5,1200,1000]")


@pytest.mark.parametrize(
    "number",
    [
        *("NaN", "Infinity", "1e999999", "-1e999999", "1_0", "true", "null", "[]", "{}", "1e26"),
        *('"NaN"', '"sNaN"', '"Infinity"', '"1e999999"', '"1_0"', '""', '" 1"', "1" * 5000),
    ],
)
def test_a_number_that_is_no_amount_is_refused_by_name(number: str) -> None:
    field = "body" if number == "1_0" else "estimated_cost"
    assert refused(check_body(estimated_cost=number)) == field
    field = "body" if number == "1_0" else "actual_cost"
    assert refused(f'{{"actual_cost":{number}}}', SettleRequest) == field


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        ('{"records":[{"cost_amount":1},{"cost_amount":%s}]}', RecordBatchRequest, RECORDS_1),
        ('{"checks":[{"estimated_cost":%s}]}', CheckBatchRequest, "checks[0].estimated_cost"),
        ('{"resource_type":"a","usage":{"t":[1,%s]}}', RecordRequest, "usage.t[1]"),
        ('{"resource_type":%s,"cost_amount":1}', RecordRequest, "resource_type"),
        ("%s", RecordRequest, "body"),
    ],
)
def test_a_number_that_is_no_json_is_named_by_its_path(
    body: str, kind: type[Any], field: str, constant: str
) -> None:
    assert refused(body % constant, kind) == field
    with pytest.raises(ValidationError, match=f"{constant} is not a decimal number"):
        decode(body % constant, kind)


def test_a_number_that_is_no_json_under_half_a_character_is_told_without_it() -> None:
    assert refused('{"resource_type":"a","usage":{"\\ud800":[NaN]}}', RecordRequest) == "body"


def test_the_word_for_such_a_number_may_be_a_text() -> None:
    body = '{"records":[{"resource_type":"NaN"},{"cost_amount":NaN}]}'
    assert refused(body, RecordBatchRequest) == RECORDS_1
    assert decode(check_body(resource_type='"NaN"'), CheckRequest).resource_type == "NaN"


def test_the_noise_of_a_clients_float_is_rounded_once() -> None:
    body = check_body(estimated_cost="0.30000000000000004")
    assert decode(body, CheckRequest).estimated_cost == Decimal("0.3")


@pytest.mark.parametrize("digits", [100, 998])
def test_the_digits_of_a_fraction_are_read_alike_as_text_and_as_a_number(digits: int) -> None:
    number = "0." + "3" * digits
    for body in (check_body(estimated_cost=number), check_body(estimated_cost=f'"{number}"')):
        assert decode(body, CheckRequest).estimated_cost == Decimal("0.333333333333")


def test_a_number_beyond_a_thousand_characters_is_refused_as_too_long() -> None:
    number = "0." + "3" * 999
    for given_as in (number, f'"{number}"'):
        with pytest.raises(ValidationError, match="estimated_cost: is too long") as caught:
            decode(check_body(estimated_cost=given_as), CheckRequest)
        assert caught.value.field == "estimated_cost"


def test_a_python_caller_may_not_give_a_float() -> None:
    given = {"resource_type": "llm", "estimated_cost": 0.1}
    with pytest.raises(ValidationError) as caught:
        convert(given, CheckRequest)
    assert caught.value.field == "estimated_cost"
    exact = convert(given | {"estimated_cost": Decimal("0.1")}, CheckRequest)
    assert exact.estimated_cost == Decimal("0.1")


# -- fields


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"estimated_cost":1}', "resource_type"),
        ('{"resource_type":"llm"}', "estimated_cost"),
        (check_body(surprise="1"), "surprise"),
        (check_body(resource_type="7"), "resource_type"),
        (check_body(resource_type='""'), "resource_type"),
        (check_body(resource_type=f'"{"x" * 257}"'), "resource_type"),
        (check_body(tenant_id='"ann@example.com"'), "tenant_id"),
        (check_body(tenant_id='"a\\n"'), "tenant_id"),
        (check_body(user_id="1"), "user_id"),
        (check_body(user_id='""'), "user_id"),
        (check_body(user_id=f'"{"x" * 129}"'), "user_id"),
        (check_body(allocated_to_type='"galaxy"'), "allocated_to_type"),
        (check_body(ttl_seconds="0"), "ttl_seconds"),
        (check_body(ttl_seconds="1.5"), "ttl_seconds"),
        (check_body(ttl_seconds="86401"), "ttl_seconds"),
        (check_body(ttl_seconds='"60"'), "ttl_seconds"),
        (check_body(reserve='"yes"'), "reserve"),
        (check_body(reserve="1"), "reserve"),
        (check_body(currency='"usd"'), "currency"),
        (check_body(tags='["a"]'), "tags"),
        (check_body(tags='{"a":"b","cost.center":1,"d":2}'), "tags.cost.center"),
        (check_body(tags='{"a":"\\u0000","b":1}'), "tags.b"),
        (check_body(tags='{"a":"b","c":"\\u0000"}'), "tags.c"),
        (check_body(tags=f'{{"c":"{"x" * 257}"}}'), "tags.c"),
        (check_body(tags='{"\\u202e":1}'), "tags[...]"),
        (check_body(tags=f'{{"{"k" * 129}":1}}'), "tags"),
        (
            check_body(tags='{"a":1}', operation_context='{"a":[1e9999999999999999999]}'),
            "tags[...]",
        ),
        (check_body(operation_context="7"), "operation_context"),
        ("[]", "body"),
        ("7", "body"),
        ("null", "body"),
        ('"text"', "body"),
    ],
)
def test_a_fault_is_refused_by_the_name_of_its_field(body: str, field: str) -> None:
    assert refused(body) == field


class Strict(msgspec.Struct):
    id: Id | None = None
    label: Label | None = None


class Loose(msgspec.Struct):
    id: LooseId | None = None
    label: LooseLabel | None = None


texts = (
    st.text(max_size=6) | st.text("aZ0._:-\n\0", max_size=6) | st.integers(0, 300).map("x".__mul__)
)


@given(texts)
def test_what_is_read_loosely_and_then_asked_about_is_as_strict(text: str) -> None:
    for name, is_sound in (("id", is_id), ("label", is_label)):
        body = encode({name: text})
        try:
            decode(body, Strict)
        except ValidationError:
            with suppress(ValidationError):
                assert not is_sound(getattr(decode(body, Loose), name))
        else:
            assert is_sound(getattr(decode(body, Loose), name))


tag_texts = (
    st.text(max_size=3)
    | st.text('a"\\u0\0', max_size=4)
    | st.sampled_from([0, 128, 129, 256, 257]).map("x".__mul__)
)
tag_pairs = st.lists(st.tuples(tag_texts, tag_texts | st.just(1)), max_size=3)


class Patterned(msgspec.Struct):
    tags: Tags = {}


class PatternedBatch(msgspec.Struct):
    checks: list[Patterned]


def refusal(call: Callable[..., object], *arguments: object) -> object:
    """What a refusal says; None when there is none."""
    try:
        call(*arguments)
    except ValidationError as error:
        return error.field, error.message, error.suggested_action
    return None


def refusal_in_batch(record: bytes) -> object:
    batch = RecordBatchRequest(records=[msgspec.Raw(record)])
    [made] = record_batch_command(batch, "t", NOW).records
    if not isinstance(made, InvalidRecord):
        return None
    return made.error.details["field"], made.error.message, made.error.suggested_action


@given(tag_pairs, st.sampled_from([0, 48, 50]))
def test_tags_of_every_request_are_refused_as_their_patterns_say(
    pairs: list[tuple[str, Any]], more: int
) -> None:
    """Also those of a name that is sent twice. Of two faults either may be told."""
    pairs = [*pairs, *((f"more-{number}", "") for number in range(more))]
    texts = [text for pair in pairs for text in pair if isinstance(text, str)]
    one_fault = not any("\0" in text for text in texts) or (
        len(dict(pairs)) <= MAX_TAGS
        and all(0 < len(key) <= 128 and isinstance(value, str) for key, value in pairs)
        and all(len(text) <= 256 for text in texts)
    )
    told: Callable[[object], object] = (lambda it: it) if one_fault else bool
    tags = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs)
    check = check_body(tags=f"{{{tags}}}")
    record = check.replace("estimated_cost", "cost_amount")
    for body, kind, patterned in (
        (check, CheckRequest, Patterned),
        (record, RecordRequest, Patterned),
        (f'{{"actual_cost":1,"tags":{{{tags}}}}}', SettleRequest, Patterned),
        (f'{{"checks":[{check_body()},{check}]}}', CheckBatchRequest, PatternedBatch),
    ):
        wanted = told(refusal(decode, body, patterned))
        assert told(refusal(decode, body, kind)) == wanted
        assert told(refusal(decode, body.encode(), kind)) == wanted
        values = json.loads(body)
        wanted = told(refusal(convert, values, patterned))
        assert told(refusal(convert, values, kind)) == wanted
    wanted = told(refusal(decode, record, Patterned))
    assert told(refusal(record_item, record.encode(), "t", NOW)) == wanted
    assert told(refusal_in_batch(record.encode())) == wanted


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        ('{"checks":[]}', CheckBatchRequest, "checks"),
        ('{"checks":[{"estimated_cost":1}]}', CheckBatchRequest, "checks[0].resource_type"),
        (
            '{"checks":[{"resource_type":"a","estimated_cost":"x"}]}',
            CheckBatchRequest,
            "checks[0].estimated_cost",
        ),
        ('{"actual_cost":1,"timestamp":"2026-03-10T12:00:00"}', SettleRequest, "timestamp"),
        ('{"actual_cost":1,"timestamp":"yesterday"}', SettleRequest, "timestamp"),
        ('{"actual_cost":1,"timestamp":"2026-02-30T12:00:00Z"}', SettleRequest, "timestamp"),
        ('{"actual_cost":1,"timestamp":1770000000}', SettleRequest, "timestamp"),
        ('{"resource_type":"a","charge_category":"gift"}', RecordRequest, "charge_category"),
    ],
)
def test_a_fault_inside_is_named_with_its_path(body: str, kind: type[Any], field: str) -> None:
    assert refused(body, kind) == field


SPEC: dict[str, Any] = {
    "budget_name": "B",
    "budget_amount": 10,
    "period_type": "monthly",
    "allocated_to_type": "project",
    "allocated_to_id": "p",
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"filters": {"resource_type": ["a"]}}, "filters.resource_type"),
        ({"filters": {"resource_types": "a"}}, "filters.resource_types"),
        ({"throttle": {"floor": "much"}}, "throttle.floor"),
        ({"throttle": {"retry_after_ms": 0}}, "throttle.retry_after_ms"),
        ({"thresholds": [0.5, "NaN"]}, "thresholds[1]"),
        ({"thresholds": [1] * 21}, "thresholds"),
        ({"allocated_to_id": "**"}, "allocated_to_id"),
        ({"start_date": "2026-02-29"}, "start_date"),
        ({"rolling_days": 0}, "rolling_days"),
        ({"approval": {"expires_after_hours": 721}}, "approval.expires_after_hours"),
    ],
)
def test_a_fault_in_a_definition_is_named_with_its_path(change: dict[str, Any], field: str) -> None:
    assert decode(json.dumps(SPEC), BudgetSpec).budget_name == "B"
    assert refused(json.dumps(SPEC | change), BudgetSpec) == field


# -- whatever comes


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b'{"resource_type":"\xff"}',
        b'{"resource_type":"\\ud800","estimated_cost":1}',
        b'{"resource_type":"llm","estimated_cost":1,"tags":{"a":"\\udfff"}}',
        b'{"resource_type":"llm","estimated_cost":1,"operation_context":'
        + b'{"a":' * 5_000
        + b"1"
        + b"}" * 5_001,
        b"\xef\xbb\xbf{}",
        b"\x00",
        b"\xd8\x00",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_broken_bodies_are_refused(body: bytes) -> None:
    for kind in KINDS:
        with pytest.raises(ValidationError):
            decode(body, kind)
    with suppress(ValidationError):
        decode_any(body)


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_bytes_raise_nothing_but_a_validation_error(body: bytes, kind: type[Any]) -> None:
    with suppress(ValidationError):
        decode(body, kind)
    with suppress(ValidationError):
        decode_any(body)


@given(st.data(), values, st.sampled_from(KINDS))
def test_values_in_any_field_raise_nothing_but_a_validation_error(
    data: st.DataObject, value: Any, kind: type[Any]
) -> None:
    names = st.sampled_from([field.name for field in msgspec.structs.fields(kind)])
    body = {data.draw(names): value, data.draw(names): value}
    with suppress(ValidationError):
        decode(json.dumps(body), kind)
    with suppress(ValidationError):
        convert(body, kind)


@given(values)
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(value: Any) -> None:
    text = json.dumps(value)
    with suppress(ValidationError):
        decoded = decode_any(text)
        turned = decode_any(json.dumps(_turned(json.loads(text))))
        assert encode_canonical(decoded) == encode_canonical(turned)


def _turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _turned(inner) for name, inner in reversed(value.items())}
    return [_turned(inner) for inner in value] if isinstance(value, list) else value


def test_an_error_of_an_item_tells_what_the_error_does() -> None:
    error = NotFound("gone", details={"id": "x"}, suggested_action="Look again.")
    item = item_error(error)
    assert (item.error_code, item.message, item.details) == ("NOT_FOUND", "gone", {"id": "x"})
    assert (item.retriable, item.suggested_action) == (False, "Look again.")


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "must not be empty"), ("k" * 129, "must have at most 128"), ("\0", "must not contain")],
)
def test_a_fault_of_a_key_is_told_as_one(key: str, words: str) -> None:
    with pytest.raises(ValidationError, match=f"^tags: a key {words}"):
        decode(check_body(tags=json.dumps({key: "a"})), CheckRequest)


@pytest.mark.parametrize("body", [b"", b" \r\n", ""])
def test_an_empty_body_is_told_with_what_to_send(body: bytes | str) -> None:
    with pytest.raises(ValidationError, match=r"^The body is empty$") as caught:
        decode(body, CheckRequest)
    assert caught.value.suggested_action == (
        "Send a JSON object with resource_type and estimated_cost."
    )
    with pytest.raises(ValidationError, match=r"^The body is empty$") as caught:
        decode(body, TenantSpec)
    assert caught.value.suggested_action == "Send one JSON object, encoded in UTF-8."


@pytest.mark.parametrize("number", ["1e9999999999999999999", "-1e-9999999999999999999"])
def test_a_number_that_no_decimal_holds_is_a_fault_of_its_place(number: str) -> None:
    with pytest.raises(ValidationError, match="out of range"):
        decode_any(f'{{"a": [{number}]}}')
    assert refused(f'{{"estimated_cost": {number}}}', CheckRequest) == "estimated_cost"
    # also where the body is no JSON besides
    with pytest.raises(ValidationError):
        decode(f'{{"estimated_cost": NaN, "ttl_seconds": {number}}}', CheckRequest)


@pytest.mark.parametrize(
    ("kind", "value", "words", "todo"),
    [
        (Currency, "usd", "must be three capital letters", "such as USD"),
        (IdOrEvery, "ann@example.com", "or * for every one", "Correct it"),
        (ResourcePattern, "a*b", "with * only at its end", "Correct it"),
        (datetime, "2026-01-31", "is not an RFC 3339 time", "such as 2026-01-31T09:00:00Z"),
        (date, "2026-1-31", "is not an RFC 3339 date", "such as 2026-01-31."),
        (Algorithm, "RFC3339 encoded date", "Invalid enum value", "Use one of token_bucket, "),
        (Amount, True, "it: is not a number", "Send a JSON number or a decimal string"),
        (Name, "", "it: must not be empty", "Correct it"),
        (Name, "a" * 201, "it: must have at most 200 characters", "Correct it"),
        (Tags, dict.fromkeys(map(str, range(51)), ""), "must have at most 50 entries", "it"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, "it: must be at least 1", "Correct it"),
        (Annotated[int, msgspec.Meta(le=9)], 10, "it: must be at most 9", "Correct it"),
    ],
)
def test_a_fault_is_told_in_words_and_not_as_a_pattern(
    kind: Any, value: Any, words: str, todo: str
) -> None:
    one = msgspec.defstruct("One", [("it", kind)])
    with pytest.raises(ValidationError) as caught:
        decode(json.dumps({"it": value}), one)
    assert words in caught.value.message
    assert "regex" not in caught.value.message
    assert todo in str(caught.value.suggested_action)


@pytest.mark.parametrize(
    ("kind", "body", "choices"),
    [
        (BudgetSpec, {"period_type": "monthy"}, PeriodType),
        (BudgetSpec, {"allocated_to_type": "team"}, ScopeType),
        (PolicySpec, {"calendar": "fortnight"}, CalendarUnit),
        (DistributeRequest, {"entities": [{"scope_type": "team"}]}, ScopeType),
        (Priorities, {"by_name": {"a": [None, "urgent"]}}, Priority),
    ],
)
def test_a_word_that_may_not_stand_in_its_place_is_told_with_all_that_may(
    kind: Any, body: Any, choices: type[Enum]
) -> None:
    with pytest.raises(ValidationError) as caught:
        decode(json.dumps(body), kind)
    words = ", ".join(one.value for one in choices)
    assert caught.value.suggested_action == f"Use one of {words}."
    with pytest.raises(ValidationError) as of_python:
        convert(body, kind)
    assert of_python.value.suggested_action == caught.value.suggested_action


def test_a_wrong_word_takes_hardly_longer_than_another_wrong_value() -> None:
    def seconds(body: bytes) -> float:
        """The least that an item of a batch takes that is wrong in this way."""
        least = 1.0
        for _ in range(20):
            began = perf_counter()
            with suppress(ValidationError):
                decode(body, RecordRequest)
            least = min(least, perf_counter() - began)
        return least

    wrong_word = seconds(b'{"resource_type":"llm","charge_category":"x"}')
    assert wrong_word < 20 * seconds(b'{"resource_type":"llm","charge_category":1}')
