"""`fiscus simulate`: what would these policies have done to that traffic?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fiscus.cli.checked import A_ZONE, AN_ID
from fiscus.cli.simulate.chart import seconds_text
from fiscus.cli.simulate.input import Input
from fiscus.cli.simulate.policies import read_policies
from fiscus.cli.simulate.run import SLACK_US, Decided, Simulation
from fiscus.cli.simulate.show import Tally, decision_line, show
from fiscus.cli.simulate.traces import Trace, TraceFormat
from fiscus.cli.terminal import CommandError, UsageError, notes, progress
from fiscus.errors import ValidationError
from fiscus.ratelimits.port import CounterStore
from fiscus.wiring.counters import open_counters
from fiscus.zones import zone_of

COUNTERS_TIMEOUT_SECONDS: Final = 5.0
CHECKS_PER_UPDATE: Final = 1_000


def simulate(
    policies: Annotated[
        Path,
        typer.Option(help="JSON or YAML: a list of policies, each as POST /rate-limits takes it."),
    ],
    trace: Annotated[
        str, typer.Option(help="Requests of the past, also in gzip; - is standard input.")
    ],
    form: Annotated[
        TraceFormat,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"One of {', '.join(TraceFormat)}; auto tells it from the first line.",
        ),
    ] = TraceFormat.AUTO,
    counters: Annotated[
        str, typer.Option(help="memory, or the address of a Redis or Valkey: redis://…")
    ] = "memory",
    tenant: Annotated[
        str, typer.Option(callback=AN_ID, help="Tenant of lines that name none.")
    ] = "default",
    timezone: Annotated[
        str,
        typer.Option(
            callback=A_ZONE, help="IANA zone of calendar windows and hours, and of the chart."
        ),
    ] = "UTC",
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Count lines that cannot be read, and go on.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One decision per line as JSON, for scripts.")
    ] = False,
) -> None:
    """Replay a trace against policies, in the trace's own time: a summary and a chart.

    The same limiter as the server's decides; nothing of a running server is read or changed.
    """
    known = read_policies(policies, timezone)
    store = _open_counters(counters)
    source = Input(trace)
    requests = Trace(source, form, skip_bad_lines=skip_bad_lines)
    simulation = Simulation(known, store, tenant)
    tally = Tally(known.policies)
    is_stopped = False
    try:
        if as_json:
            _write(simulation.run(requests))
        else:
            _count(simulation.run(requests), source, tally)
    except KeyboardInterrupt:
        is_stopped = True
    finally:
        source.close()
        simulation.close()
    if not simulation.checks and not is_stopped:
        raise CommandError(
            f"{source.name} holds no requests",
            suggested_action="see that --trace is right.",
        )
    if tally.checks:
        show(tally, source.name, zone_of(timezone))
    _note(simulation, requests)
    if is_stopped:
        notes.print("[yellow]Stopped early.[/]")
        raise typer.Exit(130)


def _open_counters(where: str) -> CounterStore:
    try:
        return open_counters(
            None if where == "memory" else where, timeout_seconds=COUNTERS_TIMEOUT_SECONDS
        )
    except ValidationError as error:
        raise UsageError(
            error.message.replace(error.field, "--counters"),
            suggested_action=f"write memory, or an address. {error.suggested_action}",
        ) from None


def _write(decisions: Iterator[Decided]) -> None:
    for decided in decisions:
        sys.stdout.buffer.write(decision_line(decided).encode())
    sys.stdout.buffer.flush()


def _count(decisions: Iterator[Decided], source: Input, tally: Tally) -> None:
    columns = (
        TextColumn("simulating"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with progress(*columns) as bar:
        task = bar.add_task("", total=source.size_bytes, note="")
        for decided in decisions:
            tally.add(decided)
            if tally.checks % CHECKS_PER_UPDATE == 0:
                bar.update(task, completed=source.position_bytes(), note=_so_far(tally))
        bar.update(task, completed=source.position_bytes(), note=_so_far(tally))


def _so_far(tally: Tally) -> str:
    admitted = tally.checks - tally.denied
    return f"[green]{admitted:,} admitted[/] [red]{tally.denied:,} denied[/]"


def _note(simulation: Simulation, requests: Trace) -> None:
    """What was odd about the trace, on standard error."""
    if requests.skipped:
        notes.print(f"[yellow]{requests.skipped:,} lines that cannot be read were left out.[/]")
    if simulation.back_count:
        most = seconds_text(simulation.most_back_us)
        text = (
            f"{simulation.back_count:,} lines go back in time, by up to {most} s. They were "
            "decided at their own times; a clock that goes back refills nothing."
        )
        if simulation.most_back_us > SLACK_US:
            text += " Sort the trace by time: a counter unused for a minute may be forgotten."
        notes.print(f"[yellow]{text}[/]", soft_wrap=True)
