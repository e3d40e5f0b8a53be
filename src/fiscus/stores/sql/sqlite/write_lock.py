"""A fair lock on writing to SQLite, which lets one connection do so: whose turn it is.

Who waits for it by polling, as SQLite does, could starve for seconds beside a busy ledger.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

if sys.platform != "win32":
    import fcntl


WAIT_SECONDS: Final = 5.0
"""As long as SQLite waits for its own locks: who has the turn may be frozen, or its disk."""


class WriteLock:
    """Threads of this process write in the order they asked, and processes one after the other.

    SQLite's own locks keep the writers apart; this is only about whose turn is next.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._users = 1
        self._lock = threading.Lock()
        self._writer: int | None = None
        """The thread that has the turn."""
        self._waiting: dict[int, threading.Event] = {}
        """The threads that wait for it, the first first."""
        self._processes = _ProcessLock(
            database.with_name(f"{database.name}-turn"), self._close_if_unused
        )

    @classmethod
    def at(cls, database: Path) -> WriteLock:
        """That of all who write to a file in this process; each of them closes it.

        The system knows processes only. Two turns of one would both be given a lock, hand on each
        other's, and be refused to wait, as a process that waits for one which waits for it.
        """
        path = database.resolve()
        with _sharing:
            lock = _shared.get(path)
            if lock is None:
                lock = _shared[path] = cls(path)
            else:
                lock._users += 1
            return lock

    def acquire(self) -> None:
        """Raises `OSError` when it does not come within `WAIT_SECONDS`, or cannot be asked for."""
        until = time.monotonic() + WAIT_SECONDS
        try:
            self._acquire_in_process(until)
            self._processes.acquire(until - time.monotonic())
        except BaseException:  # Ctrl-C while it waits is one
            self.release()
            raise

    def release(self) -> None:
        """Hand on the turn of this thread, or no longer wait for it."""
        me = threading.get_ident()
        try:
            if self._writer == me:
                self._processes.release()
        finally:  # what it raises must not leave this thread the turn for good
            self._hand_on(me)

    @contextmanager
    def held(self) -> Generator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def close(self) -> None:
        """For a user who writes no more; the last one lets go of the file, or who waits for the
        turn still, though nobody wants it any more: it may come to whoever opens the file next."""
        with _sharing:
            self._users -= 1
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with _sharing:
            if self._users or self._processes.is_waited_for:
                return
            if _shared.get(self._database) is self:
                del _shared[self._database]
            self._processes.close()

    def _hand_on(self, me: int) -> None:
        with self._lock:
            self._waiting.pop(me, None)
            if self._writer != me:
                return
            self._writer = next(iter(self._waiting), None)
            if self._writer is not None:
                self._waiting.pop(self._writer).set()

    def _acquire_in_process(self, until: float) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._writer is None:
                self._writer = me
                return
            mine = self._waiting[me] = threading.Event()
        if not mine.wait(until - time.monotonic()):
            raise _not_our_turn()


_sharing: Final = threading.Lock()
_shared: Final[dict[Path, WriteLock]] = {}
"""The turns of `WriteLock.at` that are not closed."""


def _forked() -> None:
    _shared.clear()  # whoever had a turn did not come along
    _sharing.release()


if sys.platform != "win32":
    os.register_at_fork(
        before=_sharing.acquire, after_in_parent=_sharing.release, after_in_child=_forked
    )


class _ProcessLock:
    """Two locks on a file: on the turn, and on being next.

    Who is next waits for the turn with the second lock held, so the process that has the turn can
    not take it again before. Only one thread of a process asks at a time.
    """

    _TURN, _NEXT = 0, 1

    def __init__(self, path: Path, waited: Callable[[], None]) -> None:
        """`waited`: called when the turn has been waited for, by whoever wanted it or by nobody."""
        self._path = path
        self._waited = waited
        self._file: IO[bytes] | None = None
        self._asked: _LockWaiter | None = None

    @property
    def is_waited_for(self) -> bool:
        return self._asked is not None and self._asked.is_waiting

    def acquire(self, seconds: float) -> None:
        """Raises `TimeoutError` when others keep it for so long."""
        if sys.platform == "win32":
            return
        if self._file is None:
            self._file = self._path.open("ab")
        if self._asked is None or not self._asked.goes_on():
            try:
                self._take(fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                self._asked = _LockWaiter(self._take, self._hand_on, self._waited)
            else:
                return
        self._asked.wait(seconds)

    def release(self) -> None:
        """Hand the turn on, or no longer wait for it."""
        if self._asked is not None:
            self._asked.give_up()
        self._hand_on()

    def _hand_on(self) -> None:
        if sys.platform != "win32" and self._file is not None:
            fcntl.lockf(self._file.fileno(), fcntl.LOCK_UN, 1, self._TURN)

    def close(self) -> None:
        self._asked = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self, how: int = 0) -> None:
        if sys.platform == "win32":
            return
        assert self._file is not None
        file = self._file.fileno()
        fcntl.lockf(file, fcntl.LOCK_EX | how, 1, self._NEXT)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | how, 1, self._TURN)
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, self._NEXT)


class _LockWaiter:
    """A thread that waits for a process's turn, as nothing ends a wait for a lock of the system's.

    It goes on when nobody waits for it any more: then it hands the turn on when it gets it.
    """

    def __init__(
        self, take: Callable[[], None], release: Callable[[], None], waited: Callable[[], None]
    ) -> None:
        self._take = take
        self._release = release
        self._waited = waited
        self._lock = threading.Lock()
        self._is_wanted = True
        self._ended = threading.Event()
        self._error: OSError | None = None
        try:
            threading.Thread(target=self._wait_for_it, name="fiscus-turn", daemon=True).start()
        except BaseException:  # Ctrl-C is one, after which it may have begun all the same
            self.give_up()
            raise

    @property
    def is_waiting(self) -> bool:
        with self._lock:
            return not self._ended.is_set()

    def goes_on(self) -> bool:
        """Whether it waits still; then it does so for the caller."""
        with self._lock:
            self._is_wanted = not self._ended.is_set()
            return self._is_wanted

    def wait(self, seconds: float) -> None:
        """Raises `TimeoutError` when the turn does not come within so long."""
        if not self._ended.wait(seconds):
            raise _not_our_turn()
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Have it hand the turn on when it comes; what came already is the caller's to hand on."""
        with self._lock:
            self._is_wanted = self._ended.is_set()

    def _wait_for_it(self) -> None:
        try:
            self._take()
        except (OSError, ValueError) as error:  # the file was closed meanwhile
            self._error = OSError(f"its turn cannot be waited for: {error}")
        with self._lock:
            self._ended.set()
            if not self._is_wanted and self._error is None:
                self._release()
        self._waited()


def _not_our_turn() -> TimeoutError:
    return TimeoutError("somebody else has been writing for seconds")
