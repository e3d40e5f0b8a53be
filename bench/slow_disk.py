"""A disk that takes longer to make writes durable: this machine's, and a wait after each fsync.

Disks differ in that by more than machines do in anything else: from a tenth of a millisecond where
a cache with a battery answers, to ten and more where platters turn. What waits for commits has to
be measured on both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("slow_fsync.c")
_WAIT: Final = "FISCUS_BENCH_FSYNC_US"


class CompilerMissing(Exception):
    """There is no C compiler on this machine, or it is no Linux."""


def is_slowed() -> bool:
    """Whether this process, and so all that it starts, has the slow disk."""
    return _WAIT in os.environ


def run_again(arguments: Sequence[str], extra_ms: float) -> int:
    """Run the benchmarks in a process with the slow disk; its exit code."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        raise CompilerMissing
    with tempfile.TemporaryDirectory(prefix="fiscus-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the user that PostgreSQL runs as loads it too
        library = folder / "slow_fsync.so"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", library, _SOURCE, "-ldl"], check=True
        )
        slowed = {"LD_PRELOAD": str(library), _WAIT: str(round(extra_ms * 1000))}
        done = subprocess.run(
            [sys.executable, "-m", "bench", *arguments], env={**os.environ, **slowed}, check=False
        )
        return done.returncode
