"""Runs the work of a concurrency test: in many threads, of four processes where the store can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from fiscus.money import ZERO
from tests.concurrency.load import run_threads
from tests.ledger.desk import Desk

LONG = os.environ.get("FISCUS_TEST_PROFILE") == "long"
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


def run(desk: Desk, url: str, work: str) -> Total:
    """32 threads: in one process on SQLite, in four on PostgreSQL."""
    started = time.monotonic()
    if url.startswith("sqlite"):
        told = run_threads(desk.engine, TENANT, work, PROCESSES * THREADS, COUNT)
        return Total(told.counts, told.held, told.spent, time.monotonic() - started)
    answers = run_processes({"url": url, "tenant_id": TENANT, "work": work})
    counts: Counter[str] = Counter()
    for answer in answers:
        counts.update(answer["counts"])
    return Total(
        counts,
        sum((Decimal(one["held"]) for one in answers), ZERO),
        sum((Decimal(one["spent"]) for one in answers), ZERO),
        time.monotonic() - started,
    )


def run_processes(given: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of the processes was told; they begin together."""
    given = {**given, "threads": THREADS, "count": COUNT}
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-X",
                "faulthandler",
                "-m",
                "tests.concurrency.load",
                json.dumps(given),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in running:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        answers = [one.communicate(timeout=WAIT_SECONDS)[0] for one in running]
        assert [one.returncode for one in running] == [0] * PROCESSES
        return [json.loads(answer) for answer in answers]
    finally:
        for one in running:
            if one.poll() is None:
                one.kill()
                one.wait()
