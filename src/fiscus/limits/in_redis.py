"""Limits whose counters are in Redis or Valkey, for several processes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from time import time_ns
from typing import Final
from weakref import WeakSet

from fiscus.clock import SystemClock
from fiscus.errors import ServiceUnavailable, ValidationError
from fiscus.limits.base import KeyOf, Limit, check_count, check_text
from fiscus.limits.in_process import limit_infos
from fiscus.limits.results import LimitResult
from fiscus.limits.strings import Phrase
from fiscus.priorities import PRIORITIES, Priority
from fiscus.ratelimits.counter_loop import CounterLoop, LoopTakes, Outcome
from fiscus.ratelimits.degraded import DegradedTakes
from fiscus.ratelimits.model import OnCountersFailure
from fiscus.ratelimits.port import CounterStore, CountersUnavailable, Take, Taken
from fiscus.ratelimits.rules import MAX_LIMIT, Rule
from fiscus.ratelimits.unreachable import not_corrected, unavailable
from fiscus.wiring.counters import open_counters

_NORMAL: Final = PRIORITIES.index(Priority.NORMAL)
_SEE: Final = "See that Redis runs and can be reached, then try again."


class _Connection:
    """A server's counters, and what asks them for all who wait."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.process: Final = os.getpid()
        self.users: Final[WeakSet[RedisLimit]] = WeakSet()
        self.counters: Final = _counters(url, timeout_seconds)
        self.loop: Final = CounterLoop(self.counters, SystemClock(), timeout_seconds)

    def close(self) -> None:
        self.loop.close()
        self.counters.close()


def _counters(url: str, timeout_seconds: float) -> CounterStore:
    try:
        return open_counters(url, timeout_seconds=timeout_seconds)
    except ValidationError as error:  # it names the setting that the URL usually comes from
        raise ValidationError(
            error.message.replace(error.field, "counters"),
            field="counters",
            suggested_action="Give a URL such as redis://127.0.0.1:6379.",
        ) from None


class _Connections:
    """One connection per server, shared by the limits of this process."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, str, float], _Connection] = {}
        self._lock = threading.Lock()

    def forked(self) -> None:
        """Go on in a forked process: whoever held the lock goes on in the other one."""
        self._lock = threading.Lock()

    def take(self, user: RedisLimit, url: str, timeout_seconds: float) -> _Connection:
        # a thread does not survive a fork, so a child has connections of its own
        key = (os.getpid(), url, timeout_seconds)
        with self._lock:
            found = self._open.get(key)
            if found is None:
                found = self._open[key] = _Connection(url, timeout_seconds)
            found.users.add(user)
            # here, as a thread that closes the limit right after would else leave it a closed one
            user.connection = found
            return found

    def give_back(self, user: RedisLimit) -> None:
        with self._lock:
            connection, user.connection = user.connection, None
            if connection is None or connection.process != os.getpid():
                return
            connection.users.discard(user)
            if connection.users:
                return
            self._open = {key: one for key, one in self._open.items() if one is not connection}
        connection.close()


_CONNECTIONS: Final = _Connections()

if sys.platform != "win32":
    os.register_at_fork(after_in_child=_CONNECTIONS.forked)


class RedisLimit(Limit):
    """Counters shared by all processes that use the same server, name, windows and algorithms."""

    def __init__(
        self,
        phrases: Sequence[tuple[Phrase, Rule]],
        *,
        url: str,
        name: str,
        key: KeyOf | None,
        on_store_failure: OnCountersFailure,
        timeout_seconds: float,
    ) -> None:
        super().__init__(key)
        self._name = name
        self._infos = limit_infos(phrases)
        self._rules = tuple(rule for _, rule in phrases)
        # a bucket with a burst takes longer than its window to be empty
        self._unused_after_us = max(
            -(-one.window_us * one.ceilings[_NORMAL] // one.limit) for one in self._rules
        )
        self._prefixes = _prefixes(phrases)
        self._failure = (on_store_failure,) * len(phrases)
        self._stand_in_anew()
        self._url = url
        self._timeout_seconds = timeout_seconds
        self.connection: _Connection | None = None
        """Set by `_Connections`."""
        self._takes: LoopTakes | None = None
        self._connected()

    def hit(self, key: str = "", count: int = 1) -> LimitResult:
        check_count(count, 0)
        take = self._take(key, count)
        try:
            outcome = self._connected().loop.execute((take,))
        except ServiceUnavailable:  # too many wait already
            outcome = None
        return self._result(take, outcome)

    async def hit_async(self, key: str = "", count: int = 1) -> LimitResult:
        if type(count) is not int or not 0 <= count <= MAX_LIMIT:
            check_count(count, 0)
        take = self._take(key, count)
        try:
            outcome = await self._takes_for_loop().execute((take,))
        except ServiceUnavailable:  # too many wait already
            outcome = None
        return self._result(take, outcome)

    def adjust(self, key: str, count: int) -> LimitResult:
        check_count(count, -MAX_LIMIT)
        try:
            verdicts = self._connected().counters.adjust(self._take(key, count), None)
        except CountersUnavailable as error:
            raise not_corrected(error, _SEE) from error
        return LimitResult(True, verdicts, self._infos, time_ns() // 1000)

    async def adjust_async(self, key: str, count: int) -> LimitResult:
        return await asyncio.to_thread(self.adjust, key, count)

    def reset(self, key: str = "") -> None:
        self._stand_in.forget(self._name, self._keys(key))
        try:
            self._connected().counters.forget(self._name, self._keys(key))
        except CountersUnavailable as error:
            raise unavailable(_SEE) from error

    async def reset_async(self, key: str = "") -> None:
        await asyncio.to_thread(self.reset, key)

    def close(self) -> None:
        _CONNECTIONS.give_back(self)
        self._takes = None  # after that: see `_takes_for_loop`

    def _connected(self) -> _Connection:
        """This process's connection; after a fork that is another one."""
        connection = self.connection
        if connection is None or connection.process != os.getpid():
            return _CONNECTIONS.take(self, self._url, self._timeout_seconds)
        return connection

    def _takes_for_loop(self) -> LoopTakes:
        """What asks for the running event loop; a child of a fork runs another one."""
        takes = self._takes
        if takes is None or takes.loop is not asyncio.get_running_loop():
            connection = self._connected()
            self._takes = takes = connection.loop.for_running_loop()
            if connection is not self.connection:  # closed meanwhile by another thread
                self._takes = None
        return takes

    def _result(self, take: Take, outcome: Outcome) -> LimitResult:
        now_us = time_ns() // 1000
        taken: Taken | None = None if outcome is None else outcome[0]
        degraded = taken is None
        if taken is None:
            self._stood_in_us = now_us
            taken = self._degraded.decide(take, self._failure, now_us)
        elif self._stood_in_us and now_us - self._stood_in_us > self._unused_after_us:
            self._stand_in_anew()
        return LimitResult(taken.admitted, taken.verdicts, self._infos, now_us, degraded)

    def _stand_in_anew(self) -> None:
        """Forget what was counted here, which nobody would do once the server is back."""
        self._stand_in = open_counters(None)
        self._degraded = DegradedTakes(self._stand_in)
        self._stood_in_us = 0

    def _take(self, key: str, count: int) -> Take:
        return Take(self._name, self._keys(key), self._rules, count, _NORMAL)

    def _keys(self, key: str) -> tuple[str, ...]:
        if type(key) is not str or not key.isascii():
            # half a character would fail the checks of all who share the round trip
            check_text(key, "key")
        prefixes = self._prefixes
        if len(prefixes) == 1:
            return (prefixes[0] + key,)
        return tuple([prefix + key for prefix in prefixes])


def _prefixes(phrases: Sequence[tuple[Phrase, Rule]]) -> tuple[str, ...]:
    """What comes before a key, per limit: its window, so that another count keeps what was used."""
    prefixes: list[str] = []
    for phrase, _ in phrases:
        prefix = f"{phrase.window_seconds} {phrase.algorithm}/"
        while prefix in prefixes:
            prefix = "+" + prefix
        prefixes.append(prefix)
    return tuple(prefixes)


__all__ = ["RedisLimit"]
