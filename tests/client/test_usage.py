"""Details of several costs as those of one."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fiscus.client.usage import merge_details, merge_usage


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 2}, {"a": 3}),
        ({"a": 0.1}, {"a": 0.2}, {"a": Decimal("0.3")}),
        ({"a": Decimal("0.5")}, {"a": 1}, {"a": Decimal("1.5")}),
        ({"a": True}, {"a": True}, {"a": True}),
        ({"a": "x"}, {"a": 1}, {"a": 1}),
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}, {"a": {"b": 3, "c": 3}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
    ],
)
def test_usage_adds_up_by_name(
    first: dict[str, object], second: dict[str, object], merged: dict[str, object]
) -> None:
    assert merge_usage(first, second) == merged


def test_a_quantity_in_another_unit_becomes_usage() -> None:
    parts = {"usage_quantity": 7, "usage_unit": "pages"}
    own = {"usage_quantity": 2, "usage_unit": "tokens", "region": None}
    assert merge_details(parts, own) == {
        "usage_quantity": 2,
        "usage_unit": "tokens",
        "usage": {"pages": Decimal(7)},
    }


@pytest.mark.parametrize(
    ("parts", "own", "quantity", "unit", "usage"),
    [
        ((7, "pages"), (None, "tokens"), 7, "pages", None),
        ((7, None), (None, "tokens"), 7, None, None),
        ((None, "pages"), (2, None), 2, None, None),
        ((7, "pages"), (2, None), 2, None, {"pages": 7}),
        ((7, None), (2, "tokens"), 2, "tokens", {"unspecified": 7}),
        ((7, None), (2, None), 9, None, None),
        ((None, "pages"), (None, None), None, "pages", None),
    ],
)
def test_no_quantity_comes_into_the_unit_of_another(
    parts: tuple[int | None, str | None],
    own: tuple[int | None, str | None],
    quantity: int | None,
    unit: str | None,
    usage: dict[str, int] | None,
) -> None:
    names = ("usage_quantity", "usage_unit")
    given = [
        {name: value for name, value in zip(names, one, strict=True) if value is not None}
        for one in (parts, own)
    ]
    merged = merge_details(*given)
    assert [merged.get(name) for name in (*names, "usage")] == [quantity, unit, usage]


def test_nothing_given_stays_nothing() -> None:
    assert merge_details({}, {"usage": None, "tags": {}}) == {"tags": {}}


def test_the_enclosing_value_wins() -> None:
    assert merge_details({"region": "eu", "resource_id": "r"}, {"region": "us"}) == {
        "region": "us",
        "resource_id": "r",
    }
