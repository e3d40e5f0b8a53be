"""Opening an engine: tables made, the admin key made once, health and maintenance answered."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from fiscus import Fiscus
from fiscus.access.model import ApiKey, Role, hash_key
from fiscus.budgets.calls import CheckRequest
from fiscus.budgets.model import BudgetSpec
from fiscus.clock import ManualClock, SystemClock
from fiscus.costs.port import CostFilter
from fiscus.engine import Engine
from fiscus.errors import Conflict, ServiceUnavailable, ValidationError
from fiscus.health import dependencies_of
from fiscus.ids import uuid7
from fiscus.ledger.loop import answer_or_raise
from fiscus.ledger.requests.budgets import check_command
from fiscus.money import Amount
from fiscus.paging import PageRequest
from fiscus.ratelimits import housekeeping
from fiscus.settings import Settings
from fiscus.stores.sql import maintenance, migrate
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.diagnosis import diagnose
from fiscus.stores.sql.maintenance import SqlMaintenance
from fiscus.wire.converting import convert
from fiscus.wiring.engine import ensure_admin_key, open_engine
from tests.file_modes import bound_by_modes, folder_for_anybody
from tests.servers import PostgresServer, add_login, drop_database, fresh_database
from tests.stores.conftest import Tenant
from tests.valkey import wait_until

GIVEN = "a-long-key-given-in-the-settings"


@pytest.fixture
def owner_url(postgres_server: PostgresServer) -> Iterator[str]:
    url = fresh_database(postgres_server)
    yield url
    drop_database(postgres_server, url)


def test_opening_makes_the_tables(engine: Engine) -> None:
    assert engine.store.pending_migrations() == []
    assert engine.store.ping_ms() > 0


def test_the_kind_of_the_store_is_said(engine: Engine, database_url: str) -> None:
    assert database_url.startswith(engine.store.kind)


def test_an_admin_key_is_made_once_for_the_default_tenant(
    open_on: Callable[..., Engine], database_url: str, tenant: str
) -> None:
    engine = open_on(database_url, default_tenant=tenant)
    secret = ensure_admin_key(engine)
    assert secret is not None
    key = engine.api_keys.find(hash_key(secret))
    assert key is not None
    assert (key.tenant_id, key.roles) == (tenant, [Role.PLATFORM_ADMIN])
    assert ensure_admin_key(engine) is None
    engine.api_keys.revoke(tenant, key.key_id, engine.clock.now())
    assert ensure_admin_key(open_on(database_url, default_tenant=tenant)) is None


def test_processes_that_start_together_make_one_admin_key(
    open_on: Callable[..., Engine], database_url: str, tenant: str
) -> None:
    engines = [open_on(database_url, default_tenant=tenant) for _ in range(3)]
    made: list[str | None] = []
    together = threading.Barrier(3)

    def start(engine: Engine) -> None:
        together.wait()
        made.append(ensure_admin_key(engine))

    threads = [threading.Thread(target=start, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 3
    assert sum(secret is not None for secret in made) == 1
    assert len(engines[0].api_keys.list(tenant, PageRequest()).items) == 1


def test_a_given_admin_key_is_kept_and_not_shown(
    open_on: Callable[..., Engine], database_url: str, tenant: str
) -> None:
    given = f"{GIVEN}-{tenant}"
    for _ in range(2):
        engine = open_on(database_url, default_tenant=tenant, bootstrap_admin_key=given)
        assert ensure_admin_key(engine) is None
        key = engine.api_keys.find(hash_key(given))
        assert key is not None
        assert key.roles == [Role.PLATFORM_ADMIN]
    assert len(engine.api_keys.list(tenant, PageRequest()).items) == 1


def test_a_given_admin_key_that_was_revoked_stays_revoked(
    open_on: Callable[..., Engine], database_url: str, tenant: str
) -> None:
    given = f"{GIVEN}-{tenant}"
    engine = open_on(database_url, default_tenant=tenant, bootstrap_admin_key=given)
    ensure_admin_key(engine)
    key = engine.api_keys.find(hash_key(given))
    assert key is not None
    revoked = engine.api_keys.revoke(tenant, key.key_id, engine.clock.now())
    assert ensure_admin_key(engine) is None
    assert engine.api_keys.find(hash_key(given)) == revoked


@pytest.mark.parametrize(
    "given",
    [
        "short",
        "like.a-token-of-three.parts-that-is-none",
        "read-from-a-file-with-its-line-end\n",
        "some words with spaces between them",
        "schlüssel-für-den-administrator",
        "long" * 129,
    ],
)
def test_a_given_admin_key_must_not_be_guessable_nor_one_that_no_call_can_bring(
    open_on: Callable[..., Engine], database_url: str, given: str
) -> None:
    engine = open_on(database_url, bootstrap_admin_key=given)
    with pytest.raises(ValidationError) as caught:
        ensure_admin_key(engine)
    assert caught.value.field == "FISCUS_BOOTSTRAP_ADMIN_KEY"


def test_a_given_admin_key_that_is_a_lesser_key_is_refused(
    open_on: Callable[..., Engine], database_url: str, tenant: str
) -> None:
    given = f"{GIVEN}-{tenant}"
    engine = open_on(database_url, default_tenant=tenant, bootstrap_admin_key=given)
    key = ApiKey(
        key_id=uuid7(),
        tenant_id=tenant,
        name="gateway",
        hint="a-long",
        roles=[Role.SERVICE],
        created_by="tester",
        created_at=engine.clock.now(),
        expires_at=None,
        revoked_at=None,
    )
    engine.api_keys.create(key, hash_key(given))
    with pytest.raises(ValidationError) as caught:
        ensure_admin_key(engine)
    assert caught.value.field == "FISCUS_BOOTSTRAP_ADMIN_KEY"


def test_answers_are_forgotten_after_their_window(acme: Tenant, clock: ManualClock) -> None:
    acme.budget()
    acme.engine.maintenance.drop_expired_answers()
    for number in range(3):
        acme.check("1", key=f"k{number}")
    acme.record("1", key="kept")
    clock.advance(minutes=6)
    assert acme.engine.maintenance.drop_expired_answers() == 3
    assert acme.engine.maintenance.drop_expired_answers() == 0
    clock.advance(hours=24)
    assert acme.engine.maintenance.drop_expired_answers() == 1


def test_one_process_leads_until_it_closes(
    open_on: Callable[..., Engine], database_url: str
) -> None:
    first, second = open_on(database_url), open_on(database_url)
    assert first.maintenance.try_lead()
    assert first.maintenance.try_lead()
    if first.store.kind == "sqlite":
        assert second.maintenance.try_lead()
        return
    assert not second.maintenance.try_lead()
    first.close()
    assert second.maintenance.try_lead()


@pytest.mark.postgres
def test_leading_ends_with_the_connection_and_is_won_again(
    open_on: Callable[..., Engine], postgres_server: PostgresServer, owner_url: str
) -> None:
    first, second = open_on(owner_url), open_on(owner_url)
    assert first.maintenance.try_lead()
    _end_advisory_locks(postgres_server, owner_url)
    assert second.maintenance.try_lead()
    assert not first.maintenance.try_lead()
    second.close()
    assert first.maintenance.try_lead()


@pytest.mark.postgres
def test_one_that_leads_and_says_nothing_any_more_is_followed_by_another(
    open_on: Callable[..., Engine], owner_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "LOCK_SECONDS", 0.2)
    first, second = open_on(owner_url), open_on(owner_url)
    assert first.maintenance.try_lead()
    monkeypatch.undo()
    wait_until(second.maintenance.try_lead)
    assert not first.maintenance.try_lead()


def test_who_counts_refuses_another_on_the_same_data_until_it_ends(
    open_on: Callable[..., Engine], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiscus.engine._CLAIM_SECONDS", 0.0)
    first, second = open_on(database_url), open_on(database_url)
    first.claim_counters()
    with pytest.raises(Conflict, match="counts rate limits on this data"):
        second.claim_counters()
    first.close()
    second.claim_counters()


@pytest.fixture
def one_who_counted_and_another(
    open_on: Callable[..., Engine],
    postgres_server: PostgresServer,
    owner_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Engine, Engine]:
    """One that counted alone and has lost the connection which said so, and another engine."""
    monkeypatch.setattr(housekeeping, "_REFRESH_SECONDS", 0.001)
    first, second = open_on(owner_url), open_on(owner_url)
    first.claim_counters()
    _end_advisory_locks(postgres_server, owner_url)
    return first, second


@pytest.mark.postgres
def test_who_counts_goes_on_to_claim_that_when_the_connection_is_lost(
    one_who_counted_and_another: tuple[Engine, Engine],
    postgres_server: PostgresServer,
    owner_url: str,
) -> None:
    first, second = one_who_counted_and_another
    first.limiter.start()
    with contextlib.closing(postgres_server.connect()) as admin:
        wait_until(lambda: _advisory_locks(admin, owner_url) == 1)
    assert not second.maintenance.claim_counters()


@pytest.mark.postgres
def test_who_counts_beside_another_says_so_until_that_one_ends(
    one_who_counted_and_another: tuple[Engine, Engine],
) -> None:
    first, second = one_who_counted_and_another
    second.claim_counters()
    first.limiter.start()
    wait_until(lambda: not first.limiter.housekeeping.is_alone)
    told = {one.name: one for one in dependencies_of(first)}["counters"]
    assert told.status == "DEGRADED"
    assert "FISCUS_REDIS_URL" in told.message
    second.close()
    wait_until(lambda: first.limiter.housekeeping.is_alone)


def _end_advisory_locks(server: PostgresServer, url: str) -> None:
    """End the connections that hold one in a database."""
    with contextlib.closing(server.connect()) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l JOIN pg_database d "
            "ON d.oid = l.database WHERE l.locktype = 'advisory' AND d.datname = %s",
            [url.rpartition("/")[2]],
        )


def _advisory_locks(admin: psycopg.Connection, url: str) -> int:
    row = admin.execute(
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        "WHERE l.locktype = 'advisory' AND d.datname = %s",
        [url.rpartition("/")[2]],
    ).fetchone()
    assert row is not None
    return row[0]


def test_a_database_that_went_away_is_unavailable_to_reads_and_changes() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(ServiceUnavailable), database.read("acme"):
        pass
    with pytest.raises(ServiceUnavailable):
        database.write("acme", lambda _connection: None)
    assert not SqlMaintenance(database, SystemClock()).try_lead()
    database.close()


def test_the_months_ahead_are_there_already(engine: Engine) -> None:
    assert engine.maintenance.prepare_partitions() == []


@pytest.mark.postgres
def test_an_unprivileged_login_works_once_the_owner_migrated(
    open_on: Callable[..., Engine], postgres_server: PostgresServer, owner_url: str
) -> None:
    app_url = add_login(postgres_server, owner_url)
    with pytest.raises(ServiceUnavailable) as caught:
        open_on(app_url)
    assert "fiscus migrate up" in str(caught.value.suggested_action)
    migrate.upgrade(owner_url)
    _grant_app_role(owner_url, app_url)
    acme = Tenant(open_on(app_url), "acme")
    acme.budget(budget_amount="1")
    assert (acme.check("1").allowed, acme.check("1").allowed) == (True, False)
    assert acme.engine.maintenance.prepare_partitions() == []


@pytest.mark.postgres
def test_the_owners_url_migrates_for_an_unprivileged_login(
    open_on: Callable[..., Engine], postgres_server: PostgresServer, owner_url: str
) -> None:
    app_url = add_login(postgres_server, owner_url)
    migrate.upgrade(owner_url)
    _grant_app_role(owner_url, app_url)
    migrate.downgrade(owner_url, "base")
    engine = open_on(app_url, migration_database_url=owner_url)
    assert engine.store.pending_migrations() == []


def _grant_app_role(owner_url: str, app_url: str) -> None:
    login = str(psycopg.conninfo.conninfo_to_dict(app_url)["user"])
    with psycopg.connect(owner_url) as owner:
        row = owner.execute("SELECT current_database() || '_app'").fetchone()
        assert row is not None
        owner.execute(sql.SQL("GRANT {} TO {}").format(*map(sql.Identifier, (row[0], login))))


@pytest.mark.postgres
def test_options_of_the_url_hold_beside_those_of_fiscus(
    open_on: Callable[..., Engine], owner_url: str
) -> None:
    with psycopg.connect(owner_url) as owner:
        owner.execute("CREATE SCHEMA apart")
    url = f"{owner_url}?options=-c%20search_path%3Dapart&application_name=ours"
    acme = Tenant(open_on(url), "acme")
    acme.budget(budget_amount="1")
    assert (acme.check("1").allowed, acme.check("1").allowed) == (True, False)
    assert diagnose(url).missing_tables == []
    with psycopg.connect(owner_url) as owner:
        lie_in = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'budgets'"
        assert owner.execute(lie_in).fetchall() == [("apart",)]
        named = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ours'"
        row = owner.execute(named).fetchone()
        assert row is not None
        assert row[0] >= 2


@pytest.mark.postgres
def test_each_schema_of_a_database_may_hold_a_fiscus(
    open_on: Callable[..., Engine], owner_url: str
) -> None:
    names = ("first", "second")
    with psycopg.connect(owner_url) as owner:
        for name in names:
            owner.execute(f"CREATE SCHEMA {name}".encode())
    urls = [f"{owner_url}?options=-c%20search_path%3D{name}" for name in names]
    for work in [open_on(url).maintenance for url in urls]:
        assert work.claim_counters()
        assert work.try_lead()
    assert not open_on(urls[0]).maintenance.claim_counters()


@pytest.mark.postgres
def test_every_connection_of_an_owner_becomes_the_unprivileged_role(owner_url: str) -> None:
    migrate.upgrade(owner_url)
    database = Database(owner_url)
    expected = owner_url.rpartition("/")[2] + "_app"
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT current_user")).scalar_one() == expected
    with database.connect_psycopg() as ledgers:
        assert ledgers.execute("SELECT current_user").fetchone() == (expected,)
    ledgers.close()
    database.close()


def test_a_database_that_is_not_there_is_unavailable(open_on: Callable[..., Engine]) -> None:
    with pytest.raises(ServiceUnavailable):
        open_on("postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "nonsense", "sqlite://", "postgresql://a:b@127.0.0.1:port/x"]
)
def test_a_url_of_another_kind_is_refused(open_on: Callable[..., Engine], url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        open_on(url)
    assert caught.value.field == "FISCUS_DATABASE_URL"


@pytest.mark.parametrize("setting", [{"redis_url": "bogus://x"}, {"database_url": "nonsense"}])
def test_a_setting_that_is_wrong_leaves_nothing_running(
    tmp_path: Path, setting: dict[str, str]
) -> None:
    before = threading.enumerate()
    with pytest.raises(ValidationError):
        open_engine(Settings(data_dir=tmp_path, **setting))
    assert threading.enumerate() == before


def test_a_damaged_file_is_told_by_whoever_opens_it(tmp_path: Path) -> None:
    (tmp_path / "fiscus.db").write_bytes(b"no database " * 1000)
    url = f"sqlite:///{tmp_path / 'fiscus.db'}"
    database = Database(url)
    for look in (
        lambda: migrate.status(url),
        lambda: migrate.upgrade(url),
        lambda: Fiscus.open(data_dir=tmp_path),
        lambda: database.write("acme", lambda _: None),
    ):
        with pytest.raises(ServiceUnavailable, match="file is not a database") as told:
            look()
        assert not told.value.retriable
        assert "backup" in (told.value.suggested_action or "")
    with pytest.raises(ServiceUnavailable, match="file is not a database"), database.read():
        raise AssertionError("it was read")
    database.close()


def test_who_looks_changes_nothing_in_a_file_of_somebody_elses(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = file.read_bytes()
    url = f"sqlite:///{file}"
    assert "budgets" in diagnose(url).missing_tables
    assert not any(one.applied for one in migrate.status(url))
    assert file.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("fiscus.db", 0o444, "fiscus.db is not writable"),
        ("fiscus.db-turn", 0o444, "fiscus.db-turn is not writable"),
        ("fiscus.db-counters", 0o444, "fiscus.db-counters is not writable"),
        ("", 0o555, "their folder is not writable"),
    ],
)
def test_files_that_may_not_be_written_are_told_before_anything_is_opened(
    name: str, mode: int, said: str
) -> None:
    with folder_for_anybody() as folder:
        Fiscus.open(data_dir=folder).close()
        url = f"sqlite:///{folder / 'fiscus.db'}"
        migrate.downgrade(url, "0003")
        (folder / name).touch()
        (folder / name).chmod(mode)
        with bound_by_modes(folder):
            with pytest.raises(ServiceUnavailable, match=said) as told:
                Fiscus.open(data_dir=folder)
            if name in {"fiscus.db", ""}:
                with pytest.raises(ServiceUnavailable, match=said):
                    migrate.upgrade(url)
            assert diagnose(url).not_writable == folder / name
    assert not told.value.retriable
    assert told.value.retry_after_seconds is None
    assert "fiscus doctor" in (told.value.suggested_action or "")


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
@pytest.mark.parametrize("name", ["fiscus.db", "fiscus.db-turn"])
def test_all_goes_on_once_the_file_may_be_written_again(
    open_on: Callable[..., Engine], name: str
) -> None:
    with folder_for_anybody() as folder:
        url = f"sqlite:///{folder / 'fiscus.db'}"
        open_on(url, data_dir=folder).close()
        acme = Tenant(open_on(url, data_dir=folder), "acme")
        (folder / name).touch()
        (folder / name).chmod(0o444)
        with bound_by_modes(folder):
            with pytest.raises(ServiceUnavailable, match=f"{name} is not writable"):
                acme.budget(budget_amount="1")
            with pytest.raises(ServiceUnavailable):
                acme.check("1")
            (folder / name).chmod(0o600)
            acme.budget(budget_amount="1")
            assert acme.check("1").allowed
        acme.engine.close()


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_data_folder_that_cannot_be_one_is_a_setting_that_is_wrong(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValidationError, match="cannot be the folder") as told:
        Fiscus.open(data_dir=tmp_path / below)
    assert told.value.field == "FISCUS_DATA_DIR"
    url = f"sqlite:///{tmp_path / 'file' / 'below' / 'fiscus.db'}"
    with pytest.raises(ValidationError, match="cannot be the folder") as told:
        Fiscus.open(data_dir=tmp_path / "data", database_url=url)
    assert told.value.field == "FISCUS_DATABASE_URL"


@pytest.mark.parametrize(
    "url", ["sqlite:///:memory:", "sqlite:///file:a?mode=memory&uri=true", "sqlite:///a.db?mode=ro"]
)
def test_sqlite_is_a_file_by_its_path(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValidationError, match="not the URL of a database") as told:
        Fiscus.open(data_dir=tmp_path, database_url=url)
    assert told.value.field == "FISCUS_DATABASE_URL"


def test_a_data_folder_may_have_any_name(tmp_path: Path) -> None:
    for name in ("what?", "100%25", "a b", "ä#&;"):
        with Fiscus.open(data_dir=tmp_path / name) as opened:
            assert not opened.records().items
        assert (tmp_path / name / "fiscus.db").is_file()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.skipif(os.name == "nt", reason="no folder of Windows's has a colon in its name")
@pytest.mark.parametrize("name", [":memory:", "file:a"])
def test_a_relative_data_folder_may_have_a_name_that_no_database_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Fiscus.open(data_dir=name) as opened:
        assert not opened.records().items
    assert (tmp_path / name / "fiscus.db").is_file()


@pytest.mark.parametrize("url", [None, "sqlite:///fiscus.db"])
def test_a_program_may_go_to_another_folder_than_it_opened_fiscus_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(open_engine(Settings(data_dir=Path("data"), database_url=url))) as one:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        spec = {
            "budget_name": "All",
            "budget_amount": 10,
            "period_type": "monthly",
            "allocated_to_type": "tenant",
            "allocated_to_id": "acme",
            "on_store_failure": "allow",
        }
        now = one.clock.now()
        one.budgets.create("acme", convert(spec, BudgetSpec), by="test", now=now)
        request = CheckRequest(resource_type="llm", estimated_cost=Amount(1))
        command = check_command(request, "acme", now)
        assert answer_or_raise(one.ledger.execute(command)).allowed
        assert answer_or_raise(one.ledger.without_store(command)).degraded
        (disk,) = [found for found in dependencies_of(one) if found.name == "disk"]
        assert "MB are free for the" in disk.message  # of both folders, that with less
    assert (tmp_path / "data" / "degraded.jsonl").exists()


def test_a_relative_data_folder_in_one_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ValidationError, match="cannot be the folder") as told:
        Fiscus.open(data_dir="fiscus-data")
    assert told.value.field == "FISCUS_DATA_DIR"


def test_a_database_that_cannot_be_reached_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="Connection refused") as told:
        Fiscus.open(data_dir=tmp_path, database_url="postgresql://a:secret-word@127.0.0.1:9/none")
    assert "fiscus doctor" in (told.value.suggested_action or "")
    assert "secret-word" not in str(told.value)


def test_the_data_folder_and_its_tables_are_made(
    open_on: Callable[..., Engine], tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "b"
    engine = open_on(f"sqlite:///{folder / 'fiscus.db'}", data_dir=folder)
    assert (folder / "fiscus.db").is_file()
    assert engine.store.kind == "sqlite"
    assert engine.store.pending_migrations() == []


# -- what PostgreSQL may be set to


@pytest.mark.postgres
@pytest.mark.parametrize(
    "setting",
    [
        "DateStyle = 'German, DMY'",
        "client_encoding = 'LATIN1'",
        "default_transaction_isolation = 'serializable'",
    ],
)
def test_what_sessions_are_set_to_otherwise_changes_nothing(
    open_on: Callable[..., Engine], postgres_server: PostgresServer, owner_url: str, setting: str
) -> None:
    name = sa.make_url(owner_url).database
    assert name is not None
    with contextlib.closing(postgres_server.connect()) as admin:
        admin.execute(
            sql.SQL("ALTER DATABASE {} SET {}").format(sql.Identifier(name), sql.SQL(setting))
        )
    acme = Tenant(open_on(owner_url), "acme")
    budget = acme.budget(budget_name="日本")
    acme.record("1.5", tags={"area": "日"})
    assert acme.check("1", tags={"area": "日"}).allowed
    (record,) = acme.engine.costs.list("acme", CostFilter(), PageRequest()).items
    assert (record.tags["area"], record.timestamp) == ("日", acme.now)
    assert acme.engine.budgets.get("acme", budget.budget_id).budget_name == "日本"
    show = "SHOW transaction_isolation"
    with contextlib.closing(Database(owner_url)) as database:
        changes = database.write("acme", lambda one: one.execute(sa.text(show)).scalar_one())
        with contextlib.closing(database.connect_psycopg()) as own:
            assert own.execute(show).fetchone() == (changes,) == ("read committed",)


@pytest.mark.postgres
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(
    postgres_server: PostgresServer, encoding: str, tmp_path: Path
) -> None:
    url = fresh_database(postgres_server, encoding)
    for step in (
        lambda: migrate.upgrade(url),
        lambda: migrate.status(url),
        lambda: open_engine(Settings(data_dir=tmp_path, database_url=url)),
    ):
        with pytest.raises(ServiceUnavailable, match=f"encoding is {encoding}") as caught:
            step()
        assert not caught.value.retriable
    drop_database(postgres_server, url)
