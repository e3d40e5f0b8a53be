"""Reports as CSV (RFC 4180): exact decimals in plain notation, safe to open in a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from fiscus.costs.report_model import Report, ReportGroup

OTHER: Final = "(other)"
"""Stands for the groups that the limit left out."""

# What makes a spreadsheet read text as a formula, as it is or full-width; a line break or space may
# come before it. Where `;` is the list separator, cells begin behind one, quoted or not.
_FORMULA: Final = re.compile("(^|[;\r\n])(?=[ \n]*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20])")
_QUOTED: Final = re.compile(r'[",;\t\r\n]')


def report_csv(report: Report) -> str:
    """A header and one line per group; of a report without groups, one line with the total.

    Usage has a column per unit, a cost without a known rate one per currency. A detailed report's
    sections follow one another, told apart by the column `section`; one by which the report itself
    is grouped is there once. Groups that the limit left out are one line, `(other)`. A value that
    was not given is empty; an empty one is quoted.
    """
    own, *others = report.all_sections()
    if not report.group_by:
        own = replace(own, groups=[_whole(report)])
    sections = [own, *(one for one in others if one.group_by != own.group_by)]
    dimensions = list(dict.fromkeys(name for one in sections for name in one.group_by))
    groups = [group for one in sections for group in one.groups]
    units = _names((report.usage, *(group.usage for group in groups)))
    currencies = _names(
        {cost.currency: cost.cost for cost in costs}
        for costs in (report.unconverted, *(group.unconverted for group in groups))
    )
    lines = [
        [
            *(["section"] if report.sections else []),
            *map(_text, dimensions),
            *("currency", "cost", "record_count", "share"),
            *("previous_cost", "change", "change_ratio"),
            *(_text(f"usage:{unit}") for unit in units),
            *(f"unconverted:{currency}" for currency in currencies),
        ]
    ]
    for section in sections:
        head = [_text(", ".join(section.group_by) or None)] if report.sections else []
        for group in section.groups:
            keys = [_text(group.key.get(name)) for name in dimensions]
            lines.append([*head, *keys, *_numbers(report, group, units, currencies)])
        if section.truncated:
            keys = [OTHER if name in section.group_by else None for name in dimensions]
            cells = [report.currency, _number(section.other_cost), str(section.other_record_count)]
            blank = [None] * (4 + len(units) + len(currencies))
            lines.append([*head, *keys, *cells, *blank])
    return "".join(",".join(map(_cell, line)) + "\r\n" for line in lines)


def _whole(report: Report) -> ReportGroup:
    """All that a report adds up, as one group."""
    return ReportGroup(
        key={},
        cost=report.total_cost,
        record_count=report.record_count,
        usage=report.usage,
        share=Decimal(1) if report.total_cost else None,
        unconverted=report.unconverted,
        previous_cost=None if report.previous is None else report.previous.total_cost,
        change=None if report.previous is None else report.previous.change,
        change_ratio=None if report.previous is None else report.previous.change_ratio,
    )


def _numbers(
    report: Report, group: ReportGroup, units: Sequence[str], currencies: Sequence[str]
) -> list[str | None]:
    unconverted = {cost.currency: cost.cost for cost in group.unconverted}
    return [
        report.currency,
        _number(group.cost),
        str(group.record_count),
        _number(group.share),
        _number(group.previous_cost),
        _number(group.change),
        _number(group.change_ratio),
        *(_number(group.usage.get(unit)) for unit in units),
        *(_number(unconverted.get(currency)) for currency in currencies),
    ]


def _names(amounts: Iterable[dict[str, Decimal]]) -> list[str]:
    return sorted({name for one in amounts for name in one})


def _number(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")


def _text(value: str | None) -> str | None:
    """`value`, marked as text where a spreadsheet would take it for a formula."""
    return None if value is None else _FORMULA.sub(r"\1'", value)


def _cell(value: str | None) -> str:
    """As RFC 4180 has it. Python's own writer makes no difference between None and nothing."""
    if value is None:
        return ""
    if value and _QUOTED.search(value) is None:
        return value
    doubled = value.replace('"', '""')
    return f'"{doubled}"'
