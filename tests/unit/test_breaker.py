"""The circuit breaker: opens on a share of failures, tries again after a pause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.breaker import BreakerState, CircuitBreaker

START = datetime(2026, 3, 10, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker(failure_ratio=0.4, window_seconds=30)


def fail(breaker: CircuitBreaker, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(at(seconds))


def test_it_stays_closed_below_the_share_and_opens_at_it(breaker: CircuitBreaker) -> None:
    for _ in range(6):
        breaker.succeeded(at(0))
    fail(breaker, 0, 3)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 0)  # 4 of 10
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows(at(0.999))


def test_a_few_calls_never_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 0, 4)
    assert breaker.allows(at(0))
    fail(breaker, 0)
    assert not breaker.allows(at(0))


def test_failures_older_than_the_window_do_not_count(breaker: CircuitBreaker) -> None:
    fail(breaker, 0, 4)
    fail(breaker, 31)
    assert breaker.state is BreakerState.CLOSED


def test_after_the_pause_a_success_closes_it_and_forgets(breaker: CircuitBreaker) -> None:
    fail(breaker, 0, 5)
    assert breaker.allows(at(1))
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.succeeded(at(1))
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1, 2)
    assert breaker.state is BreakerState.CLOSED


def test_after_the_pause_a_failure_opens_it_for_another(breaker: CircuitBreaker) -> None:
    fail(breaker, 0, 5)
    assert breaker.allows(at(1))
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows(at(1.999))
    assert breaker.allows(at(2))


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=200),
)
def test_it_is_never_open_for_longer_than_its_pause(calls: list[tuple[bool, float]]) -> None:
    breaker = CircuitBreaker(failure_ratio=0.4, window_seconds=30)
    now, last_failure = 0.0, 0.0
    for failed, pause in calls:
        now += pause
        if not breaker.allows(at(now)):
            assert now - last_failure < 1.000001
            continue
        if failed:
            breaker.failed(at(now))
            last_failure = now
        else:
            breaker.succeeded(at(now))
            assert breaker.state is BreakerState.CLOSED
