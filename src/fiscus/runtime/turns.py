"""What a turn of the event loop brings is done together, step by step.

The code that a request runs through is several times what a processor has at hand. One request
after the other, each fetches all of it anew; when all that came in a turn take a step before any
takes the next, it is fetched once for them all (docs/decisions/0053).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Final
from weakref import WeakKeyDictionary, ref

from fiscus.clock import Clock

Step = Callable[[], object]


class Turn:
    """The turns of one event loop, on whose thread all of this is called."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # or `_TURNS` would keep it
        self._steps: deque[Step] = deque()
        self._ends: deque[Step] = deque()
        self._has_begun = False

    def together(self, step: Step) -> None:
        """Have `step` called after those of all that are not as far."""
        self._steps.append(step)
        if not self._has_begun:
            self._begin()

    def at_end(self, end: Step) -> None:
        """Have `end` called when nobody has a step left."""
        self._ends.append(end)
        if not self._has_begun:
            self._begin()

    def _begin(self) -> None:
        self._has_begun = True
        self._own_loop.call_soon(self._run)

    @property
    def _own_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop()
        assert loop is not None  # who calls is on its thread
        return loop

    def _run(self) -> None:
        try:
            while queue := self._steps or self._ends:
                try:
                    queue.popleft()()
                except Exception as error:  # noqa: BLE001 - the others go on, as in an event loop
                    self._own_loop.call_exception_handler(
                        {"message": "Exception in a step of a turn", "exception": error}
                    )
        finally:
            self._has_begun = False
            if self._steps or self._ends:  # it was interrupted
                self._begin()


_TURNS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Turn]] = WeakKeyDictionary()


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """The one of `loop`."""
    turn = _TURNS.get(loop)
    if turn is None:
        turn = _TURNS[loop] = Turn(loop)
    return turn


class TurnClock:
    """A clock that is read once in a turn, for all that came in it; of one event loop.

    They came together, and with the same moment much that is made of it is made once for them all.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moment: datetime | None = None

    def now(self) -> datetime:
        """When this turn began, as far as anybody asked by then."""
        moment = self._moment
        if moment is None:
            moment = self._moment = self._clock.now()
            turn_of(asyncio.get_running_loop()).at_end(self._turn_has_ended)
        return moment

    def _turn_has_ended(self) -> None:
        self._moment = None


class _NextStep:
    def __await__(self) -> Generator[None]:
        yield


NEXT_STEP: Final = _NextStep()
"""Awaited where the others of a turn are to come as far before it goes on.

Who steps a coroutine gets None, and goes on by `Turn.together`; a task goes on in the next turn.
"""

__all__ = ["NEXT_STEP", "Step", "Turn", "TurnClock", "turn_of"]
