"""Reports as CSV (RFC 4180): exact decimals in plain notation, safe to open in a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from fiscus.costs.report_model import Report, ReportGroup, ReportSection
from fiscus.costs.reports import change_ratio
from fiscus.money import plain, ratio, subtract

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
    units = sorted(report.usage)
    currencies = [cost.currency for cost in report.unconverted]
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
            others = _left_out(report, section)
            lines.append([*head, *keys, *_numbers(report, others, units, currencies)])
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


def _left_out(report: Report, section: ReportSection) -> ReportGroup:
    """The groups that the limit left out of a section, as one."""
    cost, previous = section.other_cost, section.other_previous_cost
    return ReportGroup(
        key={},
        cost=cost,
        record_count=section.other_record_count,
        usage=section.other_usage,
        share=ratio(cost, report.total_cost) if report.total_cost else None,
        unconverted=section.other_unconverted,
        previous_cost=previous,
        change=None if previous is None else plain(subtract(cost, previous)),
        change_ratio=None if previous is None else change_ratio(cost, previous),
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
