"""Both counter stores, for tests that hold for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fiscus.ratelimits.port import CounterStore
from fiscus.stores.counters.memory import MemoryCounters
from fiscus.stores.counters.redis import RedisCounters


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
