"""Cost records read back one by one and page by page.

They are recorded through the real ledger, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from fiscus.budgets.calls import CheckAnswer, CheckRequest, SettleAnswer, SettleRequest
from fiscus.costs.calls import RecordRequest
from fiscus.costs.model import ChargeCategory, CostRecord
from fiscus.costs.port import CostFilter
from fiscus.engine import Engine
from fiscus.errors import NotFound, ValidationError
from fiscus.ledger.requests.budgets import check_command, settle_command
from fiscus.ledger.requests.costs import record_command
from fiscus.money import Amount
from fiscus.paging import page_request
from fiscus.scopes import ScopeType
from fiscus.wire.converting import convert
from fiscus.wire.nesting import MAX_LEVELS
from tests.stores.costs.desk import (
    NOON,
    VARIED,
    record,
    records_of,
)


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
