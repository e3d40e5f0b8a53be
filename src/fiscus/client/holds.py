"""Reservations as blocks of code: held when the block is entered, settled or given back.

A block inside another one for the same operation draws from it instead of holding twice:

- The same operation: the same engine or client, tenant and currency, and the same operation id; or
  no operation id, the same project, user, feature and resource type, and no service or tag that the
  enclosing block does not have (so that no budget counts the one and not the other).
- What the nested block settles is added to what the enclosing one has used. That one settles the
  sum: its own part and the nested ones', or theirs alone when it is left without settling.
- A nested estimate beyond what is left of the enclosing one holds only the missing part, as a
  reservation of its own: a cost record of its own, without the operation id, as that names one
  record. The nested cost goes to that one first: what it does not need of the enclosing hold is
  there for the enclosing block.
- What a nested block settles after the enclosing one was settled or left is recorded by itself.
- So is what is settled in another currency than the estimate's, where costs of several blocks would
  add up: from the block's own hold, if it has one, and apart from what its nested blocks used.
- A block that holds nothing lends nothing: one that was allowed without a decision, or whose hold
  has expired.

Blocks find each other through a context variable, so tasks and `asyncio.to_thread` inherit the
enclosing one; a bare thread and a forked process do not. A generator has no context of its own: its
block encloses all that runs in the caller's context until it is left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from decimal import Decimal
from math import inf
from time import monotonic
from typing import Any

from msgspec.structs import replace

from fiscus.budgets.calls import (
    CheckAnswer,
    CheckRequest,
    ExtendRequest,
    ReleaseRequest,
    allowed_without_store,
)
from fiscus.budgets.refusals import refusal
from fiscus.client.backend import CLEAN_UP_SECONDS, LOST_SECONDS, Operations
from fiscus.client.lending import Lending, Used
from fiscus.client.same_operation import covers
from fiscus.client.settle_once import SettleOnce, ToSettle
from fiscus.client.settlements import (
    LEFT_TO_PARENT,
    Settlement,
    checked,
    record_request,
    recorded_by,
    settle_request,
    settled_by,
)
from fiscus.errors import (
    Conflict,
    FiscusError,
    PayloadTooLarge,
    ServiceUnavailable,
    ValidationError,
    may_be_done,
)
from fiscus.ids import uuid7
from fiscus.money import ZERO, Amount, add, parse_not_negative, plain, subtract
from fiscus.wire.converting import convert

log = logging.getLogger("fiscus")

_innermost: ContextVar[BlockHold | None] = ContextVar("fiscus_reservation", default=None)

if sys.platform != "win32":
    # what a forked process uses of an enclosing block, the process that settles it would not know
    os.register_at_fork(after_in_child=lambda: _innermost.set(None))


class BlockHold:
    """One block: what it holds, and what it lends to those in it."""

    def __init__(
        self, operations: Operations, request: CheckRequest, *, allow_unreachable: bool
    ) -> None:
        if not request.reserve:
            raise ValidationError(
                "reserve() always holds",
                field="reserve",
                suggested_action="Use check(reserve=False) to only look.",
            )
        if request.idempotency_key is not None:
            raise ValidationError(
                "reserve() makes a key of its own for every block",
                field="idempotency_key",
                suggested_action="Leave it out, or use check and settle with the reservation's id.",
            )
        self.request = request
        self.reservation_id: str | None = None
        self._answer: CheckAnswer | None = None
        self._operations = operations
        self._allow_unreachable = allow_unreachable
        self._estimate = parse_not_negative(request.estimated_cost, "estimated_cost")
        self._outer: BlockHold | None = None
        self._parent: BlockHold | None = None
        self._drawn = ZERO
        self._alone = False
        self._held_until = inf
        self._lending = Lending()
        self._settling = SettleOnce(self._lending)
        self._entered = False
        self._released = False
        # of its own cost where nothing is held for it, and of what no enclosing block takes over
        self._key = uuid7()
        self._key_alone = uuid7()

    @property
    def answer(self) -> CheckAnswer:
        """The decision that admitted this: the enclosing block's, when it draws from that alone."""
        if self._answer is not None:
            return self._answer
        if self._parent is not None:
            return self._parent.answer
        raise RuntimeError("the reservation is used before its block is entered")

    # -- entering

    def begin(self) -> None:
        """Be entered, which a block is once; before `enter`."""
        if self._entered:
            raise RuntimeError("a reservation's block is entered once; reserve again")
        innermost = _innermost.get()
        self._outer = None if innermost is None else innermost.open_or_outer()
        self._entered = True

    async def enter(self) -> None:
        """Draw from an enclosing block or reserve; raises the refusal as an error."""
        self._parent = self._same_operation_outside()
        if self._parent is not None:
            self._drawn = self._parent.lend(self._key, self._estimate)
        missing = subtract(self._estimate, self._drawn)
        if self._parent is None or missing > 0:
            try:
                await self._reserve(missing)
            except BaseException:
                self._give_back_drawn()
                raise
        self._lending.begin()
        _innermost.set(self)

    def open_or_outer(self) -> BlockHold | None:
        """This block, or the nearest around it that is neither settled nor left."""
        one: BlockHold | None = self
        while one is not None and not one._lending.open:
            one = one._outer
        return one

    def leave(self) -> None:
        """What follows in this context is no longer inside the block, and nothing draws from it."""
        self._lending.end()
        _innermost.set(self._outer)

    def lend(self, key: str, wanted: Decimal) -> Decimal:
        """As much of `wanted` as is left of what is held; it is held for `key` from then on."""
        return self._lending.lend(key, wanted, self._estimate if self._holds() else ZERO)

    def _holds(self) -> bool:
        """Whether the estimate is held now, as far as can be told without asking."""
        if self._answer is not None and self.reservation_id is None:
            return False  # allowed without a decision
        if monotonic() >= self._held_until:
            return False
        return self._parent is None or self._drawn == 0 or self._parent._holds()

    def _same_operation_outside(self) -> BlockHold | None:
        one = self._outer
        while one is not None:
            if (
                one._lending.open
                and one._operations is self._operations
                and covers(one.request, self.request)
            ):
                return one
            one = one._outer
        return None

    async def _reserve(self, estimate: Decimal) -> None:
        request = replace(
            self.request,
            estimated_cost=Amount(estimate),
            # an operation id names one cost record, which the enclosing block makes
            operation_id=None if self._parent is not None else self.request.operation_id,
            idempotency_key=uuid7(),
        )
        sent = monotonic()
        try:
            answer = await self._operations.check(request)
        except ServiceUnavailable as error:
            await self._undo_if_lost(request, error)
            if not self._allow_unreachable:
                raise
            log.warning("operation allowed although Fiscus cannot decide: %s", error.message)
            answer = allowed_without_store(
                f"Allowed without a decision, as on_unreachable says: {error.message}"
            )
        except FiscusError as error:
            await self._undo_if_lost(request, error)
            raise
        except BaseException:
            # interrupted on the way: what was held must not stay held until it expires
            await self._operations.uninterrupted(lambda: self._undo(request, CLEAN_UP_SECONDS))
            raise
        if not answer.allowed:
            raise refusal(answer)
        self._held_until = sent + request.ttl_seconds
        self._answer = answer
        self.reservation_id = answer.reservation_id

    async def _undo_if_lost(self, request: CheckRequest, error: FiscusError) -> None:
        if may_be_done(error):
            await self._operations.uninterrupted(lambda: self._undo(request, LOST_SECONDS))

    async def _undo(self, request: CheckRequest, patience_seconds: float) -> None:
        """Ask again with the same key, which tells what was reserved, and give that back."""
        ends = monotonic() + patience_seconds
        try:
            answer = await self._operations.check(request, patience_seconds=patience_seconds)
            if answer.reservation_id is not None:
                left_seconds = max(0.0, ends - monotonic())
                await self._release(answer.reservation_id, left_seconds)
        except FiscusError as error:
            log.warning("a reservation that was cut off may be held until it expires: %s", error)

    # -- settling

    async def settle(self, actual_cost: object, details: Mapping[str, Any]) -> Settlement:
        """Settle this block's own part and the nested ones'; again with the same amount is fine."""
        cost = plain(parse_not_negative(actual_cost, "actual_cost"))
        now = self._now_there() if self._parent is not None else None
        own = Used(cost, checked(details, self.request.tenant_id, now))
        try:
            return await self._operations.uninterrupted(
                lambda: self._settling.settle(own, self._charge_all)
            )
        except asyncio.CancelledError:
            self._settling.cancelled()
            raise

    async def settle_after_all(self, actual_cost: object, details: Mapping[str, Any]) -> None:
        """Settle what something came in the way of: again is the same, and spent is spent."""
        if self._answer is None and self._parent is None:
            return
        try:
            await self.settle(actual_cost, details)
        except FiscusError as failure:
            log.error(
                "cost %s, with %s of nested operations, of tenant %s may not be recorded: %s",
                actual_cost,
                plain(self._lending.used.cost),
                self.request.tenant_id,
                failure.message,
            )

    def _now_there(self) -> datetime:
        """The latest it can be where a cost is recorded: that clock has shown when a hold ends."""
        now = datetime.now(UTC)
        return max(now, self.answer.expires_at or now)

    def require_entered(self) -> None:
        """Raises `RuntimeError` for a block that holds nothing yet, or was refused."""
        _ = self.answer

    def _adds_up(self, begun: ToSettle) -> bool:
        """Whether all of it is one sum: costs of several blocks add up in one currency only."""
        given = begun.own.details.get("currency")
        if given is None or given == self.request.currency:
            return True
        return self._parent is None and begun.nested.cost == 0

    async def _charge_all(self, begun: ToSettle) -> Settlement:
        """Charge all of it; without the details of nested costs where these cannot be recorded."""
        charge = self._charge if self._adds_up(begun) else self._charge_apart
        try:
            return await charge(begun)
        except (ValidationError, PayloadTooLarge) as error:
            if begun.whole.details == begun.own.details:
                raise
            log.warning("details of nested operations are not recorded: %s", error.message)
            return await charge(ToSettle(begun.own, Used(begun.nested.cost, {})))

    async def _charge(self, begun: ToSettle) -> Settlement:
        """Charge the sum."""
        whole = begun.whole
        if self._parent is None:
            return await self._charge_here(whole)
        total, details = whole
        rest = ZERO
        if self.reservation_id is not None:
            own_hold = subtract(self._estimate, self._drawn)
            # a surplus over both holds is charged here too, where it is flagged
            rest = max(min(total, own_hold), subtract(total, self._drawn))
        answer = LEFT_TO_PARENT
        if rest > 0:
            answer = await self._charge_here(Used(rest, details))
            details = {}
        alone = await self._charge_to_parent(Used(subtract(total, rest), details))
        if alone is not None:
            answer = replace(alone, charged=add(alone.charged, answer.charged))
        if rest == 0 and self.reservation_id is not None:
            await self._release_quietly(self.reservation_id)
        return answer

    async def _charge_apart(self, begun: ToSettle) -> Settlement:
        """Charge the own part, which is in another currency, and the nested ones by themselves."""
        answer = await self._charge_here(begun.own)
        await self._charge_to_parent(begun.nested)
        return answer

    async def _charge_here(self, used: Used) -> Settlement:
        """Settle what this block holds itself, or record the cost where that is nothing."""
        if self.reservation_id is None:
            operation_id = None if self._parent is not None else self.request.operation_id
            return await self._record(used, operation_id, self._key)
        asked = settle_request(self.request, used)
        return settled_by(await self._operations.settle(self.reservation_id, asked))

    async def _charge_to_parent(self, used: Used) -> Settlement | None:
        """Have the enclosing block settle it; the record, where none is there to do so."""
        # once for all: it may be recorded by itself already
        self._alone = (
            self._alone
            or self._parent is None
            or not self._parent._lending.take_over(self._key, used)
        )
        if self._alone and used.cost > 0:
            return await self._record(used, None, self._key_alone)
        return None

    async def _record(self, used: Used, operation_id: str | None, key: str) -> Settlement:
        """Record a cost that no reservation stands for."""
        asked = record_request(self.request, used, operation_id=operation_id, key=key)
        return recorded_by(await self._operations.record(asked))

    # -- giving back, holding longer, leaving

    async def release(self) -> None:
        """Give back what nobody used. Nested costs are settled: what is spent is spent."""
        if self._settling.done:
            raise Conflict(
                "The reservation is settled and cannot be released",
                suggested_action="Record a cost of category adjustment to correct it.",
            )
        self._lending.end()  # from here on, nested costs are in no sum of this block
        if self._lending.used.cost > 0:
            await self.settle(ZERO, {})
            return
        self._give_back_drawn()
        if self.reservation_id is not None:
            await self._release(self.reservation_id, CLEAN_UP_SECONDS)
        self._released = True

    async def extend(self, ttl_seconds: int) -> None:
        """Hold what this block, and what it draws from another, until `ttl_seconds` from now."""
        if self.reservation_id is not None:
            values = {"ttl_seconds": ttl_seconds, "tenant_id": self.request.tenant_id}
            sent = monotonic()
            await self._operations.extend(self.reservation_id, convert(values, ExtendRequest))
            self._held_until = sent + ttl_seconds
        if self._parent is not None and (self._drawn > 0 or self._answer is None):
            await self._parent.extend(ttl_seconds)

    async def close(self, error: BaseException | None) -> None:
        """End the block: settle what nested blocks used, or give everything back.

        `error` is what the block was left with; a failure here never hides it.
        """
        due = self._settling.due()
        try:
            if due is not None:
                await (self.settle(due, {}) if error is None else self.settle_after_all(due, {}))
            elif (
                not self._settling.begun and not self._released and self.reservation_id is not None
            ):
                await self._release_quietly(self.reservation_id)
        finally:
            self._give_back_drawn()

    def _give_back_drawn(self) -> None:
        if self._parent is not None:
            self._parent._lending.give_back(self._key)

    async def _release(self, reservation_id: str, patience_seconds: float) -> None:
        await self._operations.release(
            reservation_id,
            ReleaseRequest(tenant_id=self.request.tenant_id),
            patience_seconds=patience_seconds,
        )

    async def _release_quietly(self, reservation_id: str) -> None:
        try:
            await self._release(reservation_id, CLEAN_UP_SECONDS)
        except Conflict:
            pass  # settled by its id, outside of the block
        except FiscusError as error:
            log.warning(
                "reservation %s is held until it expires: %s", reservation_id, error.message
            )
