"""A real Fiscus server in a process of its own, as an operator starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

START_SECONDS: Final = 60
STOP_SECONDS: Final = 30
ADMIN_KEY: Final = "test-admin-key-0123456789-abcdefghij"


@dataclass(frozen=True)
class FiscusProcess:
    """A server that answers, with the key of a platform_admin."""

    url: str
    key: str
    process: subprocess.Popen[bytes]
    data_dir: Path

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit status."""
        self.process.send_signal(with_signal)
        return self.process.wait(STOP_SECONDS)

    def output(self) -> str:
        """What it printed so far, standard error too."""
        return (self.data_dir.parent / "server.log").read_text()


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without settings of Fiscus, and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FISCUS_")}
    return {**kept, **more}


def run_fiscus(
    *arguments: str, env: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """One command to its end, with its output."""
    return subprocess.run(
        [sys.executable, "-m", "fiscus", *arguments],
        env={**clean_environment(COLUMNS="100"), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@contextmanager
def fiscus_server(
    home: Path,
    *,
    command: Sequence[str] = ("serve",),
    env: Mapping[str, str] | None = None,
    admin_key: str | None = ADMIN_KEY,
) -> Generator[FiscusProcess]:
    """A server with its data in `home`, ready to answer; killed at the end if still there."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    settings = {"FISCUS_DATA_DIR": str(home / "data"), **(env or {})}
    if admin_key is not None:
        settings["FISCUS_BOOTSTRAP_ADMIN_KEY"] = admin_key
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fiscus", *command, "--port", str(port)],
            env=clean_environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = FiscusProcess(f"http://127.0.0.1:{port}", admin_key or "", process, home / "data")
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def has_ended(pid: int) -> bool:
    """Also one that nobody has waited for yet, as the first process of a container may never."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return Path("/proc").is_dir()
    return state in "ZX"


def _wait_until_ready(server: FiscusProcess) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended at once:\n{server.output()}")
        try:
            if httpx.get(f"{server.url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)  # for another process, whose clock is the real one
    raise RuntimeError(f"the server is not ready after {START_SECONDS} s:\n{server.output()}")
