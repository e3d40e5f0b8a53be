"""Counters in this process: exact across its threads, and no larger than what is in use."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Sequence

from msgspec.structs import replace

from fiscus.ratelimits.deciding import DECIDE, State, adjusted, decide_together, unused_from_us
from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Verdict
from fiscus.stores.counters.sweeping import STEP_TAKES, SweptStates


class MemoryCounters(SweptStates[State]):
    """A `ratelimits.port.CounterStore`. `now_us` must be given: the caller's clock is the clock."""

    immediate = True

    def __init__(self) -> None:
        super().__init__(unused_from_us)

    def on_loop(self, loop: AbstractEventLoop) -> None:
        return None

    def decide_all(self, takes: Sequence[Take], now_us: int | None) -> list[Taken | None]:
        assert now_us is not None
        results: list[Taken | None] = []
        admitted = True
        with self._lock:
            for take in takes:
                if admitted or not take.gated:
                    taken = self._decide(take, now_us)
                    admitted = taken.admitted
                    results.append(taken)
                else:
                    results.append(None)
        return results

    def decide(self, take: Take, now_us: int) -> Taken:
        """Decide one take."""
        with self._lock:
            return self._decide(take, now_us)

    def _decide(self, take: Take, now_us: int) -> Taken:
        keys, rules, count, priority = take.keys, take.rules, take.count, take.priority
        states = self._states
        self._takes += len(keys)
        if self._takes >= STEP_TAKES:
            self._sweep_step(now_us)
        if len(keys) == 1 and not take.asks:  # most requests; the lines below would say the same
            key, rule = keys[0], rules[0]
            state = states.get(key)
            verdict = DECIDE[rule[0]](rule, state, count, rule[3][priority], now_us)
            if verdict.state is not state:
                states[key] = verdict.state
            return Taken(verdict.allowed or rule[6], [verdict])
        before = [states.get(key) for key in keys]
        admitted, verdicts = decide_together(rules, before, count, priority, now_us, take.asks)
        for key, state, verdict in zip(keys, before, verdicts, strict=True):
            # of several asks on one counter, a denied one leaves what another took
            if verdict.state is not state and (verdict.allowed or states.get(key) is state):
                states[key] = verdict.state
        return Taken(admitted, verdicts)

    def adjust(self, take: Take, now_us: int | None) -> list[Verdict]:
        assert now_us is not None
        counts = [count for count, _ in take.asks] or [take.count] * len(take.keys)
        with self._lock:
            for key, rule, count in zip(take.keys, take.rules, counts, strict=True):
                state = adjusted(rule, self._states.get(key), count, now_us)
                if state is not None:
                    self._states[key] = state
        look = replace(take, count=0, asks=tuple([(0, priority) for _, priority in take.asks]))
        return self.decide(look, now_us).verdicts

    def forget(self, tenant_id: str, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._states.pop(key, None)

    def ping_ms(self) -> float:
        return 0.0
