"""Checks of rate limits over HTTP, beside the bare ASGI app: counters in process and in Valkey."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import workload
from bench.load import Load, write_bodies
from bench.plan import Plan, Result
from bench.samples import Sample, Target, by_rate, interleaved, middle
from bench.seed import analyze
from bench.seed_policies import Member, fill_policies
from bench.servers import BASE, Databases, Server, bare_server, fiscus_server, post
from bench.workload import BATCH

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 8
SINGLES: Final = 20_000
BATCHES: Final = 400

ONE: Final = (("user", "*"),)
"""One policy per check: a counter for every user."""
TWO: Final = (("tenant", "{tenant}"), *ONE)
"""And the tenant's own."""

_TARGETS: Final = {
    "memory": Target(ratio=0.55, rule="at least"),
    "valkey": Target(ratio=0.35, rule="at least"),
}


@dataclass(frozen=True)
class Kind:
    """One kind of load: its path, its lines, how many checks each carries."""

    path: str
    lines: Callable[[Sequence[Member]], Iterator[bytes]]
    connections: int
    operations: int


def _singles(members: Sequence[Member]) -> Iterator[bytes]:
    for body, member in workload.limit_checks(members, SINGLES):
        yield member.key.encode() + b"\t" + body


def _batches(members: Sequence[Member]) -> Iterator[bytes]:
    for body, member in workload.limit_batches(members, BATCHES):
        yield member.key.encode() + b"\t" + body


SINGLE: Final = Kind("/rate-limits/check", _singles, CONNECTIONS, 1)
BATCHED: Final = Kind("/rate-limits/check/batch", _batches, BATCH_CONNECTIONS, BATCH)


def checks(
    kind: Kind,
    scopes: Sequence[tuple[str, str]],
    has_target: bool,
    name: str,
    databases: Databases,
    plan: Plan,
) -> Result:
    """Checks that match a policy per scope, each with its tenant's key, beside the bare app."""
    with ExitStack() as stack:
        folder, server, members = stack.enter_context(_subject(databases, scopes))
        bodies = write_bodies(folder / "bodies", kind.lines(members))
        path = BASE + kind.path
        bare, answer_bytes = _bare(stack, server, path, bodies, folder)
        load = Load(server, path, bodies, kind.connections, kind.operations)

        def run(seconds: float) -> Sample:
            with plan.profiler.watching(server.pid, seconds):
                return load.run(seconds)

        samples = interleaved(
            {
                "bare ASGI": Load(bare, path, bodies, kind.connections, kind.operations).run,
                "fiscus": run,
            },
            rounds=plan.rounds,
            seconds=plan.seconds / (2 if has_target else 4),
        )
        _require_counted(server)
        operations = "" if kind.operations == 1 else f" of {kind.operations}"
        return Result(
            name=name,
            store=databases.kind,
            what=f"POST {kind.path}{operations}, {len(scopes)} policies per check, "
            f"{kind.connections} connections",
            fiscus=middle(samples["fiscus"]),
            comparisons=[
                by_rate(
                    "bare ASGI app",
                    "checks per second",
                    samples,
                    "bare ASGI",
                    _TARGETS[databases.kind] if has_target else None,
                )
            ],
            peak_memory_bytes=server.peak_memory_bytes(),
            answer_bytes=answer_bytes,
            samples=samples,
        )


@contextmanager
def _subject(
    databases: Databases, scopes: Sequence[tuple[str, str]]
) -> Iterator[tuple[Path, Server, list[Member]]]:
    """A running Fiscus whose tenants' policies and keys have all been used once."""
    folder, url = databases.new()
    members = fill_policies(url, workload.TENANTS, scopes)
    analyze(url)
    with fiscus_server(folder, None, databases.redis_url) as server:
        for body, member in workload.limit_checks(members, None):
            post(server, BASE + SINGLE.path, body, member.key)
        yield folder, server, members


def _bare(
    stack: ExitStack, server: Server, path: str, bodies: Path, folder: Path
) -> tuple[Server, int]:
    """A bare app that answers what Fiscus does, and how long that answer is."""
    with bodies.open("rb") as lines:
        key, _, body = lines.readline().partition(b"\t")
    answer = post(server, path, body, key.decode())
    file = folder / "answer.json"
    file.write_bytes(answer)
    return stack.enter_context(bare_server(file, 200)), len(answer)


def _require_counted(server: Server) -> None:
    """Raises `RuntimeError` when a check was answered without its counters."""
    _, metrics = server.get("/metrics")
    for line in metrics.decode().splitlines():
        if line.startswith("fiscus_rate_limit_degraded_answers_total "):
            degraded = float(line.split()[1])
            if degraded:
                raise RuntimeError(f"{degraded:.0f} checks were answered without their counters")
            return
    raise RuntimeError("the server does not tell of degraded answers")
