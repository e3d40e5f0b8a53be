"""Several serving processes on one port: started, watched, started again, stopped together."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from prometheus_client import multiprocess

from fiscus.cli.serve.serving import GRACE_SECONDS, serve_child
from fiscus.cli.serve.sockets import bound_anew
from fiscus.cli.signals import leave, on_signals
from fiscus.runtime.logs import get_logger
from fiscus.runtime.processes import RestartPauses
from fiscus.settings import Settings

log = get_logger(__name__)

_END_SECONDS: Final = GRACE_SECONDS + 10
"""How long processes that are told to end may take before they are killed."""
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder made there is ours alone


@dataclass(slots=True)
class _Child:
    """A process to keep running: `process` once it was started, else from `due` on."""

    bound: socket.socket
    process: SpawnProcess | None = None
    started: float = 0.0
    due: float = 0.0
    pauses: RestartPauses = field(default_factory=RestartPauses)


class Supervisor:
    """Runs one process per socket until told to stop. For the main thread."""

    def __init__(self, settings: Settings, sockets: list[socket.socket], with_worker: bool) -> None:
        """A process for each of `sockets`, which are as `listen` makes them."""
        self._settings = settings
        self._with_worker = with_worker
        self._children = [_Child(bound) for bound in sockets]

    def run(self) -> None:
        """Keep the processes running; leaves by `SystemExit(0)` on SIGTERM or SIGINT."""
        on_signals(leave)
        # so that every process shows the sums over all; not on a disk, as a full one would end them
        folder = mkdtemp(prefix="fiscus-metrics-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            while True:
                self._start_due()
                leave.if_told()
                self._wait()
                for child in self._children:
                    if child.process is not None and not child.process.is_alive():
                        self._ended(child, child.process)
        finally:
            on_signals(signal.SIG_IGN)
            self._stop()
            shutil.rmtree(folder, ignore_errors=True)

    def _start_due(self) -> None:
        for child in self._children:
            if child.process is None and time.monotonic() >= child.due:
                child.started = time.monotonic()
                try:
                    child.process = self._start(child.bound)
                except OSError as error:  # no process or descriptor is left
                    log.error(
                        "process_not_started",
                        reason=str(error),
                        tried_again_in_seconds=self._wait_before_next(child),
                    )

    def _start(self, bound: socket.socket) -> SpawnProcess:
        process = get_context("spawn").Process(
            target=serve_child,
            args=(self._settings, bound, self._with_worker),
            name="fiscus-server",
        )
        process.start()
        return process

    def _wait(self) -> None:
        """Until a process ends or one is due to be started."""
        running = [child.process.sentinel for child in self._children if child.process is not None]
        due = [child.due for child in self._children if child.process is None]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        if running:
            connection.wait(running, wait)
        else:
            time.sleep(wait or 0.0)

    def _ended(self, child: _Child, process: SpawnProcess) -> None:
        child.bound = bound_anew(child.bound)
        log.error(
            "process_ended",
            pid=process.pid,
            exit_code=process.exitcode,
            starts_again_in_seconds=self._wait_before_next(child),
        )
        if process.pid is not None:
            multiprocess.mark_process_dead(process.pid)  # pyright: ignore[reportUnknownMemberType]
        child.process = None
        process.close()

    def _wait_before_next(self, child: _Child) -> float:
        """Set when a child that failed is due again; in so many seconds."""
        now = time.monotonic()
        wait = child.pauses.after(now - child.started)
        child.due = now + wait
        return wait

    def _stop(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for child in self._children:
            child.bound.close()  # or connections would wait here for a process that takes no more
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _END_SECONDS
        for process in running:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                log.error("process_killed", pid=process.pid)
                process.kill()
                process.join()
