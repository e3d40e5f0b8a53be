"""A chart of admitted and denied requests over time, in characters.

Counted while a trace streams by, without knowing how long it will be: in up to `MAX_SLOTS` slots
of time, which are joined to wider ones whenever the trace outgrows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from rich.text import Text

from fiscus.cli.marks import BLOCKS, Marks
from fiscus.clock import from_us

MAX_SLOTS: Final = 2_400
ROWS: Final = 10
MAX_COLUMNS: Final = 80

_SECOND: Final = 1_000_000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR

_SLOTS_US: Final = (
    1, 10, 100, 1_000, 10_000, 100_000, _SECOND, 5 * _SECOND, 15 * _SECOND, _MINUTE, 5 * _MINUTE,
    15 * _MINUTE, _HOUR, 3 * _HOUR, 12 * _HOUR, _DAY, 7 * _DAY, 28 * _DAY, 364 * _DAY,
)  # fmt: skip
"""Widths of slots: each divides the next, so that joining is exact."""

_COLUMNS_US: Final = (
    *(unit * step for unit in (1, 10, 100, 1_000, 10_000, 100_000) for step in (1, 2, 5)),
    *(_SECOND * step for step in (1, 2, 3, 5, 10, 15, 20, 30)),
    *(_MINUTE * step for step in (1, 2, 3, 5, 10, 15, 20, 30)),
    *(_HOUR * step for step in (1, 2, 3, 4, 6, 8, 12)),
    *(_DAY * step for step in (1, 2, 3, 4, 7, 14, 28, 56, 91, 182, 364)),
)
"""Widths that a column may have: round ones."""


class Slot(NamedTuple):
    admitted: int
    denied: int


class Timeline:
    """Requests admitted and denied over time."""

    def __init__(self) -> None:
        self._step = 0
        self._slots: dict[int, list[int]] = {}

    def add(self, at_us: int, admitted: int, denied: int) -> None:
        index = at_us // _SLOTS_US[self._step]
        slot = self._slots.get(index)
        if slot is None:
            slot = self._slots[index] = [0, 0]
            if len(self._slots) > 1:
                self._widen()
                slot = self._slots[at_us // _SLOTS_US[self._step]]
        slot[0] += admitted
        slot[1] += denied

    def columns(self, most: int) -> tuple[int, int, list[Slot]]:
        """The first column's begin and the columns' width in microseconds, and the columns."""
        slot_us = _SLOTS_US[self._step]
        first, last = min(self._slots), max(self._slots)
        for width_us in _COLUMNS_US:
            if width_us % slot_us:
                continue
            begin = first * slot_us // width_us
            count = last * slot_us // width_us - begin + 1
            if count <= most:
                break
        else:
            width_us = slot_us * -(-(last - first + 1) // (most - 1))
            begin = first * slot_us // width_us
            count = last * slot_us // width_us - begin + 1
        found = [[0, 0] for _ in range(count)]
        for index, (admitted, denied) in self._slots.items():
            column = found[index * slot_us // width_us - begin]
            column[0] += admitted
            column[1] += denied
        return begin * width_us, width_us, [Slot(*one) for one in found]

    def _widen(self) -> None:
        while self._step < len(_SLOTS_US) - 1:
            if max(self._slots) - min(self._slots) < MAX_SLOTS:
                return
            factor = _SLOTS_US[self._step + 1] // _SLOTS_US[self._step]
            wider: dict[int, list[int]] = {}
            for index, (admitted, denied) in self._slots.items():
                slot = wider.setdefault(index // factor, [0, 0])
                slot[0] += admitted
                slot[1] += denied
            self._slots = wider
            self._step += 1


def chart(
    timeline: Timeline, width: int, *, zone: ZoneInfo | None, marks: Marks = BLOCKS
) -> Iterator[Text]:
    """The chart's lines, at most `width` wide. `zone`: of the axis; None: seconds."""
    _, _, rough = timeline.columns(MAX_COLUMNS)
    label_width = max(3, len(f"{_ceiling(max(sum(one) for one in rough)):,}") + 3)
    most = max(10, min(MAX_COLUMNS, width - label_width - 2))
    begin_us, width_us, columns = timeline.columns(most)
    top = _ceiling(max(sum(one) for one in columns))
    bars = [_bar(one, top) for one in columns]
    # few columns are drawn wider
    thick = max(1, most // len(columns))
    yield Text.assemble(
        ("Requests over time", "bold"),
        f", {_length(width_us)} a column   ",
        (marks.admitted * 2, "green"),
        " admitted   ",
        (marks.denied * 2, "red"),
        " denied",
    )
    for row in range(ROWS, 0, -1):
        value, rest = divmod(top * row, ROWS)
        label = f"{value:,}" if row in (ROWS, ROWS // 2) and not rest else ""
        line = Text(f"{label:>{label_width - 2}} {marks.axis}")
        for bar in bars:
            if row <= bar.admitted:
                line.append(marks.admitted * thick, "green")
            elif row <= bar.admitted + bar.denied:
                line.append(marks.denied * thick, "red")
            else:
                line.append(" " * thick)
        line.rstrip()
        yield line
    labels = _labels(begin_us, width_us, len(columns), thick, zone)
    line, text = [marks.line] * (len(columns) * thick), ""
    for at, label in labels:
        line[at] = marks.tick
        text = f"{text:<{at}}{label}"
    yield Text(f"{0:>{label_width - 2}} {marks.corner}{''.join(line)}")
    yield Text(" " * label_width + text)


def _bar(slot: Slot, top: int) -> Slot:
    """Rows of a column. What is not nothing is seen: one row at least."""
    rows = _rows(slot.admitted + slot.denied, top)
    denied = min(rows, _rows(slot.denied, top))
    admitted = rows - denied
    if slot.admitted and not admitted:
        # makes room for the smaller part
        admitted, denied = 1, max(denied - 1, 1)
    return Slot(admitted, denied)


def _rows(count: int, top: int) -> int:
    return max(1, round(count * ROWS / top)) if count else 0


def _ceiling(most: int) -> int:
    """A round number that is no less."""
    unit = 1
    while True:
        for step in (1, 2, 3, 4, 5, 6, 8):
            if most <= step * unit:
                return step * unit
        unit *= 10


def _labels(
    begin_us: int, width_us: int, columns: int, thick: int, zone: ZoneInfo | None
) -> Iterator[tuple[int, str]]:
    """Times of columns and where they begin, as many as fit side by side."""
    free = 0
    for column in range(columns):
        at = column * thick
        if at < free:
            continue
        label = _time(begin_us + column * width_us, width_us, columns * width_us, zone)
        if at + len(label) > columns * thick:
            return
        yield at, label
        free = at + len(label) + 3


def _time(at_us: int, width_us: int, span_us: int, zone: ZoneInfo | None) -> str:
    if zone is None:
        return f"{seconds_text(at_us)} s"
    if width_us >= _DAY:  # columns are days of UTC
        return f"{from_us(at_us):%Y-%m-%d}"
    local = from_us(at_us).astimezone(zone)
    clock = f"{local:%H:%M}" if width_us >= _MINUTE else f"{local:%H:%M:%S}"
    if width_us < _SECOND:
        clock += f".{local.microsecond:06}".rstrip("0").rstrip(".")
    return clock if span_us <= _DAY else f"{local:%d %b} {clock}"


def seconds_text(us: int) -> str:
    """Microseconds as seconds, with the digits it takes."""
    whole, part = divmod(us, _SECOND)
    return f"{whole}.{part:06}".rstrip("0").rstrip(".") if part else str(whole)


def _length(us: int) -> str:
    for unit_us, name in (
        (_DAY, "d"),
        (_HOUR, "h"),
        (_MINUTE, "min"),
        (_SECOND, "s"),
        (1000, "ms"),
    ):
        if us % unit_us == 0:
            return f"{us // unit_us} {name}"
    return f"{us} µs"
