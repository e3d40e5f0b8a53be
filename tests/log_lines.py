"""What Fiscus logged during a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fiscus.runtime.logs import Line

if TYPE_CHECKING:
    import pytest


class Told(NamedTuple):
    """One line, with its level's name."""

    level: str
    event: str
    fields: dict[str, Any]


def told(caplog: pytest.LogCaptureFixture) -> list[Told]:
    """The lines so far, which the test then has seen."""
    lines = [
        Told(one.levelname, one.msg.event, dict(one.msg.fields))
        for one in caplog.records
        if isinstance(one.msg, Line)
    ]
    caplog.clear()
    return lines
