"""Turns at writing to SQLite, among threads and among processes, also as the first of all."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from fiscus.stores.sql.sqlite import write_lock
from fiscus.stores.sql.sqlite.connections import configure
from fiscus.stores.sql.sqlite.write_lock import WriteLock, _ProcessLock
from tests.valkey import wait_until

WAIT_SECONDS: Final = 60
_OTHER: Final = """
import sys
from pathlib import Path
from fiscus.stores.sql.sqlite.write_lock import WriteLock
turn = WriteLock(Path(sys.argv[1]))
while True:
    turn.acquire()
    print("has it", flush=True)
    if sys.argv[2] == "keep":
        sys.stdin.read()
    turn.release()
"""


def start(database: Path, how: str) -> subprocess.Popen[str]:
    """A process that takes the turn again and again, or keeps it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(database), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_threads_get_it_in_the_order_they_asked(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "fiscus.db")
    order: list[int] = []

    def take(number: int) -> None:
        with lock.held():
            order.append(number)

    lock.acquire()
    threads = [threading.Thread(target=take, args=(number,)) for number in range(20)]
    for waiting, thread in enumerate(threads, start=1):
        thread.start()
        wait_until(lambda waiting=waiting: len(lock._waiting) == waiting)
    lock.release()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert order == list(range(20))
    lock.close()


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_while_it_waits_takes_nobody_elses_turn(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "fiscus.db")
    has_it, hand_on = threading.Event(), threading.Event()

    def keep() -> None:
        with lock.held():
            has_it.set()
            hand_on.wait(WAIT_SECONDS)

    def interrupt() -> None:
        wait_until(lambda: bool(lock._waiting))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    keeper, interrupter = threading.Thread(target=keep), threading.Thread(target=interrupt)
    keeper.start()
    assert has_it.wait(WAIT_SECONDS)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    interrupter.join(WAIT_SECONDS)
    hand_on.set()
    keeper.join(WAIT_SECONDS)
    later = threading.Thread(target=keep)
    has_it.clear()
    later.start()
    assert has_it.wait(WAIT_SECONDS)
    later.join(WAIT_SECONDS)
    lock.close()


@pytest.mark.skipif(os.name != "posix", reason="only there do processes take turns")
def test_one_that_takes_it_again_at_once_lets_the_process_that_waits_go_first(
    tmp_path: Path,
) -> None:
    database = tmp_path / "fiscus.db"
    lock = WriteLock(database)
    lock.acquire()
    other = start(database, "again")
    printed: list[str] = []
    assert other.stdout is not None
    reader = threading.Thread(target=printed.extend, args=(other.stdout,))
    reader.start()
    try:
        for _ in range(20):
            wait_until(lambda: is_taken(database, _ProcessLock._NEXT))
            before = len(printed)
            lock.release()
            lock.acquire()
            wait_until(lambda before=before: len(printed) > before)
    finally:
        other.kill()
        reader.join(WAIT_SECONDS)
        end(other)
        lock.close()


def is_taken(database: Path, lock: int) -> bool:
    """Whether a process has the turn, or is next, as one that asks in passing finds out."""
    ask = f"""
import fcntl
with open({str(database) + "-turn"!r}, "ab") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, {lock})
"""
    command = [sys.executable, "-S", "-c", ask]
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.skipif(os.name != "posix", reason="only there do processes take turns")
def test_two_databases_of_one_process_wait_for_another_process_and_for_each_other(
    tmp_path: Path,
) -> None:
    """To the system they are one, which has what the other process waits for: a deadlock."""
    (tmp_path / "data").mkdir()
    (tmp_path / "same").symlink_to("data")
    database = tmp_path / "data" / "fiscus.db"
    first, second = WriteLock.at(database), WriteLock.at(tmp_path / "same" / "fiscus.db")
    first.acquire()
    other = start(database, "keep")
    assert other.stdout is not None
    wait_until(lambda: is_taken(database, _ProcessLock._NEXT))
    order: list[str] = []

    def take() -> None:
        with second.held():
            order.append("second")

    thread = threading.Thread(target=take)
    thread.start()
    wait_until(lambda: bool(second._waiting) or not thread.is_alive())
    first.close()  # which gives away nothing of the second's
    order.append("first")
    first.release()
    assert other.stdout.readline() == "has it\n"
    end(other)
    thread.join(WAIT_SECONDS)
    assert order == ["first", "second"]
    second.close()
    assert WriteLock.at(database) is not second


@pytest.mark.skipif(os.name != "posix", reason="only there do processes take turns")
def test_a_killed_process_gives_its_turn_back(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "fiscus.db")
    other = start(tmp_path / "fiscus.db", "keep")
    assert other.stdout is not None
    assert other.stdout.readline()
    got = threading.Event()

    def take() -> None:
        with lock.held():
            got.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not got.wait(0.2)
    end(other)
    assert got.wait(WAIT_SECONDS)
    thread.join(WAIT_SECONDS)
    lock.close()


@pytest.mark.skipif(os.name != "posix", reason="only there do processes take turns")
def test_nobody_waits_for_ever_for_a_process_that_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_lock, "WAIT_SECONDS", 0.05)
    lock = WriteLock(tmp_path / "fiscus.db")
    other = start(tmp_path / "fiscus.db", "keep")
    assert other.stdout is not None
    assert other.stdout.readline()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            lock.acquire()
    monkeypatch.undo()
    end(other)
    with lock.held():  # as who asks again is asked for already
        pass
    after = start(tmp_path / "fiscus.db", "keep")
    assert after.stdout is not None
    assert after.stdout.readline() == "has it\n"
    end(after)
    lock.close()


@pytest.mark.skipif(os.name != "posix", reason="only there do processes take turns")
def test_who_gave_up_and_closed_it_takes_it_from_nobody_who_opens_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "fiscus.db"
    other = start(database, "keep")
    assert other.stdout is not None
    assert other.stdout.readline()
    with monkeypatch.context() as hurried:
        hurried.setattr(write_lock, "WAIT_SECONDS", 0.05)
        for _ in range(6):
            with (
                contextlib.closing(WriteLock.at(database)) as given_up,
                pytest.raises(TimeoutError),
            ):
                given_up.acquire()
    with contextlib.closing(WriteLock.at(database)) as lock:
        end(other)
        with lock.held():
            assert is_taken(database, _ProcessLock._TURN)


@pytest.mark.skipif(os.name != "posix", reason="only there do processes take turns")
def test_a_turn_that_is_waited_for_by_nobody_any_more_is_let_go_of_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_lock, "WAIT_SECONDS", 0.05)
    database = tmp_path / "fiscus.db"
    other = start(database, "keep")
    assert other.stdout is not None
    assert other.stdout.readline()
    with contextlib.closing(WriteLock.at(database)) as lock, pytest.raises(TimeoutError):
        lock.acquire()
    assert lock._processes._file is not None
    end(other)
    wait_until(lambda: lock._processes._file is None)
    assert not is_taken(database, _ProcessLock._TURN)


@pytest.mark.skipif(os.name != "posix", reason="only there do processes take turns")
def test_ctrl_c_when_it_begins_to_wait_for_a_process_leaves_the_turn_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start

    def begin_interrupted(thread: threading.Thread) -> None:
        begin(thread)
        raise KeyboardInterrupt

    database = tmp_path / "fiscus.db"
    lock = WriteLock(database)
    other = start(database, "keep")
    assert other.stdout is not None
    assert other.stdout.readline()
    with monkeypatch.context() as interrupted:
        interrupted.setattr(threading.Thread, "start", begin_interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire()
    wait_until(lambda: is_taken(database, _ProcessLock._NEXT))
    end(other)
    wait_until(lambda: not is_taken(database, _ProcessLock._NEXT))
    wait_until(lambda: not is_taken(database, _ProcessLock._TURN))
    with lock.held():
        pass
    lock.close()


def test_nobody_waits_for_ever_for_a_thread_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = WriteLock(tmp_path / "fiscus.db")
    waited: list[BaseException] = []

    def take() -> None:
        try:
            lock.acquire()
        except TimeoutError as error:
            waited.append(error)

    lock.acquire()
    monkeypatch.setattr(write_lock, "WAIT_SECONDS", 0.05)
    thread = threading.Thread(target=take)
    thread.start()
    thread.join(WAIT_SECONDS)
    assert len(waited) == 1
    monkeypatch.undo()
    lock.release()
    with lock.held():
        pass
    lock.close()


def test_the_first_connections_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as before:
        before.execute("CREATE TABLE things (name TEXT)")
        before.execute("BEGIN IMMEDIATE")
        first = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with contextlib.closing(first):
            thread = threading.Thread(target=configure, args=(first, "FULL"))
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()
            before.execute("COMMIT")
            thread.join(WAIT_SECONDS)
            assert first.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_folder_that_is_gone_is_an_error_and_keeps_no_turn(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "gone" / "fiscus.db")
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            lock.acquire()
    (tmp_path / "gone").mkdir()
    with lock.held():
        pass
    lock.close()


@pytest.mark.skipif(os.name == "nt", reason="processes take no turns there")
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_a_turn_whose_lock_cannot_be_let_go_of_is_handed_on(
    failure: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise failure

    lock = WriteLock(tmp_path / "fiscus.db")
    lock.acquire()
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.lockf", fails)
        with pytest.raises(failure):
            lock.release()
    monkeypatch.setattr(write_lock, "WAIT_SECONDS", 0.05)
    with lock.held():
        pass
    lock.close()
