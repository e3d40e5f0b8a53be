"""A trace put through the limiter in the trace's own time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from fiscus.cli.simulate.policies import FilePolicies
from fiscus.cli.simulate.traces import Request
from fiscus.cli.terminal import CommandError
from fiscus.clock import ManualClock, from_us
from fiscus.errors import ServiceUnavailable
from fiscus.priorities import Priority
from fiscus.ratelimits.calls import RateLimitCheckAnswer
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.port import CounterStore, CountersUnavailable, Take
from fiscus.ratelimits.rules import Verdict

SLACK_US: Final = 60_000_000
"""How far a trace may go back in time and still find every counter where it was."""

_FIRST_SWEEP: Final = 20_000
_FORGET_AT_ONCE: Final = 1_000


class Decided(NamedTuple):
    request: Request
    tenant_id: str
    answer: RateLimitCheckAnswer


class Simulation:
    """One run over a trace. Lines without a tenant are `tenant_id`'s.

    Counters that cannot be reached end the run, whatever the policies say of that: what they would
    answer then was not asked.
    """

    def __init__(self, policies: FilePolicies, counters: CounterStore, tenant_id: str) -> None:
        self._counters = counters
        self._left_behind = None if counters.immediate else LeftBehind(counters)
        clock = ManualClock(from_us(0))
        self._limiter = Limiter(policies, counters, clock, virtual_time=True)
        self._tenant_id = tenant_id
        self.checks = 0
        self.back_count = 0
        """Lines earlier than the latest one before them."""
        self.most_back_us = 0

    def run(self, trace: Iterable[Request]) -> Iterator[Decided]:
        """Decide every request at its time. Times that go back are taken as they are.

        Raises `CommandError` when the counters cannot be reached.
        """
        latest_us = 0
        for request in trace:
            if request.at_us < latest_us:
                self.back_count += 1
                self.most_back_us = max(self.most_back_us, latest_us - request.at_us)
            else:
                latest_us = request.at_us
            tenant_id = request.line.tenant_id or self._tenant_id
            try:
                answer = self._decide(request, tenant_id)
            except (CountersUnavailable, ServiceUnavailable) as error:
                raise _unreachable(error) from None
            self.checks += 1
            yield Decided(request, tenant_id, answer)

    def close(self) -> None:
        """Forget the run's counters and let go of their store. Raises as `run`."""
        self._limiter.close()
        try:
            if self._left_behind is not None:
                self._left_behind.forget_all()
        except CountersUnavailable as error:
            raise _unreachable(error) from None
        finally:
            self._counters.close()

    def _decide(self, request: Request, tenant_id: str) -> RateLimitCheckAnswer:
        limiter, line, at_us = self._limiter, request.line, request.at_us
        # whatever a line claims is granted; one that claims nothing is normal
        highest = line.priority or Priority.NORMAL
        prepared = limiter.prepare(line, tenant_id, request.at, at_us, None, highest)
        if not prepared.policies:
            return limiter.answer(prepared, None, at_us)
        outcome = limiter.decide((prepared.take,), at_us)
        taken = None if outcome is None else outcome[0]
        if self._left_behind is not None and taken is not None:
            self._left_behind.note(prepared.take, taken.verdicts, at_us)
        return limiter.answer(prepared, taken, at_us)


class LeftBehind:
    """The counters that a run has in a store which outlives it.

    They are forgotten once they are unused in the trace's time, of which the store knows nothing.
    """

    def __init__(self, store: CounterStore) -> None:
        self._store = store
        self._resets: dict[str, dict[str, int]] = {}
        """By tenant and key: when the counter is unused again, in microseconds."""
        self._count = 0
        self._sweep_at = _FIRST_SWEEP

    def note(self, take: Take, verdicts: Sequence[Verdict], now_us: int) -> None:
        resets = self._resets.setdefault(take.tenant_id, {})
        before = len(resets)
        for key, verdict in zip(take.keys, verdicts, strict=True):
            resets[key] = verdict.reset_us
        self._count += len(resets) - before
        if self._count >= self._sweep_at:
            self._forget_until(now_us - SLACK_US)
            self._sweep_at = max(_FIRST_SWEEP, 2 * self._count)

    def forget_all(self) -> None:
        self._forget_until(None)

    def _forget_until(self, moment_us: int | None) -> None:
        for tenant_id, resets in self._resets.items():
            keys = [
                key
                for key, reset_us in resets.items()
                if moment_us is None or reset_us <= moment_us
            ]
            for start in range(0, len(keys), _FORGET_AT_ONCE):
                part = keys[start : start + _FORGET_AT_ONCE]
                self._store.forget(tenant_id, part)
                for key in part:
                    del resets[key]
            self._count -= len(keys)


def _unreachable(error: Exception) -> CommandError:
    return CommandError(
        f"the counters cannot be reached: {error.__cause__ or error}",
        suggested_action="see whether the server of --counters runs, or use --counters memory.",
    )
