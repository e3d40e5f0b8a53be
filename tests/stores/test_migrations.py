"""Migrations up and down on both databases, and what they make against what the code expects."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fiscus.budgets.model import BalanceKey, ReservationLine
from fiscus.errors import ServiceUnavailable, ValidationError
from fiscus.ids import is_uuid
from fiscus.quotas.model import ConsumptionLine, QuotaKey
from fiscus.stores.sql import migrate
from fiscus.stores.sql.budgets.lines import read_lines
from fiscus.stores.sql.quotas.tables import metadata, quota_consumptions, quota_usage
from fiscus.stores.sql.sqlite.write_lock import WriteLock
from fiscus.stores.sql.tables import reservations
from fiscus.wire.decoding import decode
from tests.servers import PostgresServer, add_login, drop_database, fresh_database
from tests.stores.conftest import DATABASES

ELSEWHERE = {
    "sqlite": "ix_reservations_pending_by_tenant",
    "postgresql": "ix_reservations_pending_by_expiry",
}
"""The index that only the other database has."""
# Made on PostgreSQL only, where the code does not name it.
NOT_IN_METADATA = {"ix_cost_records_timestamp"}
PARTITIONED = ("cost_records_", "quota_usage_")


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'folder that is new' / '50%.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = fresh_database(server)
    yield url
    drop_database(server, url)


@contextlib.contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def tables_of(url: str) -> set[str]:
    with connected(url) as connection:
        return set(sa.inspect(connection).get_table_names())


def test_going_up_down_and_up_again_ends_at_the_same_tables(empty_url: str) -> None:
    assert not any(one.applied for one in migrate.status(empty_url))
    migrate.upgrade(empty_url)
    first = tables_of(empty_url)
    assert all(one.applied for one in migrate.status(empty_url))
    migrate.downgrade(empty_url, "base")
    assert tables_of(empty_url) == {"alembic_version"}
    assert not any(one.applied for one in migrate.status(empty_url))
    migrate.upgrade(empty_url)
    assert tables_of(empty_url) == first
    assert first >= set(metadata.tables)


def test_a_database_of_each_revision_is_brought_up_and_down_with_what_is_in_it(
    empty_url: str,
) -> None:
    migrate.upgrade(empty_url, "0001")
    with connected(empty_url) as connection:
        _see_all(connection)
        now = "now()" if connection.dialect.name == "postgresql" else "0"
        connection.execute(sa.text(A_KEY.format(now=now)))
        connection.commit()
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        _see_all(connection)
        kept = "SELECT name, highest_priority FROM api_keys"
        assert connection.execute(sa.text(kept)).all() == [("gateway", "normal")]
    migrate.downgrade(empty_url, "0001")
    assert not [name for name in tables_of(empty_url) if name.startswith(("rate_limit_", "quota"))]
    with connected(empty_url) as connection:
        _see_all(connection)
        assert connection.execute(sa.text("SELECT name FROM api_keys")).all() == [("gateway",)]
        columns = [column["name"] for column in sa.inspect(connection).get_columns("api_keys")]
        assert "highest_priority" not in columns
    migrate.upgrade(empty_url)
    assert tables_of(empty_url) >= set(metadata.tables)


def test_tenants_keep_their_settings_when_quotas_come_and_go(empty_url: str) -> None:
    migrate.upgrade(empty_url, "0002")
    with connected(empty_url) as connection:
        _see_all(connection)
        postgres = connection.dialect.name == "postgresql"
        now = "now()" if postgres else "0"
        connection.execute(sa.text(A_TENANT.format(now=now)))
        connection.commit()
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        _see_all(connection)
        kept = "SELECT currency, definitions_version, require_quota FROM tenants"
        assert connection.execute(sa.text(kept)).all() == [("EUR", 7, False)]
        connection.execute(sa.text(A_BALANCE))
        connection.commit()
    migrate.downgrade(empty_url, "0002")
    assert not [name for name in tables_of(empty_url) if name.startswith("quota")]
    with connected(empty_url) as connection:
        _see_all(connection)
        kept = "SELECT currency, definitions_version FROM tenants"
        assert connection.execute(sa.text(kept)).all() == [("EUR", 7)]
        columns = [column["name"] for column in sa.inspect(connection).get_columns("tenants")]
        assert "require_quota" not in columns
        if postgres:
            left = "SELECT proname FROM pg_proc WHERE proname LIKE 'fiscus_%quota%'"
            assert connection.execute(sa.text(left)).all() == []
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        _see_all(connection)
        assert connection.execute(sa.text("SELECT count(*) FROM quota_balances")).scalar() == 0


def test_what_was_consumed_is_kept_when_its_lines_move_into_its_row(empty_url: str) -> None:
    migrate.upgrade(empty_url, "0003")
    with connected(empty_url) as connection:
        _see_all(connection)
        for statement in A_CONSUMPTION:
            connection.execute(sa.text(statement.format(**_moments(connection))))
        before = _consumed(connection)
        connection.commit()
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        _see_all(connection)
        (stored,) = connection.execute(sa.select(quota_consumptions.c.lines)).scalars()
        assert decode(stored, tuple[ConsumptionLine, ...]) == (
            ConsumptionLine(QuotaKey(ID.format(1), "acme"), Decimal("2.500000000001")),
            ConsumptionLine(
                QuotaKey(ID.format(2), "apollo"),
                Decimal("2.500000000001"),
                Decimal("1.5"),
                Decimal(1),
                Decimal("0.5"),
                Decimal("0.000000000001"),
                "EUR",
            ),
        )
        usage = sa.select(quota_usage.c.kind).order_by(quota_usage.c.at, quota_usage.c.usage_id)
        assert connection.execute(usage).scalars().all() == ["consume", "consume", "release"]
        moments = _moments(connection)
        for statement in ANOTHER_CONSUMPTION:
            connection.execute(sa.text(statement.replace(":", "\\:").format(**moments)))
        connection.commit()
    migrate.downgrade(empty_url, "0003")
    with connected(empty_url) as connection:
        _see_all(connection)
        lines, usage = _consumed(connection)
        assert [lines[:-1], usage[:-1]] == before
        (new_line,), (new_usage,) = lines[-1:], usage[-1:]
        assert new_line == (ID.format(9), ID.format(1), "acme", 7, 0, 0, 0, None, None)
        assert new_usage == (ID.format(1), "consume", 7, ID.format(9), None, "ann", None)
        ids = connection.execute(
            sa.text("SELECT CAST(usage_id AS TEXT) FROM quota_usage")
        ).scalars()
        assert all(is_uuid(one) for one in ids)
    migrate.upgrade(empty_url)


def test_what_is_held_is_kept_when_its_lines_move_into_the_reservation(empty_url: str) -> None:
    migrate.upgrade(empty_url, "0005")
    with connected(empty_url) as connection:
        _see_all(connection)
        given = HELD_ON_POSTGRES if connection.dialect.name == "postgresql" else HELD_ON_SQLITE
        for number in (5, 6):
            connection.execute(sa.text(A_RESERVATION.format(id=ID.format(number), **given)))
        connection.execute(sa.text(THE_LINES.format(**given)))
        before = _held(connection)
        connection.commit()
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        _see_all(connection)
        stored = sa.select(reservations.c.lines).order_by(reservations.c.reservation_id)
        held, nothing = map(read_lines, connection.execute(stored).scalars())
        assert nothing == ()
        assert held == (
            ReservationLine(
                BalanceKey(ID.format(1), 'a "b"', datetime(1899, 12, 31, 23, 6, 32, tzinfo=UTC)),
                Decimal("2.500000000001"),
            ),
            ReservationLine(
                BalanceKey(ID.format(2), "apollo", datetime(2026, 11, 1, 0, 0, 0, 7, tzinfo=UTC)),
                Decimal("2.25"),
                Decimal("0.900000000000000001"),
                date(2026, 11, 27),
            ),
            ReservationLine(
                BalanceKey(ID.format(3), "apollo", datetime(1, 1, 1, tzinfo=UTC)),
                Decimal("2.5"),
                Decimal(1),
                date(2026, 11, 27),
            ),
        )
    migrate.downgrade(empty_url, "0005")
    with connected(empty_url) as connection:
        _see_all(connection)
        assert _held(connection) == before
    migrate.upgrade(empty_url)


A_COST = """
    INSERT INTO cost_records (record_id, timestamp, tenant_id, recorded_at, resource_type,
        cost_amount, currency, charge_category, attributed_to_type, attributed_to_id)
    VALUES (gen_random_uuid(), now() - interval '{days} days', 'a', now(), 'llm', 1, 'USD',
        'usage', 'tenant', 'a')
"""
A_USE = """
    INSERT INTO quota_usage (usage_id, at, tenant_id, quota_id, scope_id, kind, amount, burst,
        used_after, consumption_id)
    VALUES (1, now() - interval '{days} days', 'a', gen_random_uuid(), 'a', 'consume', 1, 0, 1,
        gen_random_uuid())
"""


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("table", "time", "row"), [("cost_records", "timestamp", A_COST), ("quota_usage", "at", A_USE)]
)
def test_old_rows_leave_the_partition_that_is_looked_through_for_each_new_month(
    postgres_server: PostgresServer, table: str, time: str, row: str
) -> None:
    url = fresh_database(postgres_server)
    partitions = sa.text(
        f"SELECT replace(CAST(CAST(tableoid AS regclass) AS text), '{table}_', '') "
        f"FROM {table} ORDER BY {time}"
    )

    def rows_lie_in() -> list[str]:
        with connected(url) as connection:
            _see_all(connection)
            return list(connection.execute(partitions).scalars())

    try:
        migrate.upgrade(url, "0004")
        with connected(url) as connection:
            _see_all(connection)
            month = sa.text("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
            this_month = connection.execute(month).scalar_one()
            connection.execute(sa.text(f"DROP TABLE {table}_{this_month}"))
            for days in (0, 1000, 2000):
                connection.execute(sa.text(row.format(days=days)))
            connection.commit()
        assert rows_lie_in() == ["default", "default", "default"]
        migrate.upgrade(url)
        assert rows_lie_in() == ["before", "before", this_month]
        migrate.downgrade(url, "0004")
        assert rows_lie_in() == ["default", "default", this_month]
        migrate.upgrade(url)
        assert rows_lie_in() == ["before", "before", this_month]
    finally:
        drop_database(postgres_server, url)


ID = "01900000-0000-7000-8000-{:012}"
A_CONSUMPTION = (
    f"""
    INSERT INTO quota_consumptions (consumption_id, tenant_id, resource_type, amount, released,
        project_id, created_at)
    VALUES ('{ID.format(5)}', 'acme', 'gpu', '2.500000000001', '1', 'apollo', {{early}})
    """,
    f"""
    INSERT INTO quota_consumption_lines (consumption_id, quota_id, scope_id, tenant_id, amount,
        burst, released, burst_released, premium_rate, premium_currency)
    VALUES ('{ID.format(5)}', '{ID.format(2)}', 'apollo', 'acme', '2.500000000001', '1.5', '1',
        '0.5', '0.000000000001', 'EUR'),
        ('{ID.format(5)}', '{ID.format(1)}', 'acme', 'acme', '2.500000000001', '0', '0',
        '0', NULL, NULL)
    """,
    f"""
    INSERT INTO quota_usage (usage_id, at, tenant_id, quota_id, scope_id, kind, amount, burst,
        used_after, consumption_id, project_id)
    VALUES ('{ID.format(8)}', {{late}}, 'acme', '{ID.format(2)}', 'apollo', 'release', '1', '0.5',
        '1.5', '{ID.format(5)}', 'apollo'),
        ('{ID.format(6)}', {{early}}, 'acme', '{ID.format(2)}', 'apollo', 'consume',
        '2.500000000001', '1.5', '2.5', '{ID.format(5)}', 'apollo'),
        ('{ID.format(7)}', {{early}}, 'acme', '{ID.format(1)}', 'acme', 'consume',
        '2.500000000001', '0', '2.5', '{ID.format(5)}', 'apollo')
    """,
)
ANOTHER_CONSUMPTION = (
    f"""
    INSERT INTO quota_consumptions (consumption_id, tenant_id, resource_type, amount, released,
        user_id, created_at, lines)
    VALUES ('{ID.format(9)}', 'acme', 'gpu', '7', '0', 'ann', {{late}},
        '[{{{{"key":["{ID.format(1)}","acme"],"amount":"7"}}}}]')
    """,
    f"""
    INSERT INTO quota_usage (usage_id, at, tenant_id, quota_id, scope_id, kind, amount, burst,
        used_after, consumption_id)
    VALUES ({2**61 - 1}, {{late}}, 'acme', '{ID.format(1)}', 'acme', 'consume', '7', '0', '9.5',
        '{ID.format(9)}')
    """,
)
"""As the application writes them."""


def _moments(connection: sa.Connection) -> dict[str, str]:
    if connection.dialect.name == "postgresql":
        return {"early": "TIMESTAMPTZ '2020-01-01 00:00Z'", "late": "now()"}
    return {"early": "1577836800000000", "late": "1777836800000000"}


A_RESERVATION = """
    INSERT INTO reservations (reservation_id, tenant_id, status, resource_type, estimated_cost,
        currency, created_at, expires_at)
    VALUES ('{id}', 'acme', 'pending', 'llm', '2.5', 'USD', {made}, {made})
"""
THE_LINES = f"""
    INSERT INTO reservation_lines (reservation_id, budget_id, scope_id, period_start, tenant_id,
        amount, rate, rate_date)
    VALUES ('{ID.format(5)}', '{ID.format(2)}', 'apollo', {{month}}, 'acme', '2.25',
            '0.900000000000000001', '2026-11-27'),
        ('{ID.format(5)}', '{ID.format(1)}', 'a "b"', {{old}}, 'acme', '2.500000000001', '1',
            '2026-11-30'),
        ('{ID.format(5)}', '{ID.format(3)}', 'apollo', {{first}}, 'acme', '2.5', '1', '2026-11-27')
"""
HELD_ON_POSTGRES = {
    "made": "TIMESTAMPTZ '2026-11-30 23:59:59Z'",
    "month": "TIMESTAMPTZ '2026-11-01 00:00:00.000007Z'",
    "old": "TIMESTAMPTZ '1899-12-31 23:06:32Z'",
    "first": "TIMESTAMPTZ '0001-01-01 00:00Z'",
}
HELD_ON_SQLITE = {
    "made": "1796083199000000",
    "month": "1793491200000007",
    "old": "-2208992008000000",
    "first": "-62135596800000000",
}


def _held(connection: sa.Connection) -> list[tuple[Any, ...]]:
    """Lines of reservations as they are in 0005."""
    query = """
        SELECT CAST(reservation_id AS TEXT), CAST(budget_id AS TEXT), scope_id,
               CAST(period_start AS TEXT), tenant_id, amount, rate, CAST(rate_date AS TEXT)
        FROM reservation_lines ORDER BY reservation_id, budget_id
    """
    return [tuple(map(_number, row)) for row in connection.execute(sa.text(query))]


def _consumed(connection: sa.Connection) -> list[list[tuple[Any, ...]]]:
    """Lines and history as they are in 0003."""
    found = [
        connection.execute(sa.text(query)).all()
        for query in (
            """
            SELECT CAST(consumption_id AS TEXT), CAST(quota_id AS TEXT), scope_id, amount, burst,
                   released, burst_released, premium_rate, premium_currency
            FROM quota_consumption_lines ORDER BY consumption_id, quota_id
            """,
            """
            SELECT CAST(quota_id AS TEXT), kind, amount, CAST(consumption_id AS TEXT), project_id,
                   user_id, feature_id
            FROM quota_usage ORDER BY usage_id
            """,
        )
    ]
    return [[tuple(map(_number, row)) for row in rows] for rows in found]


def _number(value: Any) -> Any:
    """Amounts as numbers, which SQLite has as text."""
    try:
        return Decimal(value)
    except (InvalidOperation, TypeError):
        return value


A_TENANT = """
    INSERT INTO tenants (tenant_id, currency, timezone, require_budget, rollup_tags, version,
        definitions_version, created_at, updated_at)
    VALUES ('acme', 'EUR', 'UTC', false, '[]', 1, 7, {now}, {now})
"""
A_BALANCE = """
    INSERT INTO quota_balances (quota_id, scope_id, tenant_id, used, burst_used)
    VALUES ('01900000-0000-7000-8000-000000000000', 'apollo', 'acme', '1', '0')
"""
A_KEY = """
    INSERT INTO api_keys (key_id, tenant_id, name, key_hash, hint, roles, created_by, created_at)
    VALUES ('01900000-0000-7000-8000-000000000000', 'acme', 'gateway', 'x', 'fsk_', 'service', 'me',
        {now})
"""


def _see_all(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT set_config('fiscus.tenants', '*', true)"))


def test_going_up_twice_changes_nothing(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    migrate.upgrade(empty_url)
    assert all(one.applied for one in migrate.status(empty_url))


def test_migrated_tables_are_those_the_code_expects(empty_url: str) -> None:
    migrate.upgrade(empty_url)

    def compared(_object: object, name: str | None, kind: str, found: bool, _to: object) -> bool:
        partition = kind == "table" and found and str(name).startswith(PARTITIONED)
        return name not in {*NOT_IN_METADATA, ELSEWHERE[context.dialect.name]} and not partition

    with connected(empty_url) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_object": compared}
        )
        assert compare_metadata(context, metadata) == []


def test_primary_keys_of_the_migrated_tables_are_those_of_the_code(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        inspector = sa.inspect(connection)
        for name, table in metadata.tables.items():
            found = inspector.get_pk_constraint(name)["constrained_columns"]
            assert found == [column.name for column in table.primary_key], name


def test_sqlite_keeps_rows_in_key_order_where_the_code_says_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fiscus.db'}"
    migrate.upgrade(url)
    with connected(url) as connection:
        found = connection.execute(sa.text("SELECT name, sql FROM sqlite_master")).all()
    without = {name for name, sql in found if sql and "WITHOUT ROWID" in sql}
    expected = {
        name
        for name, table in metadata.tables.items()
        if table.dialect_options["sqlite"]["with_rowid"] is False
    }
    assert without == expected


def test_processes_that_start_together_migrate_once(empty_url: str) -> None:
    errors: list[BaseException] = []
    together = threading.Barrier(4)

    def start() -> None:
        together.wait()
        try:
            migrate.upgrade(empty_url)
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert all(one.applied for one in migrate.status(empty_url))


def test_a_migration_on_sqlite_waits_for_its_turn_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiscus.stores.sql.sqlite.write_lock.WAIT_SECONDS", 0.05)
    path = tmp_path / "fiscus.db"
    url = f"sqlite:///{path}"
    migrate.upgrade(url)
    with contextlib.closing(WriteLock.at(path)) as write_lock, ThreadPoolExecutor(1) as pool:
        for move in (migrate.upgrade, partial(migrate.downgrade, to="base")):
            with (
                write_lock.held(),
                pytest.raises(ServiceUnavailable, match="somebody else") as caught,
            ):
                pool.submit(move, url).result()
            assert caught.value.retriable
        assert all(one.applied for one in migrate.status(url))
        pool.submit(migrate.downgrade, url, "base").result()
    assert not any(one.applied for one in migrate.status(url))


def test_a_revision_that_does_not_exist_is_named(empty_url: str) -> None:
    with pytest.raises(ValidationError, match="9999") as caught:
        migrate.upgrade(empty_url, "9999")
    assert caught.value.field == "revision"


def test_a_database_of_a_newer_version_is_not_touched(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        connection.commit()
    for run in (migrate.status, migrate.upgrade):
        with pytest.raises(ServiceUnavailable, match="9999"):
            run(empty_url)


@pytest.mark.parametrize(
    ("noted", "said"),
    [
        ("UPDATE alembic_version SET version_num = '0003'", "are not those of revision 0003"),
        ("DELETE FROM alembic_version", "no migration is noted"),
    ],
)
def test_tables_that_are_not_those_of_their_revision_are_told(
    empty_url: str, noted: str, said: str
) -> None:
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        connection.execute(sa.text(noted))
        connection.commit()
    before = tables_of(empty_url)
    with pytest.raises(ServiceUnavailable, match=f"{said}.*(already exists|duplicate)"):
        migrate.upgrade(empty_url)
    assert tables_of(empty_url) == before


def test_tables_that_are_gone_are_told_when_going_down(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with connected(empty_url) as connection:
        connection.execute(sa.text("DROP TABLE quota_requests"))
        connection.commit()
    with pytest.raises(ServiceUnavailable, match="not those of revision 0006") as told:
        migrate.downgrade(empty_url, "base")
    assert not told.value.retriable
    assert "backup" in (told.value.suggested_action or "")


@pytest.mark.postgres
def test_a_login_without_rights_is_told_to_migrate_as_the_owner(
    postgres_server: PostgresServer,
) -> None:
    owner = fresh_database(postgres_server)
    try:
        with pytest.raises(ServiceUnavailable) as caught:
            migrate.upgrade(add_login(postgres_server, owner))
        assert "fiscus migrate up" in str(caught.value.suggested_action)
    finally:
        drop_database(postgres_server, owner)


def test_a_database_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(ServiceUnavailable):
        migrate.status("postgresql://nobody@127.0.0.1:1/none")
