"""What was made last is kept, and nothing else is taken for it."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from fiscus.runtime.repeated import repeated


@given(st.lists(st.sampled_from([0, 1, None, "a", ""]), max_size=20))
def test_a_value_is_made_anew_only_when_another_came_between(values: list[object]) -> None:
    made: list[object] = []

    def make(value: object) -> tuple[object]:
        made.append(value)
        return (value,)

    of = repeated(make)
    assert [of(value) for value in values] == [(value,) for value in values]
    assert made == [
        value for place, value in enumerate(values) if not place or value != values[place - 1]
    ]


def test_no_thread_gets_what_another_asked_for() -> None:
    of = repeated(str)
    wrong: list[str] = []

    def ask(number: int) -> None:
        wrong.extend(got for _ in range(20_000) if (got := of(number)) != str(number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
