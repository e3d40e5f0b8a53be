"""Reports are exact, comparable and in the caller's currency; a wrong request names its field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.costs.fx import EcbRates
from fiscus.costs.model import ChargeCategory
from fiscus.costs.report_model import ReportRequest, ReportSource
from fiscus.costs.report_time import (
    previous_range,
    report_range,
)
from fiscus.costs.reports import build_report, rounded_parts
from fiscus.errors import ValidationError
from fiscus.money import EXACT, round_half_even
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert
from fiscus.wire.encoding import encode
from tests.unit.costs_for_reports import (
    BERLIN,
    NOW,
    TENANT,
    RecordList,
    cost,
    costs_of,
    report,
    utc,
)


def test_the_default_is_the_present_month_in_the_zone_up_to_this_quarter_hour() -> None:
    found = report(timezone=BERLIN, now=utc(2026, 3, 31, 22, 7))
    assert found.start_date == utc(2026, 3, 31, 22)  # already April in Berlin
    assert found.end_date == utc(2026, 3, 31, 22, 15)
    assert found.source is ReportSource.ROLLUPS


def test_the_start_defaults_to_the_month_of_an_end_that_is_given() -> None:
    found = report(end_date=utc(2026, 2, 1))
    assert (found.start_date, found.end_date) == (utc(2026, 1, 1), utc(2026, 2, 1))


def test_a_range_holds_its_start_and_not_its_end() -> None:
    start, end = utc(2026, 3, 1), utc(2026, 3, 2)
    costs = [cost(1, start), cost(2, end - timedelta(microseconds=1)), cost(4, end)]
    found = report(*costs, start_date=start, end_date=end)
    assert (found.total_cost, found.record_count) == (3, 2)


def test_a_summary_has_totals_and_no_groups() -> None:
    found = report(
        cost("0.1", usage_quantity=Decimal(5), usage_unit="tokens"),
        cost("0.2", usage_quantity=Decimal(7), usage_unit="tokens"),
        cost("0.3", usage_quantity=Decimal(2), usage_unit="seconds"),
        cost("0.4", usage_quantity=Decimal(9)),
        cost("0.5"),
    )
    assert found.total_cost == Decimal("1.5")
    assert found.usage == {"seconds": 2, "tokens": 12, "unspecified": 9}
    assert (found.groups, found.group_count, found.truncated) == ([], 0, False)


def test_what_a_caller_does_to_the_lists_of_a_report_is_in_no_other() -> None:
    first = report(cost(1))
    first.groups.append(report(cost(1), report_type="by_user").groups[0])
    first.group_by.append("user")
    second = report(cost(1))
    assert (second.groups, second.group_by) == ([], [])


def test_a_report_without_costs_is_zero() -> None:
    found = report(report_type="by_user", compare_previous=True)
    assert (found.total_cost, found.record_count, found.groups) == (0, 0, [])
    assert found.previous is not None
    assert (found.previous.change, found.previous.change_ratio) == (0, None)


@pytest.mark.parametrize(
    ("report_type", "name", "value"),
    [
        ("by_resource", "resource_type", "llm"),
        ("by_service", "service_name", "openai"),
        ("by_user", "user", "ann"),
        ("by_feature", "feature", "chat"),
        ("by_time_period", "day", "2026-03-10"),
    ],
)
def test_each_report_type_groups_by_what_it_is_named_for(
    report_type: str, name: str, value: str
) -> None:
    one = cost(2, service_name="openai", user_id="ann", feature_id="chat")
    found = report(one, start_date=utc(2026, 3, 10), report_type=report_type)
    assert (found.group_by, costs_of(found)) == ([name], {(value,): Decimal(2)})


def test_user_groups_go_by_the_user_and_scope_groups_by_the_winner() -> None:
    costs = [
        cost(1, project_id="search", user_id="ann"),
        cost(2, user_id="ann", feature_id="chat"),
        cost(4, project_id="search"),
        cost(8),
    ]
    assert costs_of(report(*costs, group_by=["user"])) == {("ann",): 3, (None,): 12}
    assert costs_of(report(*costs, group_by=["project"])) == {("search",): 5, (None,): 10}
    assert costs_of(report(*costs, group_by=["scope"])) == {
        ("user:ann",): 1,
        ("feature:chat",): 2,
        ("project:search",): 4,
        ("tenant:acme",): 8,
    }


def test_a_wrong_dimension_is_told_what_there_is_in_a_fixed_order() -> None:
    with pytest.raises(ValidationError) as told:
        report(group_by=["nope"])
    assert told.value.suggested_action == (
        "Use resource_type, service_name, region, scope, project, user, feature, "
        "hour, day, week, month or tag:<key>."
    )


def test_names_of_filters_name_dimensions_too() -> None:
    found = report(group_by=["service", "project_id", "user_id"])
    assert found.group_by == ["service_name", "project", "user"]
    assert report(report_type="by_feature", group_by=["feature_id"]).group_by == ["feature"]


def test_dimensions_are_combined_in_the_order_asked_for() -> None:
    costs = [cost(1, user_id="ann", region="eu"), cost(2, user_id="bob", region="eu")]
    found = report(*costs, report_type="by_user", group_by=["region", "tag:team"])
    assert costs_of(found) == {("bob", "eu", None): 2, ("ann", "eu", None): 1}


def test_the_largest_group_comes_first_and_equal_ones_by_name() -> None:
    costs = [cost(1, user_id="b"), cost(3, user_id="c"), cost(1, user_id="a"), cost(1)]
    keys = list(costs_of(report(*costs, report_type="by_user")))
    assert keys == [("c",), ("a",), ("b",), (None,)]


def test_groups_left_out_by_the_limit_are_added_up() -> None:
    costs = [cost(n, user_id=f"u{n}") for n in range(1, 6)]
    found = report(*costs, report_type="by_user", limit=2)
    assert costs_of(found) == {("u5",): 5, ("u4",): 4}
    assert (found.truncated, found.group_count) == (True, 5)
    assert (found.other_cost, found.other_record_count) == (6, 3)


def test_shares_are_of_the_total() -> None:
    found = report(cost(1, user_id="a"), cost(3, user_id="b"), report_type="by_user")
    assert [group.share for group in found.groups] == [Decimal("0.75"), Decimal("0.25")]
    nothing = report(
        cost(1, user_id="a"),
        cost(-1, user_id="b", charge_category=ChargeCategory.CREDIT),
        report_type="by_user",
    )
    assert [group.share for group in nothing.groups] == [None, None]


def test_a_detailed_report_has_a_section_for_each_kind_of_owner() -> None:
    costs = [
        cost(1, user_id="ann", service_name="openai"),
        cost(2, user_id="bob", feature_id="chat", resource_type="gpu"),
    ]
    found = report(*costs, report_type="detailed", group_by=["region"])
    assert costs_of(found) == {(None,): 3}
    sections = {
        tuple(one.group_by): {group.key[one.group_by[0]]: group.cost for group in one.groups}
        for one in found.sections
    }
    assert sections == {
        ("resource_type",): {"llm": 1, "gpu": 2},
        ("service_name",): {"openai": 1, None: 2},
        ("user",): {"ann": 1, "bob": 2},
        ("feature",): {"chat": 2, None: 1},
    }


# ---------------------------------------------------------------- currencies


def test_costs_are_converted_to_the_report_currency() -> None:
    costs = [cost(1), cost(10, currency="EUR"), cost(100, currency="GBP")]
    assert report(*costs).total_cost == Decimal(142)
    in_euro = round_half_even(EXACT.divide(Decimal(12), Decimal("1.1")))
    assert report(*costs[:2], currency="EUR").total_cost == in_euro


def test_each_cost_is_converted_at_the_rate_of_its_own_day() -> None:
    friday, monday = utc(2014, 3, 28, 23, 59), utc(2014, 3, 31)
    costs = [cost(100, friday, currency="EUR"), cost(100, monday, currency="EUR")]
    request = convert({"start_date": utc(2014, 3, 1), "end_date": utc(2014, 4, 1)}, ReportRequest)
    found = build_report(request, RecordList(costs), EcbRates(), TenantSettings(), TENANT, NOW)
    assert found.total_cost == Decimal("137.59") + Decimal("137.88")


def test_costs_without_a_rate_are_shown_apart() -> None:
    costs = [cost(1, user_id="a"), cost(5, user_id="b", currency="XTS")]
    found = report(*costs, report_type="by_user")
    assert (found.total_cost, found.record_count) == (1, 2)
    assert [(one.currency, one.cost) for one in found.unconverted] == [("XTS", 5)]
    assert costs_of(found) == {("a",): 1, ("b",): 0}
    assert found.groups[1].unconverted == found.unconverted


def test_rounded_groups_add_up_to_the_rounded_total() -> None:
    costs = [cost("0.000000000001", user_id=f"u{n}", currency="GBP") for n in range(7)]
    found = report(*costs, report_type="by_user")
    assert found.total_cost == Decimal("0.000000000009")  # 9.1
    assert sum(group.cost for group in found.groups) == found.total_cost
    assert {group.cost for group in found.groups} == {
        Decimal("0.000000000001"),
        Decimal("0.000000000002"),
    }


@given(
    st.dictionaries(
        st.tuples(st.text(max_size=2) | st.none()),
        st.integers(-(10**30), 10**30).map(lambda n: Decimal(n).scaleb(-24, context=EXACT)),
        min_size=1,
        max_size=20,
    )
)
def test_parts_are_rounded_by_less_than_a_last_digit_and_add_up(
    parts: dict[tuple[str | None], Decimal],
) -> None:
    exact = sum((Fraction(part) for part in parts.values()), Fraction())
    total = round_half_even(EXACT.divide(Decimal(exact.numerator), Decimal(exact.denominator)))
    rounded = rounded_parts(dict(parts), total)
    assert sum(map(Fraction, rounded.values())) == Fraction(total)
    for key, part in parts.items():
        assert abs(Fraction(rounded[key]) - Fraction(part)) < Fraction(1, 10**12)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"group_by": ["colour"]}, "group_by[0]"),
        ({"group_by": ["user", "tag:"]}, "group_by[1]"),
        ({"group_by": ["attributed_to_id"]}, "group_by[0]"),
        ({"group_by": ["a", "b", "c", "d"]}, "group_by"),
        ({"group_by": ["day", "month"]}, "group_by"),
        ({"report_type": "by_time_period", "group_by": ["hour"]}, "group_by"),
        ({"report_type": "by_magic"}, "report_type"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../etc/passwd"}, "timezone"),
        ({"currency": "usd"}, "currency"),
        ({"start_date": NOW, "end_date": NOW}, "end_date"),
        ({"start_date": utc(1969, 1, 1)}, "start_date"),
        ({"start_date": utc(9998, 1, 1), "end_date": utc(9998, 1, 2)}, "end_date"),
        ({"start_date": utc(2000, 1, 1)}, "start_date"),
        ({"start_date": NOW.replace(tzinfo=None)}, "start_date"),
        ({"start_date": utc(2024, 1, 1), "group_by": ["hour"]}, "granularity"),
        ({"format": "parquet"}, "format"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"user_id": "ann@example.com"}, "user_id"),
        ({"colour": "red"}, "colour"),
        ({"resource_type": "a\x00"}, "resource_type"),
        ({"group_by": ["tag:\x00"]}, "group_by[0]"),
        ({"tags": {"team": "\x00"}}, "tags.team"),
        ({"tags": {"\x00": "red"}}, "tags"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        report(**wanted)
    assert caught.value.field == field


def test_the_first_and_last_days_there_are_do_not_break_a_report() -> None:
    zone = "Pacific/Kiritimati"
    found = report_range(utc(1970, 1, 1), utc(1970, 1, 2), zone, NOW)
    assert previous_range(found, zone).end == found.start
    east = timezone(timedelta(hours=14))
    with pytest.raises(ValidationError):
        report_range(datetime.min.replace(tzinfo=east), None, zone, NOW)
    with pytest.raises(ValidationError):
        report_range(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), zone, NOW)
    with pytest.raises(ValidationError):
        report_range(None, datetime.min.replace(tzinfo=UTC), zone, NOW)
    with pytest.raises(ValidationError):
        report_range(None, datetime.max.replace(tzinfo=UTC), zone, NOW)


def test_json_has_the_exact_digits() -> None:
    found = report(cost("0.100000000001"), cost("12345678901234567890"))
    assert b'"total_cost":12345678901234567890.100000000001,' in encode(found)
