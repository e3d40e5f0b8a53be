"""A clock for limits in process that stands still until it is moved."""

from __future__ import annotations

START_US = 1_767_225_600_000_000


class Microseconds:
    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)
