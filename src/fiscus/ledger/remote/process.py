"""The other side's hold on the ledger's process: started, watched, started again, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Final

from fiscus.runtime.logs import get_logger
from fiscus.runtime.processes import RestartPauses

log = get_logger(__name__)

_END_SECONDS: Final = 10.0
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


class LedgerProcess:
    """One process at a time, with a line for an event loop and a line for threads. POSIX only."""

    def __init__(self, module: str, given: bytes) -> None:
        """The process runs `module`, with `given` as its standard input and the descriptors of both
        lines as its arguments. It has to end when a line is closed, and not before: SIGTERM and
        SIGINT are blocked in it from the start."""
        self._module = module
        self._given = given
        self.began_count = 0
        """Goes up with each process."""
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._on_started: list[Callable[[], None]] = []
        self._begin()
        self._keeper = threading.Thread(target=self._keep, name="fiscus-ledger-keeper", daemon=True)
        self._keeper.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def loop_line(self) -> tuple[socket.socket, int]:
        """The line for an event loop, which the caller closes, and the `began_count` of the process
        it leads to. Raises `OSError` when closed."""
        with self._lock:
            return self._lines[0].dup(), self.began_count

    def thread_line(self) -> tuple[socket.socket, int]:
        """As `loop_line`, for threads."""
        with self._lock:
            return self._lines[1].dup(), self.began_count

    def when_started(self, call: Callable[[], None]) -> None:
        """Call whenever another process takes the place of one that ended; in any thread."""
        self._on_started.append(call)

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        log.error("ledger_process_killed", pid=self.pid)
        self._process.kill()

    def close(self) -> None:
        """End the process, after the group in hand."""
        with self._lock:
            self._closing.set()
            self._hang_up()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._keeper.join()

    def _begin(self) -> None:
        self._began_at = time.monotonic()  # also of one that cannot be begun
        loop_line, far_loop = socket.socketpair()
        thread_line, far_thread = socket.socketpair()
        self._lines = (loop_line, thread_line)
        self.began_count += 1
        lines = [far_loop.fileno(), far_thread.fileno()]
        with far_loop, far_thread, _stops_blocked():
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", self._module, *map(str, lines)],
                # the same modules, wherever this process has them from
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                pass_fds=lines,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(self._given)

    def _hang_up(self) -> None:
        for line in self._lines:
            with contextlib.suppress(OSError):  # the other end is gone
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def _keep(self) -> None:
        pauses = RestartPauses()
        while True:
            self._process.wait()
            if self._closing.is_set():
                return
            wait = pauses.after(time.monotonic() - self._began_at)
            log.error(
                "ledger_process_ended",
                pid=self.pid,
                exit_code=self._process.returncode,
                starts_again_in_seconds=wait,
            )
            self._closing.wait(wait)
            with self._lock:
                if self._closing.is_set():
                    return
                self._hang_up()
                try:
                    self._begin()
                except OSError as error:
                    # no memory or no descriptors left, for now: the next round tries again
                    log.error("ledger_process_not_started", reason=str(error))
                    continue
            for call in self._on_started:
                call()


@contextlib.contextmanager
def _stops_blocked() -> Generator[None]:
    """A process begun meanwhile never sees what a terminal or a supervisor sends to all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
