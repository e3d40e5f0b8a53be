"""Counters in Redis or Valkey, shared by processes: a script decides, in one step on the server.

The scripts in `lua/` are the algorithms of `ratelimits` once more; tests hold the two to each
other. Keys are `fiscus:{<tenant id>}:<key>`, so that a tenant's counters share a slot of a cluster.
A counter's own state says when it is unused; expiry in the server only collects garbage.
"""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from typing import Any

from fiscus.batching.async_batcher import InFlight
from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Verdict
from fiscus.stores.counters.redis_commands import Command, ask_all
from fiscus.stores.counters.redis_on_loop import LoopConnections
from fiscus.stores.counters.redis_takes import Script, TakeGroup, name_of, results_of
from fiscus.stores.counters.redis_urls import Servers, open_servers


class RedisCounters:
    """A `ratelimits.port.CounterStore`. `now_us` None is the server's clock.

    Safe to use from several threads, which wait each for its own answer. Raises `ValidationError`
    for a URL that names no server; connects at the first use. `timeout_seconds` is the longest that
    a connection or an answer is waited for; then, and when a server answers with an error,
    `CountersUnavailable` is raised.
    """

    immediate = False

    def __init__(self, url: str, *, timeout_seconds: float = 0.01) -> None:
        self._servers: Servers = open_servers(url, timeout_seconds)
        self._decide = Script("decide_all")
        self._adjust = Script("adjust")

    def decide_all(self, takes: Sequence[Take], now_us: int | None) -> list[Taken | None]:
        group = TakeGroup(self._decide, takes, now_us, apart=self._servers.apart)
        return group.outcome(ask_all(self._servers, group.commands))

    def on_loop(self, loop: AbstractEventLoop) -> LoopRedisCounters:
        return LoopRedisCounters(self._servers, self._decide, loop)

    def adjust(self, take: Take, now_us: int | None) -> list[Verdict]:
        command = self._adjust.command([take], now_us)
        (taken,) = results_of([take], ask_all(self._servers, [command])[0])
        assert taken is not None
        return taken.verdicts

    def forget(self, tenant_id: str, keys: Sequence[str]) -> None:
        names = [name_of(tenant_id, key) for key in keys]
        ask_all(self._servers, [Command(name, ("DEL", name)) for name in names])

    def sweep(self, now_us: int) -> int:
        """None: the server forgets by itself."""
        return 0

    def ping_ms(self) -> float:
        """Milliseconds of a trivial call, to one server of several."""
        began = time.perf_counter()
        ask_all(self._servers, [Command("ping", ("PING",))])
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        self._servers.close()


class LoopRedisCounters:
    """A `ratelimits.port.LoopCounters`: the same, with connections of one event loop."""

    def __init__(self, servers: Servers, decide: Script, loop: AbstractEventLoop) -> None:
        self._decide = decide
        self._apart = servers.apart
        self._connections = LoopConnections(servers, loop)

    def ask_all(
        self, takes: Sequence[Take], on_done: Callable[[list[Taken | None] | Exception], None]
    ) -> InFlight:
        group = TakeGroup(self._decide, takes, None, apart=self._apart)

        def answered(answers: list[Any] | Exception) -> None:
            on_done(answers if isinstance(answers, Exception) else group.outcome(answers))

        return self._connections.ask_all(group.commands, answered)

    def close(self) -> None:
        self._connections.close()
