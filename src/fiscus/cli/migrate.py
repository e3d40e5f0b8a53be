"""`fiscus migrate`: the tables of the configured database, brought to a revision or looked at."""

from __future__ import annotations

from typing import Annotated

import typer

from fiscus.cli.configuration import DataDir, read_settings
from fiscus.cli.terminal import JsonFlag, UsageError, new_table, notes, print_json, show_table
from fiscus.errors import ValidationError
from fiscus.settings import Settings


def _revision(given: str) -> str:
    from fiscus.wiring.engine import require_revision

    try:
        require_revision(given)
    except ValidationError as error:
        raise UsageError(error.message, suggested_action=error.suggested_action) from None
    return given


app = typer.Typer(
    help="Bring the database's tables up to date, take them down, or look at them.",
    no_args_is_help=True,
)


@app.command()
def up(
    revision: Annotated[
        str, typer.Argument(callback=_revision, help="Revision to reach; default the newest.")
    ] = "head",
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring the tables up to a revision. `serve` does this by itself when its login may."""
    from fiscus.wiring.engine import migrate_up

    settings = read_settings(data_dir=data_dir)
    migrate_up(settings, revision)
    _show(settings, as_json=as_json)


@app.command()
def down(
    revision: Annotated[
        str,
        typer.Argument(
            callback=_revision, help="Revision to go back to; `base` removes every table."
        ),
    ],
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; data will be lost.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Take the tables down to a revision. What only the newer ones can hold is lost."""
    from fiscus.wiring.engine import migrate_down

    settings = read_settings(data_dir=data_dir)
    if not yes:
        if as_json:
            raise UsageError("data would be lost", suggested_action="add --yes.")
        typer.confirm(f"Go back to {revision} and lose what only newer tables hold?", abort=True)
    migrate_down(settings, revision)
    _show(settings, as_json=as_json)


@app.command()
def status(data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    """Show every revision and whether the database has it. Changes nothing."""
    _show(read_settings(data_dir=data_dir), as_json=as_json)


def _show(settings: Settings, *, as_json: bool) -> None:
    from fiscus.wiring.engine import migration_status

    revisions = migration_status(settings, as_owner=True)
    missing = sum(not one.applied for one in revisions)
    if as_json:
        print_json(
            {
                "revisions": [
                    {"revision": one.revision, "title": one.title, "applied": one.applied}
                    for one in revisions
                ],
                "pending": missing,
            }
        )
        return
    table = new_table("revision", "what it makes", "state")
    for one in revisions:
        state = "[green]applied[/]" if one.applied else "[yellow]missing[/]"
        table.add_row(one.revision, one.title, state)
    show_table(table)
    notes.print(
        "The tables are up to date." if not missing else f"{missing} missing: `fiscus migrate up`."
    )
