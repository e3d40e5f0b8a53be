"""Runs the work of a concurrency test: in many threads, of four processes where the store can."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from fiscus.money import ZERO
from tests.concurrency.load import run_threads
from tests.ledger.desk import Desk
from tests.profile import LONG

TENANT = "acme"
PROCESSES, THREADS = 4, 8
COUNT = 400 if LONG else 25
WAIT_SECONDS = 240
ROOT = Path(__file__).parents[2]


class Total(NamedTuple):
    """What the callers of all processes were told."""

    counts: Counter[str]
    held: Decimal
    spent: Decimal
    seconds: float

    @property
    def errors(self) -> list[str]:
        return [what for what in self.counts if what.startswith("error")]


Run = Callable[[str], Total]


class Processes:
    """Four processes that do the work of one test after another, started when one asks first."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def run(self, url: str, work: str) -> list[dict[str, Any]]:
        """What each of them was told; they begin together."""
        given = {"url": url, "tenant_id": TENANT, "work": work, "threads": THREADS, "count": COUNT}
        self._running = self._running or [_start() for _ in range(PROCESSES)]
        try:
            self._write(json.dumps(given))
            assert self._read() == ["ready"] * PROCESSES
            self._write("")
            return [json.loads(line) for line in self._read()]
        except BaseException:
            self.close()  # one may still be at work
            raise

    def close(self) -> None:
        for one in self._running:
            one.kill()
            one.communicate()
        self._running = []

    def _write(self, line: str) -> None:
        for one in self._running:
            assert one.stdin is not None
            one.stdin.write(line + "\n")
            one.stdin.flush()

    def _read(self) -> list[str]:
        return [one.stdout.readline().rstrip() for one in self._running if one.stdout is not None]


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", "tests.concurrency.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )


def run(desk: Desk, url: str, work: str, processes: Processes) -> Total:
    """32 threads: in one process on SQLite, in four on PostgreSQL."""
    started = time.monotonic()
    if url.startswith("sqlite"):
        told = run_threads(desk.engine, TENANT, work, PROCESSES * THREADS, COUNT)
        return Total(told.counts, told.held, told.spent, time.monotonic() - started)
    answers = processes.run(url, work)
    counts: Counter[str] = Counter()
    for answer in answers:
        counts.update(answer["counts"])
    return Total(
        counts,
        sum((Decimal(one["held"]) for one in answers), ZERO),
        sum((Decimal(one["spent"]) for one in answers), ZERO),
        time.monotonic() - started,
    )
