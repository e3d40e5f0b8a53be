"""The PostgreSQL that the other tests stand on is durable, awkward and unprivileged as promised."""

from __future__ import annotations

import psycopg
import pytest

from tests.servers import PostgresServer, add_login, drop_database, fresh_database

pytestmark = pytest.mark.postgres


def value(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "full_page_writes"])
def test_the_server_keeps_what_it_promised(postgres_url: str, setting: str) -> None:
    assert value(postgres_url, f"SHOW {setting}") == "on"


def test_the_owner_is_no_superuser_and_row_security_binds_it(postgres_url: str) -> None:
    query = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    assert value(postgres_url, query) is False


def test_an_added_login_reaches_the_database_and_owns_nothing(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    url = add_login(postgres_server, postgres_url)
    assert value(url, "SELECT current_database()") == value(
        postgres_url, "SELECT current_database()"
    )
    with (
        psycopg.connect(url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE TABLE public.mine (n int)")


def test_a_dropped_database_leaves_no_role_behind_even_with_a_connection_open(
    postgres_server: PostgresServer,
) -> None:
    url = fresh_database(postgres_server)
    add_login(postgres_server, url)
    with psycopg.connect(url, autocommit=True) as held:
        held.execute("CREATE ROLE made_by_the_owner_of_a_test_database LOGIN")
        drop_database(postgres_server, url)
    name = url.rpartition("/")[2]
    with postgres_server.connect() as admin:
        left = admin.execute(
            "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, %s) OR rolname = %s",
            [name, "made_by_the_owner_of_a_test_database"],
        ).fetchone()
    assert left == (0,)
