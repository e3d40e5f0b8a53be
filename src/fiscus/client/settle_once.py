"""Settling a block once, whatever comes in the way: with which amount, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any, NamedTuple

from fiscus.client.lending import Lending, Used
from fiscus.client.settlements import Settlement
from fiscus.client.usage import merge_details
from fiscus.errors import Conflict, FiscusError, ServiceUnavailable
from fiscus.money import ZERO, add, plain


class ToSettle(NamedTuple):
    """What is settled: a block's own part, and what nested blocks have used."""

    own: Used
    nested: Used

    @property
    def whole(self) -> Used:
        details = merge_details(self.nested.details, self.own.details)
        return Used(add(self.nested.cost, self.own.cost), details)


class _Settled(NamedTuple):
    """The block's own part, and what came of settling it."""

    own: Decimal
    answer: Settlement


class SettleOnce:
    """How far the settling of one block has come, and of what it lends.

    Its lock is held for arithmetic only, and taken before that of what is lent.
    """

    def __init__(self, lending: Lending) -> None:
        self._lending = lending
        self._lock = threading.Lock()
        self._begun: ToSettle | None = None
        # what calls of `settle` are on their way
        self._trying: set[object] = set()
        self._uncertain = False
        self._settled: _Settled | None = None

    @property
    def begun(self) -> bool:
        """Whether it was begun, and not refused."""
        return self._begun is not None

    @property
    def done(self) -> bool:
        return self._settled is not None

    def due(self) -> Decimal | None:
        """The own part to settle when the block is left; None: nothing is to be settled."""
        if self._settled is not None or self._uncertain:
            # an uncertain one may be settled already; if not, it can still be, until it expires
            return None
        if self._begun is not None:
            return self._begun.own.cost  # Ctrl-C came in the way
        return ZERO if self._lending.used.cost > 0 else None

    def cancelled(self) -> None:
        """It has had its time, and may go on alone: unless it was refused, leaving the block does
        not wait for it again."""
        self._uncertain = self._begun is not None

    async def settle(
        self, own: Used, charge: Callable[[ToSettle], Coroutine[Any, Any, Settlement]]
    ) -> Settlement:
        """Have `charge` settle `own` and what nested blocks used, which are in no sum after that.

        Raises `Conflict` for another amount than before, and what `charge` raises.
        """
        trying = object()
        try:
            with self._lock:
                if self._settled is not None:
                    return _again(self._settled, own.cost)
                begun = self._begin(own)
                self._trying.add(trying)
            return await self._try(begun, trying, charge)
        finally:
            self._trying.discard(trying)

    def _begin(self, own: Used) -> ToSettle:
        """What to settle: again with the same amount is what it was at first."""
        begun = self._begun
        if begun is not None and begun.own.cost != own.cost and not self._uncertain:
            raise _another_amount(begun.own.cost)
        if begun is None or begun.own.cost != own.cost:
            # from here on, nested costs are in no sum of this block
            begun = ToSettle(own, self._lending.sum_up())
        self._begun = begun
        self._uncertain = False
        return begun

    async def _try(
        self,
        begun: ToSettle,
        trying: object,
        charge: Callable[[ToSettle], Coroutine[Any, Any, Settlement]],
    ) -> Settlement:
        try:
            answer = await charge(begun)
        except FiscusError as error:
            if error.retriable or isinstance(error, ServiceUnavailable):
                self._uncertain = True  # what is held stays so, for another try
            else:
                self._refused(trying)
            raise
        self._settled = _Settled(begun.own.cost, answer)
        return answer

    def _refused(self, trying: object) -> None:
        """Go on as before, unless another call has settled the same, or may still do so."""
        with self._lock:
            self._trying.discard(trying)
            if self._settled is None and not self._trying:
                self._begun = None
                self._uncertain = False
                self._lending.refused()


def _again(settled: _Settled, own: Decimal) -> Settlement:
    if settled.own == own:
        return settled.answer
    raise _another_amount(settled.own)


def _another_amount(settled: Decimal) -> Conflict:
    return Conflict(
        f"The reservation was settled with {plain(settled)}",
        details={"settled": str(plain(settled))},
        suggested_action="Record the difference as a cost of category adjustment.",
    )
