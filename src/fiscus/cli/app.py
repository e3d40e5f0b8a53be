"""All commands of `fiscus`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from fiscus.cli import demo, doctor, keys, migrate, report, worker
from fiscus.cli.quotas import commands as quotas
from fiscus.cli.replay import command as replay
from fiscus.cli.serve import command as serve
from fiscus.cli.simulate import command as simulate
from fiscus.cli.terminal import print_raw

app = typer.Typer(
    name="fiscus",
    help="Budgets, rate limits, quotas and costs of a multi-tenant platform, decided before the "
    "money is spent.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_raw(f"fiscus {version('fiscus')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """What all commands share."""


app.command("serve")(serve.serve)
app.command("worker")(worker.worker)
app.add_typer(migrate.app, name="migrate")
app.add_typer(keys.app, name="keys")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(replay.app, name="replay")
app.command("report")(report.report)
app.add_typer(quotas.app, name="quotas")
app.command("simulate")(simulate.simulate)
