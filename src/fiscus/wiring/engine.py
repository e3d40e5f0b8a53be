"""Joins settings, stores, rates, the ledger and the limiter into an `Engine`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fiscus.access.model import (
    ApiKey,
    ApiKeySpec,
    Role,
    check_given_key,
    hash_key,
    made_key,
    new_key,
)
from fiscus.batching.thread_batcher import GroupLimits
from fiscus.clock import Clock, SystemClock
from fiscus.costs.fx import EcbRates
from fiscus.engine import Engine
from fiscus.errors import ServiceUnavailable, ValidationError
from fiscus.idempotency import idempotency
from fiscus.ledger.definitions import DefinitionCache
from fiscus.ledger.degraded import DegradedDecisions
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.loop import Ledger
from fiscus.ledger.remote.client import RemoteLedger
from fiscus.ledger.remote.fallbacks import FallbackReplica
from fiscus.paging import PageRequest
from fiscus.ratelimits.limiter import Limiter
from fiscus.runtime.logs import get_logger
from fiscus.scopes import parse_id
from fiscus.settings import Settings
from fiscus.stores.sql import migrate
from fiscus.stores.sql.api_keys import SqlApiKeys
from fiscus.stores.sql.budgets.reservations import SqlReservations
from fiscus.stores.sql.budgets.store import SqlBudgets
from fiscus.stores.sql.costs.store import SqlCosts
from fiscus.stores.sql.database import Database, require_writable
from fiscus.stores.sql.diagnosis import DatabaseFacts, diagnose
from fiscus.stores.sql.maintenance import SqlMaintenance, SqlProbe
from fiscus.stores.sql.migrate import Revision
from fiscus.stores.sql.quotas.store import SqlQuotas
from fiscus.stores.sql.ratelimits.policies import SqlPolicies
from fiscus.stores.sql.ratelimits.usage import SqlRateLimitUsage
from fiscus.stores.sql.sqlite.files import make_folder
from fiscus.stores.sql.sqlite.forks import require_apart_from_parent
from fiscus.stores.sql.tenants import SqlTenants
from fiscus.stores.sql.urls import DATABASE_SETTING, database_is_there, file_of
from fiscus.wiring.counters import open_counters
from fiscus.wiring.ledger_process import open_rates, start_ledger

log = get_logger(__name__)

_FOR_GOOD: Final = datetime(9999, 1, 1, tzinfo=UTC)
_BOOTSTRAP: Final = "bootstrap"


def open_engine(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ledger_apart: bool = False,
    migrates: bool = True,
) -> Engine:
    """Open everything `settings` name; the caller closes the engine.

    `ledger_apart`: the ledger is in a process of its own, which ends with the engine. `migrates`:
    the tables are brought up to date first; otherwise they have to be.

    Raises `ServiceUnavailable` when the database cannot be reached or written to, or when the
    tables are not up to date and are not to be or cannot be changed, `ValidationError` for a
    setting that is wrong, and `Conflict` for an SQLite file that was open here before a fork.
    """
    clock = clock or SystemClock()
    url = settings.resolved_database_url
    require_apart_from_parent(url)
    require_writable(url)
    pending = sum(not one.applied for one in migrate.status(url))
    if pending and not migrates:
        raise ServiceUnavailable(
            f"{pending} migrations of the database's tables are not applied",
            suggested_action="Run `fiscus migrate up`.",
        )
    # before anything runs or is open that would have to be ended when one of these is wrong
    rates = open_rates(settings.exchange_rates_file, settings.exchange_rates)
    counters = open_counters(settings.redis_url, timeout_seconds=settings.counters_timeout_seconds)
    _make_data_dir(settings)
    # a program may go to another folder while this is open
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    if pending:
        owners, setting = _owners_url(settings)
        migrate.upgrade(owners, setting=setting)
    database = Database(
        url,
        sqlite_synchronous=settings.sqlite_synchronous,
        pool_size=settings.database_pool_size,
    )
    ledger, close_ledger_store = _open_ledger(
        settings, database, rates, clock, is_remote=ledger_apart
    )
    maintenance = SqlMaintenance(database, clock)
    policies, usage = SqlPolicies(database), SqlRateLimitUsage(database)
    limiter = Limiter(
        policies,
        counters,
        clock,
        stand_in=open_counters(None),
        usage=usage,
        timeout_seconds=settings.counters_timeout_seconds,
    )

    def close_stores() -> None:
        maintenance.close()
        close_ledger_store()
        database.close()

    return Engine(
        settings=settings,
        clock=clock,
        rates=rates,
        ledger=ledger,
        budgets=SqlBudgets(database),
        reservations=SqlReservations(database),
        tenants=SqlTenants(database),
        api_keys=SqlApiKeys(database),
        costs=SqlCosts(database),
        quotas=SqlQuotas(database),
        policies=policies,
        usage=usage,
        counters=counters,
        limiter=limiter,
        store=SqlProbe(database),
        maintenance=maintenance,
        close_stores=close_stores,
    )


def _open_ledger(
    settings: Settings, database: Database, rates: EcbRates, clock: Clock, *, is_remote: bool
) -> tuple[Ledger, Callable[[], None]]:
    """The ledger, and what closes its store once it is closed."""
    journal = settings.data_dir / "degraded.jsonl"
    limits = GroupLimits(
        settings.ledger_max_group, settings.ledger_max_queue, settings.ledger_deadline_seconds
    )
    if is_remote:
        fallbacks = FallbackReplica()
        degraded = DegradedDecisions(fallbacks, journal)
        apart_ledger = RemoteLedger(start_ledger(settings), fallbacks, clock, degraded, limits)
        return apart_ledger, _nothing
    definitions = DefinitionCache()
    store = database.ledger_store(settings.ledger_deadline_seconds)
    runner = GroupRunner(store, rates, definitions)
    degraded = DegradedDecisions(definitions, journal)
    ledger = Ledger(runner.run, clock, degraded, limits, definitions.lookups)
    return ledger, store.close


def _nothing() -> None:
    """What the ledger's process has open it closes itself."""


def is_new(settings: Settings) -> bool:
    """Whether there is no database yet, so that opening it would make one: SQLite's file."""
    return not database_is_there(settings.resolved_database_url)


def sqlite_file(settings: Settings) -> Path | None:
    """Where the database is; None where it is a server's."""
    return file_of(settings.resolved_database_url)


def migration_status(settings: Settings, *, as_owner: bool = False) -> list[Revision]:
    """Every revision of the tables, oldest first, and whether the database has it.

    `as_owner`: asked by the login that migrates, as the one that serves may see nothing yet.
    """
    if not as_owner:
        return migrate.status(settings.resolved_database_url)
    url, setting = _owners_url(settings)
    return migrate.status(url, setting=setting)


def require_revision(name: str) -> None:
    """Raises `ValidationError` unless the tables have such a revision."""
    migrate.require_known(name)


def migrate_up(settings: Settings, to: str = migrate.HEAD) -> None:
    """Bring the tables up to a revision, as the login that owns them."""
    _make_data_dir(settings)
    url, setting = _owners_url(settings)
    migrate.upgrade(url, to, setting=setting)


def migrate_down(settings: Settings, to: str) -> None:
    """Take the tables down to a revision, or to `base`: nothing. What they held is lost."""
    url, setting = _owners_url(settings)
    migrate.downgrade(url, to, setting=setting)


def _owners_url(settings: Settings) -> tuple[str, str]:
    """Where tables are changed, as the login that owns them, and the setting that says so."""
    if settings.migration_database_url:
        return settings.migration_database_url, "FISCUS_MIGRATION_DATABASE_URL"
    return settings.resolved_database_url, DATABASE_SETTING


def diagnose_database(settings: Settings) -> DatabaseFacts:
    """What is to be known of the database before an engine is opened on it."""
    return diagnose(settings.resolved_database_url)


def ensure_admin_key(engine: Engine) -> str | None:
    """Make sure of a `platform_admin` API key; its secret when one was made just now.

    A key given as `bootstrap_admin_key` is kept, and None answered. Otherwise one is made for the
    default tenant, once: never again after the tenant had a key, also one that was revoked.
    """
    settings = engine.settings
    tenant_id = parse_id(settings.default_tenant, "FISCUS_DEFAULT_TENANT")
    given = settings.bootstrap_admin_key
    if given is not None:
        secret = check_given_key(given.get_secret_value(), "FISCUS_BOOTSTRAP_ADMIN_KEY")
        _keep_given_key(engine, tenant_id, secret)
        return None
    if engine.api_keys.list(tenant_id, PageRequest(page_size=1)).items:
        return None
    secret = new_key()
    key = _admin_key(engine, tenant_id, secret)
    # Of processes that start together, one makes the key and the others get its key_id.
    once = idempotency(tenant_id, _BOOTSTRAP, "admin key", tenant_id, _FOR_GOOD)
    made = engine.api_keys.create(key, hash_key(secret), idempotency=once)
    return secret if made.key_id == key.key_id else None


def _keep_given_key(engine: Engine, tenant_id: str, secret: str) -> None:
    kept = engine.api_keys.find(hash_key(secret))
    if kept is None:
        # Of processes that start together, one keeps the key; the others' body is the same.
        once = idempotency(tenant_id, _BOOTSTRAP, hash_key(secret), tenant_id, _FOR_GOOD)
        kept = engine.api_keys.create(
            _admin_key(engine, tenant_id, secret), hash_key(secret), idempotency=once
        )
    if kept.revoked_at is not None:
        log.warning("bootstrap_admin_key_is_revoked", key_id=kept.key_id)
    elif Role.PLATFORM_ADMIN not in kept.roles:
        raise ValidationError(
            "FISCUS_BOOTSTRAP_ADMIN_KEY is an API key without the role platform_admin",
            field="FISCUS_BOOTSTRAP_ADMIN_KEY",
            suggested_action="Use another value, such as the output of `openssl rand -hex 32`.",
        )


def _admin_key(engine: Engine, tenant_id: str, secret: str) -> ApiKey:
    spec = ApiKeySpec(name=f"{_BOOTSTRAP} admin key", roles=[Role.PLATFORM_ADMIN])
    return made_key(secret, spec, tenant_id, by=_BOOTSTRAP, now=engine.clock.now())


def _make_data_dir(settings: Settings) -> None:
    make_folder(settings.data_dir, "FISCUS_DATA_DIR")
