"""The server as an operator starts and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
import uvloop

from fiscus.cli.serve import serving, supervisor
from fiscus.cli.serve import sockets as sockets_module
from fiscus.cli.serve.serving import GRACE_SECONDS, serve_child, serve_process
from fiscus.cli.serve.sockets import bound_anew, descriptors_of, listen
from fiscus.cli.serve.supervisor import Supervisor
from fiscus.cli.terminal import CommandError
from fiscus.settings import Settings
from fiscus.stores.sql import migrate
from fiscus.stores.sql.database import _TURN_SEED
from tests.fiscus_process import (
    ADMIN_KEY,
    FiscusProcess,
    clean_environment,
    fiscus_server,
    has_ended,
    run_fiscus,
)
from tests.ports import free_port
from tests.servers import PostgresServer, drop_database, fresh_database

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fiscus.engine import Engine
    from tests.cli.conftest import Run

of_linux = pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="finds processes and sockets in /proc"
)
shares_addresses = pytest.mark.skipif(
    not hasattr(socket, "SO_REUSEPORT"), reason="where sockets share an address"
)
MONTHS = " WHERE tablename ~ '^cost_records_[0-9]'"
WAITING = """
    SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database
     WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""
KEY = re.compile(r"fsk_[A-Za-z0-9_\-]{43}")


def may_list_keys(url: str, key: str) -> bool:
    answer = httpx.get(f"{url}/budget/v1/api-keys", headers={"X-API-Key": key}, timeout=30)
    return answer.status_code == 200


def test_admin_key_is_made_and_printed_once(tmp_path: Path) -> None:
    with fiscus_server(tmp_path, admin_key=None) as server:
        found = KEY.findall(server.output())
        assert len(found) == 1
        assert may_list_keys(server.url, found[0])
        assert server.stop() == 0
    with fiscus_server(tmp_path, admin_key=None) as server:
        assert not KEY.findall(server.output())
        found_anywhere = re.search(r"platform_admin --data-dir (\S+)`", server.output())
        assert found_anywhere is not None
        assert (Path(found_anywhere[1]) / "fiscus.db").exists()
        assert may_list_keys(server.url, found[0])


def test_given_admin_key_is_used_and_never_printed(tmp_path: Path) -> None:
    with fiscus_server(tmp_path) as server:
        assert may_list_keys(server.url, ADMIN_KEY)
        assert ADMIN_KEY not in server.output()


def test_a_first_start_that_fails_loses_no_admin_key(tmp_path: Path) -> None:
    data_dir = str(tmp_path / "data")
    env = {"FISCUS_DATA_DIR": data_dir, "FISCUS_JWT_SECRET": "too short"}
    done = run_fiscus("serve", "--port", str(free_port()), env=env)
    assert done.returncode == 1
    assert "jwt_secret" in done.stderr
    with fiscus_server(tmp_path, admin_key=None) as server:
        (key,) = KEY.findall(done.stdout + server.output())
        assert may_list_keys(server.url, key)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_stops_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    with fiscus_server(tmp_path) as server:
        assert server.stop(number) == 0
        assert "Traceback" not in server.output()


def test_a_second_ctrl_c_stops_a_server_that_waits_for_a_request(tmp_path: Path) -> None:
    with fiscus_server(tmp_path) as server, request_in_hand(server):
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: is_refused(server))
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < GRACE_SECONDS
        assert "Traceback" not in server.output()


def lose_a_stop() -> None:
    """Be told to stop where exceptions are ignored, as while garbage is collected."""

    class Garbage:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    Garbage()


def serve_and_lose_a_stop(settings: Settings, bound: socket.socket, when: str) -> None:
    opening = serving.open_engine

    def open_engine(settings: Settings, *, ledger_apart: bool) -> Engine:
        if when == "opening":
            lose_a_stop()
        return opening(settings, ledger_apart=ledger_apart)

    def on_listening(_engine: Engine) -> None:
        sys.stdout.write("listening\n")
        lose_a_stop()

    serving.open_engine = open_engine
    serve_process(settings, bound, with_worker=True, on_listening=on_listening)


@pytest.mark.parametrize(("when", "listens"), [("opening", False), ("listening", True)])
def test_a_stop_during_the_start_is_never_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], when: str, listens: bool
) -> None:
    with listen("127.0.0.1", free_port())[0] as bound:
        given = (Settings(data_dir=tmp_path), bound, when)
        process = get_context("spawn").Process(target=serve_and_lose_a_stop, args=given)
        process.start()
        process.join(30)
        process.kill()
        process.join()
    assert process.exitcode == 0
    assert ("listening" in capfd.readouterr().out) == listens


@of_linux
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_while_the_database_is_waited_for_is_a_stop(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:  # it never says anything
        database.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", "fiscus", "serve", "--workers", workers],
            env=clean_environment(
                FISCUS_DATABASE_URL=f"postgresql://127.0.0.1:{database.getsockname()[1]}/fiscus",
                FISCUS_REDIS_URL=f"redis://127.0.0.1:{free_port()}",
                FISCUS_DATA_DIR=str(tmp_path),
                FISCUS_PORT=str(free_port()),
            ),
            stderr=subprocess.PIPE,
        )
        try:
            with database.accept()[0]:
                process.terminate()
                _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert errors == b""


def ledger_of(pid: int) -> int | None:
    """The process of a server's ledger, if it has one."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (process / "stat").read_text().rpartition(") ")[2].split()[1]
            command = (process / "cmdline").read_bytes()
            if int(parent) == pid and b"fiscus.wiring.ledger_process" in command:
                return int(process.name)
    return None


def post_check(server: FiscusProcess) -> httpx.Response:
    return httpx.post(
        f"{server.url}/budget/v1/budgets/check",
        headers={"X-API-Key": server.key},
        json={"resource_type": "llm", "estimated_cost": 1},
        timeout=30,
    )


@of_linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_ledger_has_a_process_that_ends_with_the_server(
    tmp_path: Path, number: signal.Signals
) -> None:
    with fiscus_server(tmp_path, env={"FISCUS_LEDGER_APART": "true"}) as server:
        ledger = ledger_of(server.process.pid)
        assert ledger is not None
        os.kill(ledger, signal.SIGINT)  # as a terminal sends it to all
        assert post_check(server).json()["allowed"]
        server.stop(number)
        wait_until(lambda: has_ended(ledger))


@of_linux
def test_a_killed_ledger_is_started_again_and_health_tells(tmp_path: Path) -> None:
    with fiscus_server(tmp_path, env={"FISCUS_LEDGER_APART": "true"}) as server:
        for _ in range(2):  # the second time it is not started again at once
            ledger = ledger_of(server.process.pid)
            assert ledger is not None
            os.kill(ledger, signal.SIGKILL)
            wait_until(lambda ledger=ledger: ledger_of(server.process.pid) not in {None, ledger})
        wait_until(lambda: post_check(server).status_code == 200)
        assert httpx.get(f"{server.url}/health", timeout=30).json()["status"] != "DOWN"
        assert "ledger_process_ended" in server.output()
        assert server.stop() == 0


@of_linux
def test_everything_is_in_one_process_when_asked_for(tmp_path: Path) -> None:
    with fiscus_server(tmp_path, env={"FISCUS_LEDGER_APART": "false"}) as server:
        assert ledger_of(server.process.pid) is None
        assert post_check(server).json()["allowed"]


def test_several_processes_are_refused_on_sqlite(run: Run) -> None:
    done = run("serve", "--workers", "2")
    assert done.status == 1
    assert "PostgreSQL" in done.err


def test_several_processes_without_redis_are_refused(run: Run) -> None:
    done = run(
        "serve", "--workers", "2", FISCUS_DATABASE_URL="postgresql://nobody@127.0.0.1:9/none"
    )
    assert done.status == 1
    assert "FISCUS_REDIS_URL" in done.err


def test_second_server_on_the_same_data_is_refused_without_redis(tmp_path: Path) -> None:
    with fiscus_server(tmp_path) as server:
        done = run_fiscus(
            *("serve", "--port", str(free_port()), "--data-dir", str(server.data_dir))
        )
    assert done.returncode == 1
    assert "Another Fiscus, in this or another process, counts rate limits" in done.stderr
    assert "FISCUS_REDIS_URL" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("FISCUS_JWT_SECRET", "too short"), ("FISCUS_JWT_JWKS_URL", "ftp://issuer/keys")],
)
def test_key_of_tokens_that_is_unfit_is_told_before_any_process_starts(
    run: Run, name: str, value: str
) -> None:
    done = run(
        *("serve", "--workers", "2"),
        FISCUS_DATABASE_URL="postgresql://nobody@127.0.0.1:9/none",
        FISCUS_REDIS_URL="redis://127.0.0.1:9",
        **{name: value},
    )
    assert done.status == 1
    assert name.removeprefix("FISCUS_").lower() in done.err


def test_worker_apart_is_refused_on_sqlite(run: Run) -> None:
    done = run("worker")
    assert done.status == 1
    assert "fiscus serve" in done.err


def test_taken_port_is_one_line(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", "--port", str(taken.getsockname()[1]))
    assert done.status == 1
    assert "cannot listen" in done.err
    assert "--port" in done.err


def test_unreachable_database_is_one_line(run: Run) -> None:
    done = run(
        "keys", "list", FISCUS_DATABASE_URL="postgresql://nobody:secret-word@127.0.0.1:9/none"
    )
    assert done.status == 1
    assert "secret-word" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("host", ["a" * 64, "", "192.0.2.1"])  # the last is nobody's, RFC 5737
def test_an_address_that_is_not_of_this_machine_is_one_line_about_it(run: Run, host: str) -> None:
    done = run("serve", "--host", host, "--port", str(free_port()))
    assert done.status == 1
    assert f"cannot listen on {host or '(empty)'} port" in done.err
    assert "as --host or FISCUS_HOST" in done.err
    assert "another server" not in done.err


@pytest.mark.parametrize("second", [1, 2])
@pytest.mark.parametrize("first", [1, 2])
def test_an_address_is_taken_from_when_a_server_begins_to_start(first: int, second: int) -> None:
    port = free_port()
    sockets = listen("127.0.0.1", port, first)
    with pytest.raises(CommandError, match=f"cannot listen on 127.0.0.1 port {port}"):
        listen("127.0.0.1", port, second)
    for one in sockets:
        one.close()


@shares_addresses
def test_nobody_takes_an_address_while_the_sockets_that_share_it_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, bound = free_port(), sockets_module._bound
    refused: list[CommandError] = []

    def bound_after_another_tried(*address: Any, share: bool) -> socket.socket:
        if share:
            with pytest.raises(CommandError) as told:
                listen("127.0.0.1", port)
            refused.append(told.value)
        return bound(*address, share=share)

    monkeypatch.setattr(sockets_module, "_bound", bound_after_another_tried)
    for one in listen("127.0.0.1", port, 3):
        one.close()
    assert refused


def turns_to_accept(sockets: list[socket.socket], connections: int) -> int:
    """How many turns of uvloop it takes to accept so many connections that have come already."""
    accepted = list[object]()

    class Counted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport)

    async def count() -> int:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(Counted, sock=one) for one in sockets]
        with contextlib.ExitStack() as clients:
            for _ in range(connections):
                address = sockets[0].getsockname()
                clients.enter_context(socket.create_connection(address, timeout=30))
            turns = 0
            while len(accepted) < connections:
                await asyncio.sleep(0)
                turns += 1
        for server in servers:
            server.close()
        return turns

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(count())


def test_a_turn_of_the_event_loop_accepts_several_connections() -> None:
    connections = 32
    assert turns_to_accept(listen("127.0.0.1", 0), connections) >= connections
    assert turns_to_accept(descriptors_of(*listen("127.0.0.1", 0)), connections) < connections / 2


@shares_addresses
def test_what_takes_the_place_of_an_ended_process_is_given_no_connection() -> None:
    first, other = listen("127.0.0.1", free_port(), 2)
    with bound_anew(first), other:
        other.setblocking(False)
        for _ in range(20):
            with socket.create_connection(other.getsockname()):
                other.accept()[0].close()


@shares_addresses
def test_a_process_whose_address_somebody_else_took_ends_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, other = listen("127.0.0.1", free_port(), 2)
    other.close()
    with bound_anew(first) as bound, listen(*bound.getsockname())[0]:
        given = (Settings(data_dir=tmp_path), bound, False)
        process = get_context("spawn").Process(target=serve_child, args=given)
        process.start()
        process.join()
    assert process.exitcode == 1
    assert "cannot listen on 127.0.0.1" in capfd.readouterr().err


@shares_addresses
def test_an_ended_process_hands_its_address_on_while_there_are_descriptors() -> None:
    first, other = listen("127.0.0.1", free_port(), 2)
    anew = bound_anew(first)
    assert (first.fileno(), anew.getsockname()) == (-1, other.getsockname())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert bound_anew(anew) is anew
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert anew.getsockname() == other.getsockname()
    anew.close()
    other.close()


@pytest.mark.postgres
@of_linux
def test_killed_process_is_replaced_and_all_stop_together(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    with two_processes(tmp_path, postgres_url, valkey_url) as server:
        victim, survivor = serving_processes(server.process.pid)
        folder = metrics_folder(survivor)
        assert list(folder.glob(f"gauge_live*_{victim}.db"))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "process_ended" in server.output())
        for _ in range(20):  # while one is started again, and after
            assert may_list_keys(server.url, server.key)
        wait_until(lambda: listeners(server) == 2)
        assert not list(folder.glob(f"gauge_live*_{victim}.db"))  # as it is no more
        assert server.stop() == 0
        wait_until(lambda: has_ended(survivor))
        assert not folder.exists()


@pytest.mark.postgres
@of_linux
def test_nobody_connects_to_processes_that_stop(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    with two_processes(tmp_path, postgres_url, valkey_url) as server:
        with request_in_hand(server):
            server.process.terminate()
            wait_until(lambda: is_refused(server))
            assert server.process.poll() is None
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.output()


@pytest.mark.postgres
@of_linux
def test_all_stop_while_a_process_that_keeps_dying_is_not_started_yet(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    with two_processes(tmp_path, postgres_url, valkey_url) as server:
        survivor, _ = serving_processes(server.process.pid)
        for times in range(1, 4):  # the third time it is started again after 0.8 s
            wait_until(lambda: len(serving_processes(server.process.pid)) == 2)
            (victim,) = {*serving_processes(server.process.pid)} - {survivor}
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda times=times: server.output().count("process_ended") == times)
        pauses = re.findall(r"starts_again_in_seconds\W+([\d.]+)", server.output())
        assert pauses == ["0.2", "0.4", "0.8"]
        assert server.stop() == 0
        wait_until(lambda: has_ended(survivor))


def test_a_process_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_END_SECONDS", 0)
    with socket.socket() as bound:
        stopping = Supervisor(Settings(data_dir=tmp_path), [bound], with_worker=False)
        process = get_context("spawn").Process(target=time.sleep, args=(60,))
        process.start()
        try:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)  # it is stopped: SIGTERM has to wait
            stopping._children[0].process = process
            stopping._stop()
            assert process.exitcode == -signal.SIGKILL
        finally:
            process.kill()
            process.join()


@pytest.mark.postgres
@of_linux
def test_those_that_are_left_answer_while_one_cannot_be_started_again(
    tmp_path: Path, postgres_server: PostgresServer, valkey_url: str
) -> None:
    url = fresh_database(postgres_server)
    name = url.rpartition("/")[2]
    with two_processes(tmp_path, url, valkey_url) as server:
        _, victim = serving_processes(server.process.pid)
        with postgres_server.connect() as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            admin.execute(ours, [name])
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: server.output().count("process_ended") >= 2)
        for _ in range(20):
            assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert "Traceback" not in server.output()
        assert "process_cannot_serve" in server.output()
        assert server.stop() == 0
    drop_database(postgres_server, url)


@pytest.mark.postgres
@of_linux
def test_metrics_of_several_processes_are_their_sums(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    with two_processes(tmp_path, postgres_url, valkey_url) as server:
        headers = {"X-API-Key": server.key}
        body = {"resource_type": "llm", "estimated_cost": 1}
        base = f"{server.url}/budget/v1"
        for _ in range(20):  # a connection each, so that both processes answer some
            httpx.post(f"{base}/budgets/check", json=body, headers=headers).raise_for_status()
        shown = httpx.get(f"{base}/metrics", headers=headers).raise_for_status().text
    counted = [line for line in shown.splitlines() if "fiscus_check_duration_seconds_count" in line]
    assert [float(line.rsplit(" ", 1)[1]) for line in counted] == [20.0]


@pytest.mark.postgres
def test_worker_apart_leads_and_stops_after_the_work_in_hand(
    tmp_path: Path, postgres_url: str
) -> None:
    migrate.upgrade(postgres_url)
    log = tmp_path / "worker.log"
    with psycopg.connect(postgres_url) as other:
        (month,) = other.execute("SELECT max(tablename) FROM pg_tables" + MONTHS).fetchone() or ()
        other.execute(f"DROP TABLE {month}")
        other.commit()
        # what the worker makes of months waits for this turn
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('*', %s))", [_TURN_SEED])
        with log.open("wb") as file:
            worker = subprocess.Popen(
                [sys.executable, "-m", "fiscus", "worker"],
                env=clean_environment(
                    FISCUS_DATABASE_URL=postgres_url, FISCUS_DATA_DIR=str(tmp_path)
                ),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: other.execute(WAITING).fetchone() or worker.poll() is not None)
            assert worker.poll() is None, log.read_text()
            worker.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(0.5)
            other.commit()
            assert worker.wait(30) == 0
        finally:
            worker.kill()
            worker.wait()
    events = re.findall(r'"event": "(\w+)"', log.read_text())
    assert events == ["worker_started", "worker_leads", "job_done", "worker_stopped"]


@contextlib.contextmanager
def two_processes(folder: Path, database_url: str, redis_url: str) -> Generator[FiscusProcess]:
    """A server of two processes that are both ready.

    Their sockets listen from the start, and one that is not ready yet ends without a database.
    """
    with fiscus_server(
        folder,
        command=("serve", "--workers", "2"),
        env={"FISCUS_DATABASE_URL": database_url, "FISCUS_REDIS_URL": redis_url},
    ) as server:
        wait_until(lambda: server.output().count("process_serves") == 2)
        yield server


@contextlib.contextmanager
def request_in_hand(server: FiscusProcess) -> Generator[None]:
    """A request that a server has begun on, and whose body does not end."""
    url = httpx.URL(server.url)
    head = f"POST /budget/v1/budgets HTTP/1.1\r\nHost: {url.host}\r\nX-API-Key: {server.key}"
    with socket.create_connection((url.host, url.port or 0)) as client:
        client.settimeout(30)
        client.sendall(f"{head}\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode())
        assert b"100 Continue" in client.recv(100)
        yield


def is_refused(server: FiscusProcess) -> bool:
    """Whether a server takes no connections any more."""
    url = httpx.URL(server.url)
    try:
        socket.create_connection((url.host, url.port or 0)).close()
    except OSError:
        return True
    return False


def listeners(server: FiscusProcess) -> int:
    """How many sockets listen on a server's port."""
    port = f":{httpx.URL(server.url).port:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(port) and state == "0A" for _, local, _, state, *_ in rows)


def serving_processes(supervisor: int) -> list[int]:
    """The processes a supervisor started to serve."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    found: list[int] = []
    for pid in children:
        with contextlib.suppress(OSError):  # it has ended since
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def metrics_folder(pid: int) -> Path:
    """Where a serving process counts what all of them show."""
    given = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return Path(dict(one.split("=", 1) for one in given if one)["PROMETHEUS_MULTIPROC_DIR"])


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # for another process, whose clock is the real one
