"""The processes under load: a Fiscus server as it is deployed, the bare ASGI app, the stores."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.slow_disk import require_slowed
from bench.valkey import running_valkey
from tests.servers import PostgresServer, fresh_database, running_postgres, stop_postgres

BASE: Final = "/budget/v1"
ADMIN_KEY: Final = "benchmark-admin-key-of-no-secret"
PLENTY: Final = 1_000_000_000
"""Calls a minute of the API's own limits: none is ever reached, and all are counted."""
_API_LIMITS: Final = (
    "TENANT",
    "USER",
    "API_KEY",
    "BUDGET_CHECKS",
    "RATE_LIMIT_CHECKS",
    "QUOTA_CHECKS",
    "COST_RECORDS",
    "REPORTS",
)
START_SECONDS: Final = 60
STOP_SECONDS: Final = 30
ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Server:
    """A running server, by the process that was started."""

    pid: int
    port: int

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def post(self, path: str, body: bytes, key: str = ADMIN_KEY) -> tuple[int, bytes]:
        """Status and body of one request."""
        return self._request("POST", path, body, key)

    def get(self, path: str) -> tuple[int, bytes]:
        """As `post`, without a body."""
        return self._request("GET", path, None, ADMIN_KEY)

    def _request(self, method: str, path: str, body: bytes | None, key: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/json", "X-API-Key": key}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def cpu_seconds(self) -> float | None:
        """Processor time of its processes so far; None where the system does not tell."""
        if not Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").exists():
            return None
        tasks = (task for pid in self.pids() for task in Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def peak_memory_bytes(self) -> int | None:
        """The most memory its processes had resident so far; None where the system does not tell.

        Each process's own peak, and what they share is counted for each.
        """
        if not Path(f"/proc/{self.pid}/status").exists():
            return None
        return sum(map(_peak_memory_bytes, self.pids()))

    def pids(self) -> list[int]:
        """The process and those that it started."""
        found = [self.pid]
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended since
                # after the name in brackets, which may be anything: the state, then the parent
                parent = (process / "stat").read_text().rpartition(") ")[2].split()[1]
                if int(parent) == self.pid:
                    found.append(int(process.name))
        return found


def _peak_memory_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def post(server: Server, path: str, body: bytes, key: str = ADMIN_KEY) -> bytes:
    """The answer to one request. Raises `RuntimeError` unless it is allowed."""
    status, answer = server.post(path, body, key)
    if status not in {200, 202} or b'"allowed":false' in answer:
        raise RuntimeError(f"{path} answered {status}: {answer[:500]!r}")
    return answer


@contextmanager
def fiscus_server(
    data_dir: Path, database_url: str | None, redis_url: str | None = None
) -> Iterator[Server]:
    """`fiscus serve`, on SQLite in `data_dir` or on `database_url`.

    With its defaults, but for limits of its own API that nobody reaches, and counters in Redis that
    are waited for however long they take: what was not counted must not look fast.
    """
    port = _free_port()
    environment = _environment() | {"FISCUS_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY}
    environment |= {f"FISCUS_API_LIMIT_{name}": str(PLENTY) for name in _API_LIMITS}
    if database_url is not None:
        environment["FISCUS_DATABASE_URL"] = database_url
    if redis_url is not None:
        environment["FISCUS_REDIS_URL"] = redis_url
        environment["FISCUS_COUNTERS_TIMEOUT_SECONDS"] = "2"
    arguments = ["-m", "fiscus", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with _running(arguments, port, data_dir / "server.log", environment) as server:
        yield server


@contextmanager
def bare_server(answer: Path, status: int) -> Iterator[Server]:
    """The bare ASGI app, answering with the JSON in `answer`."""
    port = _free_port()
    arguments = ["-m", "bench.bare_asgi", str(port), str(answer), str(status)]
    with _running(arguments, port, answer.with_suffix(".log"), _environment()) as server:
        yield server


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for databases and bodies that is gone afterwards; `TMPDIR` says where."""
    folder = Path(tempfile.mkdtemp(prefix="fiscus-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Databases:
    """Empty databases for the benchmarks on one store, each with a folder of its own.

    `kind` is `postgresql`, or `sqlite`, or what holds the counters of rate limits: `memory`, or
    `valkey`, whose database is SQLite. Close it when done.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        self._made = 0
        self._stack = ExitStack()
        self._postgres: PostgresServer | None = None
        self._redis_url: str | None = None

    def __enter__(self) -> Databases:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new(self) -> tuple[Path, str]:
        """The folder, and the URL of an empty database that the login owns."""
        self._made += 1
        folder = self._folder / f"{self.kind}-{self._made}"
        folder.mkdir()
        if self.kind == "postgresql":
            return folder, fresh_database(self._server())
        return folder, f"sqlite:///{folder / 'fiscus.db'}"

    @property
    def redis_url(self) -> str | None:
        """Where the counters are; None: in process."""
        if self.kind != "valkey":
            return None
        if self._redis_url is None:
            self._redis_url = self._stack.enter_context(running_valkey(self._folder / "valkey"))
        return self._redis_url

    def _server(self) -> PostgresServer:
        if self._postgres is None:
            # not below the work folder: PostgreSQL may have to run as another user, who must get in
            home = Path(tempfile.mkdtemp(prefix="fiscus-bench-postgres-"))
            self._stack.callback(stop_postgres, home)
            self._postgres = running_postgres(home, os.getpid())
            with closing(self._postgres.connect()) as admin:
                require_slowed([admin.info.backend_pid])
        return self._postgres


@contextmanager
def _running(
    arguments: list[str], port: int, log: Path, environment: dict[str, str]
) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    server = Server(process.pid, port)
    try:
        _wait_for(process, server, log)
        require_slowed(server.pids())
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            # that it listens says little: connections are taken before its ledger has begun
            server.get("/health/live")
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _environment() -> dict[str, str]:
    """The caller's, without settings of Fiscus."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FISCUS_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
