"""The blocks people write: `with reserve(...) as r:` and `async with reserve(...) as r:`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal, Self, Unpack

from fiscus.budgets.calls import CheckAnswer, CheckRequest
from fiscus.client.arguments import request
from fiscus.client.backend import Operations, run_blocking
from fiscus.client.fields import AmountLike, SettleFields
from fiscus.client.holds import BlockHold
from fiscus.client.settlements import Settlement
from fiscus.client.telling import telling
from fiscus.errors import FiscusError, ValidationError

OnUnreachable = Literal["raise", "allow"]


class _Block:
    """What both forms show of a reservation."""

    def __init__(
        self,
        operations: Operations,
        fields: dict[str, Any],
        *,
        tenant: str | None,
        on_unreachable: OnUnreachable,
    ) -> None:
        if on_unreachable not in ("raise", "allow"):
            raise ValidationError(
                "on_unreachable is neither raise nor allow",
                field="on_unreachable",
                suggested_action='Give "raise" or "allow".',
            )
        self._operations = operations
        self._given = fields
        self._hold = BlockHold(
            operations,
            request(CheckRequest, fields, tenant),
            allow_unreachable=on_unreachable == "allow",
        )

    @property
    def answer(self) -> CheckAnswer:
        """The decision, with each matching budget as it stood after it."""
        return self._hold.answer

    @property
    def reservation_id(self) -> str | None:
        """None when it holds nothing itself: it draws from an enclosing block, or is degraded."""
        return self._hold.reservation_id

    @property
    def degraded(self) -> bool:
        """Whether the operation was allowed without a decision, and so without a hold."""
        return self._hold.answer.degraded


class Reservation(_Block):
    """Money held while a block runs; made by `reserve`.

    Leaving the block without `settle` gives the money back, also by an exception. A nested block
    for the same operation draws from this one; see the how-to page on Python. A block in a
    generator encloses all that runs in its context until it is left: where streams take turns, give
    each an `operation_id` of its own.
    """

    # Ctrl-C is raised wherever the program is, also in here. What it comes in the way of is done
    # once more before it goes on: giving back and settling twice is as once.

    def __enter__(self) -> Self:
        self._hold.begin()
        try:
            with telling(self._given):
                run_blocking(self._hold.enter())
        except FiscusError:
            raise
        except BaseException as interruption:
            # it may hold by now, and the block that would end that does not run
            self._leave(interruption)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._leave(error)
        except FiscusError:
            raise
        except BaseException as interruption:
            self._leave(interruption)
            raise

    def _leave(self, error: BaseException | None) -> None:
        self._hold.leave()
        run_blocking(self._hold.close(error))

    def settle(self, actual_cost: AmountLike, **details: Unpack[SettleFields]) -> Settlement:
        """Record what the operation did cost; again with the same amount is the same.

        Raises `Conflict` for another amount than before, and `ServiceUnavailable` when it is not
        known whether it was recorded: call it again with the same amount.

        >>> r.settle("0.0187", usage={"input_tokens": 812, "output_tokens": 164})
        """
        try:
            self._hold.require_entered()
            with telling(details):
                return run_blocking(self._hold.settle(actual_cost, details))
        except FiscusError:
            raise
        except BaseException:
            run_blocking(self._hold.settle_after_all(actual_cost, details))
            raise

    def release(self) -> None:
        """Give the money back before the block ends: nothing was spent."""
        self._hold.require_entered()
        run_blocking(self._hold.release())

    def extend(self, ttl_seconds: int) -> None:
        """Hold the money until `ttl_seconds` from now."""
        self._hold.require_entered()
        with telling({}):
            run_blocking(self._hold.extend(ttl_seconds))


class AsyncReservation(_Block):
    """As `Reservation`, for `async with`. A cancelled task gives the money back, too."""

    async def __aenter__(self) -> Self:
        self._hold.begin()
        with telling(self._given):
            await self._hold.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hold.leave()
        await self._operations.uninterrupted(lambda: self._hold.close(error))

    async def settle(self, actual_cost: AmountLike, **details: Unpack[SettleFields]) -> Settlement:
        """As `Reservation.settle`. A cancelled task still settles, then is cancelled."""
        self._hold.require_entered()
        with telling(details):
            return await self._hold.settle(actual_cost, details)

    async def release(self) -> None:
        """As `Reservation.release`."""
        self._hold.require_entered()
        await self._hold.release()

    async def extend(self, ttl_seconds: int) -> None:
        """As `Reservation.extend`."""
        self._hold.require_entered()
        with telling({}):
            await self._hold.extend(ttl_seconds)
