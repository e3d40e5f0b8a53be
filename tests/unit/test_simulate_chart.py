"""The chart of `fiscus simulate`: nothing is lost however long the trace, and it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.cli.marks import ASCII
from fiscus.cli.simulate.chart import MAX_SLOTS, ROWS, Slot, Timeline, chart
from fiscus.zones import zone_of

if TYPE_CHECKING:
    from rich.text import Text

MOMENTS = st.integers(0, 7_000_000_000_000_000)
HOUR = 3_600_000_000


def filled(moments: list[tuple[int, int, int]]) -> Timeline:
    timeline = Timeline()
    for at_us, admitted, denied in moments:
        timeline.add(at_us, admitted, denied)
    return timeline


def drawn(timeline: Timeline, width: int, zone: str | None = "UTC") -> list[str]:
    lines: list[Text] = list(chart(timeline, width, zone=zone and zone_of(zone)))
    return [line.plain for line in lines]


@given(
    st.lists(st.tuples(MOMENTS, st.integers(0, 1000), st.integers(0, 1000)), min_size=1),
    st.integers(10, 80),
)
def test_columns_hold_every_request_in_its_time(
    moments: list[tuple[int, int, int]], most: int
) -> None:
    begin_us, width_us, columns = filled(moments).columns(most)
    assert len(columns) <= most
    expected = [[0, 0] for _ in columns]
    for at_us, admitted, denied in moments:
        column = expected[(at_us - begin_us) // width_us]
        column[0] += admitted
        column[1] += denied
    assert columns == [Slot(*one) for one in expected]


def test_many_moments_are_kept_in_few_slots() -> None:
    timeline = filled([(second * 1_000_000, 1, 0) for second in range(50_000)])
    assert len(timeline._slots) <= MAX_SLOTS


@given(
    st.lists(st.tuples(MOMENTS, st.integers(0, 10**9), st.integers(1, 10**9)), min_size=1),
    st.integers(30, 200),
    st.sampled_from(["UTC", "Asia/Kathmandu", None]),
)
def test_chart_is_no_wider_than_the_terminal(
    moments: list[tuple[int, int, int]], width: int, zone: str | None
) -> None:
    heading, *lines = drawn(filled(moments), width, zone)
    assert heading.startswith("Requests over time")
    assert len(lines) == ROWS + 2
    assert max(map(len, lines)) <= width


def test_a_single_denial_among_many_is_seen() -> None:
    lines = drawn(filled([(0, 10_000, 0), (HOUR, 10_000, 1)]), 80)
    assert any("░" in line for line in lines[1:])


def test_days_are_dated() -> None:
    lines = drawn(filled([(day * 24 * HOUR, 1, 1) for day in range(40)]), 80)
    assert lines[0].startswith("Requests over time, 1 d a column")
    assert lines[-1].split()[0] == "1970-01-01"


@pytest.mark.parametrize(("zone", "label"), [("UTC", "00:00"), ("Asia/Tokyo", "09:00")])
def test_hours_are_local(zone: str, label: str) -> None:
    lines = drawn(filled([(hour * HOUR, 1, 0) for hour in range(12)]), 80, zone)
    assert lines[-1].split()[0] == label


def test_chart_is_drawn_where_only_ascii_is_known() -> None:
    lines = chart(filled([(0, 3, 1), (HOUR, 2, 2)]), 80, zone=None, marks=ASCII)
    assert all(line.plain.isascii() for line in lines)
