"""A synthetic platform: who spends, on what, and how that changes over hours, weeks and months.

Everything is drawn from one seed, so that the same `end` makes the same costs. Nothing here was
measured anywhere.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

TENANT: Final = "demo"
SEED: Final = 3472
DAYS: Final = 60
MARK: Final = "demo-complete"
"""The operation id of the last record: where it is, the demo is loaded."""

SMALL_PROJECT: Final = "playground"
LARGE_PROJECT: Final = "search"

GROWTH_PER_DAY: Final = 0.004
WEEKEND: Final = 0.45
NOISE: Final = 0.25


class Workload(NamedTuple):
    """One use of one resource. `dollars_per_hour` is its average on a weekday at the start."""

    project_id: str
    feature_id: str | None
    resource_type: str
    service_name: str
    region: str
    unit: str
    dollars_per_unit: Decimal
    dollars_per_hour: float
    night: float
    """Share of the daytime use that remains at night: 1 for machines that never sleep."""
    users: int


class Spike(NamedTuple):
    """Something that went wrong: `factor` times the use, for some hours."""

    project_id: str
    resource_type: str
    days_ago: int
    hours: range
    factor: float


WORKLOADS: Final = (
    Workload(
        "search", "answers", "llm", "gpt-4o", "eu-west", "tokens", Decimal("0.0000045"), 9.0, 0.2,
        24,
    ),
    Workload(
        "search", "embeddings", "llm", "text-embedding-3-small", "eu-west", "tokens",
        Decimal("0.00000002"), 0.6, 0.3, 6,
    ),
    Workload(
        "assistant", "chat", "llm", "gpt-4o-mini", "us-east", "tokens", Decimal("0.0000003"), 2.4,
        0.35, 40,
    ),
    Workload(
        "assistant", "summaries", "llm", "claude-sonnet-4-5", "us-east", "tokens",
        Decimal("0.000006"), 5.5, 0.15, 18,
    ),
    Workload(
        "research", None, "gpu", "a100-80gb", "us-east", "hours", Decimal("3.67"), 14.0, 0.8, 5
    ),
    Workload(
        "billing", "invoices", "api", "document-ocr", "eu-west", "pages", Decimal("0.0015"), 1.2,
        0.05, 3,
    ),
    Workload(
        "search", None, "storage", "object-store", "eu-west", "gib_hours", Decimal("0.000032"), 0.9,
        1.0, 0,
    ),
    Workload(
        SMALL_PROJECT, None, "llm", "gpt-4o", "eu-west", "tokens", Decimal("0.0000045"), 0.12, 0.1,
        4,
    ),
)  # fmt: skip

SPIKES: Final = (
    Spike("assistant", "llm", 9, range(9, 18), 6.0),
    Spike("research", "gpu", 23, range(24), 2.5),
    Spike("search", "llm", 41, range(13, 16), 9.0),
)

BUDGETS: Final[tuple[dict[str, Any], ...]] = (
    {
        "budget_name": "Everything, by month",
        "budget_amount": 60_000,
        "period_type": "monthly",
        "allocated_to_type": "tenant",
        "allocated_to_id": TENANT,
        "enforcement_action": "soft_limit",
    },
    {
        "budget_name": "Every project, by month",
        "budget_amount": 25_000,
        "period_type": "monthly",
        "allocated_to_type": "project",
        "allocated_to_id": "*",
        "enforcement_action": "hard_stop",
    },
    {
        "budget_name": "Every user, models by day",
        "budget_amount": 40,
        "period_type": "daily",
        "allocated_to_type": "user",
        "allocated_to_id": "*",
        "enforcement_action": "soft_limit",
        "filters": {"resource_types": ["llm"]},
    },
    {
        "budget_name": "Summaries, slowed down by week",
        "budget_amount": 1_200,
        "period_type": "weekly",
        "allocated_to_type": "feature",
        "allocated_to_id": "summaries",
        "enforcement_action": "throttle",
    },
    {
        "budget_name": "Playground, by day",
        "budget_amount": 5,
        "period_type": "daily",
        "allocated_to_type": "project",
        "allocated_to_id": SMALL_PROJECT,
        "enforcement_action": "hard_stop",
    },
)


def records(end: datetime) -> Iterator[dict[str, Any]]:
    """The costs of the `DAYS` before the hour of `end`, hour by hour; bodies of record requests."""
    end = end.replace(minute=0, second=0, microsecond=0)
    start = end - timedelta(days=DAYS)
    draw = random.Random(SEED)  # noqa: S311 - made-up costs, no secret
    for hour in range(DAYS * 24):
        moment = start + timedelta(hours=hour)
        for number, workload in enumerate(WORKLOADS):
            dollars = _dollars(workload, moment, end, hour / 24, draw)
            record = _record(workload, moment, dollars, draw)
            # so that loading can go on where it was interrupted
            record["operation_id"] = f"demo-{hour:04d}-{number}"
            yield record
    yield {
        "tenant_id": TENANT,
        "resource_type": "storage",
        "service_name": "object-store",
        "region": "eu-west",
        "project_id": "search",
        "cost_amount": Decimal("0.01"),
        "timestamp": end - timedelta(seconds=1),
        "operation_id": MARK,
        "tags": {"synthetic": "true"},
    }


def count() -> int:
    """How many records there are."""
    return DAYS * 24 * len(WORKLOADS) + 1


def _dollars(
    workload: Workload, moment: datetime, end: datetime, day: float, draw: random.Random
) -> float:
    by_hour = 0.5 - 0.5 * math.cos((moment.hour - 2) / 24 * 2 * math.pi)
    rhythm = workload.night + (1 - workload.night) * by_hour
    if workload.night < 1 and moment.weekday() >= 5:
        rhythm *= WEEKEND
    growth = (1 + GROWTH_PER_DAY) ** day
    noise = draw.lognormvariate(-NOISE * NOISE / 2, NOISE)
    spike = math.prod(
        spike.factor
        for spike in SPIKES
        if spike.project_id == workload.project_id
        and spike.resource_type == workload.resource_type
        and (end.date() - moment.date()).days == spike.days_ago
        and moment.hour in spike.hours
    )
    return workload.dollars_per_hour * rhythm * growth * noise * spike


def _record(
    workload: Workload, moment: datetime, dollars: float, draw: random.Random
) -> dict[str, Any]:
    units = max(1, round(dollars / float(workload.dollars_per_unit)))
    record: dict[str, Any] = {
        "tenant_id": TENANT,
        "resource_type": workload.resource_type,
        "service_name": workload.service_name,
        "region": workload.region,
        "project_id": workload.project_id,
        "cost_amount": workload.dollars_per_unit * units,
        "usage_quantity": units,
        "usage_unit": workload.unit,
        "timestamp": moment + timedelta(seconds=draw.randrange(3600)),
        "tags": {"team": workload.project_id, "synthetic": "true"},
    }
    if workload.feature_id is not None:
        record["feature_id"] = workload.feature_id
    if workload.users:
        # a few people do most of it
        rank = min(workload.users, int(draw.paretovariate(1.2)))
        record["user_id"] = f"user-{rank:02d}"
    return record
