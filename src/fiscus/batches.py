"""How much is done at once for one batch: an item takes as long as it meets definitions."""

from __future__ import annotations

from typing import Final

from fiscus.errors import PayloadTooLarge

MOST_MET_BY_CHECKS: Final = 5_000
MOST_MET_BY_RECORDS: Final = 10_000
"""Ten each of a full batch. So many are met in about a tenth of a second; where all is denied it
takes several times as long, and everybody waits meanwhile."""


class Met:
    """Counts the definitions that the items of a batch meet, before they are decided on."""

    __slots__ = ("_count", "_definitions", "_items", "_met", "_most")

    def __init__(self, items: str, count: int, definitions: str, most: int) -> None:
        """`items` and `definitions` are the words for them; the batch has `count` items."""
        self._items = items
        self._count = count
        self._definitions = definitions
        self._most = most
        self._met = 0

    def add(self, met: int, number: int) -> None:
        """Count what an item meets; it is the first, second, … by its `number`.

        Raises `PayloadTooLarge` when that is too much at once; one item alone is never refused.
        """
        self._met += met
        if self._met > self._most and self._count > 1:
            raise PayloadTooLarge(
                f"The first {number} of {self._count} {self._items} meet {self._met} "
                f"{self._definitions}; at most {self._most} are met at once",
                details={"field": self._items, "maximum": self._most},
                suggested_action=f"Send fewer {self._items} at once.",
            )


def checks_met(count: int, definitions: str) -> Met:
    """Counts for a batch of `count` checks."""
    return Met("checks", count, definitions, MOST_MET_BY_CHECKS)


def records_met(count: int) -> Met:
    """Counts for a batch of `count` cost records."""
    return Met("records", count, "budgets", MOST_MET_BY_RECORDS)


__all__ = ["MOST_MET_BY_CHECKS", "MOST_MET_BY_RECORDS", "Met", "checks_met", "records_met"]
