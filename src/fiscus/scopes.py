"""Scopes: who an amount belongs to, `(type, id)`."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from fiscus.errors import ValidationError

ID: Final = r"[A-Za-z0-9._:\-]{1,128}"
"""The regular expression of an opaque id."""
_ID: Final = re.compile(ID)

EVERY: Final = "*"
"""The id of a template: every project, user or feature has the budget of its own."""


class ScopeType(StrEnum):
    """The types of a scope, with how specific each is: feature > user > project > tenant."""

    specificity: int

    TENANT = "tenant", 0
    PROJECT = "project", 1
    USER = "user", 2
    FEATURE = "feature", 3

    def __new__(cls, value: str, specificity: int) -> ScopeType:
        member = str.__new__(cls, value)
        member._value_ = value
        member.specificity = specificity
        return member

    __hash__ = str.__hash__  # that of an enum is worked out in Python


def is_id(value: str) -> bool:
    """Whether `value` is an opaque id: 1-128 letters, digits and `._:-`."""
    return _ID.fullmatch(value) is not None


def parse_id(value: str, field: str) -> str:
    """`value` when `is_id`; raises `ValidationError` naming `field`."""
    if not is_id(value):
        raise ValidationError(
            f"{field} is not a valid id",
            field=field,
            suggested_action="Use 1 to 128 letters, digits and the characters . _ : -",
        )
    return value
