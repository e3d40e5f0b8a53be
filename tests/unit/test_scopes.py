"""Scopes: which ids are ids, and which scope is more specific."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fiscus.errors import ValidationError
from fiscus.operations import Operation
from fiscus.scopes import ScopeType, parse_id


def test_feature_is_more_specific_than_user_than_project_than_tenant() -> None:
    ordered = sorted(ScopeType, key=lambda one: -one.specificity)
    assert [one.value for one in ordered] == ["feature", "user", "project", "tenant"]


@pytest.mark.parametrize(
    "text", ["a", "A.b_c:d-9", "018f0000-0000-7000-8000-000000000000", "x" * 128, "..", "-"]
)
def test_an_id_is_letters_digits_and_four_marks(text: str) -> None:
    assert parse_id(text, "user_id") == text


@pytest.mark.parametrize(
    "text", ["", "x" * 129, "a b", "ann@example.com", "a/b", "*", "a\n", "ä", "a\x00", "%"]
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_id(text, "user_id")
    assert caught.value.field == "user_id"


def test_an_operation_is_attributed_to_its_most_specific_scope() -> None:
    operation = Operation("t", "llm", "p", "u", "f")
    assert operation.attributed_to() == (ScopeType.FEATURE, "f")
    assert replace(operation, feature_id=None).attributed_to() == (ScopeType.USER, "u")
    assert Operation("t", "llm", "p").attributed_to() == (ScopeType.PROJECT, "p")
    assert Operation("t", "llm").attributed_to() == (ScopeType.TENANT, "t")
