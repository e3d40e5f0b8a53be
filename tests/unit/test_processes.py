"""When a process that ended is started again."""

from __future__ import annotations

from fiscus.runtime.processes import LONGEST_WAIT_SECONDS, STEADY_SECONDS, RestartPauses


def test_a_process_that_keeps_ending_is_waited_for_twice_as_long_each_time() -> None:
    pauses = RestartPauses()
    assert [pauses.after(1) for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


def test_a_process_that_ends_for_hours_is_still_started_again() -> None:
    pauses = RestartPauses()
    assert {pauses.after(1) for _ in range(3000)} >= {LONGEST_WAIT_SECONDS}


def test_a_process_that_lived_long_is_started_again_at_once() -> None:
    pauses = RestartPauses()
    assert pauses.after(1) == 0.2
    assert pauses.after(STEADY_SECONDS) == 0
    assert pauses.after(1) == 0.2
