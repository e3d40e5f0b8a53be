"""How commands speak: tables and notes for people, JSON for scripts, one line for an error."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from fiscus.errors import FiscusError, Forbidden, ValidationError
from fiscus.money import plain
from fiscus.runtime.visible import visible
from fiscus.wire.encoding import encode

out: Final = Console(highlight=False)
notes: Final = Console(stderr=True, highlight=False)
"""Progress, warnings and errors, so that standard output stays what was asked for."""


class CommandError(FiscusError):
    """A command cannot go on; the message is one line for a person."""


class UsageError(CommandError):
    """An argument or an option is missing, or not what it should be: exit status 2."""


def _server(url: str) -> str:
    from fiscus.client.clients import checked_url

    try:
        return checked_url(url)
    except ValidationError as error:
        raise UsageError(
            f"{url} is not the address of a server",
            suggested_action=f"look at --url and FISCUS_URL. {error.suggested_action}",
        ) from None


JsonFlag = Annotated[bool, typer.Option("--json", help="Answer JSON, for scripts.")]
Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="FISCUS_URL", callback=_server, help="Address of a running server."
    ),
]
Key = Annotated[
    str,
    typer.Option("--key", envvar="FISCUS_KEY", help="An API key.", show_envvar=True),
]
_PLACE_WITHIN: Final = re.compile(r"[.\[]")
_WIDEST: Final = 1000
DEFAULT_URL: Final = "http://127.0.0.1:3472"


def cannot_be_read(name: object, why: object) -> CommandError:
    return CommandError(
        f"{name} cannot be read: {why}",
        suggested_action="see that it is there, is a whole file, and that you may read it.",
    )


@contextmanager
def naming(typed: Mapping[str, str]) -> Generator[None]:
    """An error about a field of a request names what was typed for it.

    `typed` has the option or argument of each field. What no server was needed for is wrong use.
    """
    try:
        yield
    except ValidationError as error:
        wrong = _PLACE_WITHIN.split(error.field, 1)[0]
        if wrong not in typed:
            raise
        # a field that is also a word of any sentence is meant only where it is the wrong one
        meant = [name for name in typed if "_" in name or name == wrong]
        fields = re.compile(rf"\b({'|'.join(meant)})\b")
        todo = (error.suggested_action or "Correct it.").replace(" and send it again", "")
        message, todo = (
            fields.sub(lambda found: typed[found[0]], text) for text in (error.message, todo)
        )
        if error.correlation_id is None:
            raise UsageError(message, suggested_action=todo) from None
        told = ValidationError(message, field=error.field, suggested_action=todo)
        told.correlation_id = error.correlation_id
        raise told from None


@contextmanager
def forbidden_as(message: str, todo: str) -> Generator[None]:
    """A key that may not do one of these calls is told what the command needs, not the call."""
    try:
        yield
    except Forbidden as error:
        told = Forbidden(message, suggested_action=todo)
        told.correlation_id = error.correlation_id
        raise told from None


def shown(text: str) -> str:
    """Text that somebody stored, for a table or a line: no markup, nothing steers the terminal."""
    return escape(visible(text))


def show_error(message: str, suggestion: str | None = None) -> None:
    """One line of what is wrong, and one of what to do."""
    notes.print(Text.assemble(("error: ", "bold red"), visible(message)), soft_wrap=True)
    if suggestion:
        notes.print(Text.assemble(("  try: ", "yellow"), visible(suggestion)), soft_wrap=True)


def print_json(value: Any) -> None:
    """A value as one JSON document, amounts with their exact digits."""
    print_raw(encode(value).decode())


def print_raw(text: str) -> None:
    """Text exactly as it is, in UTF-8: never wrapped, never coloured, for any locale."""
    sys.stdout.buffer.write((text if text.endswith("\n") else text + "\n").encode())
    sys.stdout.buffer.flush()


def new_table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """A table whose columns named in `right` hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for column in columns:
        if column in right:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    return table


def show_table(table: Table, *, stack: Sequence[str] = ()) -> None:
    """A table as wide as the terminal lets it be; where there is none, nothing is wrapped.

    In a terminal too narrow for it the columns in `stack` stand below one another, so that the
    first of them, an id, stays in one piece and can be copied.
    """
    if not out.is_terminal:
        show_whole(table)
    elif stack and _widths(table).maximum > out.width:
        _show_stacked(table, stack)
    else:
        out.print(table)


def show_whole(table: Table) -> None:
    """A table of which the terminal alone wraps lines, so that a key is copied in one piece."""
    console = Console(highlight=False, width=_WIDEST)
    for line in console.render_lines(table, pad=False):
        # blanks up to the longest line would be wrapped as well, into lines of their own
        while line and not line[-1].text.strip():
            line.pop()
        if line:
            text, style, _ = line.pop()
            line.append(Segment(text.rstrip(), style))
        console.print(Segments([*line, Segment.line()]))


def _show_stacked(table: Table, stack: Sequence[str]) -> None:
    columns = {str(column.header): list(column.cells) for column in table.columns}
    beside = [column for column in table.columns if column.header not in stack]
    names = [str(column.header) for column in beside]
    right = [str(column.header) for column in beside if column.justify == "right"]
    stacked = new_table(stack[0], *names, right=right)
    for row in range(table.row_count):
        below = "\n".join(str(columns[name][row]) for name in stack)
        stacked.add_row(below, *(columns[name][row] for name in names))
    # what is below an id may be folded, but neither that nor a number
    for column, name in zip(stacked.columns, (stack[0], *names), strict=True):
        column.min_width = max(_widths(one).maximum for one in columns[name])
    if _widths(stacked).minimum > out.width:
        show_whole(stacked)
    else:
        out.print(stacked)


def _widths(shown: RenderableType) -> Measurement:
    """The least and the most columns of a terminal that it can do with."""
    return out.measure(shown, options=out.options.update_width(_WIDEST))


def facts(rows: Sequence[tuple[str, str]], title: str | None = None) -> Table:
    """Names and values below one another."""
    table = Table(box=None, show_header=False, title=title, title_justify="left", padding=(0, 2))
    table.title_style = "bold"
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    return table


def money(amount: Decimal, currency: str = "") -> str:
    """All digits of an amount, at least two decimals, thousands apart: `1,234.5678 USD`."""
    whole, _, decimals = f"{plain(amount):,f}".partition(".")
    return f"{whole}.{decimals:0<2} {currency}".rstrip()


def progress(*columns: str | ProgressColumn) -> Progress:
    """A progress bar on standard error; silent where that is not a terminal."""
    return Progress(*columns, console=notes, disable=not notes.is_terminal, transient=False)
