"""How what comes in one turn of an event loop is done together."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from weakref import ref

import pytest

from fiscus.clock import ManualClock
from fiscus.runtime.turns import NEXT_STEP, Turn, TurnClock, turn_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def turn() -> Turn:
    return turn_of(asyncio.get_running_loop())


class Steps:
    """Something that takes several steps, each of which it writes down."""

    def __init__(self, turn: Turn, name: str, count: int, done: list[str]) -> None:
        self._turn = turn
        self._name = name
        self._left = count
        self._done = done
        turn.together(self._step)

    def _step(self) -> None:
        self._done.append(f"{self._name}{self._left}")
        self._left -= 1
        if self._left:
            self._turn.together(self._step)


async def test_nobody_is_a_step_ahead_of_the_others_of_its_turn(turn: Turn) -> None:
    done: list[str] = []
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        Steps(turn, name, count, done)
    assert done == []
    await asyncio.sleep(0)
    assert done == ["a3", "b1", "c2", "a2", "c1", "a1"]


async def test_a_turn_ends_when_nobody_has_a_step_left(turn: Turn) -> None:
    done: list[str] = []
    turn.at_end(partial(done.append, "end"))
    Steps(turn, "a", 2, done)
    turn.together(lambda: turn.at_end(partial(done.append, "another end")))
    await asyncio.sleep(0)
    assert done == ["a2", "a1", "end", "another end"]


async def test_what_an_end_begins_is_done_in_the_same_turn(turn: Turn) -> None:
    done: list[str] = []
    turn.at_end(lambda: Steps(turn, "a", 2, done))
    turn.at_end(partial(done.append, "end"))
    await asyncio.sleep(0)
    assert done == ["a2", "a1", "end"]
    Steps(turn, "b", 1, done)
    await asyncio.sleep(0)
    assert done[3:] == ["b1"]


def _fail() -> None:
    raise RuntimeError("of one")


async def test_a_step_that_fails_keeps_no_other_from_its_own(turn: Turn) -> None:
    told: list[dict[str, Any]] = []
    done: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    turn.together(_fail)
    Steps(turn, "a", 2, done)
    turn.at_end(_fail)
    turn.at_end(partial(done.append, "end"))
    await asyncio.sleep(0)
    assert done == ["a2", "a1", "end"]
    assert [str(one["exception"]) for one in told] == ["of one", "of one"]


def test_what_was_interrupted_goes_on_when_the_loop_does() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    turn = turn_of(loop)
    done: list[str] = []
    turn.together(interrupt)
    Steps(turn, "a", 2, done)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert done == ["a2", "a1"]


async def test_a_task_goes_on_in_the_next_turn() -> None:
    done: list[str] = []

    async def two_steps(name: str) -> None:
        done.append(f"{name}2")
        await NEXT_STEP
        done.append(f"{name}1")

    await asyncio.gather(two_steps("a"), two_steps("b"))
    assert done == ["a2", "b2", "a1", "b1"]


async def test_what_comes_in_a_turn_has_one_moment_and_what_comes_next_another(turn: Turn) -> None:
    clock = ManualClock(datetime(2026, 11, 30, tzinfo=UTC))
    of_turn = TurnClock(clock)
    seen: list[datetime] = []

    def look() -> None:
        seen.append(of_turn.now())
        clock.advance(seconds=1)

    for _ in range(2):
        turn.together(look)
        turn.together(look)
        await asyncio.sleep(0)
    assert seen[0] == seen[1]
    assert seen[2] == seen[3] == seen[0] + timedelta(seconds=2)
    assert of_turn.now() == clock.now()  # outside of any step a turn begins with it


async def test_each_loop_has_one() -> None:
    loop = asyncio.get_running_loop()
    another = asyncio.new_event_loop()
    assert turn_of(loop) is turn_of(loop)
    assert turn_of(another) is not turn_of(loop)
    another.close()


def test_a_loop_is_not_kept_by_its_turn() -> None:
    loop = asyncio.new_event_loop()
    gone = ref(loop)
    turn_of(loop).together(lambda: None)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop
    gc.collect()
    assert gone() is None
