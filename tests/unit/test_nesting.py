"""Free objects are held to a depth that everything can read, and deeper ones can be read all the
same."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.budgets.calls import CheckBatchRequest, CheckRequest, SettleRequest
from fiscus.costs.calls import RecordBatchRequest, RecordRequest
from fiscus.errors import ValidationError
from fiscus.wire.converting import convert
from fiscus.wire.decoding import decode, decode_any, decode_stored
from fiscus.wire.encoding import encode
from fiscus.wire.nesting import MAX_LEVELS, cut_below

CHECK = '{"resource_type":"llm","estimated_cost":1,"operation_context":%s}'
CHECKS = '{"checks":[{"resource_type":"llm","estimated_cost":1},' + CHECK + "]}"
RECORD = '{"resource_type":"llm","cost_amount":1,"usage":%s}'

values = st.recursive(
    st.none() | st.integers() | st.text('ab"\\[]{}\n\u00e4', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab"[}', max_size=4), inner)
    ),
    max_leaves=20,
)


def nested(levels: int, opening: str = '{"a":', closing: str = "}") -> str:
    """An object with so many levels."""
    return '{"a":' + opening * (levels - 1) + "1" + closing * (levels - 1) + "}"


def levels_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(levels_of, value.values()), default=0)
    return 1 + max(map(levels_of, value), default=0) if isinstance(value, list) else 0


# 900 levels can be decoded here, and where the stack is deeper they cannot; the others nowhere
@pytest.mark.parametrize("levels", [MAX_LEVELS + 1, 900, 1100, 100_000])
@pytest.mark.parametrize("brackets", [('{"a":', "}"), ("[", "]"), ('[{"a":', "}]")])
@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        (CHECK, CheckRequest, "operation_context"),
        (RECORD, RecordRequest, "usage"),
        ('{"actual_cost":1,"usage":%s}', SettleRequest, "usage"),
        (CHECKS, CheckBatchRequest, "checks[1].operation_context"),
    ],
)
def test_what_is_nested_too_deep_is_refused_by_name(
    body: str, kind: type[Any], field: str, brackets: tuple[str, str], levels: int
) -> None:
    with pytest.raises(ValidationError, match="is nested deeper than 32 levels") as caught:
        decode(body % nested(levels, *brackets), kind)
    assert caught.value.field == field


@pytest.mark.parametrize("brackets", [('{"a":', "}"), ("[", "]")])
def test_as_many_levels_as_are_allowed_are_kept_as_sent(brackets: tuple[str, str]) -> None:
    sent = nested(MAX_LEVELS, *brackets)
    assert levels_of(json.loads(sent)) == MAX_LEVELS
    assert decode(RECORD % sent, RecordRequest).usage == json.loads(sent)
    assert decode(CHECK % sent, CheckRequest).operation_context == json.loads(sent)


def test_the_other_records_of_a_batch_are_read_beside_one_that_is_nested_too_deep() -> None:
    deep = RECORD % nested(100_000)
    body = f'{{"records":[{RECORD % "null"},{deep},{RECORD % nested(3)}],"tenant_id":"acme"}}'
    first, second, third = decode(body, RecordBatchRequest).records
    assert decode(bytes(first), RecordRequest).usage is None
    with pytest.raises(ValidationError, match="usage: is nested deeper"):
        decode(bytes(second), RecordRequest)
    assert decode(bytes(third), RecordRequest).usage == {"a": {"a": {"a": 1}}}


@pytest.mark.parametrize("ending", ["", "]" * 5000, '"' + '\\"' * 1_000_000, "\x00", "]}" * 5000])
def test_what_is_nested_too_deep_and_no_json_is_refused(ending: str) -> None:
    with pytest.raises(ValidationError):
        decode('{"resource_type":"a","usage":{"a":' + "[" * 5000 + ending, RecordRequest)


def test_values_of_a_python_caller_are_held_to_the_same_depth() -> None:
    def taken(usage: object) -> object:
        return convert({"resource_type": "llm", "usage": usage}, RecordRequest).usage

    circle: dict[str, Any] = {}
    circle["again"] = [circle]
    for deep in (json.loads(nested(MAX_LEVELS + 1)), circle):
        with pytest.raises(ValidationError, match="usage: is nested deeper"):
            taken(deep)
    kept = json.loads(nested(MAX_LEVELS))
    assert taken(kept) == kept
    assert taken(MappingProxyType({"tokens": 3, "by": (1, 2)})) == {"tokens": 3, "by": [1, 2]}
    for wrong in ([1], "text", 7, {1: 2}):
        with pytest.raises(ValidationError) as caught:
            taken(wrong)
        assert caught.value.field == "usage"


@given(values, st.integers(1, 5))
def test_a_cut_keeps_everything_down_to_its_level_and_the_rest_as_text(
    value: object, levels: int
) -> None:
    body = json.dumps(value).encode()
    cut = json.loads(cut_below(body, levels))
    assert levels_of(cut) == min(levels_of(value), levels)
    assert whole(cut, value) == value


def whole(cut: Any, value: Any) -> Any:
    """`cut` with the texts read that stand where `value` has more levels."""
    if isinstance(value, dict | list) and isinstance(cut, str):
        return json.loads(cut)
    if isinstance(value, dict):
        return {name: whole(cut[name], inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [whole(one, inner) for one, inner in zip(cut, value, strict=True)]
    return cut


@given(st.binary(max_size=40) | st.text('[]{}",:\\a1', max_size=40).map(str.encode))
def test_a_cut_of_anything_is_no_error(body: bytes) -> None:
    cut_below(body, 2)


def test_stored_objects_are_read_whatever_their_depth() -> None:
    assert decode_stored('{"tokens":3,"ratio":0.5}') == {
        "tokens": 3,
        "ratio": decode_any("0.5"),
    }
    read = decode_stored(nested(50_000))
    assert levels_of(read) == MAX_LEVELS
    assert decode(encode(read), dict) == read
