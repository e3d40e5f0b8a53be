"""Both counter stores, for tests that hold for each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from fiscus.ratelimits.port import CounterStore
from fiscus.stores.counters.memory import MemoryCounters
from fiscus.stores.counters.redis import RedisCounters
from tests.counters.on_loop import LoopStore, OpenStore


@pytest.fixture(params=["memory", "valkey"])
def store(request: pytest.FixtureRequest) -> Iterator[CounterStore]:
    opened: CounterStore
    if request.param == "memory":
        opened = MemoryCounters()
    else:
        url = request.getfixturevalue("valkey_url")
        opened = RedisCounters(url, timeout_seconds=20)
    yield opened
    opened.close()


@pytest.fixture(params=["thread", "asyncio", "uvloop"])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """Opens counters in Valkey, for callers in threads or for coroutines of an event loop."""

    def open_(url: str, timeout_seconds: float) -> RedisCounters:
        if request.param == "thread":
            return RedisCounters(url, timeout_seconds=timeout_seconds)
        new_loop = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop
        return LoopStore(new_loop, url, timeout_seconds=timeout_seconds)

    return open_
