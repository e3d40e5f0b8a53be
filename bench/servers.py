"""The processes under load: a Fiscus server as it is deployed, and the bare ASGI app."""

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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers import PostgresServer, fresh_database, running_postgres, stop_postgres

ADMIN_KEY: Final = "benchmark-admin-key-of-no-secret"
START_SECONDS: Final = 60
STOP_SECONDS: Final = 30
ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Server:
    """A running server process."""

    pid: int
    port: int

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of one request with the admin key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/json", "X-API-Key": ADMIN_KEY}
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def cpu_seconds(self) -> float | None:
        """Processor time of all its threads so far; None where the system does not tell."""
        threads = Path(f"/proc/{self.pid}/task")
        if not (threads / str(self.pid) / "schedstat").exists():
            return None
        spent = [(one / "schedstat").read_text().split()[0] for one in threads.iterdir()]
        return sum(map(int, spent)) / 1e9

    def peak_memory_bytes(self) -> int | None:
        """The most memory the process had resident so far; None where the system does not tell."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return None
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None


@contextmanager
def fiscus_server(data_dir: Path, database_url: str | None) -> Iterator[Server]:
    """`fiscus serve` with its defaults, on SQLite in `data_dir` or on `database_url`."""
    port = _free_port()
    environment = _environment() | {"FISCUS_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY}
    if database_url is not None:
        environment["FISCUS_DATABASE_URL"] = database_url
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
    """Empty databases of one kind, each with a folder of its own. Close it when done."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        self._made = 0
        self._stack = ExitStack()
        self._postgres: PostgresServer | None = None

    def __enter__(self) -> Databases:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new(self) -> tuple[Path, str]:
        """The folder, and the URL of an empty database that the login owns."""
        self._made += 1
        folder = self._folder / f"{self.kind}-{self._made}"
        folder.mkdir()
        if self.kind == "sqlite":
            return folder, f"sqlite:///{folder / 'fiscus.db'}"
        return folder, fresh_database(self._server())

    def _server(self) -> PostgresServer:
        if self._postgres is None:
            # not below the work folder: PostgreSQL may have to run as another user, who must get in
            home = Path(tempfile.mkdtemp(prefix="fiscus-bench-postgres-"))
            self._stack.callback(stop_postgres, home)
            self._postgres = running_postgres(home, os.getpid())
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
    try:
        _wait_for(process, port, log)
        yield Server(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
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
