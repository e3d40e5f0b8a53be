"""Load on an HTTP server by wrk, one thread of it: the machine's other cores are the server's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.latencies import measured, percentile
from bench.samples import Sample
from bench.servers import ADMIN_KEY, Server

_SCRIPT: Final = Path(__file__).with_name("wrk.lua")


class WrkMissing(Exception):
    """There is no wrk on this machine."""


class _Report(msgspec.Struct):
    requests: int
    duration_us: int
    failed: int
    latencies: dict[int, int]
    """In microseconds, and how often; with those of requests that wrk did not send."""


@dataclass(frozen=True)
class Load:
    """Requests of a bodies file to one path of a server, over `connections` at once.

    `operations` is how many one request carries. They are sent with the admin key, or each with
    the one that stands before its body. After an answer a connection pauses, exponentially
    distributed with a mean of `pause_ms`.
    """

    server: Server
    path: str
    bodies: Path
    connections: int
    operations: int
    pause_ms: float = 0.0

    def run(self, seconds: float) -> Sample:
        """Latencies are of the requests that were sent.

        Raises `RuntimeError` when one failed or was not answered with a 2xx.
        """
        whole = max(1, round(seconds))
        arguments = [
            find_wrk(),
            "--threads=1",
            f"--connections={self.connections}",
            f"--duration={whole}s",
            "--timeout=10s",
            f"--script={_SCRIPT}",
            self.server.url(self.path),
            "--",
            str(self.bodies),
            ADMIN_KEY,
            f"{self.pause_ms:.3f}",
        ]
        cpu_before = self.server.cpu_seconds()
        ran = subprocess.run(
            arguments, check=False, capture_output=True, text=True, timeout=whole + 60
        )
        cpu_after = self.server.cpu_seconds()
        lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
        if ran.returncode != 0 or not lines:
            raise RuntimeError(f"wrk failed: {ran.stderr or ran.stdout}")
        report = msgspec.json.decode(lines[-1], type=_Report)
        if report.failed or not report.requests:
            raise RuntimeError(
                f"{report.failed} of {report.requests} requests to {self.path} failed"
            )
        # as wrk has it: how often each connection sent one, whole times
        interval = report.duration_us // max(1, report.requests // self.connections)
        latencies = measured(report.latencies, interval)
        if sum(latencies.values()) != report.requests:
            raise RuntimeError(
                f"wrk tells {sum(latencies.values())} latencies of {report.requests} requests"
            )
        operations = report.requests * self.operations
        cpu_us = None
        if cpu_before is not None and cpu_after is not None:
            cpu_us = (cpu_after - cpu_before) / operations * 1e6
        per_second = report.requests / report.duration_us * 1e6
        return Sample(
            operations=operations,
            operations_per_second=per_second * self.operations,
            requests_per_second=per_second,
            p50_ms=percentile(latencies, 50) / 1000,
            p95_ms=percentile(latencies, 95) / 1000,
            p99_ms=percentile(latencies, 99) / 1000,
            p95_as_told_ms=percentile(report.latencies, 95) / 1000,
            cpu_us=cpu_us,
        )


def find_wrk() -> str:
    """Raises `WrkMissing`."""
    found = shutil.which("wrk")
    if found is None:
        raise WrkMissing
    return found


def write_bodies(path: Path, bodies: Iterable[bytes]) -> Path:
    """One body per line, which may have an API key and a tab before it."""
    path.write_bytes(b"\n".join(bodies) + b"\n")
    return path
