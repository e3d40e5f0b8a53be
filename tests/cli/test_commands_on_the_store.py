"""Commands that work on the configured store: keys, migrate, doctor."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from fiscus import Fiscus, ValidationError
from fiscus.cli import terminal
from fiscus.cli.serve import show_address
from fiscus.cli.simulate_traces import TraceFormat
from fiscus.costs.report_model import ReportType
from fiscus.quotas.model import Strategy
from fiscus.settings import Settings
from fiscus.stores.sql.diagnosis import rights_of_the_application
from fiscus.wiring.engine import ensure_admin_key, open_engine
from tests.file_modes import bound_by_modes, folder_for_anybody
from tests.fiscus_process import clean_environment, run_fiscus
from tests.ports import free_port
from tests.servers import add_login, drop_database, fresh_database

if TYPE_CHECKING:
    from enum import StrEnum
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.servers import PostgresServer

GOOD_SECRET = "0123456789abcdef-0123456789-ABCDEF"


def test_version_is_one_word_and_number(run: Run) -> None:
    done = run("--version")
    assert done.status == 0
    assert done.out.startswith("fiscus ")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_does_not_take_all_characters_is_written_to(
    tmp_path: Path, encoding: str
) -> None:
    env = {"PYTHONIOENCODING": encoding, "FISCUS_DATA_DIR": str(tmp_path / "data")}
    made = run_fiscus("keys", "create", "дом", "--json", env=env)
    assert json.loads(made.stdout)["name"] == "дом"  # for scripts it is UTF-8
    listed = run_fiscus("keys", "list", env=env)
    assert r"\u0434\u043e\u043c" in listed.stdout
    helped = run_fiscus("serve", "--help", env=env)
    assert "--data-dir" in helped.stdout
    assert [one.returncode for one in (made, listed, helped)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("command", "closed", "status"),
    [
        ("migrate status --json", ">&-", 0),
        ("migrate down base", "<&-", 1),
        ("migrate down nowhere", "2>&-", 2),
    ],
)
def test_a_closed_stream_is_an_empty_one(
    tmp_path: Path, command: str, closed: str, status: int
) -> None:
    done = subprocess.run(
        f"exec {shlex.quote(sys.executable)} -m fiscus {command} {closed}",
        shell=True,
        env=clean_environment(FISCUS_DATA_DIR=str(tmp_path / "data")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "unexpected" not in done.stderr
    assert done.returncode == status


@pytest.mark.parametrize("command", ["create", "list", "revoke"])
def test_an_empty_tenant_is_not_the_default_one(run: Run, command: str) -> None:
    made = run("keys", "create", "--json").json()
    done = run("keys", command, *([made["key_id"]] if command == "revoke" else []), "--tenant", "")
    assert done.status == 2
    assert "--tenant is not a valid id" in done.err


def test_an_empty_data_folder_is_not_the_working_folder(run: Run) -> None:
    done = run("migrate", "status", "--data-dir", "")
    assert (done.status, done.out) == (2, "")
    assert "--data-dir is empty" in done.err
    with pytest.raises(ValidationError, match="data_dir must not be empty"):
        Fiscus.open(data_dir="")


def test_a_wrong_default_tenant_is_not_told_as_a_wrong_option(run: Run) -> None:
    done = run("keys", "create", FISCUS_DEFAULT_TENANT="a b")
    assert done.status == 1
    assert "FISCUS_DEFAULT_TENANT is not a valid id" in done.err


def test_created_key_is_listed_by_its_beginning_only(run: Run) -> None:
    made = run("keys", "create", "gateway", "--role", "service", "--json").json()
    listed = run("keys", "list", "--json").json()["api_keys"]
    assert made["api_key"].startswith(made["hint"])
    assert [(key["key_id"], key["name"], key["roles"]) for key in listed] == [
        (made["key_id"], "gateway", ["service"])
    ]
    assert made["api_key"] not in run("keys", "list").out


def test_a_key_is_shown_in_one_piece_however_narrow_the_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.out, "_width", 40)
    shown = run("keys", "create").out
    assert re.search(r"^ *API key +fsk_[\w-]{43} *$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("simulate",), TraceFormat),
        (("report",), ReportType),
        (("quotas", "distribute"), Strategy),
    ],
)
def test_what_an_option_may_be_is_told_in_whole_words_in_80_columns(
    run: Run, command: tuple[str, ...], words: type[StrEnum]
) -> None:
    told = run(*command, "--help", COLUMNS="80").out
    for word in words:
        assert re.search(rf"(?<![\w-]){word}(?![\w-])", told), word


def test_a_first_key_tells_that_a_database_was_begun_for_it(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "50%25?")
    begun = f"a new one was begun: {folder}/fiscus.db"
    assert begun in run("keys", "create", "--data-dir", folder).err
    assert begun not in run("keys", "create", "--data-dir", folder).err


@pytest.mark.usefixtures("narrow")
def test_ids_of_keys_are_whole_in_80_columns(run: Run) -> None:
    roles = ["auditor", "service", "tenant_admin"]
    made = run(
        "keys",
        "create",
        "the first of our gateways",
        *(f"--role={role}" for role in roles),
        "--json",
    ).json()
    lines = [line.strip() for line in run("keys", "list").out.splitlines()]
    at = next(at for at, line in enumerate(lines) if line.startswith(made["key_id"]))
    assert lines[at].endswith("valid")
    assert lines[at + 1 : at + 3] == ["the first of our gateways", ", ".join(roles)]


def test_keys_are_listed_to_the_last_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fiscus.cli.keys.MAX_PAGE_SIZE", 1)
    made = [run("keys", "create", "--json").json()["key_id"] for _ in range(3)]
    listed = run("keys", "list", "--json").json()["api_keys"]
    assert [key["key_id"] for key in listed] == made[::-1]


def test_key_expires_when_said(run: Run) -> None:
    made = run("keys", "create", "--expires-in-days", "30", "--json").json()
    assert made["expires_at"] > made["created_at"]


def test_key_may_claim_the_priority_it_was_made_with(run: Run) -> None:
    assert run("keys", "create", "--json").json()["highest_priority"] == "normal"
    made = run("keys", "create", "--highest-priority", "critical", "--json").json()
    assert made["highest_priority"] == "critical"
    newest = run("keys", "list", "--json").json()["api_keys"][0]
    assert newest["highest_priority"] == "critical"
    refused = run("keys", "create", "--highest-priority", "urgent")
    assert refused.status == 2
    assert "--highest-priority" in refused.err


def test_revoked_key_is_shown_as_revoked(run: Run) -> None:
    made = run("keys", "create", "--json").json()
    assert run("keys", "revoke", made["key_id"]).status == 0
    assert "revoked" in run("keys", "list").out
    assert run("keys", "revoke", made["key_id"], "--json").json()["revoked_at"] is not None


def test_unknown_key_is_one_line_and_status_1(run: Run) -> None:
    run("migrate", "up")
    done = run("keys", "revoke", "01a20caa-ffae-7559-9f0c-ff74d0f6863e")
    assert done.status == 1
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


def test_unknown_role_is_wrong_use_and_status_2(run: Run) -> None:
    done = run("keys", "create", "--role", "king")
    assert done.status == 2
    assert "service" in done.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("keys", "create", ""), "NAME"),
        (("keys", "create", "x" * 300), "NAME"),
        (("keys", "create", "--tenant", "a b"), "--tenant"),
        (("keys", "list", "--tenant", "a b"), "--tenant"),
        (("serve", "--port", "99999"), "--port"),
        (("serve", "--grpc-port", "0"), "--grpc-port"),
        (("quotas", "allocate", "gpu", "1_0", "--scope", "project:a"), "AMOUNT"),
        (("quotas", "allocate", "gpu", "1", "--burst", "NaN", "--scope", "project:a"), "--burst"),
        (("quotas", "list", "--url", "nope"), "--url"),
    ],
    ids=lambda one: " ".join(one)[:40] if isinstance(one, tuple) else one,
)
def test_an_argument_that_is_not_what_it_should_be_is_wrong_use(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    done = run(*arguments, FISCUS_KEY="k")
    assert done.status == 2
    assert named in done.err
    assert "FISCUS_PORT is wrong" not in done.err
    assert not (tmp_path / "data").exists()


def test_migrations_go_down_and_up_again(run: Run) -> None:
    assert run("migrate", "up", "--json").json()["pending"] == 0
    down = run("migrate", "down", "base", "--yes", "--json").json()
    assert down["pending"] == len(down["revisions"])
    assert "fiscus migrate up" in run("migrate", "status").err
    assert run("migrate", "up").status == 0
    assert "up to date" in run("migrate", "status").err


def test_migrating_down_asks_first(run: Run) -> None:
    run("migrate", "up")
    assert run("migrate", "down", "base", "--json").status == 2
    assert run("migrate", "status", "--json").json()["pending"] == 0


@pytest.mark.parametrize("direction", ["up", "down"])
def test_unknown_revision_is_wrong_use(run: Run, tmp_path: Path, direction: str) -> None:
    done = run("migrate", direction, "no-such-revision")
    assert done.status == 2
    assert "no-such-revision" in done.err
    assert not (tmp_path / "data").exists()


def test_migrating_down_makes_no_database(run: Run, tmp_path: Path) -> None:
    done = run("migrate", "down", "base", "--yes", "--json")
    assert done.status == 0
    assert done.json()["pending"] == len(done.json()["revisions"])
    assert not (tmp_path / "data").exists()


@pytest.mark.postgres
def test_the_owner_migrates_before_the_login_that_serves_may_see_anything(
    run: Run, postgres_server: PostgresServer
) -> None:
    owner = fresh_database(postgres_server)
    try:
        urls = {
            "FISCUS_DATABASE_URL": add_login(postgres_server, owner),
            "FISCUS_MIGRATION_DATABASE_URL": owner,
        }
        up = run("migrate", "up", "--json", **urls)
        status = run("migrate", "status", "--json")
        down = run("migrate", "down", "base", "--yes", FISCUS_MIGRATION_DATABASE_URL="")
        assert run("migrate", "down", "base", "--yes", **urls).status == 0
    finally:
        drop_database(postgres_server, owner)
    assert (up.status, up.json()["pending"]) == (0, 0), up.err
    assert status.json() == up.json()
    assert down.status == 1
    assert "may not take down" in down.err
    assert "migrate up" not in down.err


@pytest.mark.parametrize(
    "url", ["mysql://db/fiscus", "postgresql://127.0.0.1:1/fiscus", "postgresql://db/fiscus?no=1"]
)
@pytest.mark.parametrize("command", ["status", "up", "down base --yes"])
def test_a_wrong_url_of_the_owner_is_not_told_as_the_servers(
    run: Run, command: str, url: str
) -> None:
    done = run("migrate", *command.split(), FISCUS_MIGRATION_DATABASE_URL=url)
    assert done.status == 1
    assert "FISCUS_MIGRATION_DATABASE_URL" in done.err
    assert "FISCUS_DATABASE_URL" not in done.err


def test_wrong_setting_is_named(run: Run) -> None:
    done = run("keys", "list", FISCUS_PORT="many")
    assert done.status == 1
    assert "the setting FISCUS_PORT is wrong: it must be a valid integer" in done.err
    assert "many" not in done.out


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


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
@pytest.mark.parametrize(("name", "mode"), [("fiscus.db", 0o400), ("fiscus.db-turn", 0o400)])
def test_a_file_that_may_not_be_written_is_named_and_not_tried_again(
    run: Run, name: str, mode: int
) -> None:
    run("doctor")  # what it imports may be out of another user's reach
    with folder_for_anybody() as folder:
        here = {"FISCUS_DATA_DIR": str(folder)}
        assert run("keys", "create", **here).status == 0
        (folder / name).chmod(mode)
        with bound_by_modes(folder):
            refused = run("keys", "create", **here)
            found = run("doctor", "--json", **here)
    assert refused.status == 1
    assert f"{name} is not writable" in refused.err
    assert "Retry-After" not in refused.err
    database = next(one for one in found.json()["checks"] if one["check"] == "database")
    assert (found.status, database["verdict"]) == (1, "wrong")
    assert str(folder / name) in database["seen"]


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
    ("given", "said"),
    [
        (None, "No admin key was made, as the tenant default has API keys"),
        (GOOD_SECRET, "The admin key is the one in FISCUS_BOOTSTRAP_ADMIN_KEY"),
    ],
)
def test_a_server_that_makes_no_admin_key_says_why_and_how_to_make_one(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, given: str | None, said: str
) -> None:
    assert run("keys", "create", "--role", "auditor").status == 0
    settings = Settings(data_dir=tmp_path / "data", bootstrap_admin_key=given)
    with closing(open_engine(settings)) as engine, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        show_address(settings, bound, ensure_admin_key(engine), workers=1)
    told = capsys.readouterr().err
    assert said in told
    assert "`fiscus keys create --role platform_admin --data-dir" in told


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


def test_doctor_makes_nothing_and_says_what_is_not_there_yet(run: Run, tmp_path: Path) -> None:
    done = run("doctor", "--json")
    assert done.status == 0
    assert not (tmp_path / "data").exists()
    seen = {one["check"]: one["seen"] for one in done.json()["checks"]}
    assert f"{tmp_path / 'data'} is not there yet and can be made" in seen["data folder"]
    assert seen["database"].startswith("there is none yet")
    assert seen["clock"] == "sqlite goes by this machine's"


def test_doctor_makes_no_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert run("doctor").status == 0
    assert not list((tmp_path / "data").iterdir())


def test_doctor_reads_envoys_mapping_also_without_a_port(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text("domains: 3")
    done = run("doctor", "--json", FISCUS_ENVOY_MAPPING_FILE=str(tmp_path / "mapping.yaml"))
    assert done.status == 1
    assert [one["check"] for one in done.json()["checks"] if one["mend"]] == ["Envoy", "tables"]


def test_migrate_status_makes_nothing_and_says_that_all_is_missing(
    run: Run, tmp_path: Path
) -> None:
    found = run("migrate", "status", "--json").json()
    assert found["pending"] == len(found["revisions"]) > 0
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
@pytest.mark.parametrize("how", ["by data_dir", "by url"])
def test_the_data_folder_is_for_its_owner_alone(run: Run, tmp_path: Path, how: str) -> None:
    before = os.umask(0o022)
    try:
        if how == "by url":
            run("migrate", "up", FISCUS_DATABASE_URL=f"sqlite:///{tmp_path}/data/fiscus.db")
        else:
            run("migrate", "up")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_keys_leave_tables_as_they_are(run: Run) -> None:
    run("keys", "create")
    run("migrate", "down", "0002", "--yes")
    before = run("migrate", "status", "--json").json()
    for command in (["list"], ["create"], ["revoke", "019cd7d8-7c00-7a11-8f00-0123456789ab"]):
        done = run("keys", *command)
        assert done.status == 1
        assert "fiscus migrate up" in done.err
    assert run("migrate", "status", "--json").json() == before
    run("migrate", "down", "base", "--yes")
    assert run("keys", "create").status == 1
    assert run("migrate", "status", "--json").json()["pending"] > before["pending"]


def test_listing_keys_makes_no_database(run: Run, tmp_path: Path) -> None:
    done = run("keys", "list")
    assert done.status == 1
    assert "fiscus migrate up" in done.err
    assert not (tmp_path / "data").exists()


@pytest.mark.postgres
def test_a_worker_leaves_tables_as_they_are(run: Run, postgres_server: PostgresServer) -> None:
    url = fresh_database(postgres_server)
    try:
        done = run_fiscus("worker", env={"FISCUS_DATABASE_URL": url})
        status = run("migrate", "status", "--json", FISCUS_DATABASE_URL=url).json()
    finally:
        drop_database(postgres_server, url)
    assert done.returncode == 1
    assert "fiscus migrate up" in done.stderr
    assert status["pending"] == len(status["revisions"])


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
