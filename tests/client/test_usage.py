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


def test_nothing_given_stays_nothing() -> None:
    assert merge_details({}, {"usage": None, "tags": {}}) == {"tags": {}}


def test_the_enclosing_value_wins() -> None:
    assert merge_details({"region": "eu", "resource_id": "r"}, {"region": "us"}) == {
        "region": "us",
        "resource_id": "r",
    }
