"""Limits whose counters are in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import time_ns

from fiscus.limits.base import KeyOf, Limit, check_count, check_text
from fiscus.limits.results import LimitInfo, LimitResult
from fiscus.limits.strings import Phrase
from fiscus.ratelimits.rules import MAX_LIMIT, Rule
from fiscus.wiring.counters import joint_counters


class InProcessLimit(Limit):
    """Counters of its own, gone with it. Exact across threads."""

    def __init__(
        self,
        phrases: Sequence[tuple[Phrase, Rule]],
        *,
        key: KeyOf | None,
        now_us: Callable[[], int] | None,
    ) -> None:
        super().__init__(key)
        self._infos = limit_infos(phrases)
        self._counters = joint_counters([rule for _, rule in phrases])
        # the fewer steps of Python, the faster: the clock and the store's method themselves
        self._time_ns = time_ns if now_us is None else lambda: now_us() * 1000
        self._decide = self._counters.decide

    def hit(self, key: str = "", count: int = 1) -> LimitResult:
        if type(key) is not str:
            check_text(key, "key")
        if type(count) is not int or not 0 <= count <= MAX_LIMIT:
            check_count(count, 0)
        now_us = self._time_ns() // 1000
        allowed, verdicts = self._decide(key, count, now_us)
        return LimitResult(allowed, verdicts, self._infos, now_us)

    async def hit_async(self, key: str = "", count: int = 1) -> LimitResult:
        return self.hit(key, count)

    def adjust(self, key: str, count: int) -> LimitResult:
        check_text(key, "key")
        check_count(count, -MAX_LIMIT)
        now_us = self._time_ns() // 1000
        return LimitResult(True, self._counters.adjust(key, count, now_us), self._infos, now_us)

    async def adjust_async(self, key: str, count: int) -> LimitResult:
        return self.adjust(key, count)

    def reset(self, key: str = "") -> None:
        check_text(key, "key")
        self._counters.forget(key)

    async def reset_async(self, key: str = "") -> None:
        self.reset(key)

    def close(self) -> None:
        self._counters.close()


def limit_infos(phrases: Sequence[tuple[Phrase, Rule]]) -> tuple[LimitInfo, ...]:
    """The limits as those see them whom they hold for."""
    return tuple([LimitInfo(str(one), one.hits, one.window_seconds) for one, _ in phrases])


__all__ = ["InProcessLimit", "limit_infos"]
