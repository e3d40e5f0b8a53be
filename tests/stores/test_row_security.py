"""Row-level security, met by a login that has the application's role and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, NamedTuple

import psycopg
import pytest
from psycopg import errors, sql

from fiscus.stores.sql import migrate
from fiscus.stores.sql.quotas.tables import metadata
from tests.servers import PostgresServer, add_login, drop_database, fresh_database

pytestmark = pytest.mark.postgres

TABLES = sorted(metadata.tables)
SOME_ID = "01900000-0000-7000-8000-00000000000"
MAY_UPDATE = {
    "tenants",
    "budgets",
    "budget_periods",
    "reservations",
    "cost_rollups",
    "idempotency_keys",
    "api_keys",
    "rate_limit_policies",
    "rate_limit_emergencies",
    "rate_limit_usage",
    "quotas",
    "quota_balances",
    "quota_consumptions",
    "quota_requests",
}
MAY_DELETE = {"idempotency_keys", "rate_limit_usage", "quota_usage"}


class Secured(NamedTuple):
    owner_url: str
    app_url: str
    role: str


@pytest.fixture(scope="module")
def secured(postgres_server: PostgresServer) -> Iterator[Secured]:
    """A migrated database with one row of tenant `a` and one of `b` in every table."""
    owner_url = fresh_database(postgres_server)
    migrate.upgrade(owner_url)
    app_url = add_login(postgres_server, owner_url)
    login = psycopg.conninfo.conninfo_to_dict(app_url)["user"]
    with psycopg.connect(owner_url) as owner:
        row = owner.execute("SELECT current_database() || '_app'").fetchone()
        assert row is not None
        role = row[0]
        owner.execute(
            sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(str(login)))
        )
        owner.execute("SELECT set_config('fiscus.tenants', 'a,b', false)")
        for number, tenant in enumerate(("a", "b")):
            for table in TABLES:
                _insert(owner, table, tenant, number)
    yield Secured(owner_url, app_url, role)
    drop_database(postgres_server, owner_url)


@pytest.fixture
def app(secured: Secured) -> Iterator[psycopg.Connection[Any]]:
    with contextlib.closing(psycopg.connect(secured.app_url)) as connection:
        yield connection


def _insert(connection: psycopg.Connection[Any], table: str, tenant: str, number: int) -> None:
    """A row of `tenant` with some value in every column that must have one."""
    columns = connection.execute(
        """
        SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
         WHERE attrelid = %s::regclass AND attnum > 0 AND attnotnull
        """,
        [table],
    ).fetchall()
    samples: dict[str, object] = {
        "uuid": f"{SOME_ID}{number}",
        "timestamp with time zone": "2026-03-01T00:00:00Z",
        "date": "2026-03-01",
        "boolean": False,
        "text": f"x{number}",
        "character varying": f"x{number}",
    }
    values = [tenant if name == "tenant_id" else samples.get(kind, 1) for name, kind in columns]
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
        ),
        values,
    )


def _see(connection: psycopg.Connection[Any], tenants: str) -> None:
    connection.execute("SELECT set_config('fiscus.tenants', %s, true)", [tenants])


def _tenants_in(connection: psycopg.Connection[Any], table: str) -> set[str]:
    found = connection.execute(
        sql.SQL("SELECT tenant_id FROM {}").format(sql.Identifier(table))
    ).fetchall()
    return {row[0] for row in found}


@pytest.mark.parametrize("table", TABLES)
def test_only_rows_of_the_transactions_tenants_are_visible(
    app: psycopg.Connection[Any], table: str
) -> None:
    assert _tenants_in(app, table) == set()
    _see(app, "a")
    assert _tenants_in(app, table) == {"a"}
    _see(app, "a,b")
    assert _tenants_in(app, table) == {"a", "b"}
    _see(app, "*")
    assert _tenants_in(app, table) == {"a", "b"}
    _see(app, "")
    assert _tenants_in(app, table) == set()


@pytest.mark.parametrize("table", TABLES)
def test_the_setting_ends_with_its_transaction(app: psycopg.Connection[Any], table: str) -> None:
    _see(app, "a")
    app.commit()
    assert _tenants_in(app, table) == set()


@pytest.mark.parametrize("table", TABLES)
def test_a_row_cannot_be_written_for_another_tenant(
    app: psycopg.Connection[Any], table: str
) -> None:
    _see(app, "a")
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        _insert(app, table, "c", 2)


@pytest.mark.parametrize("table", TABLES)
def test_another_tenants_rows_cannot_be_changed(app: psycopg.Connection[Any], table: str) -> None:
    _see(app, "a")
    name = sql.Identifier(table)
    update = sql.SQL("UPDATE {} SET tenant_id = tenant_id WHERE tenant_id = 'b'").format(name)
    if table in MAY_UPDATE:
        assert app.execute(update).rowcount == 0
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            app.execute(sql.SQL("UPDATE {} SET tenant_id = 'b'").format(name))
    else:
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            app.execute(update)


@pytest.mark.parametrize("table", TABLES)
def test_only_kept_answers_and_usage_can_be_deleted_and_only_ones_own(
    app: psycopg.Connection[Any], table: str
) -> None:
    _see(app, "a")
    delete = sql.SQL("DELETE FROM {} WHERE tenant_id = 'b'").format(sql.Identifier(table))
    if table in MAY_DELETE:
        assert app.execute(delete).rowcount == 0
    else:
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            app.execute(delete)


@pytest.mark.parametrize("table", TABLES)
def test_the_owner_is_bound_too(secured: Secured, table: str) -> None:
    with contextlib.closing(psycopg.connect(secured.owner_url)) as owner:
        assert _tenants_in(owner, table) == set()


def test_every_table_with_a_tenant_has_forced_row_level_security(secured: Secured) -> None:
    with contextlib.closing(psycopg.connect(secured.owner_url)) as owner:
        unprotected = owner.execute(
            """
            SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
             WHERE c.relkind IN ('r', 'p') AND a.attname = 'tenant_id'
               AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
            """
        ).fetchall()
    assert unprotected == []


def test_what_runs_as_the_owner_is_called_by_the_applications_role_alone(secured: Secured) -> None:
    with contextlib.closing(psycopg.connect(secured.owner_url)) as owner:
        may = owner.execute(
            """
            SELECT has_function_privilege(%s, oid, 'EXECUTE'),
                   has_function_privilege('public', oid, 'EXECUTE')
              FROM pg_proc WHERE prosecdef
            """,
            [secured.role],
        ).fetchall()
    assert set(may) == {(True, False)}


def test_the_applications_role_owns_nothing_and_is_nobody_special(secured: Secured) -> None:
    with contextlib.closing(psycopg.connect(secured.owner_url)) as owner:
        role = owner.execute(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin "
            "FROM pg_roles WHERE rolname = %s",
            [secured.role],
        ).fetchone()
        owned = owner.execute(
            "SELECT relname FROM pg_class WHERE relowner = %s::regrole", [secured.role]
        ).fetchall()
    assert role == (False, False, False, False, False)
    assert owned == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE budgets DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE budgets NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY tenant_rows ON budgets",
        "CREATE POLICY all_rows ON budgets USING (true)",
        "TRUNCATE cost_records",
        "DROP TABLE cost_records",
        "CREATE TABLE mine (x int)",
        "SELECT * FROM cost_records_default",
        "SELECT * FROM quota_usage_default",
        "DROP TABLE quota_usage",
        "INSERT INTO alembic_version VALUES ('x')",
        "DELETE FROM alembic_version",
    ],
)
def test_the_applications_role_cannot_take_its_bonds_off(
    secured: Secured, app: psycopg.Connection[Any], statement: str
) -> None:
    app.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(secured.role)))
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute(statement.encode())


def test_partitions_are_out_of_reach_by_name(app: psycopg.Connection[Any]) -> None:
    partitions = app.execute(
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
    ).fetchall()
    assert len(partitions) >= 6
    _see(app, "*")
    for (name,) in partitions:
        with pytest.raises(errors.InsufficientPrivilege), app.transaction():
            app.execute(sql.SQL("SELECT FROM {}").format(sql.Identifier(name)))


@pytest.mark.parametrize("kind", ["cost", "quota"])
def test_the_months_ahead_are_made_by_the_applications_role(
    app: psycopg.Connection[Any], kind: str
) -> None:
    _see(app, "*")
    make = sql.SQL("SELECT {}(5)").format(sql.Identifier(f"fiscus_make_{kind}_partitions"))
    made = app.execute(make).fetchall()
    assert len(made) == 2
    assert app.execute(make).fetchall() == []
    app.rollback()


@pytest.mark.parametrize("tenants", ["", "a", "a,b"])
@pytest.mark.parametrize(
    "call",
    [
        "fiscus_make_cost_partitions(5)",
        "fiscus_make_quota_partitions(5)",
        "fiscus_drop_quota_partitions(now() + interval '9 years')",
    ],
)
def test_months_of_all_tenants_are_not_made_or_dropped_by_who_sees_a_few(
    app: psycopg.Connection[Any], tenants: str, call: LiteralString
) -> None:
    _see(app, tenants)
    with pytest.raises(errors.InsufficientPrivilege, match="all tenants"):
        app.execute(f"SELECT {call}")


def test_only_months_that_ended_are_dropped(app: psycopg.Connection[Any]) -> None:
    _see(app, "*")
    drop = "SELECT fiscus_drop_quota_partitions(%s)"
    now = datetime.now(UTC)
    this_month = datetime(now.year, now.month, 1, tzinfo=UTC)
    next_month = (this_month + timedelta(days=31)).replace(day=1)
    last_month = (this_month - timedelta(days=1)).replace(day=1)
    moments = [this_month - timedelta(microseconds=1), this_month, next_month]
    dropped = [app.execute(drop, [moment]).fetchall() for moment in moments]
    assert dropped == [[], [(last_month,)], [(this_month,)]]
    assert app.execute(drop, [None]).fetchall() == []
    app.rollback()


def test_a_month_whose_rows_sit_in_the_default_partition_is_left_there(
    app: psycopg.Connection[Any],
) -> None:
    _see(app, "*")
    app.execute(
        """
        INSERT INTO cost_records (record_id, timestamp, tenant_id, recorded_at, resource_type,
            cost_amount, currency, charge_category, attributed_to_type, attributed_to_id)
        VALUES (gen_random_uuid(), now() + interval '5 months', 'a', now(), 'llm', 1, 'USD',
            'usage', 'tenant', 'a')
        """
    )
    made = app.execute("SELECT fiscus_make_cost_partitions(6)").fetchall()
    assert len(made) == 2
    app.rollback()


@pytest.mark.parametrize("months", [-1, 25, None])
def test_an_absurd_number_of_months_is_refused(
    app: psycopg.Connection[Any], months: int | None
) -> None:
    with pytest.raises(errors.RaiseException):
        app.execute("SELECT fiscus_make_cost_partitions(%s::integer)", [months])


@pytest.mark.parametrize(
    "call",
    [
        "fiscus_make_cost_partitions(3)",
        "fiscus_make_quota_partitions(3)",
        "fiscus_drop_quota_partitions(now())",
    ],
)
def test_other_roles_may_not_make_or_drop_partitions(
    postgres_server: PostgresServer, secured: Secured, call: LiteralString
) -> None:
    stranger = add_login(postgres_server, secured.owner_url)
    with (
        contextlib.closing(psycopg.connect(stranger)) as connection,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        connection.execute(sql.SQL("SELECT {}").format(sql.SQL(call)))
