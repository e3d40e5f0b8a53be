"""The example that the how-to of quotas works its strategies through is what Fiscus does."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import Fiscus

if TYPE_CHECKING:
    from fiscus.clock import ManualClock

HOWTO = Path(__file__).parents[2] / "docs" / "how-to" / "quotas.md"

pytestmark = pytest.mark.acceptance


def tables() -> list[list[list[str]]]:
    """The cells of the page's tables, without the lines below their heads."""
    found: list[list[list[str]]] = []
    before = ""
    for line in HOWTO.read_text().splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not line.startswith("| ---"):
                found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return found


def test_every_number_of_the_example_is_right(tmp_path: Path, clock: ManualClock) -> None:
    (_, *teams), (head, *rows, together) = tables()
    with Fiscus.open(data_dir=tmp_path, clock=clock, tenant="acme") as fiscus:
        fiscus.allocate_quota(
            scope_type="project",
            scope_id="*",
            resource_type="gpu_hours",
            allocated_amount=1000,
            period_type="daily",
        )
        for team, _, used, _ in teams:
            if used != "0":
                with fiscus.quota("gpu_hours", used, project=team):
                    pass
        clock.advance(days=1)
        for column, how in enumerate(head[1:], start=1):
            strategy, _, then = how.replace("`", "").partition(", then ")
            parts = share_out(fiscus, teams, strategy, then or "fair_share")
            assert parts == [row[column] for row in rows], how
            assert together[column] == str(sum(map(Decimal, parts))) == "1000"


def test_use_of_long_ago_does_not_count(tmp_path: Path, clock: ManualClock) -> None:
    _, *teams = tables()[0]
    with Fiscus.open(data_dir=tmp_path, clock=clock, tenant="acme") as fiscus:
        fiscus.allocate_quota(
            scope_type="project", scope_id="*", resource_type="gpu_hours", allocated_amount=1000
        )
        with fiscus.quota("gpu_hours", 300, project="search"):
            clock.advance(days=31)
        assert share_out(fiscus, teams, "dynamic", "fair_share") == ["250"] * 4
        assert clock.now() - timedelta(days=30) > fiscus.quotas().items[0].created_at


def share_out(fiscus: Fiscus, teams: list[list[str]], strategy: str, then: str) -> list[str]:
    """What the teams get of 1000."""
    entities: list[dict[str, Any]] = []
    for team, tier, _, reserved in teams:
        entity: dict[str, Any] = {"scope_type": "project", "scope_id": team}
        if strategy == "priority":
            entity["tier"] = int(tier)
        if strategy == "reserved" and reserved:
            entity["reserved_amount"] = reserved
        entities.append(entity)
    answer = fiscus.distribute_quota(
        resource_type="gpu_hours",
        total_amount=1000,
        strategy=strategy,
        then=then,
        entities=entities,
        dry_run=True,
    )
    return [str(part.allocated_amount) for part in answer.parts]
