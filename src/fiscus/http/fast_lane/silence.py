"""Hanging up on who does not finish what was begun, or takes nothing of the answers."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

SILENT_SECONDS: Final = 30
"""How long nothing may come of a request that is not whole, or on a connection without one."""


class WatchedConnection(Protocol):
    """What a watch needs of its connection."""

    def may_pause(self) -> bool:
        """Whether nothing need come of the client for now."""
        ...

    def give_up(self, silent_seconds: int) -> None:
        """Hang up on a client of whom nothing came for so long."""
        ...


class SilenceWatch:
    """Looks now and then at the client of one connection, whose transport is of `joined_writes`."""

    __slots__ = (
        "_connection",
        "_loop",
        "_taken_at",
        "_taken_bytes",
        "_timer",
        "_transport",
        "heard_at",
    )

    def __init__(
        self, connection: WatchedConnection, transport: Any, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._taken_bytes: int | None = None
        """How much the client had taken when its answers were last seen to wait for it."""
        self._taken_at = 0.0
        """When a look last found that it takes them, or that none waits."""
        self.heard_at = loop.time()
        """When something came last of a request that is not whole."""

    def start(self) -> None:
        self._look_again_in(SILENT_SECONDS)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_again_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Goes on to the end: what is closed waits until the client has taken its answers."""
        if self._takes_nothing():
            self._transport.abort()
            return
        silent = self._loop.time() - self.heard_at
        next_look_seconds: float = SILENT_SECONDS
        if self._transport.is_closing() or self._connection.may_pause():
            pass
        elif silent < SILENT_SECONDS:
            next_look_seconds -= silent
        else:
            self._connection.give_up(SILENT_SECONDS)
        self._look_again_in(next_look_seconds)

    def _takes_nothing(self) -> bool:
        """Whether answers wait for a client that has neither taken nor sent anything for long.

        Who sends a stream may read its answer when it has sent all.
        """
        transport = self._transport
        waiting_bytes = transport.get_write_buffer_size()
        taken_bytes = transport.written_bytes - waiting_bytes if waiting_bytes else None
        now = self._loop.time()
        if taken_bytes is None or taken_bytes != self._taken_bytes:
            self._taken_bytes = taken_bytes
            self._taken_at = now
        return now - max(self._taken_at, self.heard_at) >= SILENT_SECONDS


__all__ = ["SilenceWatch", "WatchedConnection"]
