"""Reports as CSV: every figure is in it, and it is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.costs.csv import report_csv
from fiscus.costs.model import CostRecord
from fiscus.money import EXACT
from tests.unit.costs_for_reports import (
    NOW,
    cost,
    report,
)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_a_header_and_one_line_per_group() -> None:
    found = report(
        cost("0.000000000001", user_id="ann", usage_quantity=Decimal(1000), usage_unit="tokens"),
        cost("1e25", region="eu"),
        cost(7, user_id="ann", currency="XTS"),
        report_type="by_user",
        group_by=["region"],
    )
    text = report_csv(found)
    assert text.split("\r\n") == [
        (
            "user,region,currency,cost,record_count,share,previous_cost,change,change_ratio,"
            "usage:tokens,unconverted:XTS"
        ),
        ",eu,USD,10000000000000000000000000,1,1,,,,,",
        "ann,,USD,0.000000000001,2,0,,,,1000,7",
        "",
    ]


def test_csv_of_a_summary_is_one_line() -> None:
    (row,) = rows_of(report_csv(report(cost("1.50"), compare_previous=True)))
    assert (row["cost"], row["record_count"], row["share"]) == ("1.5", "1", "1")
    assert (row["previous_cost"], row["change"], row["change_ratio"]) == ("0", "1.5", "")


def test_csv_says_what_the_limit_left_out() -> None:
    costs = [cost(n, user_id=f"u{n}") for n in (1, 2, 3)]
    rows = rows_of(report_csv(report(*costs, report_type="by_user", limit=1)))
    assert [(row["user"], row["cost"], row["record_count"]) for row in rows] == [
        ("u3", "3", "1"),
        ("(other)", "3", "2"),
    ]


@given(
    costs=st.lists(
        st.builds(
            cost,
            st.integers(-(10**15), 10**15).map(lambda n: Decimal(n).scaleb(-12)),
            at=st.sampled_from([NOW, NOW - timedelta(days=28)]),
            user_id=st.sampled_from([None, "ann", "bob", "cid"]),
            region=st.sampled_from([None, "eu", "us"]),
            currency=st.sampled_from(["USD", "GBP", "XTS", "XAU"]),
            usage_quantity=st.integers(0, 10**9).map(lambda n: Decimal(n).scaleb(-6)),
            usage_unit=st.sampled_from([None, "tokens", "seconds"]),
        ),
        min_size=1,
        max_size=12,
    ),
    group_by=st.sampled_from([["user"], ["user", "region"], ["day"], ["region", "week"]]),
    limit=st.integers(1, 4),
)
def test_groups_and_what_the_limit_left_out_add_up_in_every_column(
    costs: list[CostRecord], group_by: list[str], limit: int
) -> None:
    wanted = {"group_by": group_by, "limit": limit, "compare_previous": True}
    found = report(*costs, report_type="detailed", **wanted)
    whole = report(*costs, report_type="summary", compare_previous=True)
    assert whole.previous is not None
    total = columns_of(rows_of(report_csv(whole))[0])
    for section in found.all_sections():
        one = (section.other_cost, section.other_record_count, section.other_previous_cost)
        groups = [(each.cost, each.record_count, each.previous_cost) for each in section.groups]
        assert list(map(sum, zip(one, *groups, strict=True))) == [
            whole.total_cost,
            whole.record_count,
            whole.previous.total_cost,
        ]
        parts = (section.other_usage, *(each.usage for each in section.groups))
        assert added_up(parts) == whole.usage
        left = (section.other_unconverted, *(each.unconverted for each in section.groups))
        apart = ({each.currency: each.cost for each in some} for some in left)
        assert added_up(apart) == {each.currency: each.cost for each in whole.unconverted}
    rows = rows_of(report_csv(found))
    for name in {row["section"] for row in rows}:
        assert added_up(columns_of(row) for row in rows if row["section"] == name) == total


def columns_of(row: dict[str, str]) -> dict[str, Decimal]:
    """The columns of a line of CSV that are amounts; one that was not given is nothing."""
    amounts = ("cost", "record_count", "previous_cost", "change")
    return {
        name: Decimal(value or 0)
        for name, value in row.items()
        if name in amounts or name.startswith(("usage:", "unconverted:"))
    }


def added_up(parts: Iterable[dict[str, Decimal]]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = EXACT.add(total.get(name, Decimal()), amount)
    return total


def test_csv_of_a_detailed_report_names_the_section() -> None:
    rows = rows_of(report_csv(report(cost(1, user_id="ann"), report_type="detailed")))
    assert [(row["section"], row["user"], row["resource_type"]) for row in rows] == [
        ("", "", ""),
        ("resource_type", "", "llm"),
        ("service_name", "", ""),
        ("user", "ann", ""),
        ("feature", "", ""),
    ]


def test_csv_of_a_detailed_report_has_what_it_is_grouped_by_once() -> None:
    found = report(cost(2, user_id="ann"), report_type="detailed", group_by=["user"])
    rows = rows_of(report_csv(found))
    assert [(row["section"], row["user"], row["cost"]) for row in rows] == [
        ("user", "ann", "2"),
        ("resource_type", "", "2"),
        ("service_name", "", "2"),
        ("feature", "", "2"),
    ]


def test_csv_tells_an_empty_value_from_one_that_was_not_given() -> None:
    found = report(
        cost(1), cost(2, tags={"team": ""}), group_by=["tag:team"], report_type="detailed"
    )
    lines = report_csv(found).split("\r\n")
    assert [line[: line.index("USD")] for line in lines[1:3]] == [
        'tag:team,"",,,,,',
        "tag:team,,,,,,",
    ]
    assert report_csv(report(cost(1), report_type="detailed")).split("\r\n")[1][0] == ","


@pytest.mark.parametrize(
    "value", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\N{FULLWIDTH EQUALS SIGN}1"]
)
def test_csv_text_that_looks_like_a_formula_is_marked_as_text(value: str) -> None:
    found = report(cost("-1", service_name=value), report_type="by_service")
    (row,) = rows_of(report_csv(found))
    assert row["service_name"] == f"'{value}"
    assert row["cost"] == "-1"


@pytest.mark.parametrize("value", ["a;=1+1;", "a; @SUM(A1);", ";;+1;", "a\n=1;", "a\r-1;", "\n=1"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_csv_holds_no_formula_for_a_spreadsheet_that_separates_cells_by_semicolons(
    value: str, delimiter: str
) -> None:
    found = report(
        cost(1, service_name=value, resource_type="llm"), group_by=["resource_type", "service"]
    )
    lines = csv.reader(io.StringIO(report_csv(found), newline=""), delimiter=delimiter)
    assert not [cell for line in lines for cell in line if cell.lstrip().startswith(tuple("=+-@"))]


@given(st.text(max_size=20).filter(lambda text: "\x00" not in text))
def test_csv_reads_back_whatever_the_text(value: str) -> None:
    found = report(cost(1, service_name=value), cost(2, tags={"team": "x"}), group_by=["service"])
    rows = rows_of(report_csv(found))
    assert [row["service_name"].replace("'", "") for row in rows][1:] == [value.replace("'", "")]
