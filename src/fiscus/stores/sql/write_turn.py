"""Whose turn it is to write to SQLite, which lets one connection do so.

Who waits for it by polling, as SQLite does, could starve for seconds beside a busy ledger.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


class WriteTurn:
    """Threads of this process write in the order they asked, and processes one after the other.

    SQLite's own locks keep the writers apart; this is only about whose turn is next.
    """

    def __init__(self, database: Path) -> None:
        self._lock = threading.Lock()
        self._writer: int | None = None
        """The thread that has the turn."""
        self._waiting: dict[int, threading.Event] = {}
        """The threads that wait for it, the first first."""
        self._processes = _ProcessTurn(database.with_name(f"{database.name}-turn"))

    def acquire(self) -> None:
        try:
            self._acquire_in_process()
            self._processes.acquire()
        except BaseException:  # Ctrl-C while it waits is one
            self.release()
            raise

    def release(self) -> None:
        """Hand on the turn of this thread, or no longer wait for it."""
        me = threading.get_ident()
        if self._writer == me:
            self._processes.release()
        with self._lock:
            self._waiting.pop(me, None)
            if self._writer != me:
                return
            self._writer = next(iter(self._waiting), None)
            if self._writer is not None:
                self._waiting.pop(self._writer).set()

    @contextmanager
    def held(self) -> Generator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def close(self) -> None:
        """Let go of the file. For when nobody writes any more."""
        self._processes.close()

    def _acquire_in_process(self) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._writer is None:
                self._writer = me
                return
            mine = self._waiting[me] = threading.Event()
        mine.wait()


class _ProcessTurn:
    """Two locks on a file: on the turn, and on being next.

    Who is next waits for the turn with the second lock held, so the process that has the turn can
    not take it again before. Only one thread of a process asks at a time.
    """

    _TURN, _NEXT = 0, 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        if sys.platform == "win32":
            return
        if self._file is None:
            self._file = self._path.open("ab")
        file = self._file.fileno()
        fcntl.lockf(file, fcntl.LOCK_EX, 1, self._NEXT)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, self._TURN)
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, self._NEXT)

    def release(self) -> None:
        if sys.platform != "win32" and self._file is not None:
            fcntl.lockf(self._file.fileno(), fcntl.LOCK_UN, 1, self._TURN)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
