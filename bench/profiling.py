"""Where the server's time goes, by py-spy, when asked for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


class ProfilerMissing(Exception):
    """There is no py-spy on this machine."""


@dataclass
class Profiler:
    """Watches the server during the runs, one file per run; without a folder it does nothing.

    The files are folded stacks, by thread.
    """

    folder: Path | None = None
    _runs: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.which("py-spy") is None:
                raise ProfilerMissing

    @contextmanager
    def watching(self, pid: int, seconds: float) -> Iterator[None]:
        """Profile the process while the block runs, for about `seconds`."""
        if self.folder is None:
            yield
            return
        self._runs += 1
        spy = subprocess.Popen(
            [
                "py-spy",
                "record",
                f"--pid={pid}",
                f"--duration={max(1, round(seconds))}",
                "--rate=500",
                "--threads",
                "--subprocesses",
                "--format=raw",
                f"--output={self.folder / f'run-{self._runs}.folded'}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            spy.wait(30)
