"""`fiscus keys` on the configured store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from fiscus.cli import terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.mark.parametrize("command", ["create", "list", "revoke"])
def test_an_empty_tenant_is_not_the_default_one(run: Run, command: str) -> None:
    made = run("keys", "create", "--json").json()
    done = run("keys", command, *([made["key_id"]] if command == "revoke" else []), "--tenant", "")
    assert done.status == 2
    assert "--tenant is not a valid id" in done.err


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


@pytest.mark.parametrize("command", [("list",), ("revoke", "019cd7d8-7c00-7a11-8f00-0123456789ab")])
def test_keys_where_there_is_no_database_are_told_where_that_is(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = run("keys", *command)
    assert done.status == 1
    assert f"there is no database at {tmp_path / 'data' / 'fiscus.db'}" in done.err
    assert "--data-dir" in done.err
    assert not (tmp_path / "data").exists()
