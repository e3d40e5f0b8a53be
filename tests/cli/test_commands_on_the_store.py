"""Commands that work on the configured store, as all of them do."""

from __future__ import annotations

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

import pytest

from fiscus import Fiscus, ValidationError
from fiscus.cli.serve.command import show_address
from fiscus.cli.simulate.traces import TraceFormat
from fiscus.costs.report_model import ReportType
from fiscus.quotas.model import Strategy
from fiscus.settings import Settings
from fiscus.wiring.engine import ensure_admin_key, open_engine
from tests.cli.conftest import GOOD_SECRET
from tests.file_modes import bound_by_modes, folder_for_anybody
from tests.fiscus_process import clean_environment, run_fiscus
from tests.servers import drop_database, fresh_database

if TYPE_CHECKING:
    from enum import StrEnum
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.servers import PostgresServer


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


def test_an_empty_data_folder_is_not_the_working_folder(run: Run) -> None:
    done = run("migrate", "status", "--data-dir", "")
    assert (done.status, done.out) == (2, "")
    assert "--data-dir is empty" in done.err
    with pytest.raises(ValidationError, match="data_dir must not be empty"):
        Fiscus.open(data_dir="")


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


def test_wrong_setting_is_named(run: Run) -> None:
    done = run("keys", "list", FISCUS_PORT="many")
    assert done.status == 1
    assert "the setting FISCUS_PORT is wrong: it must be a valid integer" in done.err
    assert "many" not in done.out


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
