"""`fiscus report`: what was spent, as a table in the terminal."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from fiscus.cli.api import Api
from fiscus.cli.checked import A_CURRENCY, AN_ID
from fiscus.cli.moments import moment_option
from fiscus.cli.terminal import (
    DEFAULT_URL,
    JsonFlag,
    Key,
    Url,
    facts,
    money,
    naming,
    new_table,
    notes,
    out,
    print_json,
    print_raw,
    show_table,
    shown,
)
from fiscus.costs.report_model import Granularity, Report, ReportSection, ReportType

PATH = "/cost-tracking/reports"

_TYPED: Final = {
    "group_by": "--group-by",
    "start_date": "--start",
    "end_date": "--end",
    "tenant_id": "--tenant",
    "currency": "--currency",
}
"""What is typed for each field of a request."""


def report(
    key: Key,
    url: Url = DEFAULT_URL,
    report_type: Annotated[
        ReportType,
        typer.Option(
            "--type", metavar="TYPE", help=f"What to group by first: {', '.join(ReportType)}."
        ),
    ] = ReportType.BY_SERVICE,
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="Also by this: project, user, region, day, tag:team, …; repeatable."),
    ] = None,
    granularity: Annotated[
        Granularity, typer.Option(help="Periods of --type by_time_period.")
    ] = Granularity.DAY,
    start: Annotated[
        str | None,
        typer.Option(
            help="2026-01-31 (UTC) or an RFC 3339 time; default: the start of this month, or of "
            "that of --end."
        ),
    ] = None,
    end: Annotated[str | None, typer.Option(help="Exclusive, as --start; default: now.")] = None,
    tenant: Annotated[
        str | None, typer.Option(callback=AN_ID, help="Default: the key's tenant.")
    ] = None,
    currency: Annotated[
        str | None, typer.Option(callback=A_CURRENCY, help="Convert to this currency.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with the range before.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows at most.")] = 50,
    as_json: JsonFlag = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Answer CSV.")] = False,
) -> None:
    """Report costs from a running server."""
    if as_json and as_csv:
        raise typer.BadParameter("takes either --json or --csv")
    wanted: dict[str, Any] = {
        "report_type": report_type,
        "granularity": granularity,
        "group_by": group_by or [],
        "start_date": moment_option(start, "--start"),
        "end_date": moment_option(end, "--end"),
        "tenant_id": tenant,
        "currency": currency,
        "compare_previous": compare,
        "limit": limit,
        "format": "csv" if as_csv else "json",
    }
    body = {name: value for name, value in wanted.items() if value is not None}
    with naming(_TYPED), Api(url, key) as api:
        if as_csv:
            print_raw(api.post_for_csv(PATH, body))
            return
        found = api.post(PATH, body, Report)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: Report) -> None:
    title = (
        f"Costs of {found.tenant_id}, {found.start_date:%Y-%m-%d %H:%M} to "
        f"{found.end_date:%Y-%m-%d %H:%M} UTC"
    )
    out.print(f"[bold]{title}[/]", soft_wrap=True)
    for section in found.all_sections():
        if section.groups:
            show_table(_groups(section, compared=found.previous is not None))
    rows = [
        ("total", f"[bold]{money(found.total_cost, found.currency)}[/]"),
        ("records", f"{found.record_count:,}"),
    ]
    if found.previous is not None:
        rows.append(("before", money(found.previous.total_cost, found.currency)))
        rows.append(("change", _percent(found.previous.change_ratio, signed=True)))
    rows.extend(
        ("not converted", f"[yellow]{money(one.cost, one.currency)}[/]")
        for one in found.unconverted
    )
    show_table(facts(rows))
    if not found.record_count:
        notes.print("No costs in this range; --start goes further back.")


def _groups(found: ReportSection, *, compared: bool) -> Table:
    names = [_heading(name) for name in found.group_by]
    numbers = ["cost", "share", "records", *(["change"] if compared else [])]
    table = new_table(*names, *numbers, right=numbers)
    for group in found.groups:
        keys = [_key(group.key.get(name)) for name in found.group_by]
        cells = [_rounded(group.cost), _percent(group.share), f"{group.record_count:,}"]
        if compared:
            cells.append(_percent(group.change_ratio, signed=True))
        table.add_row(*keys, *cells)
    if found.truncated:
        rest = ["[dim](others)[/]", *[""] * (len(names) - 1)]
        cells = [_rounded(found.other_cost), "", f"{found.other_record_count:,}"]
        table.add_row(*rest, *cells)
    return table


def _key(value: str | None) -> str:
    """A value that was not given, and one that is empty, are groups of their own."""
    return "[dim](none)[/]" if value is None else shown(value) or '""'


def _heading(name: str) -> str:
    return shown(name.removesuffix("_name").removesuffix("_id").replace("_", " "))


def _rounded(amount: Decimal) -> str:
    """Two decimals, for reading; `--json` and `--csv` have them all."""
    return f"{amount:,.2f}"


def _percent(ratio: Decimal | None, *, signed: bool = False) -> str:
    if ratio is None:
        return ""
    return f"{ratio * 100:+,.1f} %" if signed else f"{ratio * 100:,.1f} %"
