"""Costs read back: records page by page, and reports that agree with the records exactly.

Everything is recorded through the real ledger, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import event

from fiscus.budgets.calls import CheckAnswer, CheckRequest, SettleAnswer, SettleRequest
from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer, RecordRequest
from fiscus.costs.fx import EcbRates
from fiscus.costs.model import ChargeCategory, CostRecord
from fiscus.costs.port import CostFilter, Stretch, SumQuery
from fiscus.costs.report_model import (
    Report,
    ReportRequest,
    ReportSource,
)
from fiscus.costs.reports import build_report
from fiscus.costs.rollups import quarter_hours_within
from fiscus.engine import Engine
from fiscus.errors import NotFound, ValidationError
from fiscus.ids import uuid7
from fiscus.ledger.commands import RecordBatch
from fiscus.ledger.requests import check_command, record_command, settle_command
from fiscus.money import Amount
from fiscus.nesting import MAX_LEVELS
from fiscus.paging import page_request
from fiscus.scopes import ScopeType
from fiscus.settings import Settings
from fiscus.stores.sql.costs import SqlCosts
from fiscus.stores.sql.database import Database
from fiscus.tenants import TenantSettings, TenantSpec
from fiscus.wire import convert
from fiscus.wiring.engine import open_engine
from tests.profile import LONG
from tests.stores.conftest import after_each_statement, plan_of, plans_within

if TYPE_CHECKING:
    pass

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
RATES = EcbRates(overrides={("EUR", "USD"): Decimal("1.0837"), ("GBP", "USD"): Decimal("1.29")})


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    from fiscus.clock import ManualClock

    postgres = request.param == "postgresql"
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("fiscus"),
        database_url=request.getfixturevalue("postgres_url") if postgres else None,
        sqlite_synchronous="OFF",
        ledger_deadline_seconds=30,
    )
    opened = open_engine(settings, clock=ManualClock(NOON))
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def tenant() -> str:
    """A tenant of the test's own."""
    return f"t-{uuid7()}"


def record(engine: Engine, tenant: str, *costs: dict[str, Any]) -> list[RecordAnswer]:
    """Record each of `costs`; what is not given is one dollar of `llm` at noon."""
    now = engine.clock.now()
    commands = [
        record_command(
            convert(
                {"resource_type": "llm", "cost_amount": Decimal(1), "timestamp": NOON} | cost,
                RecordRequest,
            ),
            tenant,
            now,
        )
        for cost in costs
    ]
    answer = engine.ledger.execute(RecordBatch(tenant_id=tenant, records=list(commands), now=now))
    assert isinstance(answer, RecordBatchAnswer)
    assert answer.failed == 0, answer
    return [item.record for item in answer.results if item.record is not None]


def report(engine: Engine, tenant: str, now: datetime = NOON, **wanted: Any) -> Report:
    try:
        found = engine.tenants.get(tenant)
    except NotFound:
        known = TenantSettings()
    else:
        known = TenantSettings(
            currency=found.currency, timezone=found.timezone, rollup_tags=found.rollup_tags
        )
    request = convert(wanted, ReportRequest)
    return build_report(request, engine.costs, RATES, known, tenant, now)


def declare_tags(engine: Engine, tenant: str, *keys: str) -> None:
    engine.tenants.put(
        tenant, TenantSpec(rollup_tags=list(keys)), expected_version=None, now=engine.clock.now()
    )


def records_of(engine: Engine, tenant: str, **wanted: Any) -> list[CostRecord]:
    """Every record, page by page."""
    page = engine.costs.list(tenant, CostFilter(**wanted), page_request(page_size=1000))
    found = list(page.items)
    while page.pagination.next_page_token is not None:
        page = engine.costs.list(
            tenant,
            CostFilter(**wanted),
            page_request(page_size=1000, page_token=page.pagination.next_page_token),
        )
        found += page.items
    return found


def costs_by(found: Report, name: str) -> dict[str | None, Decimal]:
    return {group.key[name]: group.cost for group in found.groups}


def database_of(engine: Engine) -> Database:
    assert isinstance(engine.costs, SqlCosts)
    return engine.costs._database


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """What is sent to the database meanwhile."""
    seen: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    with listening(engine, note):
        yield seen


@contextmanager
def listening(engine: Engine, note: Callable[..., None]) -> Iterator[None]:
    """`note` is called with each statement meanwhile."""
    target = database_of(engine).engine
    event.listen(target, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(target, "before_cursor_execute", note)


# ---------------------------------------------------------------- records


def test_a_record_comes_back_as_it_was_recorded(engine: Engine, tenant: str) -> None:
    (made,) = record(
        engine,
        tenant,
        {
            "cost_amount": Decimal("0.000000000001"),
            "currency": "EUR",
            "usage_quantity": Decimal(1500),
            "usage_unit": "tokens",
            "usage": {"input": 1000, "ratio": 0.5},
            "project_id": "search",
            "user_id": "ann",
            "service_name": "openai",
            "region": "eu-west-1",
            "resource_id": "gpt",
            "tags": {"team": "blue", 'odd "key"': "vä\\lue"},
            "operation_id": "op-1",
        },
    )
    found = engine.costs.get(tenant, made.record_id)
    assert found == CostRecord(
        record_id=made.record_id,
        tenant_id=tenant,
        timestamp=NOON,
        recorded_at=NOON,
        resource_type="llm",
        cost_amount=Decimal("0.000000000001"),
        currency="EUR",
        charge_category=ChargeCategory.USAGE,
        attributed_to_type=ScopeType.USER,
        attributed_to_id="ann",
        project_id="search",
        user_id="ann",
        usage_quantity=Decimal(1500),
        usage_unit="tokens",
        usage={"input": 1000, "ratio": Decimal("0.5")},
        resource_id="gpt",
        service_name="openai",
        region="eu-west-1",
        tags={"team": "blue", 'odd "key"': "vä\\lue"},
        operation_id="op-1",
    )


def test_usage_of_before_its_depth_was_limited_is_read_down_to_the_limit(
    engine: Engine, tenant: str
) -> None:
    now = engine.clock.now()
    command = record_command(RecordRequest(resource_type="llm", cost_amount=Amount(1)), tenant, now)
    usage = {"tokens": 3, "deep": json.loads("[" * 900 + "]" * 900)}
    engine.ledger.execute(replace(command, cost=replace(command.cost, usage=usage)))
    (found,) = records_of(engine, tenant)
    assert found.usage is not None
    assert found.usage["tokens"] == 3
    inner = found.usage["deep"]
    for _ in range(MAX_LEVELS - 2):
        (inner,) = inner
    assert inner == ["[" * 869 + "]" * 869]
    assert engine.costs.get(tenant, found.record_id) == found


def test_amounts_come_back_without_zeros_that_nobody_wrote(engine: Engine, tenant: str) -> None:
    (made,) = record(engine, tenant, {"cost_amount": Decimal("12.50")})
    assert str(engine.costs.get(tenant, made.record_id).cost_amount) == "12.5"


@pytest.mark.parametrize("record_id", ["nothing", "0197f3a0-0000-7000-8000-000000000000", "' OR 1"])
def test_an_unknown_record_is_not_found(engine: Engine, tenant: str, record_id: str) -> None:
    with pytest.raises(NotFound):
        engine.costs.get(tenant, record_id)


def test_another_tenants_record_is_not_found(engine: Engine, tenant: str) -> None:
    (made,) = record(engine, tenant, {})
    with pytest.raises(NotFound):
        engine.costs.get(f"{tenant}-other", made.record_id)


def test_records_are_listed_newest_first(engine: Engine, tenant: str) -> None:
    times = [NOON - timedelta(minutes=minutes) for minutes in (5, 0, 90, 5, 30)]
    record(engine, tenant, *({"timestamp": time} for time in times))
    page = engine.costs.list(tenant, CostFilter(), page_request())
    assert [one.timestamp for one in page.items] == sorted(times, reverse=True)
    assert page.pagination.total_count == 5


def test_tokens_lead_through_every_record_once_and_back(engine: Engine, tenant: str) -> None:
    record(engine, tenant, *({"timestamp": NOON - timedelta(seconds=n // 3)} for n in range(10)))
    expected = [one.record_id for one in records_of(engine, tenant)]
    pages = [engine.costs.list(tenant, CostFilter(), page_request(page_size=4))]
    while (token := pages[-1].pagination.next_page_token) is not None:
        pages.append(
            engine.costs.list(tenant, CostFilter(), page_request(page_size=4, page_token=token))
        )
    assert [len(page.items) for page in pages] == [4, 4, 2]
    assert [one.record_id for page in pages for one in page.items] == expected
    assert [page.pagination.total_count for page in pages] == [10, None, None]
    back = engine.costs.list(
        tenant,
        CostFilter(),
        page_request(page_size=4, page_token=pages[2].pagination.prev_page_token),
    )
    assert back.items == pages[1].items


def test_a_page_by_number_is_the_page_by_token(engine: Engine, tenant: str) -> None:
    record(engine, tenant, *({"timestamp": NOON - timedelta(seconds=n)} for n in range(7)))
    first = engine.costs.list(tenant, CostFilter(), page_request(page_size=3))
    by_token = engine.costs.list(
        tenant,
        CostFilter(),
        page_request(page_size=3, page_token=first.pagination.next_page_token),
    )
    by_number = engine.costs.list(tenant, CostFilter(), page_request(page=2, page_size=3))
    assert by_token.items == by_number.items
    assert by_number.pagination.total_pages == 3


def test_a_token_of_another_list_is_refused(engine: Engine, tenant: str) -> None:
    from fiscus.paging import Cursor, PageRequest

    with pytest.raises(ValidationError) as caught:
        engine.costs.list(tenant, CostFilter(), PageRequest(cursor=Cursor(["a", "b"])))
    assert caught.value.field == "page_token"


VARIED = [
    {"resource_type": "llm", "service_name": "openai", "tags": {"team": "blue", "x": "1"}},
    {"resource_type": "gpu", "region": "eu", "project_id": "search", "tags": {"team": "red"}},
    {"resource_type": "llm", "user_id": "ann", "feature_id": "chat", "operation_id": "op-2"},
    {"charge_category": "tax", "currency": "EUR", "timestamp": NOON - timedelta(days=2)},
]


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ({"resource_type": "gpu"}, {1}),
        ({"service_name": "openai"}, {0}),
        ({"region": "eu"}, {1}),
        ({"project_id": "search"}, {1}),
        ({"user_id": "ann"}, {2}),
        ({"feature_id": "chat"}, {2}),
        ({"charge_category": ChargeCategory.TAX}, {3}),
        ({"currency": "USD"}, {0, 1, 2}),
        ({"tags": (("team", "blue"),)}, {0}),
        ({"tags": (("team", "blue"), ("x", "1"))}, {0}),
        ({"tags": (("team", "blue"), ("x", "2"))}, set()),
        ({"operation_id": "op-2"}, {2}),
        ({"operation_id": "op-3"}, set()),
        ({"reservation_id": "not a uuid"}, set()),
        ({"start": NOON}, {0, 1, 2}),
        ({"end": NOON}, {3}),
        ({"start": NOON - timedelta(days=2), "end": NOON, "currency": "EUR"}, {3}),
        ({"start": NOON - timedelta(minutes=1), "end": NOON + timedelta(minutes=1)}, {0, 1, 2}),
        ({"resource_type": "llm", "user_id": "ann", "project_id": "search"}, set()),
    ],
)
def test_a_list_holds_what_its_filter_names(
    engine: Engine, tenant: str, wanted: dict[str, Any], places: set[int]
) -> None:
    made = record(engine, tenant, *VARIED)
    page = engine.costs.list(tenant, CostFilter(**wanted), page_request())
    assert {one.record_id for one in page.items} == {made[place].record_id for place in places}
    assert page.pagination.total_count == len(places)


def test_a_reservations_record_is_found_by_the_reservation(engine: Engine, tenant: str) -> None:
    now = engine.clock.now()
    request = convert({"resource_type": "llm", "estimated_cost": Decimal(2)}, CheckRequest)
    check = engine.ledger.execute(check_command(request, tenant, now))
    assert isinstance(check, CheckAnswer)
    assert check.reservation_id is not None
    settle = convert({"actual_cost": Decimal("1.5")}, SettleRequest)
    settled = engine.ledger.execute(settle_command(check.reservation_id, settle, tenant, now))
    assert isinstance(settled, SettleAnswer)
    record(engine, tenant, {})
    (found,) = records_of(engine, tenant, reservation_id=check.reservation_id)
    assert found.record_id == settled.record_id
    assert found.reservation_id == check.reservation_id


# ---------------------------------------------------------------- reports against brute force

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


# ---------------------------------------------------------------- rollups


def rollup_rows(engine: Engine, tenant: str) -> int:
    with database_of(engine).read(tenant) as connection:
        return connection.execute(
            sa.text("SELECT count(*) FROM cost_rollups WHERE tenant_id = :t"), {"t": tenant}
        ).scalar_one()


def test_two_thousand_records_of_one_quarter_hour_are_read_as_one_row(
    engine: Engine, tenant: str
) -> None:
    for _ in range(2):
        record(engine, tenant, *({"cost_amount": Decimal("0.001")} for _ in range(1000)))
    assert rollup_rows(engine, tenant) == 1
    with statements(engine) as seen:
        found = report(engine, tenant)
    assert (found.total_cost, found.record_count) == (Decimal(2), 2000)
    assert found.source is ReportSource.ROLLUPS
    assert any("cost_rollups" in one for one in seen)
    assert not any("cost_records" in one for one in seen)


def test_a_list_counts_its_records_in_the_rollups(engine: Engine, tenant: str) -> None:
    record(engine, tenant, *({} for _ in range(50)))
    with statements(engine) as seen:
        page = engine.costs.list(tenant, CostFilter(resource_type="llm"), page_request(page_size=1))
    assert page.pagination.total_count == 50
    assert any("sum(cost_rollups.record_count)" in one for one in seen)


def test_a_list_by_a_tag_counts_in_the_rollups_of_the_time_since_it_was_declared(
    engine: Engine, tenant: str
) -> None:
    later = NOON + timedelta(hours=1)
    blue, red = {"tags": {"team": "blue"}}, {"tags": {"team": "red"}}
    record(engine, tenant, blue, red, {"resource_type": "gpu"})
    declare_tags(engine, tenant, "team")
    record(engine, tenant, *({**one, "timestamp": later} for one in (blue, red, {}, blue)))

    def counted(**wanted: Any) -> tuple[int | None, bool]:
        by_tag = CostFilter(**wanted, tags=(("team", "blue"),))
        with statements(engine) as seen:
            count = engine.costs.list(tenant, by_tag, page_request()).pagination.total_count
        return count, any("sum(cost_rollups.record_count)" in one for one in seen)

    assert counted() == (3, False)
    assert counted(start=later) == (2, True)
    assert counted(start=later - timedelta(minutes=1)) == (2, True)
    assert counted(start=later, resource_type="gpu") == (0, True)
    assert counted(region="eu") == (0, True)


def test_a_list_counts_without_looking_up_the_series_of_each_rollup(
    engine: Engine, tenant: str
) -> None:
    record(engine, tenant, {})
    database = database_of(engine)

    def count(**wanted: Any) -> None:
        SqlCosts(database).list(tenant, CostFilter(**wanted), page_request())

    assert "cost_series" not in plan_of(database, count, "sum(")
    of_some = partial(count, user_id="u")
    if database.is_sqlite:
        some = plan_of(database, of_some, "sum(")
        assert "cost_series USING INDEX ix_cost_series_tenant_id" in some
    else:
        (some,) = plans_within(database, of_some, "sum(", seqscan=False)
        assert "Nested Loop" not in some  # each series would be looked for among all rollups
        assert "SubPlan" not in some  # of many series: through all for each rollup


def test_counting_the_ends_of_a_range_reads_nothing_in_between(engine: Engine, tenant: str) -> None:
    record(engine, tenant, *({"timestamp": NOON + timedelta(minutes=m)} for m in (1, 20, 50)))
    with statements(engine) as seen:
        for wanted in (CostFilter(start=NOON), CostFilter(start=NOON, user_id="u")):
            engine.costs.list(tenant, wanted, page_request())
    ends = [one for one in seen if "count(*)" in one]
    assert len(ends) == 4
    for one in ends:  # of two bounds on one side SQLite goes by either
        assert max(one.count("timestamp >="), one.count("timestamp <")) <= 1


def test_a_reservations_record_is_looked_up(engine: Engine, tenant: str) -> None:
    record(engine, tenant, {})
    database, wanted = database_of(engine), CostFilter(reservation_id=uuid7())
    costs = SqlCosts(database)
    plan = plan_of(database, lambda: costs.list(tenant, wanted, page_request()), "FROM cost_record")
    if database.is_sqlite:
        assert plan.startswith("SEARCH cost_records USING")
        assert "record_id=?" in plan.partition("\n")[0]
    else:
        assert "Seq Scan" not in plan


def test_sums_of_a_long_time_look_up_no_series_by_itself_on_postgresql(
    engine: Engine, tenant: str
) -> None:
    database = database_of(engine)
    if database.is_sqlite:
        pytest.skip("SQLite has no other way")
    record(engine, tenant, {})

    def plan_since(days: int, **wanted: str) -> str:
        start = NOON - timedelta(days=days)
        read = partial(report, engine, tenant, start_date=start, group_by=["user"], **wanted)
        (plan,) = plans_within(database, read, "sum(costs.record_count)", seqscan=False)
        return plan

    long, short = plan_since(days=93), plan_since(days=31)
    assert "Hash Join" in long
    assert "ix_cost_series_tenant_id" in long
    assert "ix_cost_series_tenant_id" not in short
    of_some = plan_since(days=31, user_id="u")
    for plan in (long, of_some):
        assert "SubPlan" not in plan
        assert "jit = 'off'" in plan
    assert of_some.count("ix_cost_series_tenant_id") == 2


def test_ends_between_quarter_hours_read_only_the_records_there(
    engine: Engine, tenant: str
) -> None:
    minutes = [0, 5, 14, 15, 29, 30, 44, 45, 59]
    record(engine, tenant, *({"timestamp": NOON + timedelta(minutes=m)} for m in minutes))
    start, end = NOON + timedelta(minutes=5), NOON + timedelta(minutes=45, microseconds=1)
    found = report(engine, tenant, start_date=start, end_date=end)
    assert (found.source, found.record_count) == (ReportSource.MIXED, 7)
    within = report(engine, tenant, start_date=start, end_date=start + timedelta(minutes=9))
    assert (within.source, within.record_count) == (ReportSource.MIXED, 1)


def test_days_are_told_apart_only_where_costs_have_to_be_converted(
    engine: Engine, tenant: str
) -> None:
    """Sums of each day and series would be as many as the quarter hours themselves."""
    days = {"start_date": NOON - timedelta(days=9, hours=12), "end_date": NOON}
    stretches: list[int] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        given = parameters.values() if isinstance(parameters, dict) else parameters
        if "stretches" in statement:
            arrays = [one for one in given if str(one).startswith("[")]
            stretches.extend(len(json.loads(one)) for one in arrays)

    def looked_up() -> int:
        stretches.clear()
        with listening(engine, note):
            assert report(engine, tenant, **days).source is ReportSource.ROLLUPS
        (count,) = stretches
        return count

    moments = [{"timestamp": NOON - timedelta(days=day, hours=1)} for day in range(9)]
    record(engine, tenant, *moments)
    assert looked_up() == 1
    with statements(engine) as seen:
        report(engine, tenant, start_date=NOON - timedelta(hours=1), end_date=NOON)
    # whether any is in another currency takes going through all
    assert not any(one.startswith("SELECT cost_series.series_id") for one in seen)
    record(engine, tenant, {"currency": "EUR", **moments[0]})
    assert looked_up() == 10


def test_what_is_read_of_costs_is_of_one_moment(engine: Engine, tenant: str) -> None:
    """Records that were committed together are in it or are not."""
    at_once = [{"timestamp": NOON + timedelta(minutes=minutes)} for minutes in (5, 20)]
    at_once.append({"timestamp": NOON - timedelta(minutes=5)})
    record(engine, tenant, *at_once)
    wanted = {
        "start_date": NOON + timedelta(minutes=3),
        "end_date": NOON + timedelta(hours=1),
        "compare_previous": True,
    }
    with after_each_statement(database_of(engine), lambda: record(engine, tenant, *at_once)):
        found = report(engine, tenant, NOON + timedelta(hours=2), **wanted)
        page = engine.costs.list(tenant, CostFilter(), page_request(page_size=1000))
    assert found.source is ReportSource.MIXED
    assert found.previous is not None
    assert found.record_count == 2 * found.previous.record_count
    assert found.total_cost == found.record_count
    assert len(page.items) == page.pagination.total_count


def test_a_declared_tag_is_read_from_rollups(engine: Engine, tenant: str) -> None:
    declare_tags(engine, tenant, "team")
    record(
        engine,
        tenant,
        {"tags": {"team": "blue"}},
        {"tags": {"team": "red", "other": "x"}},
        {"tags": {"other": "x"}},
        {},
    )
    found = report(engine, tenant, group_by=["tag:team"])
    assert found.source is ReportSource.ROLLUPS
    assert costs_by(found, "tag:team") == {"blue": 1, "red": 1, None: 2}
    assert report(engine, tenant, tags={"team": "red"}).total_cost == 1


def test_an_undeclared_tag_is_read_from_records(engine: Engine, tenant: str) -> None:
    record(engine, tenant, {"tags": {"team": "blue"}}, {"tags": {"team": "a.b"}}, {})
    found = report(engine, tenant, group_by=["tag:team"])
    assert found.source is ReportSource.RECORDS
    assert costs_by(found, "tag:team") == {"blue": 1, "a.b": 1, None: 1}
    filtered = report(engine, tenant, tags={"team": "blue"})
    assert (filtered.source, filtered.total_cost) == (ReportSource.RECORDS, 1)


@pytest.mark.parametrize("key", ['odd "key"', "$.a", "a.b", "ä", "back\\slash", "0"])
def test_a_tag_key_may_be_any_text(engine: Engine, tenant: str, key: str) -> None:
    record(engine, tenant, {"tags": {key: 'v"1'}}, {})
    assert costs_by(report(engine, tenant, group_by=[f"tag:{key}"]), f"tag:{key}") == {
        'v"1': 1,
        None: 1,
    }
    assert report(engine, tenant, tags={key: 'v"1'}).record_count == 1
    declare_tags(engine, tenant, key)
    later = NOON - timedelta(days=1)
    record(engine, tenant, {"tags": {key: 'v"1'}, "timestamp": later}, {"timestamp": later})
    found = report(engine, tenant, end_date=NOON - timedelta(hours=1), group_by=[f"tag:{key}"])
    assert found.source is ReportSource.ROLLUPS
    assert costs_by(found, f"tag:{key}") == {'v"1': 1, None: 1}


def test_costs_from_before_a_tag_was_declared_are_read_from_records(
    engine: Engine, tenant: str
) -> None:
    record(engine, tenant, {"tags": {"team": "blue"}})
    declare_tags(engine, tenant, "team")
    later = NOON + timedelta(hours=1)
    record(engine, tenant, {"tags": {"team": "blue"}, "timestamp": later})
    end = later + timedelta(hours=1)
    both = report(engine, tenant, end_date=end, group_by=["tag:team"])
    assert (both.source, costs_by(both, "tag:team")) == (ReportSource.RECORDS, {"blue": 2})
    filtered = report(engine, tenant, end_date=end, tags={"team": "blue"})
    assert (filtered.source, filtered.total_cost) == (ReportSource.RECORDS, 2)
    new = report(engine, tenant, start_date=later, end_date=end, group_by=["tag:team"])
    assert (new.source, costs_by(new, "tag:team")) == (ReportSource.ROLLUPS, {"blue": 1})


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


def test_sums_look_rollups_up_by_tenant_and_time(engine: Engine, tenant: str) -> None:
    """The plan starts from the stretches, and finds rollups by their key."""
    record(engine, tenant, {})
    whole = quarter_hours_within(NOON, NOON + timedelta(hours=5))
    assert whole is not None
    query = SumQuery(CostFilter(), ("user_id",), [Stretch(*whole, 0)], "USD")
    with engine.costs.sums(tenant) as sums:
        for read in (sums.by_rollups, sums.by_records):
            plan = plan_of(database_of(engine), lambda read=read: read(query))
            if database_of(engine).is_sqlite:
                assert "SCAN stretches" in plan
                assert "SCAN cost" not in plan
                assert "tenant_id=? AND" in plan
            else:
                assert "Join Filter" not in plan  # each row would be compared with each stretch
                assert ">= given.starts) AND" in plan.partition("Index Cond: ")[2]
