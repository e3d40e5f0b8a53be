"""Tables in terminals of any width."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from fiscus.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

ID = "01890000-0000-7000-8000-000000000000"
NUMBERS = ("1,000,000", "12 (1.2 %)", "999,988")


@pytest.fixture(params=[30, 60, 72, 75, 80, 100, 200])
def width(request: pytest.FixtureRequest, in_terminal: Callable[[int], None]) -> int:
    in_terminal(request.param)
    return request.param


def quota(*texts: str) -> Table:
    columns = ["allocated", "used", "left"]
    table = terminal.new_table("quota id", "resource", "period", *columns, right=columns)
    table.add_row(ID, *texts, *NUMBERS)
    return table


def lines_of(shown: str) -> Sequence[str]:
    return [line for line in shown.splitlines() if line.strip()]


def test_ids_and_numbers_are_whole_in_any_terminal(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    table = quota("gpu_hours", "2026-11-01 to 2026-12-01")
    terminal.show_table(table, stack=("quota id", "resource", "period"))
    (row,) = [line for line in lines_of(capsys.readouterr().out) if ID in line]
    for number in NUMBERS:
        assert re.search(rf" {re.escape(number)}( |$)", row)


def test_a_long_text_is_folded_where_ids_and_numbers_have_room(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    table = quota("gpu_hours " * 30, "2026-11-01 to 2026-12-01")
    terminal.show_table(table, stack=("quota id", "resource", "period"))
    longest = max(map(len, lines_of(capsys.readouterr().out)))
    assert (longest <= width) == (width >= 75)


def test_what_only_the_terminal_wraps_ends_where_its_text_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [("address", "http://127.0.0.1:3472"), ("data", "a" * 300), ("key", "[bold]fsk[/]")]
    terminal.show_whole(terminal.facts(rows, title="Fiscus"))
    title, address, data, key = lines_of(capsys.readouterr().out)
    assert (title, address[-5:], data[-301:], key[-4:]) == (
        "Fiscus",
        ":3472",
        f" {'a' * 300}",
        " fsk",
    )
