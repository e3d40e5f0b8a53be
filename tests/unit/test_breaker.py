"""The circuit breaker: opens on a share of failures, tries again after a pause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.runtime.breaker import BreakerState, CircuitBreaker

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


@pytest.mark.parametrize("jump_seconds", [-0.5, -2, -600, -86_400, 86_400])
def test_a_clock_that_jumps_makes_no_pause_longer_than_two(
    breaker: CircuitBreaker, jump_seconds: float
) -> None:
    fail(breaker, 0, 5)
    assert not breaker.allows(at(0.1))
    assert breaker.allows(at(0.1 + jump_seconds)) or breaker.allows(at(2 + jump_seconds))
    breaker.succeeded(at(2 + jump_seconds))
    assert breaker.state is BreakerState.CLOSED


def test_failures_before_a_clock_was_set_back_do_not_count_for_as_long_as_that(
    breaker: CircuitBreaker,
) -> None:
    fail(breaker, 0, 4)
    breaker.succeeded(at(-600))
    fail(breaker, -600, 1)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, -599, 3)
    assert breaker.state is BreakerState.OPEN


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
