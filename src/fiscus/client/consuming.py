"""Amounts of quotas around blocks and calls: `with quota(...) as c:` and `@quota(...)`.

The amount is taken when the block is entered, from every quota that matches, or the block does not
run. It stays taken when the block ends, since what was used is used; a block that fails gives it
back when that was asked for. Blocks inside one another each take their own amount.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal
from time import monotonic
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, Self, TypeVar, cast

from msgspec.structs import replace

from fiscus.client.arguments import request
from fiscus.client.backend import CLEAN_UP_SECONDS, LOST_SECONDS, Operations, run_blocking
from fiscus.client.fields import AmountLike
from fiscus.client.telling import in_python
from fiscus.client.transports import uninterrupted
from fiscus.errors import Conflict, FiscusError, may_be_done
from fiscus.ids import uuid7
from fiscus.money import Amount, parse_not_negative
from fiscus.quotas.calls import QuotaCheckAnswer, QuotaCheckRequest, ReleaseConsumptionRequest
from fiscus.quotas.refusals import refusal

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("fiscus")


class Source(NamedTuple):
    """Where an amount is taken, and the tenant that stands in where none is named."""

    operations: Operations
    tenant: str | None


def take_request(
    resource_type: str, amount: AmountLike | float, operation: Mapping[str, Any]
) -> QuotaCheckRequest:
    """What a block takes, checked. Raises `ValidationError` naming the field.

    A float is taken by its shortest text, so that 2.5 is 2.5 and 0.1 is 0.1.
    """
    return request(
        QuotaCheckRequest,
        {**operation, "resource_type": resource_type, "required_amount": _exact(amount, "amount")},
    )


class Taking:
    """One block: what it takes and gives back."""

    def __init__(
        self, source: Source, wanted: QuotaCheckRequest, *, give_back_on_error: bool
    ) -> None:
        self.operations = source.operations
        self._request = replace(
            wanted, tenant_id=wanted.tenant_id or source.tenant, idempotency_key=uuid7()
        )
        self._give_back_on_error = give_back_on_error
        self._undone = False
        self.answer: QuotaCheckAnswer | None = None

    async def enter(self) -> None:
        """Take the amount; raises the refusal as an error."""
        try:
            answer = await self.operations.check_quota(self._request)
        except FiscusError as error:
            if may_be_done(error):
                await self.operations.uninterrupted(lambda: self.undo(LOST_SECONDS))
            raise
        except BaseException:
            # interrupted on the way: the block will not run, so it must not have used anything
            await self.operations.uninterrupted(self.undo)
            raise
        if not answer.allowed:
            raise refusal(answer)
        self.answer = answer

    async def undo(self, patience_seconds: float = CLEAN_UP_SECONDS) -> None:
        """Ask again with the same key, which tells what was taken, and give that back."""
        if self._undone:
            return
        ends = monotonic() + patience_seconds
        try:
            answer = self.answer or await self.operations.check_quota(
                self._request, patience_seconds=patience_seconds
            )
            await self._release(answer, None, max(0.0, ends - monotonic()))
        except Conflict:
            pass  # given back already
        except FiscusError as error:
            log.warning("a consumption that was cut off may stay taken: %s", error.message)
        self._undone = True

    def taken(self) -> QuotaCheckAnswer:
        """What was taken; raises `RuntimeError` when that is nothing yet."""
        if self.answer is None:
            raise _not_entered()
        return self.answer

    async def release(self, amount: AmountLike | float | None) -> None:
        """Give back a part, or all that was not given back yet."""
        given = None if amount is None else _exact(amount, "amount")
        await self._release(self.taken(), given, CLEAN_UP_SECONDS)

    async def close(self, error: BaseException | None) -> None:
        """End the block. A failure to give back never hides `error`, which it was left with."""
        if error is None or not self._give_back_on_error or self.answer is None:
            return
        try:
            await self._release(self.answer, None, CLEAN_UP_SECONDS)
        except Conflict:
            pass  # given back by its id, outside of the block
        except FiscusError as failure:
            log.warning(
                "consumption %s of a failed operation stays taken: %s",
                self.answer.consumption_id,
                failure.message,
            )

    async def _release(
        self, answer: QuotaCheckAnswer, amount: Decimal | None, patience_seconds: float
    ) -> None:
        if answer.consumption_id is None:
            return  # no quota matched: nothing was taken
        await self.operations.release_consumption(
            answer.consumption_id,
            ReleaseConsumptionRequest(
                amount=None if amount is None else Amount(amount),
                tenant_id=self._request.tenant_id,
            ),
            key=None,
            patience_seconds=patience_seconds,
        )


class _Block:
    """What both forms have in common."""

    def __init__(
        self,
        source: Callable[[], Source],
        wanted: QuotaCheckRequest,
        *,
        give_back_on_error: bool,
    ) -> None:
        self._source = source
        self._wanted = wanted
        self._give_back_on_error = give_back_on_error
        self._entered: Taking | None = None

    @property
    def answer(self) -> QuotaCheckAnswer:
        """The decision, with each matching quota as it stood after it."""
        return self._inside().taken()

    @property
    def consumption_id(self) -> str | None:
        """Names what was taken; None when no quota matched."""
        return self.answer.consumption_id

    def _taking(self) -> Taking:
        return Taking(self._source(), self._wanted, give_back_on_error=self._give_back_on_error)

    def _enter_once(self) -> Taking:
        if self._entered is not None:
            raise RuntimeError("a consumption's block is entered once; call quota again")
        self._entered = self._taking()
        return self._entered

    def _inside(self) -> Taking:
        if self._entered is None:
            raise _not_entered()
        return self._entered


class Consumption(_Block):
    """An amount taken from quotas for a block, or for every call of a function; made by `quota`.

    As a decorator of a coroutine function it waits in a thread, so the event loop goes on.
    """

    # Ctrl-C is raised wherever the program is, also in here. What it comes in the way of is done
    # once more before it goes on: giving everything back twice is as once.

    def __enter__(self) -> Self:
        taking = self._enter_once()
        try:
            run_blocking(taking.enter())
        except FiscusError:
            raise
        except BaseException:
            run_blocking(taking.undo())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            run_blocking(self._inside().close(error))
        except BaseException:
            run_blocking(self._inside().close(error))
            raise

    @in_python
    def release(self, amount: AmountLike | float | None = None) -> None:
        """Give back `amount`, or all that was not given back yet; to the periods it came from.

        >>> c.release("0.5")
        """
        run_blocking(self._inside().release(amount))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, taking the amount before every call. Raises `TypeError` for a generator."""
        _require_function(function)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def taking_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                taking = self._taking()
                await _enter_in_thread(taking)
                try:
                    return await function(*args, **kwargs)
                except BaseException as error:
                    closing = taking.close(error)
                    await _in_thread(lambda: run_blocking(closing))
                    raise

            return cast("Callable[P, R]", taking_async)

        @functools.wraps(function)
        def taking_blocking(*args: P.args, **kwargs: P.kwargs) -> R:
            with Consumption(
                self._source, self._wanted, give_back_on_error=self._give_back_on_error
            ):
                return function(*args, **kwargs)

        return taking_blocking


class AsyncConsumption(_Block):
    """As `Consumption`, for `async with` and for coroutine functions."""

    async def __aenter__(self) -> Self:
        await self._enter_once().enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        taking = self._inside()
        await taking.operations.uninterrupted(lambda: taking.close(error))

    @in_python
    async def release(self, amount: AmountLike | float | None = None) -> None:
        """As `Consumption.release`."""
        await self._inside().release(amount)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, taking the amount before every call.

        Raises `TypeError` for what is no coroutine function.
        """
        _require_function(function)
        if not inspect.iscoroutinefunction(function):
            raise TypeError("an AsyncClient decorates coroutine functions: use a Client for others")

        @functools.wraps(function)
        async def taking_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            taking = self._taking()
            await taking.enter()
            try:
                return await function(*args, **kwargs)
            except BaseException as error:
                closing = functools.partial(taking.close, error)
                await taking.operations.uninterrupted(closing)
                raise

        return cast("Callable[P, R]", taking_async)


_unfinished: Final[set[asyncio.Future[Any]]] = set()
"""What goes on in threads for tasks that were cancelled meanwhile."""


async def _enter_in_thread(taking: Taking) -> None:
    given_up = threading.Event()

    def enter() -> None:
        run_blocking(taking.enter())
        if given_up.is_set():
            run_blocking(taking.undo())

    try:
        await _in_thread(enter)
    except asyncio.CancelledError:
        # either this or the thread sees that the other is done; giving back twice changes nothing
        given_up.set()
        if taking.answer is not None:
            await _in_thread(lambda: run_blocking(taking.undo()))
        raise


async def _in_thread(work: Callable[[], None]) -> None:
    """What blocks, in a thread; a cancelled task waits for it, within bounds."""
    run, loop = contextvars.copy_context().run, asyncio.get_running_loop()
    # no task, which the end of the loop would cancel: a thread runs to its end, and once
    await uninterrupted(lambda: loop.run_in_executor(None, run, work), _unfinished)


def _not_entered() -> RuntimeError:
    return RuntimeError("the consumption is used before its block is entered")


def _require_function(function: Any) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("a generator runs after its call: decorate the function that iterates")
    if isinstance(function, (classmethod, staticmethod)):
        raise TypeError("quota goes below @classmethod or @staticmethod")
    if inspect.isclass(function) or not callable(function):
        raise TypeError("quota decorates a function")


def _exact(amount: AmountLike | float, field: str) -> Decimal:
    given = float.__repr__(amount) if isinstance(amount, float) else amount
    return parse_not_negative(given, field)
