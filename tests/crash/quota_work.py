"""A process that renews or distributes quotas until it is killed, and says what it has done.

`python -m tests.crash.quota_work renew|distribute DATA_DIR DATABASE_URL`
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from fiscus.clock import ManualClock
from fiscus.engine import Engine
from fiscus.quotas.calls import DistributeRequest
from fiscus.settings import Settings
from fiscus.wire.converting import convert
from fiscus.wiring.engine import open_engine
from fiscus.worker import Worker

TENANT = "acme"
ENTITIES = 40
FIRST_YEAR = 2030
START = datetime(2026, 3, 10, 12, tzinfo=UTC)
LATER = datetime(2027, 1, 1, tzinfo=UTC)
"""When the process works: after months of downtime."""


def distribution(month: int) -> DistributeRequest:
    """A total shared out for one month, counted from January of the first year."""
    return convert(
        {
            "resource_type": "gpu_hours",
            "total_amount": 1001,
            "strategy": "fair_share",
            "entities": [
                {"scope_type": "user", "scope_id": f"u{number}"} for number in range(ENTITIES)
            ],
            "period_start": datetime(FIRST_YEAR + month // 12, month % 12 + 1, 1, tzinfo=UTC),
        },
        DistributeRequest,
    )


def open_at(moment: datetime, data_dir: str, database_url: str) -> Engine:
    settings = Settings(
        data_dir=data_dir,
        database_url=database_url,
        ledger_deadline_seconds=20.0,
        sqlite_synchronous="NORMAL",
    )
    return open_engine(settings, clock=ManualClock(moment))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(work: str, data_dir: str, database_url: str) -> None:
    engine = open_at(LATER, data_dir, database_url)
    say("ready")
    if work == "renew":
        worker = Worker(engine)
        worker.step()
        while not worker.leads:  # the database may not know yet that the one before was killed
            time.sleep(0.05)  # for PostgreSQL, whose clock is the real one
            worker.step()
    else:
        for month in range(12 * 50):
            engine.quotas.distribute(TENANT, distribution(month), by="test", now=engine.clock.now())
    say("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
