"""Budget checks and cost records over HTTP: what is measured, and beside which yardsticks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import workload
from bench.handwritten import GroupLoop, Writer
from bench.handwritten_postgres import PostgresWriter
from bench.handwritten_sqlite import SqliteWriter
from bench.load import Load, write_bodies
from bench.plan import Plan, Result
from bench.samples import Measure, Sample, Target, by_rate, compare, interleaved, known, middle
from bench.seed import analyze, count, fill
from bench.servers import BASE, Databases, Server, bare_server, fiscus_server, post
from bench.workload import BATCH, Item, Place

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 8
"""With 100 operations per request, 64 connections would only queue."""
SINGLES: Final = 20_000
BATCHES: Final = 400


@dataclass(frozen=True)
class Operation:
    """One kind of call: its path, its rows, how hand-written SQL writes them."""

    path: str
    table: str
    status: int
    body: Callable[[Item], bytes]
    batch_body: Callable[[Sequence[Item]], bytes]
    write: Callable[[Writer], Callable[[Sequence[Item]], None]]


CHECK: Final = Operation(
    "/budgets/check",
    "reservations",
    200,
    workload.check_body,
    workload.check_batch_body,
    lambda writer: writer.check,
)
RECORD: Final = Operation(
    "/cost-tracking/record",
    "cost_records",
    202,
    workload.record_body,
    workload.record_batch_body,
    lambda writer: writer.record,
)


@dataclass(frozen=True)
class Subject:
    """A running Fiscus with its database, and the places of its budgets."""

    server: Server
    url: str
    folder: Path
    places: list[Place]


@contextmanager
def subject(databases: Databases, tenants: int, projects: int) -> Iterator[Subject]:
    """Fiscus on a new database of `tenants` tenants with `projects` projects each."""
    folder, url = databases.new()
    of_tenants = fill(url, tenants, projects)
    places = [of_tenant[0] for of_tenant in of_tenants]
    database_url = None if databases.kind == "sqlite" else url
    with fiscus_server(folder, database_url) as server:
        for place in places:  # definitions read, periods begun, before anything is measured
            body = workload.check_batch_body(workload.items([place], 1))
            post(server, BASE + "/budgets/check/batch", body)
        analyze(url)
        yield Subject(server, url, folder, places)


@contextmanager
def handwritten(databases: Databases, items: Sequence[Item]) -> Iterator[tuple[Writer, list[Item]]]:
    """A hand-written program on a database of its own, and the items with its budgets' ids."""
    folder, url = databases.new()
    places = {of_tenant[0].tenant_id: of_tenant[0] for of_tenant in fill(url, workload.TENANTS, 1)}
    own = [item._replace(place=places[item.place.tenant_id]) for item in items]
    if databases.kind == "sqlite":
        writer: Writer = SqliteWriter(folder / "fiscus.db", own)
    else:
        writer = PostgresWriter(url, own)
    analyze(url)
    try:
        yield writer, own
    finally:
        writer.close()


def single(operation: Operation, name: str, databases: Databases, plan: Plan) -> Result:
    """One operation per request, beside the bare ASGI app and SQL in groups of `CONNECTIONS`."""
    with ExitStack() as stack:
        fiscus = stack.enter_context(subject(databases, workload.TENANTS, 1))
        items = workload.items(fiscus.places, SINGLES)
        bodies = write_bodies(fiscus.folder / "bodies", map(operation.body, items))
        writer, own = stack.enter_context(handwritten(databases, items))
        sql = GroupLoop(operation.write(writer), workload.groups(own, CONNECTIONS))
        path = BASE + operation.path
        load = Load(fiscus.server, path, bodies, CONNECTIONS, 1)
        bare, answer_bytes = _bare(stack, fiscus, operation, path, bodies)
        samples = _measure(
            fiscus,
            operation,
            load,
            {
                "bare ASGI": Load(bare, path, bodies, CONNECTIONS, 1).run,
                "hand-written SQL": sql.run,
            },
            plan,
        )
        target = None
        if operation is CHECK:
            target = Target(ratio=0.30 if databases.kind == "sqlite" else 0.20, rule="at least")
        rate = "requests per second"
        return Result(
            name=name,
            store=databases.kind,
            what=f"POST {operation.path}, {CONNECTIONS} connections",
            fiscus=middle(samples["fiscus"]),
            comparisons=[
                by_rate("bare ASGI app", rate, samples, "bare ASGI", target),
                by_rate(
                    f"hand-written SQL, groups of {CONNECTIONS}",
                    "operations per second",
                    samples,
                    "hand-written SQL",
                ),
            ],
            peak_memory_bytes=fiscus.server.peak_memory_bytes(),
            answer_bytes=answer_bytes,
            samples=samples,
        )


def batch(operation: Operation, name: str, databases: Databases, plan: Plan) -> Result:
    """`BATCH` operations per request, beside hand-written SQL in groups as large, and bare ASGI."""
    with ExitStack() as stack:
        fiscus = stack.enter_context(subject(databases, workload.TENANTS, 1))
        batches = workload.batches(fiscus.places, BATCHES)
        bodies = write_bodies(fiscus.folder / "bodies", map(operation.batch_body, batches))
        flat = [item for one in batches for item in one]
        writer, own = stack.enter_context(handwritten(databases, flat))
        sql = GroupLoop(operation.write(writer), workload.groups(own, BATCH))
        path = f"{BASE}{operation.path}/batch"
        load = Load(fiscus.server, path, bodies, BATCH_CONNECTIONS, BATCH)
        bare, answer_bytes = _bare(stack, fiscus, operation, path, bodies)
        samples = _measure(
            fiscus,
            operation,
            load,
            {
                "hand-written SQL": sql.run,
                "bare ASGI": Load(bare, path, bodies, BATCH_CONNECTIONS, BATCH).run,
            },
            plan,
        )
        rate = "operations per second"
        return Result(
            name=name,
            store=databases.kind,
            what=f"POST {operation.path}/batch of {BATCH}, {BATCH_CONNECTIONS} connections",
            fiscus=middle(samples["fiscus"]),
            comparisons=[
                by_rate(
                    f"hand-written SQL, groups of {BATCH}",
                    rate,
                    samples,
                    "hand-written SQL",
                    Target(ratio=0.6, rule="at least"),
                ),
                by_rate("bare ASGI app", rate, samples, "bare ASGI"),
            ],
            peak_memory_bytes=fiscus.server.peak_memory_bytes(),
            answer_bytes=answer_bytes,
            samples=samples,
        )


def latency(name: str, databases: Databases, plan: Plan) -> Result:
    """p95 of single checks, beside one durable group commit of as many checks."""
    with ExitStack() as stack:
        fiscus = stack.enter_context(subject(databases, workload.TENANTS, 1))
        items = workload.items(fiscus.places, SINGLES)
        bodies = write_bodies(fiscus.folder / "bodies", map(CHECK.body, items))
        writer, own = stack.enter_context(handwritten(databases, items))
        sql = GroupLoop(writer.check, workload.groups(own, CONNECTIONS))
        load = Load(fiscus.server, BASE + CHECK.path, bodies, CONNECTIONS, 1)
        samples = _measure(fiscus, CHECK, load, {"hand-written SQL": sql.run}, plan)
        return Result(
            name=name,
            store=databases.kind,
            what=f"POST {CHECK.path}, {CONNECTIONS} connections",
            fiscus=middle(samples["fiscus"]),
            comparisons=[
                compare(
                    f"one group commit of {CONNECTIONS} checks (median)",
                    "p95 in milliseconds",
                    [known(sample.p95_ms) for sample in samples["fiscus"]],
                    [known(sample.p50_ms) for sample in samples["hand-written SQL"]],
                    Target(ratio=3.0, rule="at most"),
                )
            ],
            peak_memory_bytes=fiscus.server.peak_memory_bytes(),
            answer_bytes=None,
            samples=samples,
        )


FEW_TENANTS: Final = 50
MANY_PROJECTS: Final = 99


def scaling(name: str, databases: Databases, plan: Plan) -> Result:
    """The same checks with 100 000 budgets and with 100: two servers side by side.

    100 budgets are 50 tenants with one project each; 100 000 are 1 000 tenants with 99. Both get
    checks of the same 50 tenants' first projects, each matching two budgets.
    """
    with ExitStack() as stack:
        few = stack.enter_context(subject(databases, FEW_TENANTS, 1))
        many = stack.enter_context(subject(databases, workload.TENANTS, MANY_PROJECTS))
        items = workload.items(few.places, SINGLES)
        bodies = write_bodies(few.folder / "bodies", map(CHECK.body, items))
        path = BASE + CHECK.path
        samples = _measure(
            many,
            CHECK,
            Load(many.server, path, bodies, CONNECTIONS, 1),
            {"100 budgets": Load(few.server, path, bodies, CONNECTIONS, 1).run},
            plan,
        )
        return Result(
            name=name,
            store=databases.kind,
            what=f"POST {CHECK.path} with 100 000 budgets, {CONNECTIONS} connections",
            fiscus=middle(samples["fiscus"]),
            comparisons=[
                compare(
                    "the same with 100 budgets",
                    "microseconds per check",
                    [1e6 / sample.operations_per_second for sample in samples["fiscus"]],
                    [1e6 / sample.operations_per_second for sample in samples["100 budgets"]],
                    Target(ratio=1.2, rule="at most"),
                )
            ],
            peak_memory_bytes=many.server.peak_memory_bytes(),
            answer_bytes=None,
            samples=samples,
        )


def _measure(
    fiscus: Subject, operation: Operation, load: Load, others: dict[str, Measure], plan: Plan
) -> dict[str, list[Sample]]:
    """Interleaved samples, after which every acknowledged operation must be in the database."""
    before = count(fiscus.url, operation.table)
    sent = 0

    def run(seconds: float) -> Sample:
        nonlocal sent
        with plan.profiler.watching(fiscus.server.pid, seconds):
            sample = load.run(seconds)
        sent += sample.operations
        return sample

    samples = interleaved({**others, "fiscus": run}, rounds=plan.rounds, seconds=plan.seconds)
    kept = count(fiscus.url, operation.table) - before
    # a run's end cuts off requests that the server still answers
    unanswered = (plan.rounds + 1) * load.connections * load.operations
    if not sent <= kept <= sent + unanswered:
        raise RuntimeError(f"{sent} operations were acknowledged, {kept} are in {operation.table}")
    return samples


def _bare(
    stack: ExitStack, fiscus: Subject, operation: Operation, path: str, bodies: Path
) -> tuple[Server, int]:
    """A bare app that answers what Fiscus does, and how long that answer is."""
    with bodies.open("rb") as lines:
        answer = post(fiscus.server, path, lines.readline())
    file = fiscus.folder / "answer.json"
    file.write_bytes(answer)
    return stack.enter_context(bare_server(file, operation.status)), len(answer)
