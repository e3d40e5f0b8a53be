"""A PostgreSQL of one test's own, which may be killed, frozen and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any, cast

from tests import servers
from tests.ports import free_port
from tests.servers import PostgresServer

WAIT_SECONDS = 60


class OwnPostgres:
    """A server in a folder of its own; `close` ends it and removes the folder."""

    def __init__(self) -> None:
        # not pytest's folder: the server's user must be able to enter it
        self._home = Path(tempfile.mkdtemp(prefix="fiscus-own-postgres-"))
        self._user = servers._server_user()
        self._binaries = servers._binaries(self._home, self._user)
        self._password = "own-postgres"
        self._data = servers._make_cluster(self._home, self._binaries, self._user, self._password)
        self._port = free_port()
        self._process: subprocess.Popen[Any] | None = None
        self._log: IO[bytes] = (self._home / "server.log").open("wb")

    @property
    def server(self) -> PostgresServer:
        return PostgresServer(
            f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"
        )

    def start(self) -> None:
        """Start the server and wait until it answers, recovered."""
        process = self._process = subprocess.Popen(
            [self._binaries / "postgres", "-D", self._data, "-p", str(self._port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self._data,
            **cast("dict[str, Any]", servers._as(self._user)),
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while not servers._answers(self.server.url):
            assert process.poll() is None, (self._home / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)  # for another process, whose clock is the real one

    def kill(self) -> None:
        """`kill -9` of the server and of every process it has made; they are gone then."""
        killed = self._signal_all(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(WAIT_SECONDS)
        self._process = None
        deadline = time.monotonic() + WAIT_SECONDS
        while any(map(_is_running, killed)):  # a new server refuses memory that one still has
            assert time.monotonic() < deadline
            time.sleep(0.005)  # for another process, whose clock is the real one

    def freeze(self) -> None:
        """Stop every process of the server where it is; connections stay open and silent."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(WAIT_SECONDS)
        self._log.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _signal_all(self, number: signal.Signals) -> list[int]:
        """The processes that the server has made, which get the signal after it."""
        assert self._process is not None
        postmaster = self._process.pid
        children = _children_of(postmaster)
        # the postmaster first, so that it makes no process anew; one that is killed has none
        os.kill(postmaster, number)
        children |= _children_of(postmaster)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        return list(children)


def _children_of(pid: int) -> set[int]:
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return set()


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
