"""Scopes: who an amount belongs to, `(type, id)`."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from fiscus.errors import ValidationError

_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")

EVERY: Final = "*"
"""The id of a template: every project, user or feature has the budget of its own."""


class ScopeType(StrEnum):
    TENANT = "tenant"
    PROJECT = "project"
    USER = "user"
    FEATURE = "feature"


SPECIFICITY: Final = {
    ScopeType.TENANT: 0,
    ScopeType.PROJECT: 1,
    ScopeType.USER: 2,
    ScopeType.FEATURE: 3,
}
"""Higher is more specific: feature > user > project > tenant."""


def parse_id(value: str, field: str) -> str:
    """An opaque id: 1-128 letters, digits and `._:-`; raises `ValidationError` naming `field`."""
    if _ID.fullmatch(value) is None:
        raise ValidationError(
            f"{field} is not a valid id",
            field=field,
            suggested_action="Use 1 to 128 letters, digits and the characters . _ : -",
        )
    return value
