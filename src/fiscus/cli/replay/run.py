"""Driving a server with a trace: reserve the estimate, settle what it did cost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from bisect import insort
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from time import perf_counter
from typing import Any, Final

from fiscus.budgets.calls import CheckAnswer, SettleAnswer
from fiscus.cli.replay.http_connection import HttpConnection, Target
from fiscus.cli.replay.model_prices import ModelPrices
from fiscus.cli.replay.trace import TraceRequest
from fiscus.cli.terminal import CommandError
from fiscus.client.problems import error_of
from fiscus.client.retries import RETRIED_STATUSES
from fiscus.costs.model import CostFlag
from fiscus.errors import FiscusError
from fiscus.money import ZERO, add, subtract
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode
from fiscus.wire.paths import BASE_PATH

TAG: Final = "replay"
"""Every operation of a run carries this tag with the run's id, and the run's budget counts it."""
CURRENCY: Final = "USD"
"""Of the models' prices, whatever the tenant's is."""
ATTEMPTS: Final = 9
FIRST_RETRY_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 600.0
"""How long a call may wait in all as answers tell it to; as a 429 does, that costs no attempt."""
FIRST_ASSUMED_TOKENS: Final = 500
"""Assumed output before enough answers are known."""
ENOUGH_ANSWERS: Final = 50
QUANTILE: Final = 0.95


class AssumedOutput:
    """How many tokens an answer may have: a number given, or the 95th percentile so far."""

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self._seen: list[int] = []

    @property
    def tokens(self) -> int:
        if self._fixed is not None:
            return self._fixed
        if len(self._seen) < ENOUGH_ANSWERS:
            return FIRST_ASSUMED_TOKENS
        return self._seen[int(len(self._seen) * QUANTILE)]

    def learn(self, tokens: int) -> None:
        if self._fixed is None:
            insort(self._seen, tokens)


@dataclass(slots=True)
class Tally:
    """What happened so far. Latencies are in milliseconds, of the attempt that was answered."""

    admitted: int = 0
    refused: int = 0
    released: int = 0
    retried: int = 0
    spent: Decimal = ZERO
    excess: Decimal = ZERO
    """How much more than their holds the calls flagged `excess` did cost."""
    excess_count: int = 0
    admitted_past_the_amount: int = 0
    """Checks that were allowed although nothing was left for them; must stay 0."""
    check_ms: list[float] = field(default_factory=list[float])
    settle_ms: list[float] = field(default_factory=list[float])
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.admitted + self.refused + self.released

    @property
    def operations_per_second(self) -> float:
        """Checks and settles answered, per second."""
        calls = len(self.check_ms) + len(self.settle_ms)
        return calls / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to replay, where and how fast. `speed` None: as fast as it goes."""

    requests: Sequence[TraceRequest]
    prices: ModelPrices
    where: Target
    tenant_id: str
    budget_id: str
    run_id: str
    assumed_output: int | None
    concurrency: int
    speed: float | None


class _GivenUp(Exception):
    """A stop was asked for while a check was told to wait; it holds nothing."""


class Replay:
    """One run of a plan. `tally` may be read while it runs."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._assumed = AssumedOutput(plan.assumed_output)
        self._work: Iterator[tuple[int, TraceRequest]] = enumerate(plan.requests)
        self._stop = asyncio.Event()
        self._started = 0.0
        self.tally: Final = Tally()
        self.failure: FiscusError | None = None
        """Why it ended early, unless it was asked to."""
        self.is_cut_off = False
        """Whether it ended at once: what was on its way may be held, or recorded and not told."""

    @property
    def is_stopped(self) -> bool:
        """Whether it ends early."""
        return self._stop.is_set()

    async def run(self, on_progress: Callable[[Tally], None]) -> None:
        """Replay all of it; on Ctrl-C, or when a call fails for good, give back what is held and
        end. Ctrl-C meanwhile ends it at once, by `CancelledError`."""
        self._started = perf_counter()
        ticker = asyncio.create_task(self._tick(on_progress))
        workers = [
            asyncio.create_task(self._drive())
            for _ in range(min(self._plan.concurrency, len(self._plan.requests)))
        ]
        driving = asyncio.gather(*workers)

        def interrupted() -> None:
            if self.is_stopped:
                driving.cancel()
            self._stop.set()

        try:
            with _on_ctrl_c(interrupted):
                await driving
        except asyncio.CancelledError:
            self.is_cut_off = True
            raise
        finally:
            for task in (*workers, ticker):
                task.cancel()
            await asyncio.gather(*workers, ticker, return_exceptions=True)
            self.tally.seconds = perf_counter() - self._started
            on_progress(self.tally)

    async def _tick(self, on_progress: Callable[[Tally], None]) -> None:
        while True:
            self.tally.seconds = perf_counter() - self._started
            on_progress(self.tally)
            await asyncio.sleep(0.1)

    async def _drive(self) -> None:
        connection = HttpConnection(self._plan.where)
        try:
            for index, request in self._work:
                await self._wait_for(request)
                if self.is_stopped:
                    return
                await self._one(connection, index, request)
        except _GivenUp:
            return
        except FiscusError as error:
            self.failure = self.failure or error
            self._stop.set()
        finally:
            connection.close()

    async def _wait_for(self, request: TraceRequest) -> None:
        if self._plan.speed is None:
            return
        delay = request.offset_seconds / self._plan.speed - (perf_counter() - self._started)
        if delay > 0:
            await self._pause(delay)

    async def _pause(self, seconds: float) -> None:
        """Wait for so long, or until a stop is asked for."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _one(self, connection: HttpConnection, index: int, request: TraceRequest) -> None:
        tally, price = self.tally, self._plan.prices.price
        estimate = price(request.input_tokens, self._assumed.tokens)
        operation = f"{self._plan.run_id}-{index}"
        check = {
            "resource_type": "llm",
            "service_name": self._plan.prices.model,
            "estimated_cost": estimate,
            "currency": CURRENCY,
            "operation_id": operation,
            "tenant_id": self._plan.tenant_id,
            "tags": {TAG: self._plan.run_id},
        }
        reply = await self._call(
            connection,
            "/budgets/check",
            check,
            f"{operation}-check",
            tally.check_ms,
            holds=False,
        )
        answer = decode(reply, CheckAnswer)
        if not answer.allowed:
            tally.refused += 1
            return
        budget_id = self._plan.budget_id
        if any(one.budget_id == budget_id and one.remaining < 0 for one in answer.budgets):
            tally.admitted_past_the_amount += 1
        held = f"/budgets/reservations/{answer.reservation_id}"
        if self.is_stopped:
            await self._release(connection, held, operation)
            return
        actual = price(request.input_tokens, request.output_tokens)
        settle = {
            "actual_cost": actual,
            "currency": CURRENCY,
            "tenant_id": self._plan.tenant_id,
            "usage": {
                "input_tokens": request.input_tokens,
                "output_tokens": request.output_tokens,
            },
        }
        try:
            reply = await self._call(
                connection, f"{held}/settle", settle, f"{operation}-settle", tally.settle_ms
            )
        except CommandError:  # there was no answer, so it may be settled
            raise
        except FiscusError:
            with contextlib.suppress(FiscusError):
                await self._release(connection, held, operation)
            raise
        settled = decode(reply, SettleAnswer)
        tally.admitted += 1
        tally.spent = add(tally.spent, settled.charged)
        if CostFlag.EXCESS in settled.flags:
            tally.excess_count += 1
            tally.excess = add(tally.excess, subtract(actual, estimate))
        self._assumed.learn(request.output_tokens)

    async def _release(self, connection: HttpConnection, held: str, operation: str) -> None:
        release = {"tenant_id": self._plan.tenant_id}
        await self._call(connection, f"{held}/release", release, f"{operation}-release", [])
        self.tally.released += 1

    async def _call(
        self,
        connection: HttpConnection,
        path: str,
        body: dict[str, Any],
        key: str,
        latencies_ms: list[float],
        *,
        holds: bool = True,
    ) -> bytes:
        """The body of a 200; tried again under the same key when that can help.

        Unless the operation `holds` money, which is to be given back, a stop ends its waits: there
        is one more try, as an answer that was lost may hold some, then `_GivenUp`.
        """
        content = encode(body)
        failures, patience = 0, PATIENCE_SECONDS
        while True:
            told = 0.0
            started = perf_counter()
            try:
                reply = await connection.post(BASE_PATH + path, content, key)
            except (OSError, TimeoutError) as error:
                failures += 1
                problem: FiscusError = CommandError(
                    f"the server stopped answering: {error}",
                    suggested_action="see whether it still runs; the replay can be started again.",
                )
            else:
                if reply.status == 200:
                    latencies_ms.append((perf_counter() - started) * 1000)
                    return reply.body
                problem = error_of(reply.status, {}, reply.body)
                if reply.status not in RETRIED_STATUSES:
                    raise problem
                told = reply.retry_after_seconds or 0.0
                if told > patience:
                    raise problem
                patience -= told
                if reply.status != 429 or not told:
                    failures += 1
            if failures == ATTEMPTS:
                raise problem
            self.tally.retried += 1
            pause = max(told, FIRST_RETRY_SECONDS * 2 ** (failures - 1))
            if holds:
                await asyncio.sleep(pause)
            elif self.is_stopped:
                raise _GivenUp
            else:
                await self._pause(pause)


@contextlib.contextmanager
def _on_ctrl_c(act: Callable[[], None]) -> Generator[None]:
    """Have Ctrl-C call `act`; on Windows, where it cannot, it cancels what runs."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, act)
    except NotImplementedError:  # Windows' event loop has no signals
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)  # or uvloop's would hear it for good
