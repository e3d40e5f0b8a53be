"""Rollups: which quarter hour and which series a record is summed under."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fiscus.costs.model import ChargeCategory, CostRecord
from fiscus.costs.rollups import (
    RollupSum,
    add_up,
    bucket_of,
    quarter_hours_within,
    series_of,
    sum_of,
)
from fiscus.scopes import ScopeType

RECORD = CostRecord(
    record_id="r",
    tenant_id="t",
    timestamp=datetime(2026, 3, 10, 12, 7, tzinfo=UTC),
    recorded_at=datetime(2026, 3, 10, 12, 7, tzinfo=UTC),
    resource_type="llm",
    cost_amount=Decimal("1.5"),
    currency="USD",
    charge_category=ChargeCategory.USAGE,
    attributed_to_type=ScopeType.PROJECT,
    attributed_to_id="p",
    project_id="p",
)
moments = st.datetimes(
    datetime.fromisoformat("1990-01-01"),
    datetime.fromisoformat("2100-01-01"),
    timezones=st.sampled_from([UTC, ZoneInfo("Asia/Kathmandu")]),
)
QUARTER = timedelta(minutes=15)


@given(moments)
def test_every_moment_is_in_its_own_quarter_hour(moment: datetime) -> None:
    bucket = bucket_of(moment)
    assert bucket.tzinfo is UTC
    assert bucket <= moment < bucket + QUARTER
    assert (bucket.minute % 15, bucket.second, bucket.microsecond) == (0, 0, 0)
    assert bucket_of(bucket) == bucket


@given(moments, st.timedeltas(timedelta(0), timedelta(hours=3)))
def test_whole_quarter_hours_are_the_largest_stretch_within(
    start: datetime, length: timedelta
) -> None:
    end = start + length
    found = quarter_hours_within(start, end)
    if found is None:
        first = bucket_of(start) if bucket_of(start) == start else bucket_of(start) + QUARTER
        assert first + QUARTER > end
        return
    first, last = found
    assert start <= first < last <= end
    assert first - start < QUARTER
    assert end - last < QUARTER


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": "t2"},
        {"resource_type": "gpu"},
        {"service_name": "s"},
        {"region": "r"},
        {"project_id": "q"},
        {"user_id": "u"},
        {"feature_id": "f"},
        {"attributed_to_id": "q"},
        {"attributed_to_type": ScopeType.USER},
        {"charge_category": ChargeCategory.TAX},
        {"currency": "EUR"},
        {"usage_unit": "tokens"},
        {"tags": {"team": "red"}},
    ],
)
def test_each_dimension_makes_a_series_of_its_own(change: dict[str, Any]) -> None:
    other = replace(RECORD, **change)
    assert series_of(other, ["team"]).series_id != series_of(RECORD, ["team"]).series_id


def test_the_id_of_a_series_is_for_good() -> None:
    """Stored rollups are found by it; a record reads the same whether it was stored or not."""
    made = series_of(RECORD, ["team"])
    assert made.series_id == "8a08cd6e066f8a9e4993c7d0c44ca1ca"
    assert [type(one) for one in made[:-1] if one is not None] == [str] * 8


def test_what_is_no_dimension_does_not() -> None:
    other = replace(
        RECORD,
        record_id="x",
        cost_amount=Decimal(7),
        operation_id="o",
        tags={"undeclared": "x"},
        usage={"a": 1},
    )
    assert series_of(other, ["team"]) == series_of(RECORD, ["team"])
    assert series_of(RECORD, ["b", "a"]) == series_of(RECORD, ["a", "b"])
    assert series_of(RECORD, ["a"]) != series_of(RECORD, [])


def test_a_missing_tag_is_not_an_empty_one_nor_part_of_its_neighbour() -> None:
    ids = {
        series_of(replace(RECORD, tags=tags), ["a", "b"]).series_id
        for tags in ({}, {"a": ""}, {"b": ""}, {"a": "', 'b"}, {"a": "None"})
    }
    assert len(ids) == 5


def test_sums_add_up_exactly() -> None:
    total = RollupSum(Decimal(0), Decimal(0), 0)
    for digit in range(10):
        record = replace(RECORD, cost_amount=Decimal(f"{10**25}.00000000000{digit}"))
        total = total.plus(sum_of(record))
    assert total == RollupSum(Decimal("100000000000000000000000000.000000000045"), Decimal(0), 10)


records = st.builds(
    lambda tenant, project, team, moment, amount, quantity: replace(
        RECORD,
        tenant_id=tenant,
        project_id=project,
        tags={} if team is None else {"team": team},
        timestamp=moment,
        cost_amount=amount,
        usage_quantity=quantity,
    ),
    st.sampled_from(["t", "u"]),
    st.sampled_from(["p", "q"]),
    st.sampled_from([None, "red"]),
    st.sampled_from([RECORD.timestamp + QUARTER * n / 4 for n in range(-2, 9)])
    | st.just(RECORD.timestamp.astimezone(ZoneInfo("Asia/Kathmandu"))),
    st.decimals(-1000, 1000, places=12),
    st.none() | st.decimals(0, 1000, places=3),
)


@given(st.lists(records, max_size=30))
def test_a_group_adds_to_each_quarter_hour_what_its_records_come_to(
    group: list[CostRecord],
) -> None:
    declared = {"t": ["team"], "u": list[str]()}
    series, sums = add_up(group, lambda tenant_id: declared[tenant_id])
    expected: dict[Any, list[CostRecord]] = {}
    for record in group:
        one = series_of(record, declared[record.tenant_id])
        assert series[one.series_id] == one
        key = (record.tenant_id, one.series_id, bucket_of(record.timestamp))
        expected.setdefault(key, []).append(record)
    assert sums == {
        key: RollupSum(
            sum((one.cost_amount for one in summed), Decimal(0)),
            sum((one.usage_quantity or Decimal(0) for one in summed), Decimal(0)),
            len(summed),
        )
        for key, summed in expected.items()
    }
    assert series.keys() == {series_id for _, series_id, _ in sums}
