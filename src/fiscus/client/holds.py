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

Blocks find each other through a context variable, so tasks and `asyncio.to_thread` inherit the
enclosing one; a bare thread and a forked process do not. A generator has no context of its own: its
block encloses all that runs in the caller's context until it is left.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, Final, NamedTuple

from msgspec.structs import asdict, replace

from fiscus.budgets.calls import (
    CheckAnswer,
    CheckRequest,
    ExtendRequest,
    ReleaseRequest,
    SettleAnswer,
    SettleRequest,
    allowed_without_store,
)
from fiscus.budgets.refusals import refusal
from fiscus.client.backend import Operations
from fiscus.client.same_operation import covers, scope_ids
from fiscus.client.settlements import LEFT_TO_PARENT, Settlement, recorded_by, settled_by
from fiscus.client.usage import merge_details
from fiscus.costs.calls import RecordAnswer, RecordRequest
from fiscus.errors import Conflict, FiscusError, ServiceUnavailable, ValidationError
from fiscus.ids import uuid7
from fiscus.money import ZERO, Amount, add, parse_not_negative, plain, subtract
from fiscus.wire import convert

log = logging.getLogger("fiscus")

CLEAN_UP_SECONDS: Final = 5.0
"""How long giving back may hold up the leaving of a block."""


_innermost: ContextVar[Hold | None] = ContextVar("fiscus_reservation", default=None)

if sys.platform != "win32":
    # what a forked process uses of an enclosing block, the process that settles it would not know
    os.register_at_fork(after_in_child=lambda: _innermost.set(None))


class _Settled(NamedTuple):
    """This block's own part, and what came of settling it."""

    own: Decimal
    answer: Settlement


class Hold:
    """One block: what it holds, and what the blocks in it hold and have used of that.

    Locks are held for arithmetic only, and taken from the nested block to the enclosing one.
    """

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
        self._outer: Hold | None = None
        self._parent: Hold | None = None
        self._drawn = ZERO
        self._returned = False
        self._credited: Decimal | None = None
        self._lock = threading.Lock()
        # what nested blocks hold of this one, what they have used of it, and how
        self._lent = ZERO
        self._used = ZERO
        self._used_details: Mapping[str, Any] = {}
        self._entered = False
        self._accepts = False
        self._uncertain = False
        self._released = False
        self._settling: Decimal | None = None
        self._settled: _Settled | None = None
        self._record_key = uuid7()

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
            self._drawn = self._parent.lend(self._estimate)
        missing = subtract(self._estimate, self._drawn)
        if self._parent is None or missing > 0:
            try:
                await self._reserve(missing)
            except BaseException:
                self._give_back_drawn()
                raise
        self._accepts = True
        _innermost.set(self)

    def open_or_outer(self) -> Hold | None:
        """This block, or the nearest around it that is neither settled nor left."""
        one: Hold | None = self
        while one is not None and not one._accepts:
            one = one._outer
        return one

    def leave(self) -> None:
        """What follows in this context is no longer inside the block, and nothing draws from it."""
        with self._lock:
            self._accepts = False
        _innermost.set(self._outer)

    def lend(self, wanted: Decimal) -> Decimal:
        """As much of `wanted` as is left; it counts as held until it is received back."""
        with self._lock:
            if not self._accepts:
                return ZERO
            left = subtract(subtract(self._estimate, self._lent), self._used)
            lent = max(ZERO, min(wanted, left))
            self._lent = add(self._lent, lent)
            return lent

    def receive(self, lent: Decimal, used: Decimal, details: Mapping[str, Any]) -> bool:
        """Take back what was lent; whether what was used of it will be settled here."""
        with self._lock:
            self._lent = subtract(self._lent, lent)
            if not self._accepts:
                return False
            if details:  # first, as it may raise: then nothing is settled here
                self._used_details = merge_details(self._used_details, details)
            self._used = add(self._used, used)
            return True

    def _same_operation_outside(self) -> Hold | None:
        one = self._outer
        while one is not None:
            if (
                one._accepts
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
        try:
            answer = await self._operations.check(request)
        except ServiceUnavailable as error:
            if not self._allow_unreachable:
                raise
            log.warning("operation allowed although Fiscus cannot decide: %s", error.message)
            answer = allowed_without_store(
                f"Allowed without a decision, as on_unreachable says: {error.message}"
            )
        except FiscusError:
            raise
        except BaseException:
            # interrupted on the way: what was held must not stay held until it expires
            await self._operations.uninterrupted(lambda: self._undo(request))
            raise
        if not answer.allowed:
            raise refusal(answer)
        self._answer = answer
        self.reservation_id = answer.reservation_id

    async def _undo(self, request: CheckRequest) -> None:
        """Ask again with the same key, which tells what was reserved, and give that back."""
        try:
            answer = await self._operations.check(request, patience_seconds=CLEAN_UP_SECONDS)
            if answer.reservation_id is not None:
                await self._release(answer.reservation_id)
        except FiscusError as error:
            log.warning("an interrupted reservation may be held until it expires: %s", error)

    # -- settling

    async def settle(self, actual_cost: object, details: Mapping[str, Any]) -> Settlement:
        """Settle this block's own part and the nested ones'; again with the same amount is fine."""
        own = plain(parse_not_negative(actual_cost, "actual_cost"))
        details = _checked(details)
        with self._lock:
            if self._settled is not None:
                return _again(self._settled, own)
            if self._settling is not None and self._settling != own:
                raise _another_amount(self._settling)
            self._require_currency(details)
            self._settling = own
            accepted = self._accepts
            # from here on, nested costs are in no sum of this block
            self._accepts = False
            total = add(self._used, own)
            merged = merge_details(self._used_details, details)
        return await self._operations.uninterrupted(
            lambda: self._settle(own, total, merged, accepted)
        )

    async def settle_after_all(self, actual_cost: object, details: Mapping[str, Any]) -> None:
        """Settle what an interruption came in the way of: again is the same, and spent is spent."""
        if self._answer is None and self._parent is None:
            return
        try:
            await self.settle(actual_cost, details)
        except FiscusError as failure:
            log.error(
                "cost %s of an interrupted operation of tenant %s may not be recorded: %s",
                actual_cost,
                self.request.tenant_id,
                failure.message,
            )

    def require_entered(self) -> None:
        """Raises `RuntimeError` for a block that holds nothing yet, or was refused."""
        _ = self.answer

    def _require_currency(self, details: Mapping[str, Any]) -> None:
        """Costs of several blocks add up in one currency only."""
        given = details.get("currency")
        if given is None or given == self.request.currency:
            return
        if self._parent is not None or self._used > 0:
            raise ValidationError(
                "Nested reservations settle in the currency of their estimate",
                field="currency",
                suggested_action="Leave currency out, and settle in the estimate's currency.",
            )

    async def _settle(
        self, own: Decimal, total: Decimal, details: Mapping[str, Any], accepted: bool
    ) -> Settlement:
        self._uncertain = True
        try:
            answer = await self._charge(total, details)
        except FiscusError as error:
            self._settling = None
            if not isinstance(error, ServiceUnavailable):
                self._uncertain = False
                self._accepts = accepted
            raise
        self._settled = _Settled(own, answer)
        self._uncertain = False
        return answer

    async def _charge(self, total: Decimal, details: Mapping[str, Any]) -> Settlement:
        if self._parent is None:
            if self.reservation_id is None:
                return recorded_by(await self._record(total, details, self.request.operation_id))
            return settled_by(await self._settle_own(total, details))
        rest = ZERO
        if self.reservation_id is not None:
            own_hold = subtract(self._estimate, self._drawn)
            # a surplus over both holds is charged here too, where it is flagged
            rest = max(min(total, own_hold), subtract(total, self._drawn))
        through_parent = subtract(total, rest)
        answer = LEFT_TO_PARENT
        if rest > 0:
            answer = settled_by(await self._settle_own(rest, details))
            details = {}
        if not self._give_back_drawn(through_parent, details) and through_parent > 0:
            alone = recorded_by(await self._record(through_parent, details, None))
            answer = replace(alone, charged=add(alone.charged, answer.charged))
        if rest == 0 and self.reservation_id is not None:
            await self._release_quietly(self.reservation_id)
        return answer

    async def _settle_own(self, cost: Decimal, details: Mapping[str, Any]) -> SettleAnswer:
        assert self.reservation_id is not None
        values = {**details, "actual_cost": cost, "tenant_id": self.request.tenant_id}
        return await self._operations.settle(self.reservation_id, convert(values, SettleRequest))

    async def _record(
        self, cost: Decimal, details: Mapping[str, Any], operation_id: str | None
    ) -> RecordAnswer:
        """Record a cost that no reservation stands for."""
        request = self.request
        project_id, user_id, feature_id = scope_ids(request)
        values = {
            **details,
            "service_name": request.service_name or details.get("service_name"),
            "tenant_id": request.tenant_id,
            "resource_type": request.resource_type,
            "cost_amount": cost,
            "currency": details.get("currency") or request.currency,
            "project_id": project_id,
            "user_id": user_id,
            "feature_id": feature_id,
            "tags": {**request.tags, **details.get("tags", {})},
            "operation_id": operation_id,
            "idempotency_key": self._record_key,
        }
        return await self._operations.record(convert(values, RecordRequest))

    def _give_back_drawn(
        self, used: Decimal = ZERO, details: Mapping[str, Any] | None = None
    ) -> bool:
        """Give the parent back what was drawn, once; whether it settles what was used."""
        if self._parent is None:
            return False
        with self._lock:
            if not self._returned:
                self._returned = True
                if self._parent.receive(self._drawn, used, details or {}):
                    self._credited = used
            return self._credited == used

    # -- giving back, holding longer, leaving

    async def release(self) -> None:
        """Give back what nobody used. Nested costs are settled: what is spent is spent."""
        if self._settled is not None:
            raise Conflict(
                "The reservation is settled and cannot be released",
                suggested_action="Record a cost of category adjustment to correct it.",
            )
        with self._lock:
            self._accepts = False
        if self._used > 0:
            await self.settle(ZERO, {})
            return
        self._give_back_drawn()
        if self.reservation_id is not None:
            await self._release(self.reservation_id)
        self._released = True

    async def extend(self, ttl_seconds: int) -> None:
        """Hold what this block and the one it draws from hold until `ttl_seconds` from now."""
        if self.reservation_id is not None:
            values = {"ttl_seconds": ttl_seconds, "tenant_id": self.request.tenant_id}
            await self._operations.extend(self.reservation_id, convert(values, ExtendRequest))
        if self._parent is not None:
            await self._parent.extend(ttl_seconds)

    async def close(self, error: BaseException | None) -> None:
        """End the block: settle what nested blocks used, or give everything back.

        `error` is what the block was left with; a failure here never hides it.
        """
        if self._settled is not None or self._uncertain:
            # an uncertain one may be settled already; if not, it can still be, until it expires
            self._give_back_drawn()
        elif self._released:
            pass
        elif self._used > 0:
            try:
                await self.settle(ZERO, {})
            except FiscusError as failure:
                if error is None:
                    raise
                log.error(
                    "cost %s of nested operations of tenant %s is not recorded: %s",
                    plain(self._used),
                    self.request.tenant_id,
                    failure.message,
                )
        else:
            self._give_back_drawn()
            if self.reservation_id is not None:
                await self._release_quietly(self.reservation_id)

    async def _release(self, reservation_id: str) -> None:
        await self._operations.release(
            reservation_id,
            ReleaseRequest(tenant_id=self.request.tenant_id),
            patience_seconds=CLEAN_UP_SECONDS,
        )

    async def _release_quietly(self, reservation_id: str) -> None:
        try:
            await self._release(reservation_id)
        except Conflict:
            pass  # settled by its id, outside of the block
        except FiscusError as error:
            log.warning(
                "reservation %s is held until it expires: %s", reservation_id, error.message
            )


def _checked(details: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a cost, checked before anything is settled of it."""
    request = convert({**details, "actual_cost": ZERO}, SettleRequest)
    known = asdict(request)
    del known["actual_cost"], known["tenant_id"]
    return known


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
