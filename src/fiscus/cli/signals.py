"""How processes that run until they are told to stop are told."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn


def on_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """What SIGTERM and SIGINT do from now on."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


class _Leave:
    """A signal handler that ends the process in good order, with status 0.

    What it raises is lost where exceptions are ignored, as while garbage is collected: whoever
    goes on for long asks it.
    """

    was_told = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        self.was_told = True
        raise SystemExit(0)

    def if_told(self) -> None:
        if self.was_told:
            raise SystemExit(0)


leave: Final = _Leave()
