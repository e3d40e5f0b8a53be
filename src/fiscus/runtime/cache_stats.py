"""Hits and misses of caches: how often something was looked up, and how often it was not there."""

from __future__ import annotations


class CacheStats:
    """Counts of one cache: plain numbers, as whoever looks counts along with each decision.

    Metrics read them from time to time. Of two threads that count at once, one may not be counted.
    """

    __slots__ = ("count", "misses")

    def __init__(self) -> None:
        self.count = 0
        """How often it was asked, also when it missed."""
        self.misses = 0
        """How often the store had to be read. Several who wait for one reading miss once."""

    def take(self) -> tuple[int, int]:
        """Both numbers, which begin again at 0: for a thread that counts alone."""
        taken = self.count, self.misses
        self.count = self.misses = 0
        return taken

    def add(self, count: int, misses: int) -> None:
        """What was counted elsewhere."""
        self.count += count
        self.misses += misses
