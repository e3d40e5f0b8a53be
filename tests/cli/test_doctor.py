"""`fiscus doctor`."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from fiscus import Fiscus
from fiscus.stores.sql.diagnosis import rights_of_the_application
from tests.cli.conftest import GOOD_SECRET
from tests.file_modes import bound_by_modes, folder_for_anybody
from tests.fiscus_process import run_fiscus
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def test_doctor_finds_nothing_wrong_after_a_first_start(run: Run) -> None:
    run("migrate", "up")
    done = run("doctor", "--json")
    assert done.status == 0
    assert {one["verdict"] for one in done.json()["checks"]} == {"ok"}


def test_what_doctor_says_is_wrapped_only_in_a_terminal(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / ("a-long-name-" * 10)
    folder.mkdir()
    assert f"{folder} is writable" in run("doctor", FISCUS_DATA_DIR=str(folder)).out


def test_doctor_says_how_to_mend_weak_secrets(run: Run) -> None:
    done = run("doctor", FISCUS_JWT_SECRET="short", FISCUS_BOOTSTRAP_ADMIN_KEY="a" * 40)
    assert done.status == 1
    assert "FISCUS_JWT_SECRET" in done.out
    assert "openssl rand -hex 32" in done.out
    assert "it can be guessed" in done.out


def test_doctor_accepts_long_secrets(run: Run) -> None:
    done = run("doctor", "--json", FISCUS_JWT_SECRET=GOOD_SECRET)
    assert done.json()["ok"] is True
    assert GOOD_SECRET not in done.out


def test_doctor_points_at_a_setting_that_is_none(run: Run) -> None:
    done = run("doctor", FISCUS_DATABSE_URL="sqlite:///x.db")
    assert done.status == 0
    assert "FISCUS_DATABSE_URL is set but is no setting" in done.out


def test_doctor_says_that_the_database_cannot_be_reached(run: Run) -> None:
    done = run("doctor", FISCUS_DATABASE_URL="postgresql://nobody:secret-word@127.0.0.1:9/none")
    assert done.status == 1
    assert "cannot be reached" in done.out
    assert "secret-word" not in done.out + done.err


def test_doctor_says_that_the_data_folder_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run("doctor", FISCUS_DATA_DIR=str(tmp_path / "file" / "data"))
    assert done.status == 1
    assert f"cannot be made: {tmp_path / 'file'} is no folder" in done.out


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
def test_doctor_says_who_may_not_make_the_data_folder(run: Run) -> None:
    run("doctor")  # what it imports may be out of another user's reach
    with folder_for_anybody() as folder:
        folder.chmod(0o500)
        with bound_by_modes(folder):
            done = run("doctor", FISCUS_DATA_DIR=str(folder / "within" / "data"))
    assert done.status == 1
    assert f"cannot be made: {folder} may not be written to" in done.out


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
def test_doctor_sees_a_database_that_everybody_can_read(run: Run, tmp_path: Path) -> None:
    run("migrate", "up")
    (tmp_path / "data").chmod(0o755)
    (tmp_path / "data" / "fiscus.db").chmod(0o644)
    assert "chmod 700" in run("doctor").out


@pytest.mark.postgres
def test_doctor_looks_at_tenant_isolation_on_postgresql(run: Run, postgres_url: str) -> None:
    run("migrate", "up", FISCUS_DATABASE_URL=postgres_url)
    with psycopg.connect(postgres_url) as owner:  # what another program has is none of ours
        owner.execute("CREATE TABLE invoices (tenant_id text)")
    done = run("doctor", "--json", FISCUS_DATABASE_URL=postgres_url)
    checks = {one["check"]: one for one in done.json()["checks"]}
    assert checks["tenant isolation"]["verdict"] == "ok"
    assert checks["clock"]["verdict"] == "ok"
    assert checks["tables"]["verdict"] == "ok"


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("broken", "check", "seen"),
    [
        ("ALTER TABLE budgets NO FORCE ROW LEVEL SECURITY", "tenant isolation", "on budgets"),
        ("ALTER TABLE tenants DISABLE ROW LEVEL SECURITY", "tenant isolation", "on tenants"),
        ("DROP POLICY tenant_rows ON quotas", "tenant isolation", "quotas has no policy"),
        (
            'CREATE POLICY "see all" ON budgets FOR SELECT USING (true)',
            "tenant isolation",
            "budgets has another policy, see all",
        ),
        (
            "CREATE POLICY tenant_rows ON cost_records_default USING (true)",
            "tenant isolation",
            "cost_records_default has another policy",
        ),
        ("REVOKE INSERT ON budgets FROM {role}", "tables", "no right to INSERT ON budgets"),
        ("REVOKE DELETE ON quota_usage FROM {role}", "tables", "DELETE ON quota_usage"),
        (
            "ALTER TABLE cost_records DETACH PARTITION cost_records_default",
            "tables",
            "cost_records has no default partition",
        ),
        ("DROP TABLE quota_usage_default", "tables", "quota_usage has no default partition"),
        (
            "ALTER TABLE quota_usage DETACH PARTITION quota_usage_{month}",
            "tables",
            "is no partition of quota_usage",
        ),
    ],
)
def test_what_doctor_says_mends_the_tables_of_postgresql(
    run: Run, postgres_url: str, broken: str, check: str, seen: str
) -> None:
    on_postgres = {"FISCUS_DATABASE_URL": postgres_url}
    run("migrate", "up", **on_postgres)
    role = postgres_url.rpartition("/")[2] + "_app"
    with psycopg.connect(postgres_url) as owner:
        owner.execute(broken.format(role=role, month=this_month(owner)).encode())
    done = run("doctor", "--json", **on_postgres)
    assert done.status == 1
    found = next(one for one in done.json()["checks"] if one["verdict"] != "ok")
    assert (found["check"], found["verdict"]) == (check, "wrong")
    assert seen in found["seen"]
    with psycopg.connect(postgres_url) as owner:
        owner.execute(found["mend"].removeprefix("as the tables' owner: ").encode())
    assert run("doctor", "--json", **on_postgres).json()["ok"] is True


def this_month(server: psycopg.Connection) -> str:
    """As the names of partitions have it, by the clock that `doctor` goes by."""
    row = server.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')").fetchone()
    assert row is not None
    return row[0]


@pytest.mark.postgres
def test_costs_recorded_while_their_month_was_detached_come_into_it_when_doctor_has_it_mended(
    run: Run, postgres_url: str, tmp_path: Path
) -> None:
    with Fiscus.open(data_dir=tmp_path, database_url=postgres_url, tenant="acme") as fiscus:
        fiscus.record(resource_type="llm", cost_amount="1")
        with psycopg.connect(postgres_url, autocommit=True) as owner:
            month = f"cost_records_{this_month(owner)}"
            owner.execute(f"ALTER TABLE cost_records DETACH PARTITION {month}".encode())
            fiscus.record(resource_type="llm", cost_amount="2")
            done = run("doctor", "--json", FISCUS_DATABASE_URL=postgres_url)
            found = next(one for one in done.json()["checks"] if one["check"] == "tables")
            assert found["seen"] == f"{month} is no partition of cost_records"
            owner.execute(found["mend"].removeprefix("as the tables' owner: ").encode())
            assert run("doctor", "--json", FISCUS_DATABASE_URL=postgres_url).json()["ok"] is True
            owner.execute("SET fiscus.tenants = '*'")
            lies_in = owner.execute(
                "SELECT cost_amount::int, tableoid::regclass::text FROM cost_records ORDER BY 1"
            )
            assert lies_in.fetchall() == [(1, month), (2, month)]


@pytest.mark.postgres
def test_months_of_the_past_may_be_detached_for_good(run: Run, postgres_url: str) -> None:
    run("migrate", "up", FISCUS_DATABASE_URL=postgres_url)
    with psycopg.connect(postgres_url) as owner:
        owner.execute("CREATE TABLE cost_records_2020_01 (LIKE cost_records)")
        owner.execute("CREATE TABLE quota_usage_2020_13 ()")
    assert run("doctor", "--json", FISCUS_DATABASE_URL=postgres_url).json()["ok"] is True


@pytest.mark.postgres
def test_doctor_says_that_postgresql_may_only_be_read(run: Run, postgres_url: str) -> None:
    on_postgres = {"FISCUS_DATABASE_URL": postgres_url}
    run("migrate", "up", **on_postgres)
    name = postgres_url.rpartition("/")[2]
    writable = "-c default_transaction_read_only=off"
    with psycopg.connect(postgres_url, options=writable, autocommit=True) as owner:
        owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        try:
            done = run("doctor", **on_postgres)
        finally:
            owner.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
    assert done.status == 1
    assert "may only be read" in done.out


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_doctor_says_which_tables_are_gone(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path / 'data' / 'fiscus.db'}"
    run("migrate", "up", FISCUS_DATABASE_URL=url)
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as owner:
        owner.execute(sa.text("ALTER TABLE budget_periods RENAME TO elsewhere"))
    done = run("doctor", "--json")
    with engine.begin() as owner:
        owner.execute(sa.text("ALTER TABLE elsewhere RENAME TO budget_periods"))
    engine.dispose()
    assert done.status == 1
    found = {one["check"]: one for one in done.json()["checks"]}
    assert found["tables"]["seen"] == "gone: budget_periods"
    assert "backup" in found["tables"]["mend"]


@pytest.mark.postgres
def test_doctor_knows_what_the_application_may_do_to_its_tables(
    run: Run, postgres_url: str
) -> None:
    run("migrate", "up", FISCUS_DATABASE_URL=postgres_url)
    with psycopg.connect(postgres_url) as owner:
        granted = owner.execute(
            "SELECT privilege_type, table_name FROM information_schema.table_privileges "
            "WHERE grantee = current_database() || '_app' AND table_name <> 'alembic_version'"
        ).fetchall()
    assert set(granted) == set(rights_of_the_application())


def test_doctor_asks_for_room_where_the_disk_is_full(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run("migrate", "up")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        done = run("doctor", "--json")
    assert done.status == 1
    found = {one["check"]: one for one in done.json()["checks"]}
    assert "No space left" in found["data folder"]["seen"]
    assert found["data folder"]["mend"] == "make room on its disk."


def test_doctor_tells_a_damaged_database_and_what_to_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "fiscus.db").write_bytes(b"no database " * 1000)
    done = run("doctor", "--json")
    assert done.status == 1
    found = {one["check"]: one for one in done.json()["checks"]}
    assert found["database"]["verdict"] == "wrong"
    assert "file is not a database" in found["database"]["seen"]
    assert "backup" in found["database"]["mend"]
    for command in (["migrate", "status"], ["keys", "list"]):
        failed = run(*command)
        assert failed.status == 1
        assert "file is not a database" in failed.err
        assert "backup" in failed.err
        assert "sqlalche" not in failed.err


@pytest.mark.parametrize(
    ("settings", "check", "seen"),
    [
        ({"FISCUS_JWT_PUBLIC_KEY": "/nofile.pem"}, "tokens", "jwt_public_key cannot be read"),
        ({"FISCUS_JWT_JWKS_URL": "bogus"}, "tokens", "jwt_jwks_url is not an https URL"),
        ({"FISCUS_JWT_SECRET": "0123456789abc"}, "tokens", "shorter than 32 bytes"),
        ({"FISCUS_EXCHANGE_RATES_FILE": __file__}, "exchange rates", "not a readable file"),
        (
            {"FISCUS_EXCHANGE_RATES": "EUR/USD"},
            "exchange rates",
            "FISCUS_EXCHANGE_RATES has 'EUR/USD', which is no rate",
        ),
        ({"FISCUS_DEFAULT_TENANT": "a b"}, "default tenant", "not a valid id"),
        ({"FISCUS_GRPC_PORT": "3991"}, "Envoy", "Envoy's descriptors"),
        (
            {"FISCUS_GRPC_PORT": "3991", "FISCUS_ENVOY_MAPPING_FILE": "/nofile.yaml"},
            "Envoy",
            "nofile.yaml",
        ),
        (
            {"FISCUS_DATABASE_URL": "postgresql://a:b@127.0.0.1:port/x"},
            "database",
            "is not the URL",
        ),
        ({"FISCUS_DATABASE_URL": "postgresql://a@127.0.0.1/x?no=1"}, "database", '"no"'),
        (
            {"FISCUS_BOOTSTRAP_ADMIN_KEY": "0123456789abc"},
            "FISCUS_BOOTSTRAP_ADMIN_KEY",
            "24 characters",
        ),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, dict) else "",
)
def test_doctor_finds_what_serve_would_not_start_with(
    run: Run, tmp_path: Path, settings: dict[str, str], check: str, seen: str
) -> None:
    done = run("doctor", "--json", **settings)
    assert done.status == 1
    wrong = {one["check"]: one for one in done.json()["checks"] if one["verdict"] == "wrong"}
    assert set(wrong) == {check}
    assert seen in wrong[check]["seen"]
    assert wrong[check]["mend"]
    where = {"FISCUS_DATA_DIR": str(tmp_path / "data"), "FISCUS_PORT": str(free_port())}
    served = run_fiscus("serve", env={**where, **settings})
    assert served.returncode == 1
    assert wrong[check]["seen"] in served.stderr
    assert "Traceback" not in served.stderr


def test_doctor_makes_no_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert run("doctor").status == 0
    assert not list((tmp_path / "data").iterdir())


def test_doctor_makes_nothing_and_says_what_is_not_there_yet(run: Run, tmp_path: Path) -> None:
    done = run("doctor", "--json")
    assert done.status == 0
    assert not (tmp_path / "data").exists()
    seen = {one["check"]: one["seen"] for one in done.json()["checks"]}
    assert f"{tmp_path / 'data'} is not there yet and can be made" in seen["data folder"]
    assert seen["database"].startswith("there is none yet")
    assert seen["clock"] == "sqlite goes by this machine's"


def test_doctor_reads_envoys_mapping_also_without_a_port(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text("domains: 3")
    done = run("doctor", "--json", FISCUS_ENVOY_MAPPING_FILE=str(tmp_path / "mapping.yaml"))
    assert done.status == 1
    assert [one["check"] for one in done.json()["checks"] if one["mend"]] == ["Envoy", "tables"]


def test_doctor_says_that_redis_cannot_be_reached(run: Run) -> None:
    done = run("doctor", FISCUS_REDIS_URL="redis://:secret-word@127.0.0.1:9/0")
    assert done.status == 1
    assert "FISCUS_REDIS_URL" in done.out
    assert "secret-word" not in done.out + done.err


def test_doctor_does_not_take_connecting_for_the_time_of_a_check(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FarAway:
        def __init__(self, *_: object, **named: object) -> None:
            self._took_ms = iter([12.0, 3.0])

        def ping_ms(self) -> float:
            return next(self._took_ms)

        def close(self) -> None: ...

    monkeypatch.setattr("fiscus.wiring.counters.open_counters", FarAway)
    done = run("doctor", "--json", FISCUS_REDIS_URL="redis://far.example")
    found = {one["check"]: one for one in done.json()["checks"]}
    assert found["counters"]["seen"] == "Redis answers in 3.0 ms"
    assert found["counters"]["verdict"] == "ok"


def test_doctor_looks_at_the_counters(run: Run, valkey_url: str) -> None:
    done = run("doctor", "--json", FISCUS_REDIS_URL=valkey_url)
    found = {one["check"]: one for one in done.json()["checks"]}
    assert "Redis answers" in found["counters"]["seen"]
