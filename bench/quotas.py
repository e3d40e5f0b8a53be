"""Quota checks over HTTP, and allocations by the batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from bench import workload
from bench.handwritten_quotas import PostgresQuotaWriter, QuotaWriter, SqliteQuotaWriter
from bench.load import Load, write_bodies
from bench.operations import Definitions, Operation, measure, subject
from bench.plan import Plan, Result
from bench.samples import Sample, Target, compare, known, middle
from bench.seed_quotas import fill_quotas
from bench.servers import BASE, Databases, Server
from bench.workload import BATCH

QUOTAS: Final = Definitions[QuotaWriter](
    "quotas",
    fill_quotas,
    "/quotas/check",
    workload.quota_batch_body,
    SqliteQuotaWriter,
    PostgresQuotaWriter,
)
CHECK: Final = Operation[QuotaWriter](
    QUOTAS,
    "/quotas/check",
    "quota_consumptions",
    200,
    workload.quota_body,
    workload.quota_batch_body,
    lambda writer: writer.check,
    {"sqlite": 0.30, "postgresql": 0.20},
)

ALLOCATE: Final = "/quotas/allocate/batch"
ALLOCATE_CONNECTIONS: Final = 2
"""Enough to keep the server busy; more would only wait for their turn."""
LEAST_PER_SECOND: Final = 1_000
MAX_MS: Final = 100
MAX_BATCHES_PER_SECOND: Final = 200
"""What bodies are made for."""


class _Allocations:
    """Load of batches that are never sent twice: each run has the next ones."""

    connections = ALLOCATE_CONNECTIONS
    operations = BATCH

    def __init__(self, server: Server, file: Path, bodies: Iterator[bytes]) -> None:
        self._load = Load(server, BASE + ALLOCATE, file, self.connections, self.operations)
        self._bodies = bodies

    def run(self, seconds: float) -> Sample:
        """Raises `RuntimeError` when the bodies did not last."""
        batches = max(1, round(seconds)) * MAX_BATCHES_PER_SECOND
        write_bodies(self._load.bodies, islice(self._bodies, batches))
        sample = self._load.run(seconds)
        if sample.operations // BATCH + self.connections > batches:
            raise RuntimeError(f"the bodies for {MAX_BATCHES_PER_SECOND} batches/s did not last")
        return sample


def allocate(name: str, databases: Databases, plan: Plan) -> Result:
    """Batches of `BATCH` allocations for new projects, all of which must be made."""
    with subject(databases, QUOTAS, workload.TENANTS, 1) as fiscus:
        tenant_ids = [place.tenant_id for place in fiscus.places]
        load = _Allocations(
            fiscus.server, fiscus.folder / "bodies", workload.allocations(tenant_ids)
        )
        samples = measure(fiscus, "quotas", {"fiscus": load}, {}, plan)
        made = samples["fiscus"]
        return Result(
            name=name,
            store=databases.kind,
            what=f"POST {ALLOCATE} of {BATCH}, {ALLOCATE_CONNECTIONS} connections",
            fiscus=middle(made),
            comparisons=[
                compare(
                    f"{LEAST_PER_SECOND} per second",
                    "allocations per second",
                    [sample.operations_per_second for sample in made],
                    [float(LEAST_PER_SECOND)] * len(made),
                    Target(ratio=1.0, rule="at least"),
                ),
                compare(
                    f"{MAX_MS} ms",
                    "p95 in milliseconds",
                    [known(sample.p95_ms) for sample in made],
                    [float(MAX_MS)] * len(made),
                ),
            ],
            peak_memory_bytes=fiscus.server.peak_memory_bytes(),
            answer_bytes=None,
            samples=samples,
        )
