"""What the costs of a report are grouped by: names, the columns behind them, and groups' keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fiscus.costs.port import TAG_PREFIX, CostSum
from fiscus.costs.report_model import Granularity, ReportRequest, ReportType
from fiscus.errors import ValidationError

_COLUMNS: Final = {
    "resource_type": ("resource_type",),
    "service_name": ("service_name",),
    "region": ("region",),
    "scope": ("attributed_to_type", "attributed_to_id"),
    "project": ("project_id",),
    "user": ("user_id",),
    "feature": ("feature_id",),
}
_OTHER_NAMES: Final = {
    "service": "service_name",
    "project_id": "project",
    "user_id": "user",
    "feature_id": "feature",
}
_FIRST: Final = {
    ReportType.BY_RESOURCE: "resource_type",
    ReportType.BY_SERVICE: "service_name",
    ReportType.BY_USER: "user",
    ReportType.BY_FEATURE: "feature",
}
DETAILED: Final = ("resource_type", "service_name", "user", "feature")
"""What a detailed report has a section for each of."""
TIMES: Final = frozenset(Granularity)
"""The names that are kinds of periods."""

GroupKey = tuple[str | int | None, ...]
"""A group's values; of a period its place in the range, so that ranges can be compared."""


def dimensions_of(request: ReportRequest) -> tuple[str, ...]:
    """The names to group by, in order, each once."""
    names: list[str] = []
    if request.report_type is ReportType.BY_TIME_PERIOD:
        names.append(request.granularity.value)
    elif request.report_type in _FIRST:
        names.append(_FIRST[request.report_type])
    for index, given in enumerate(request.group_by):
        name = _OTHER_NAMES.get(given, given)
        is_tag = name.startswith(TAG_PREFIX) and name != TAG_PREFIX
        if name not in _COLUMNS and name not in TIMES and not is_tag:
            raise ValidationError(
                f"group_by[{index}] is {given!r}, and costs are not grouped by that",
                field=f"group_by[{index}]",
                suggested_action=f"Use {', '.join((*_COLUMNS, *Granularity))} or tag:<key>.",
            )
        names.append(name)
    dimensions = tuple(dict.fromkeys(names))
    if sum(name in TIMES for name in dimensions) > 1:
        raise ValidationError(
            "group_by names more than one kind of period",
            field="group_by",
            suggested_action="Group by one of hour, day, week and month.",
        )
    return dimensions


def columns_of(name: str) -> tuple[str, ...]:
    """What a store sums by to group by `name`; periods are no column."""
    return () if name in TIMES else _COLUMNS.get(name, (name,))


def reader_of(name: str, columns: Sequence[str]) -> Callable[[CostSum], str | int | None]:
    """How to read a dimension's value off a sum."""
    if name in TIMES:
        return lambda one: one.period
    first, *rest = (columns.index(column) for column in columns_of(name))
    if not rest:
        return lambda one: one.key[first]
    return lambda one: f"{one.key[first]}:{one.key[rest[0]]}"


def sortable(key: GroupKey) -> list[tuple[bool, str]]:
    """`key` in an order that holds null too."""
    return [(value is None, "" if value is None else str(value)) for value in key]
