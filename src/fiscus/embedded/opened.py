"""An engine that this process has opened: until when, where and for what it can be used."""

from __future__ import annotations

import os
import threading
import warnings
from datetime import datetime

from fiscus.client.backend import NotPicklable
from fiscus.client.problems import closed
from fiscus.engine import Engine
from fiscus.errors import Conflict
from fiscus.ratelimits.limiter import Limiter


class OpenedEngine(NotPicklable):
    """One engine, from its opening to its closing, in the process that opened it."""

    def __init__(self, engine: Engine) -> None:
        self._opened = engine
        self._pid = os.getpid()
        self._closed = False
        self._counting = threading.Lock()
        self._counts = False

    def __del__(self) -> None:
        # Not closed here: that waits for threads, and this may be one of them.
        if not self._closed and os.getpid() == self._pid:
            warnings.warn(
                "unclosed Fiscus: call its close(), or use it in a with",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    async def close(self) -> None:
        # What is open in the process that this one was forked from is that one's to close.
        if not self._closed and os.getpid() == self._pid:
            self._closed = True
            self._opened.close()

    @property
    def _engine(self) -> Engine:
        """The engine, for one call. Raises when it can do nothing here any more."""
        if self._closed:
            raise closed("This Fiscus")
        if os.getpid() != self._pid:
            # the engine's threads and its turns to write are in the other process
            raise Conflict(
                "Fiscus was opened in another process",
                suggested_action="Open it after the fork, in the process that uses it; on SQLite "
                "in no other before.",
            )
        return self._opened

    def _now(self) -> datetime:
        return self._opened.clock.now()  # the clock can do that anywhere and at any time

    def _limiter(self) -> Limiter:
        """The limiter, which only one process may count with unless counters are in Redis.

        Raises `Conflict` at the first use when another `Fiscus`, in this or another process, counts
        on the same data.
        """
        engine = self._engine
        with self._counting:
            if not self._counts:
                engine.claim_counters()
                engine.limiter.start()
                self._counts = True
        return engine.limiter
