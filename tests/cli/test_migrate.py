"""`fiscus migrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers import add_login, drop_database, fresh_database

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.servers import PostgresServer


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


def test_migrate_status_makes_nothing_and_says_that_all_is_missing(
    run: Run, tmp_path: Path
) -> None:
    found = run("migrate", "status", "--json").json()
    assert found["pending"] == len(found["revisions"]) > 0
    assert not (tmp_path / "data").exists()
