"""Short forms of what the tests of stored costs do, at noon of one day."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import event

from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer, RecordRequest
from fiscus.costs.fx import EcbRates
from fiscus.costs.model import CostRecord
from fiscus.costs.port import CostFilter
from fiscus.costs.report_model import Report, ReportRequest
from fiscus.costs.reports import build_report
from fiscus.engine import Engine
from fiscus.errors import NotFound
from fiscus.ledger.commands import RecordBatch
from fiscus.ledger.requests.costs import record_command
from fiscus.paging import page_request
from fiscus.stores.sql.costs.store import SqlCosts
from fiscus.stores.sql.database import Database
from fiscus.tenants import TenantSettings, TenantSpec
from fiscus.wire.converting import convert

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
RATES = EcbRates(overrides={("EUR", "USD"): Decimal("1.0837"), ("GBP", "USD"): Decimal("1.29")})
VARIED = [
    {"resource_type": "llm", "service_name": "openai", "tags": {"team": "blue", "x": "1"}},
    {"resource_type": "gpu", "region": "eu", "project_id": "search", "tags": {"team": "red"}},
    {"resource_type": "llm", "user_id": "ann", "feature_id": "chat", "operation_id": "op-2"},
    {"charge_category": "tax", "currency": "EUR", "timestamp": NOON - timedelta(days=2)},
]


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
