"""Reports and counts agree with what is added up by hand, to the last digit.

Recorded through the real ledger, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fiscus.costs.model import CostRecord
from fiscus.costs.port import CostFilter
from fiscus.costs.report_model import Report, ReportSource
from fiscus.engine import Engine
from fiscus.ids import uuid7
from fiscus.paging import page_request
from tests.profile import LONG
from tests.stores.costs.desk import (
    NOON,
    RATES,
    VARIED,
    costs_by,
    declare_tags,
    record,
    records_of,
    report,
)

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
# Around Berlin's and New York's changes of 2025-10-26 and 2025-11-02, and month and year ends.
MOMENTS = [
    datetime(2025, 10, 25, 21, 59, 59, 999999, tzinfo=UTC),
    datetime(2025, 10, 25, 22, 0, tzinfo=UTC),
    datetime(2025, 10, 26, 0, 30, tzinfo=UTC),
    datetime(2025, 10, 26, 1, 30, tzinfo=UTC),
    datetime(2025, 10, 31, 23, 45, tzinfo=UTC),
    datetime(2025, 11, 1, 0, 0, tzinfo=UTC),
    datetime(2025, 11, 2, 5, 30, tzinfo=UTC),
    datetime(2025, 11, 2, 6, 30, tzinfo=UTC),
    datetime(2025, 11, 2, 6, 44, 59, tzinfo=UTC),
    datetime(2025, 11, 30, 23, 59, tzinfo=UTC),
]
DIMENSIONS = [
    "resource_type",
    "service_name",
    "region",
    "scope",
    "project",
    "user",
    "feature",
    "tag:team",
    "tag:loose",
]
optional = st.sampled_from([None, "a", "b"])


@st.composite
def costs(draw: st.DrawFn) -> dict[str, Any]:
    given = {
        "timestamp": draw(st.sampled_from(MOMENTS)),
        "cost_amount": Decimal(draw(st.integers(-(10**16), 10**16))).scaleb(-12),
        "charge_category": "adjustment",
        "currency": draw(st.sampled_from(["USD", "USD", "EUR", "GBP", "XTS"])),
        "resource_type": draw(st.sampled_from(["llm", "gpu"])),
        "tags": draw(
            st.dictionaries(st.sampled_from(["team", "loose"]), st.sampled_from(["x", "y", ""]))
        ),
    }
    for name in ("service_name", "region", "project_id", "user_id", "feature_id"):
        given[name] = draw(optional)
    if draw(st.booleans()):
        given["usage_quantity"] = Decimal(draw(st.integers(0, 10**14))).scaleb(-6)
        given["usage_unit"] = draw(st.sampled_from(["tokens", "seconds"]))
    return given


def value_of(one: CostRecord, name: str, zone: str) -> str | None:
    """A dimension's value of a record, worked out in the plainest way there is."""
    local = one.timestamp.astimezone(ZoneInfo(zone))
    match name:
        case "scope":
            return f"{one.attributed_to_type}:{one.attributed_to_id}"
        case "project" | "user" | "feature":
            return getattr(one, f"{name}_id")
        case "hour":
            return f"{local:%Y-%m-%dT%H}:00:00{local.isoformat()[-6:]}"
        case "day":
            return local.date().isoformat()
        case "week":
            return "{:04}-W{:02}".format(*local.isocalendar())
        case "month":
            return local.strftime("%Y-%m")
        case _ if name.startswith("tag:"):
            return one.tags.get(name.removeprefix("tag:"))
        case _:
            return getattr(one, name)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(DIMENSIONS), max_size=2, unique=True))
    if draw(st.booleans()):
        period = draw(st.sampled_from(["hour", "day", "week", "month"]))
        names.insert(draw(st.integers(0, len(names))), period)
    ends = st.lists(st.sampled_from(MOMENTS), min_size=2, max_size=2, unique=True)
    start, end = sorted(draw(ends))
    wanted: dict[str, Any] = {
        "start_date": start,
        "end_date": end,
        "timezone": draw(st.sampled_from(ZONES)),
        "group_by": names,
        "currency": draw(st.sampled_from(["USD", "EUR"])),
    }
    if draw(st.booleans()):
        wanted[draw(st.sampled_from(["project_id", "user_id", "service_name"]))] = "a"
    if draw(st.booleans()):
        wanted["tags"] = {draw(st.sampled_from(["team", "loose"])): "x"}
    return wanted


class ByHand:
    """What a report must say, added up record by record in fractions."""

    def __init__(self, everything: Iterable[CostRecord], wanted: dict[str, Any]) -> None:
        self.cost: dict[tuple[str | None, ...], Fraction] = defaultdict(Fraction)
        self.count: Counter[tuple[str | None, ...]] = Counter()
        self.unconverted: dict[str, Fraction] = defaultdict(Fraction)
        self.usage: dict[str, Fraction] = defaultdict(Fraction)
        self._wanted = wanted
        for one in everything:
            if self._counts(one):
                self._add(one)

    def _counts(self, one: CostRecord) -> bool:
        wanted = self._wanted
        return (
            wanted["start_date"] <= one.timestamp < wanted["end_date"]
            and all(
                getattr(one, name) == wanted.get(name, getattr(one, name))
                for name in ("project_id", "user_id", "service_name")
            )
            and wanted.get("tags", {}).items() <= one.tags.items()
        )

    def _add(self, one: CostRecord) -> None:
        wanted = self._wanted
        key = tuple(value_of(one, name, wanted["timezone"]) for name in wanted["group_by"])
        self.count[key] += 1
        rate = RATES.rate(one.currency, wanted["currency"], one.timestamp.date())
        if rate is None:
            self.unconverted[one.currency] += Fraction(one.cost_amount)
        else:
            self.cost[key] += Fraction(one.cost_amount) * Fraction(rate.value)
        if one.usage_quantity is not None:
            assert one.usage_unit is not None
            self.usage[one.usage_unit] += Fraction(one.usage_quantity)


# Without shrinking: each try is a commit, and thousands of them would outlast the time-out.
@settings(max_examples=100 if LONG else 12, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(recorded=st.lists(costs(), min_size=1, max_size=12), wanted=st.lists(requests(), min_size=6))
def test_a_report_is_the_sum_of_its_records_to_the_last_digit(
    engine: Engine, recorded: list[dict[str, Any]], wanted: list[dict[str, Any]]
) -> None:
    tenant = f"t-{uuid7()}"
    declare_tags(engine, tenant, "team")
    record(engine, tenant, *recorded)
    everything = records_of(engine, tenant)
    for one in wanted:
        require_exact(report(engine, tenant, **one), ByHand(everything, one), one)


@settings(max_examples=100 if LONG else 12, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    before=st.lists(costs(), max_size=4),
    after=st.lists(costs(), min_size=1, max_size=8),
    wanted=st.lists(requests(), min_size=6),
)
def test_a_list_counts_what_its_filter_names_whenever_a_tag_of_it_was_declared(
    engine: Engine,
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    wanted: list[dict[str, Any]],
) -> None:
    tenant = f"t-{uuid7()}"
    if before:
        record(engine, tenant, *before)
    declare_tags(engine, tenant, "team")
    record(engine, tenant, *after)
    everything = records_of(engine, tenant)
    for one in wanted:
        filtered = CostFilter(
            one["start_date"],
            one["end_date"],
            **{
                name: one[name] for name in ("project_id", "user_id", "service_name") if name in one
            },
            tags=tuple(one.get("tags", {}).items()),
        )
        page = engine.costs.list(tenant, filtered, page_request())
        count = ByHand(everything, one).count.total()
        assert (page.pagination.total_count, len(page.items)) == (count, count)


def require_exact(found: Report, expected: ByHand, wanted: dict[str, Any]) -> None:
    digit = Fraction(1, 10**12)
    assert abs(Fraction(found.total_cost) - sum(expected.cost.values(), Fraction())) <= digit / 2
    assert found.record_count == expected.count.total()
    assert {unit: Fraction(value) for unit, value in found.usage.items()} == expected.usage
    unconverted = {one.currency: Fraction(one.cost) for one in found.unconverted}
    assert unconverted == expected.unconverted
    names = wanted["group_by"]
    shown = {tuple(group.key[name] for name in names): group for group in found.groups}
    if names:
        assert sum((Fraction(one.cost) for one in found.groups), Fraction()) == found.total_cost
        assert expected.count.keys() <= shown.keys()
    for key, group in shown.items():
        assert abs(Fraction(group.cost) - expected.cost[key]) < digit
        assert group.record_count == expected.count[key]
    undeclared = "tag:loose" in names or "loose" in wanted.get("tags", {})
    assert (found.source is ReportSource.RECORDS) is undeclared


def test_totals_are_those_of_the_records_for_amounts_of_all_sizes(
    engine: Engine, tenant: str
) -> None:
    amounts = [
        Decimal("0.000000000001"),
        Decimal("99999999999999999999999999.999999999999"),
        Decimal("0.1"),
        Decimal("0.2"),
        Decimal("12345678.000000000009"),
    ]
    blue = {"tags": {"team": "blue"}}
    record(engine, tenant, *({"cost_amount": amount, **blue} for amount in amounts))
    end = NOON + timedelta(minutes=15)
    kept = report(engine, tenant, end_date=end)
    added = report(engine, tenant, end_date=end, tags=blue["tags"])
    assert (kept.source, added.source) == (ReportSource.ROLLUPS, ReportSource.RECORDS)
    expected = Decimal("100000000000000000012345678.300000000009")
    assert kept.total_cost == added.total_cost == expected


def test_another_tenants_costs_never_appear(engine: Engine, tenant: str) -> None:
    other = f"{tenant}-other"
    record(engine, other, *VARIED, {"tags": {"team": "blue"}})
    mine = {"end_date": NOON + timedelta(minutes=1)}  # rollups and records
    assert report(engine, tenant, **mine).record_count == 0
    assert report(engine, tenant, **mine, tags={"team": "blue"}).record_count == 0
    assert records_of(engine, tenant) == []
    assert records_of(engine, tenant, operation_id="op-2") == []


def test_values_that_look_like_sql_are_only_values(engine: Engine, tenant: str) -> None:
    nasty = "x' OR '1'='1"
    record(engine, tenant, {"resource_type": nasty, "tags": {nasty: nasty}}, {})
    assert report(engine, tenant, resource_type=nasty).record_count == 1
    assert report(engine, tenant, tags={nasty: nasty}).record_count == 1
    assert costs_by(report(engine, tenant, group_by=[f"tag:{nasty}"]), f"tag:{nasty}") == {
        nasty: 1,
        None: 1,
    }
