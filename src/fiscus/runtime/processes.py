"""Processes that run for long: how they collect garbage, and how soon an ended one is replaced."""

from __future__ import annotations

import gc
from typing import Final

STEADY_SECONDS: Final = 30
"""A process that lived this long is started again at once, others after a growing wait."""
FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 10.0

_GC_THRESHOLDS: Final = (50_000, 50, 100)


def collect_rarely() -> None:
    """Called when all is open: what is there now stays, so the collector need not look at it again,
    and a group's many small objects should not send it looking while they are all in use."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class RestartPauses:
    """How long to wait before a process that ended is started again: each time twice as long."""

    def __init__(self) -> None:
        self._last_seconds = 0.0

    def after(self, lived_seconds: float) -> float:
        """The seconds to wait now that it ended after `lived_seconds`."""
        if lived_seconds >= STEADY_SECONDS:
            self._last_seconds = 0.0
        else:
            longer = max(FIRST_WAIT_SECONDS, 2 * self._last_seconds)
            self._last_seconds = min(LONGEST_WAIT_SECONDS, longer)
        return self._last_seconds
