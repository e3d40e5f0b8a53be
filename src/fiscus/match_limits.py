"""How many matches one batch may have: an item takes as long as it matches definitions."""

from __future__ import annotations

from typing import Final

from fiscus.errors import PayloadTooLarge

MAX_MATCHES_OF_CHECKS: Final = 5_000
MAX_MATCHES_OF_RECORDS: Final = 10_000
"""Ten each of a full batch. So many are matched in about a tenth of a second; where all is denied
it takes several times as long, and everybody waits meanwhile."""


class MatchLimit:
    """Counts the definitions that the items of a batch match, before they are decided on."""

    __slots__ = ("_count", "_definitions", "_items", "_matched", "_most")

    def __init__(self, items: str, count: int, definitions: str, most: int) -> None:
        """`items` and `definitions` are the words for them; the batch has `count` items."""
        self._items = items
        self._count = count
        self._definitions = definitions
        self._most = most
        self._matched = 0

    def add(self, matched: int, number: int) -> None:
        """Count what an item matches; it is the first, second, … by its `number`.

        Raises `PayloadTooLarge` when that is too much at once; one item alone is never refused.
        """
        self._matched += matched
        if self._matched > self._most and self._count > 1:
            raise PayloadTooLarge(
                f"The first {number} of {self._count} {self._items} meet {self._matched} "
                f"{self._definitions}; at most {self._most} are met at once",
                details={"field": self._items, "maximum": self._most},
                suggested_action=f"Send fewer {self._items} at once.",
            )


def limit_for_checks(count: int, definitions: str) -> MatchLimit:
    """Of a batch of `count` checks."""
    return MatchLimit("checks", count, definitions, MAX_MATCHES_OF_CHECKS)


def limit_for_records(count: int) -> MatchLimit:
    """Of a batch of `count` cost records."""
    return MatchLimit("records", count, "budgets", MAX_MATCHES_OF_RECORDS)


__all__ = [
    "MAX_MATCHES_OF_CHECKS",
    "MAX_MATCHES_OF_RECORDS",
    "MatchLimit",
    "limit_for_checks",
    "limit_for_records",
]
