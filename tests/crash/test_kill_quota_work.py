"""`kill -9` in the middle of a renewal or a distribution leaves all of it or nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from fiscus.engine import Engine
from fiscus.paging import MAX_PAGE_SIZE, PageRequest, page_request
from fiscus.quotas.model import Quota, QuotaSpec, RenewalStatus
from fiscus.quotas.port import QuotaFilter
from fiscus.runtime.portions import to_the_end
from fiscus.wire.converting import convert
from fiscus.worker import Worker
from tests.crash.quota_work import ENTITIES, LATER, START, TENANT, distribution, open_at
from tests.profile import LONG
from tests.servers import drop_database, fresh_database

pytestmark = pytest.mark.slow

KILLS = 12 if LONG else 2
WAIT_SECONDS = 60


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fiscus.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    made = fresh_database(server)
    yield made
    drop_database(server, made)


def killed_at_work(work: str, folder: Path, engine: Engine, most: int) -> None:
    """Let a process make up to so many quotas, then kill it."""
    url = engine.settings.resolved_database_url
    command = [sys.executable, "-m", "tests.crash.quota_work", work, str(folder), url]
    enough = count(engine) + random.Random(url).randrange(1, most)
    deadline = time.monotonic() + WAIT_SECONDS
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            while count(engine) < enough:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)  # for another process, whose clock is the real one
        finally:
            process.kill()
        assert process.stdout is not None
        assert "done" not in process.stdout.read().splitlines()


def count(engine: Engine) -> int:
    found = engine.quotas.list(TENANT, QuotaFilter(), PageRequest(page_size=1))
    assert found.pagination.total_count is not None
    return found.pagination.total_count


def quotas_of(engine: Engine) -> list[Quota]:
    """The earliest period first."""
    found: list[Quota] = []
    token: str | None = None
    while True:
        page = engine.quotas.list(TENANT, QuotaFilter(), page_request(None, MAX_PAGE_SIZE, token))
        found += page.items
        token = page.pagination.next_page_token
        if token is None:
            return sorted(found, key=lambda quota: quota.period_start)


def require_unbroken(quotas: list[Quota]) -> None:
    """Each period once, each renewed from the one before, and that one says so."""
    for before, after in pairwise(quotas):
        assert (after.renewed_from, after.period_start) == (before.quota_id, before.period_end)
        assert before.renewal_status is RenewalStatus.RENEWED
    assert quotas[-1].renewal_status is RenewalStatus.PENDING


def test_a_renewal_is_whole_or_not_there(url: str, tmp_path: Path) -> None:
    engine = open_at(START, str(tmp_path), url)
    spec = convert(
        {
            "scope_type": "project",
            "scope_id": "search",
            "resource_type": "gpu_hours",
            "allocated_amount": 10,
            "period_type": "daily",
            "auto_renew": True,
        },
        QuotaSpec,
    )
    engine.quotas.allocate(TENANT, spec, by="test", now=START)
    for _ in range(KILLS):
        killed_at_work("renew", tmp_path, engine, 250 // KILLS)
        require_unbroken(quotas_of(engine))
    Worker(engine)._renew_quotas(LATER, to_the_end)
    quotas = quotas_of(engine)
    require_unbroken(quotas)
    # tomorrow's is allocated from noon on
    assert len(quotas) == (LATER.date() - START.date()).days + 1
    assert engine.quotas.due_renewals(LATER, 10) == []
    engine.close()


def test_a_distribution_is_whole_or_not_there(url: str, tmp_path: Path) -> None:
    engine = open_at(LATER, str(tmp_path), url)
    killed_at_work("distribute", tmp_path, engine, 10 * ENTITIES)
    by_month: dict[datetime, list[Decimal]] = defaultdict(list)
    for quota in quotas_of(engine):
        by_month[quota.period_start].append(quota.allocated_amount)
        assert engine.quotas.get(TENANT, quota.quota_id, 1) == quota
    for parts in by_month.values():
        assert (len(parts), sum(parts)) == (ENTITIES, 1001)
    # and the next one can be made
    made = engine.quotas.distribute(TENANT, distribution(len(by_month)), by="test", now=LATER)
    assert all(part.quota_id for part in made.parts)
    engine.close()
