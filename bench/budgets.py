"""Budget checks and cost records over HTTP."""

from __future__ import annotations

from typing import Final

from bench import workload
from bench.handwritten import Writer
from bench.handwritten_postgres import PostgresWriter
from bench.handwritten_sqlite import SqliteWriter
from bench.operations import Definitions, Operation
from bench.seed import fill

BUDGETS: Final = Definitions[Writer](
    "budgets",
    fill,
    "/budgets/check",
    workload.check_batch_body,
    SqliteWriter,
    PostgresWriter,
)
CHECK: Final = Operation[Writer](
    BUDGETS,
    "/budgets/check",
    "reservations",
    200,
    workload.check_body,
    workload.check_batch_body,
    lambda writer: writer.check,
    {"sqlite": 0.30, "postgresql": 0.20},
)
RECORD: Final = Operation[Writer](
    BUDGETS,
    "/cost-tracking/record",
    "cost_records",
    202,
    workload.record_body,
    workload.record_batch_body,
    lambda writer: writer.record,
)
