"""Several serving processes on one port: started, watched, started again, stopped together."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from typing import Final

from prometheus_client import multiprocess

from fiscus.cli.serving import GRACE_SECONDS, leave, on_signals, serve_child
from fiscus.logs import get_logger
from fiscus.settings import Settings

log = get_logger(__name__)

STEADY_SECONDS: Final = 30
"""A process that lived this long is started again at once, others after a growing wait."""
LONGEST_WAIT_SECONDS: Final = 10.0


@dataclass(slots=True)
class _Child:
    socket: socket.socket
    process: SpawnProcess
    started: float
    failures: int = 0


class Supervisor:
    """Runs one process per socket until told to stop. For the main thread."""

    def __init__(self, settings: Settings, sockets: list[socket.socket], with_worker: bool) -> None:
        self._settings = settings
        self._with_worker = with_worker
        self._sockets = sockets
        self._children: list[_Child] = []

    def run(self) -> None:
        """Keep the processes running; leaves by `SystemExit(0)` on SIGTERM or SIGINT."""
        on_signals(leave)
        self._share_metrics()
        try:
            for bound in self._sockets:
                self._children.append(_Child(bound, self._start(bound), time.monotonic()))
            while True:
                connection.wait([child.process.sentinel for child in self._children])
                for child in self._children:
                    if not child.process.is_alive():
                        self._replace(child)
        finally:
            on_signals(signal.SIG_IGN)
            self._stop()

    def _share_metrics(self) -> None:
        """Let every process show the sums over all: prometheus-client does it through a folder."""
        folder = self._settings.data_dir / "metrics"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder.absolute())

    def _start(self, bound: socket.socket) -> SpawnProcess:
        process = get_context("spawn").Process(
            target=serve_child,
            args=(self._settings, bound, self._with_worker),
            name="fiscus-server",
        )
        process.start()
        return process

    def _replace(self, child: _Child) -> None:
        lived = time.monotonic() - child.started
        child.failures = 0 if lived >= STEADY_SECONDS else child.failures + 1
        wait = min(LONGEST_WAIT_SECONDS, 0.1 * 2**child.failures) if child.failures else 0.0
        log.error(
            "process_ended",
            pid=child.process.pid,
            exit_code=child.process.exitcode,
            starts_again_in_seconds=wait,
        )
        if child.process.pid is not None:
            multiprocess.mark_process_dead(child.process.pid)  # pyright: ignore[reportUnknownMemberType]
        child.process.close()
        time.sleep(wait)
        child.process = self._start(child.socket)
        child.started = time.monotonic()

    def _stop(self) -> None:
        for child in self._children:
            child.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS + 10
        for child in self._children:
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                log.error("process_killed", pid=child.process.pid)
                child.process.kill()
                child.process.join()
