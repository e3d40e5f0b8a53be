"""Priorities: how important a request is to the one who makes it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Priority(StrEnum):
    """How important a request is: it scales the ceiling that the request is held to."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


PRIORITIES: Final = tuple(Priority)
"""From the most important; the order of `ratelimits.rules.Rule.ceilings`."""
