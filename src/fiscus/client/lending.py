"""What the blocks inside one hold of it, and what they have used of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from fiscus.client.usage import merge_details
from fiscus.money import LIMIT, ZERO, add, subtract


class Used(NamedTuple):
    """A cost, and what is known of it besides."""

    cost: Decimal
    details: Mapping[str, Any]


_NOTHING: Final = Used(ZERO, {})


class Lending:
    """The books of an enclosing block; each nested one is in them by its key.

    Every change is one assignment. So an interruption comes before or after it, and what it came in
    the way of can be done again: it changes nothing more. The lock is held for arithmetic only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = False
        self._summed_up = False
        self._loans: dict[str, Decimal] = {}
        # with the last of them the sum of all, so that a cost and its sum are one assignment
        self._sums: dict[str, Used | None] = {}

    @property
    def open(self) -> bool:
        """Whether something may be drawn, and what was used is still going to be settled."""
        return self._inside and not self._summed_up

    def begin(self) -> None:
        self._inside = True

    def end(self) -> None:
        """Nothing is drawn, and no cost is taken over, from now on."""
        with self._lock:
            self._inside = False

    def sum_up(self) -> Used:
        """What is going to be settled: nothing is drawn or taken over until that was refused."""
        with self._lock:
            self._summed_up = True
            return self.used

    def refused(self) -> None:
        """The sum could not be settled: go on as before."""
        self._summed_up = False

    @property
    def used(self) -> Used:
        """What was taken over so far."""
        return next(reversed(self._sums.values()), None) or _NOTHING

    def lend(self, key: str, wanted: Decimal, held: Decimal) -> Decimal:
        """As much of `wanted` as is left of `held`; it counts as lent until it is given back."""
        with self._lock:
            if not self.open:
                return ZERO
            left = subtract(held, self.used.cost)
            for loan in self._loans.values():
                left = subtract(left, loan)
            lent = max(ZERO, min(wanted, left))
            self._loans[key] = lent
            return lent

    def give_back(self, key: str) -> None:
        with self._lock:
            self._loans.pop(key, None)

    def take_over(self, key: str, used: Used) -> bool:
        """Settle with everything else what `key` has used; whether that is done here."""
        with self._lock:
            self._loans.pop(key, None)
            if key in self._sums:
                return True
            before = self.used
            cost = add(before.cost, used.cost)
            if not self.open or cost >= LIMIT:
                return False
            details = (
                merge_details(before.details, used.details) if used.details else before.details
            )
            last = next(reversed(self._sums), None)
            self._sums[key] = Used(cost, details)
            if last is not None:
                self._sums[last] = None  # a sum for each would fill the memory
            return True
