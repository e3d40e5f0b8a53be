"""A disk that takes longer to make writes durable: this machine's, and a wait after each fsync.

What waits for commits is to be measured on more than one disk, and few machines have two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("slow_fsync.c")
_LOADED_BY: Final = "LD_PRELOAD"


class CompilerMissing(Exception):
    """There is no C compiler on this machine, or it is no Linux."""


def is_slowed() -> bool:
    """Whether this process, and so all that it starts, has the slow disk."""
    return _SOURCE.stem in os.environ.get(_LOADED_BY, "")


def run_again(arguments: Sequence[str], extra_ms: float) -> int:
    """Run the benchmarks in a process with the slow disk; its exit code."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        raise CompilerMissing
    with tempfile.TemporaryDirectory(prefix="fiscus-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the user that PostgreSQL runs as loads it too
        library = folder / f"{_SOURCE.stem}.so"
        wait = f"-DWAIT_US={round(extra_ms * 1000)}"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", wait, "-o", library, _SOURCE, "-ldl"], check=True
        )
        environment = {**os.environ, _LOADED_BY: str(library)}
        done = subprocess.run(
            [sys.executable, "-m", "bench", *arguments], env=environment, check=False
        )
        return done.returncode


def require_slowed(pids: Iterable[int]) -> None:
    """Raises `RuntimeError` when this process has the slow disk and one of those has not."""
    if not is_slowed():
        return
    for pid in pids:
        if _SOURCE.stem not in Path(f"/proc/{pid}/maps").read_text():
            raise RuntimeError(f"process {pid} does not have the slow disk")
