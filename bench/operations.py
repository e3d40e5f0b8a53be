"""Operations over HTTP on a database: what is measured, and beside which yardsticks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from bench import workload
from bench.handwritten import GroupLoop
from bench.load import Load, write_bodies
from bench.plan import Plan, Result
from bench.samples import Measure, Sample, Target, by_rate, compare, interleaved, known, middle
from bench.seed import analyze, count
from bench.servers import BASE, Databases, Server, bare_server, fiscus_server, post
from bench.workload import BATCH, Item, Place

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 8
"""With 100 operations per request, 64 connections would only queue."""
SINGLES: Final = 20_000
BATCHES: Final = 400
PAUSE_MS: Final = 25.0
_PAUSING: Final = "fiscus, pausing"
"""The contestant whose callers pause so long, in the mean, before they call again."""


class Loading(Protocol):
    """What `load.Load` is: requests of `operations` each over so many connections."""

    @property
    def connections(self) -> int: ...
    @property
    def operations(self) -> int: ...
    def run(self, seconds: float) -> Sample: ...


class Closable(Protocol):
    def close(self) -> None: ...


W = TypeVar("W", bound=Closable)
"""A hand-written program."""


@dataclass(frozen=True)
class Definitions(Generic[W]):
    """What operations are decided by: budgets, or quotas.

    `fill` puts those of so many tenants with so many projects each into an empty database;
    `check_path` with `check_batch_body` checks against them.
    """

    name: str
    fill: Callable[[str, int, int], list[list[Place]]]
    check_path: str
    check_batch_body: Callable[[Sequence[Item]], bytes]
    on_sqlite: Callable[[Path, Sequence[Item]], W]
    on_postgresql: Callable[[str, Sequence[Item]], W]


@dataclass(frozen=True)
class Operation(Generic[W]):
    """One kind of call: its path, its rows, how hand-written SQL writes them."""

    definitions: Definitions[W]
    path: str
    table: str
    status: int
    body: Callable[[Item], bytes]
    batch_body: Callable[[Sequence[Item]], bytes]
    write: Callable[[W], Callable[[Sequence[Item]], None]]
    single_targets: Mapping[str, float] = field(default_factory=dict[str, float])
    """By store, what part of the bare ASGI app's rate single calls have to reach."""


@dataclass(frozen=True)
class Subject:
    """A running Fiscus with its database, and the places of its definitions."""

    server: Server
    url: str
    folder: Path
    places: list[Place]


@contextmanager
def subject(
    databases: Databases, definitions: Definitions[W], tenants: int, projects: int
) -> Iterator[Subject]:
    """Fiscus on a new database of `tenants` tenants with `projects` projects each."""
    folder, url = databases.new()
    of_tenants = definitions.fill(url, tenants, projects)
    places = [of_tenant[0] for of_tenant in of_tenants]
    database_url = None if databases.kind == "sqlite" else url
    with fiscus_server(folder, database_url) as server:
        for place in places:  # definitions read, periods begun, before anything is measured
            body = definitions.check_batch_body(workload.items([place], 1))
            post(server, f"{BASE}{definitions.check_path}/batch", body)
        analyze(url)
        yield Subject(server, url, folder, places)


@contextmanager
def handwritten(
    databases: Databases, definitions: Definitions[W], items: Sequence[Item]
) -> Iterator[tuple[W, list[Item]]]:
    """A hand-written program on a database of its own, and the items with its definitions' ids."""
    folder, url = databases.new()
    of_tenants = definitions.fill(url, workload.TENANTS, 1)
    places = {of_tenant[0].tenant_id: of_tenant[0] for of_tenant in of_tenants}
    own = [item._replace(place=places[item.place.tenant_id]) for item in items]
    if databases.kind == "sqlite":
        writer = definitions.on_sqlite(folder / "fiscus.db", own)
    else:
        writer = definitions.on_postgresql(url, own)
    analyze(url)
    try:
        yield writer, own
    finally:
        writer.close()


def single(operation: Operation[W], name: str, databases: Databases, plan: Plan) -> Result:
    """One operation per request, beside the bare ASGI app and SQL in groups of `CONNECTIONS`."""
    with ExitStack() as stack:
        fiscus = stack.enter_context(subject(databases, operation.definitions, workload.TENANTS, 1))
        items = workload.items(fiscus.places, SINGLES)
        bodies = write_bodies(fiscus.folder / "bodies", map(operation.body, items))
        writer, own = stack.enter_context(handwritten(databases, operation.definitions, items))
        sql = GroupLoop(operation.write(writer), workload.groups(own, CONNECTIONS))
        path = BASE + operation.path
        load = Load(fiscus.server, path, bodies, CONNECTIONS, 1)
        bare, answer_bytes = _bare(stack, fiscus, operation, path, bodies)
        samples = measure(
            fiscus,
            operation.table,
            {"fiscus": load},
            {
                "bare ASGI": Load(bare, path, bodies, CONNECTIONS, 1).run,
                "hand-written SQL": sql.run,
            },
            plan,
        )
        ratio = operation.single_targets.get(databases.kind)
        target = None if ratio is None else Target(ratio=ratio, rule="at least")
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


def batch(operation: Operation[W], name: str, databases: Databases, plan: Plan) -> Result:
    """`BATCH` operations per request, beside hand-written SQL in groups as large, and bare ASGI."""
    with ExitStack() as stack:
        fiscus = stack.enter_context(subject(databases, operation.definitions, workload.TENANTS, 1))
        batches = workload.batches(fiscus.places, BATCHES)
        bodies = write_bodies(fiscus.folder / "bodies", map(operation.batch_body, batches))
        flat = [item for one in batches for item in one]
        writer, own = stack.enter_context(handwritten(databases, operation.definitions, flat))
        sql = GroupLoop(operation.write(writer), workload.groups(own, BATCH))
        path = f"{BASE}{operation.path}/batch"
        load = Load(fiscus.server, path, bodies, BATCH_CONNECTIONS, BATCH)
        bare, answer_bytes = _bare(stack, fiscus, operation, path, bodies)
        samples = measure(
            fiscus,
            operation.table,
            {"fiscus": load},
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


def latency(operation: Operation[W], name: str, databases: Databases, plan: Plan) -> Result:
    """p95 of single checks, beside one durable group commit of as many checks, and bare ASGI.

    Once from callers that do nothing but call, so that each waits for all others, and once from as
    many that pause after each answer.
    """
    with ExitStack() as stack:
        fiscus = stack.enter_context(subject(databases, operation.definitions, workload.TENANTS, 1))
        items = workload.items(fiscus.places, SINGLES)
        bodies = write_bodies(fiscus.folder / "bodies", map(operation.body, items))
        writer, own = stack.enter_context(handwritten(databases, operation.definitions, items))
        sql = GroupLoop(operation.write(writer), workload.groups(own, CONNECTIONS))
        path = BASE + operation.path
        bare, answer_bytes = _bare(stack, fiscus, operation, path, bodies)
        load = Load(fiscus.server, path, bodies, CONNECTIONS, 1)
        samples = measure(
            fiscus,
            operation.table,
            {_PAUSING: replace(load, pause_ms=PAUSE_MS), "fiscus": load},
            {
                "hand-written SQL": sql.run,
                "bare ASGI": Load(bare, path, bodies, CONNECTIONS, 1).run,
            },
            plan,
        )
        p95 = "p95 in milliseconds"
        p95_of = {one: [known(sample.p95_ms) for sample in samples[one]] for one in samples}
        group_commit = f"one group commit of {CONNECTIONS} checks (median)"
        groups = samples["hand-written SQL"]
        group_commits = [known(sample.p50_ms) for sample in groups]
        told = [known(sample.p95_as_told_ms) for sample in samples["fiscus"]]
        # what disturbs the machine for a moment is in both
        slow_ones = [known(sample.p95_ms) for sample in groups]
        target = Target(ratio=3.0, rule="at most")
        return Result(
            name=name,
            store=databases.kind,
            what=f"POST {operation.path}, {CONNECTIONS} connections",
            fiscus=middle(samples["fiscus"]),
            comparisons=[
                compare(group_commit, p95, p95_of["fiscus"], group_commits, target),
                compare(group_commit, f"{p95}, as wrk tells it", told, group_commits),
                compare(group_commit, f"{p95}, pausing", p95_of[_PAUSING], group_commits),
                compare("the same (p95)", p95, p95_of["fiscus"], slow_ones),
                compare("bare ASGI app", p95, p95_of["fiscus"], p95_of["bare ASGI"]),
            ],
            peak_memory_bytes=fiscus.server.peak_memory_bytes(),
            answer_bytes=answer_bytes,
            samples=samples,
        )


FEW_TENANTS: Final = 50
MANY_PROJECTS: Final = 99


def scaling(operation: Operation[W], name: str, databases: Databases, plan: Plan) -> Result:
    """The same checks with 100 000 budgets or quotas and with 100: two servers side by side.

    100 are 50 tenants with one project each; 100 000 are 1 000 tenants with 99. Both get
    checks of the same 50 tenants' first projects, each matching two.
    """
    few_of_them = f"100 {operation.definitions.name}"
    with ExitStack() as stack:
        few = stack.enter_context(subject(databases, operation.definitions, FEW_TENANTS, 1))
        many = stack.enter_context(
            subject(databases, operation.definitions, workload.TENANTS, MANY_PROJECTS)
        )
        items = workload.items(few.places, SINGLES)
        bodies = write_bodies(few.folder / "bodies", map(operation.body, items))
        path = BASE + operation.path
        samples = measure(
            many,
            operation.table,
            {"fiscus": Load(many.server, path, bodies, CONNECTIONS, 1)},
            {few_of_them: Load(few.server, path, bodies, CONNECTIONS, 1).run},
            plan,
        )
        return Result(
            name=name,
            store=databases.kind,
            what=f"POST {operation.path} with 100 000 {operation.definitions.name}, "
            f"{CONNECTIONS} connections",
            fiscus=middle(samples["fiscus"]),
            comparisons=[
                compare(
                    f"the same with {few_of_them}",
                    "microseconds per check",
                    [1e6 / sample.operations_per_second for sample in samples["fiscus"]],
                    [1e6 / sample.operations_per_second for sample in samples[few_of_them]],
                    Target(ratio=1.2, rule="at most"),
                )
            ],
            peak_memory_bytes=many.server.peak_memory_bytes(),
            answer_bytes=None,
            samples=samples,
        )


def measure(
    fiscus: Subject,
    table: str,
    loads: Mapping[str, Loading],
    others: Mapping[str, Measure],
    plan: Plan,
) -> dict[str, list[Sample]]:
    """Interleaved samples of `loads`, which are on Fiscus, and of the others.

    Every operation that was acknowledged must be a row of `table` then.
    """
    before = count(fiscus.url, table)
    sent = cut_off = 0

    def run(load: Loading, seconds: float) -> Sample:
        nonlocal sent, cut_off
        with plan.profiler.watching(fiscus.server.pid, seconds):
            sample = load.run(seconds)
        sent += sample.operations
        # a run's end cuts off requests that the server still answers
        cut_off += load.connections * load.operations
        return sample

    ours = {name: partial(run, load) for name, load in loads.items()}
    samples = interleaved({**others, **ours}, rounds=plan.rounds, seconds=plan.seconds)
    kept = count(fiscus.url, table) - before
    if not sent <= kept <= sent + cut_off:
        raise RuntimeError(f"{sent} operations were acknowledged, {kept} are in {table}")
    return samples


def _bare(
    stack: ExitStack, fiscus: Subject, operation: Operation[W], path: str, bodies: Path
) -> tuple[Server, int]:
    """A bare app that answers what Fiscus does, and how long that answer is."""
    with bodies.open("rb") as lines:
        answer = post(fiscus.server, path, lines.readline())
    file = fiscus.folder / "answer.json"
    file.write_bytes(answer)
    return stack.enter_context(bare_server(file, operation.status)), len(answer)
