"""`fiscus quotas` on a running server: list, allocate, distribute with its preview, history."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus import Client
from fiscus.cli.marks import ASCII
from fiscus.cli.quotas.show import MAX_BARS, day_chart
from fiscus.ids import uuid7
from fiscus.quotas.calls import DayTotal

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Run
    from tests.fiscus_process import FiscusProcess

Quotas = Callable[..., "Done"]


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return f"t-{uuid7()}"


@pytest.fixture
def quotas(on_server: Run, tenant: str) -> Quotas:
    """`quotas("list")`: for a tenant of the test's own."""

    def run_one(command: str, *arguments: str) -> Done:
        return on_server("quotas", command, *arguments, "--tenant", tenant)

    return run_one


@pytest.mark.usefixtures("narrow")
def test_ids_of_quotas_are_whole_in_80_columns(quotas: Quotas) -> None:
    wanted = ("gpu_hours", "1000", "--scope", "project:search", "--json")
    quota = quotas("allocate", *wanted).json()
    lines = [line.strip() for line in quotas("list").out.splitlines()]
    at = next(at for at, line in enumerate(lines) if line.startswith(quota["quota_id"]))
    assert lines[at].split()[1:] == ["1,000", "0", "(0", "%)", "1,000"]
    assert lines[at + 1 : at + 3] == ["gpu_hours", "project search"]
    assert lines[at + 3].startswith(quota["period_start"][:10])


def test_a_quota_is_allocated_and_listed_with_its_use(
    quotas: Quotas, server: FiscusProcess, tenant: str
) -> None:
    done = quotas(
        "allocate", "gpu_hours", "100.5", "--scope", "project:search", "--burst", "10",
        "--premium-rate", "0.75", "--period", "weekly", "--timezone", "Europe/Vienna",
        "--auto-renew", "--renewal-amount", "by_usage", "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    quota = done.json()
    assert (quota["allocated_amount"], quota["max_burst_amount"]) == (Decimal("100.5"), 10)
    assert (quota["period_type"], quota["auto_renew"]) == ("weekly", True)
    assert (quota["renewal_amount"], quota["burst_premium_rate"]) == ("by_usage", Decimal("0.75"))
    with (
        Client(server.url, server.key, tenant=tenant) as client,
        client.quota("gpu_hours", 90, project="search"),
    ):
        pass
    (listed,) = quotas("list", "--resource", "gpu_hours", "--json").json()["quotas"]
    assert (listed["quota_id"], listed["used_amount"]) == (quota["quota_id"], 90)
    table = quotas("list", "--scope", "project:search", "--active-only").out
    assert "100.5" in table
    assert "90 (90 %)" in "".join(table.splitlines())
    assert quotas("list", "--scope", "user", "--json").json() == {"quotas": []}
    assert "no such quotas" in quotas("list", "--scope", "project:ads").err


def test_an_allocation_is_shown(quotas: Quotas) -> None:
    done = quotas(
        "allocate", "gpu_hours", "1234.5", "--scope", "user:*", "--period", "custom",
        "--start", "2130-01-01", "--end", "2130-01-03T12:00:00+00:00",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "1,234.5" in done.out
    assert "user *" in done.out
    assert "2130-01-01 to 2130-01-03 12:00 UTC" in done.out
    assert "of each id" in "".join(quotas("list").out.split("\n"))


def test_what_is_no_terminals_is_not_wrapped(quotas: Quotas) -> None:
    resource = "a-resource-with-a-long-name-" * 5
    wanted = (resource, "10", "--yes", "--to")
    shared = quotas("distribute", *wanted, "project:ads").out.splitlines()
    assert f"10 {resource} is shared out, fair share:" in shared
    made = quotas("allocate", resource, "10", "--scope", "project:search").out.splitlines()
    assert any(resource in line for line in made)
    (quota, _) = quotas("list", "--json").json()["quotas"]
    first, *_ = quotas("history", quota["quota_id"]).out.splitlines()
    assert first.startswith(f"{resource} of project search, ")
    assert first.endswith(": 10 allocated, 0 (0 %) used")


def test_distribute_shows_a_preview_and_asks(
    quotas: Quotas, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = (
        "gpu_hours", "1000", "--strategy", "priority",
        "--to", "project:search,tier=1", "--to", "project:ads,tier=2", "--to", "project:lab",
    )  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    done = quotas("distribute", *wanted)
    assert done.status != 0
    for text in ("would be shared out, priority", "500", "50.0 %", "Allocate these quotas?"):
        assert text in done.out
    assert quotas("list", "--json").json() == {"quotas": []}
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    done = quotas("distribute", *wanted)
    assert done.status == 0, done.err
    assert "is shared out" in done.out
    assert len(quotas("list", "--json").json()["quotas"]) == 3


def test_distribute_for_scripts_does_not_ask(quotas: Quotas, tmp_path: Path) -> None:
    entities = tmp_path / "entities.json"
    entities.write_text(json.dumps([{"scope_type": "user", "scope_id": f"u{n}"} for n in range(3)]))
    wanted = (
        "reports", "10", "--entities", str(entities), "--to", "user:ada,reserved=2.5",
        "--strategy", "reserved", "--then", "fair_share", "--decimals", "1",
        "--burst-ratio", "0.2", "--json",
    )  # fmt: skip
    refused = quotas("distribute", *wanted)
    assert refused.status == 2
    assert "--yes or --dry-run" in refused.err
    preview = quotas("distribute", *wanted, "--dry-run").json()
    assert preview["dry_run"] is True
    assert [one["allocated_amount"] for one in preview["parts"]] == [Decimal("2.5")] * 4
    made = quotas("distribute", *wanted, "--yes").json()
    assert all(one["quota_id"] for one in made["parts"])
    listed = quotas("list", "--json").json()["quotas"]
    assert {one["max_burst_amount"] for one in listed} == {Decimal("0.5")}


def test_history_is_a_chart_and_rows(quotas: Quotas, server: FiscusProcess, tenant: str) -> None:
    made = quotas("allocate", "gpu_hours", "10", "--scope", "project:search", "--burst", "2")
    assert made.status == 0, made.err
    (quota,) = quotas("list", "--json").json()["quotas"]
    history = ("history", quota["quota_id"])
    assert "Nothing was taken" in quotas(*history).err
    with Client(server.url, server.key, tenant=tenant) as client:
        with client.quota("gpu_hours", 11, project="search") as taken:
            taken.release("0.5")
        with client.quota("gpu_hours", "1.25", project="search"):
            pass
    done = quotas(*history, "--rows", "2")
    assert done.status == 0, done.err
    for text in ("Consumed by day", "12.25 (0.5 given back)", "11.75 (118 %)", "given back"):
        assert text in done.out
    found = quotas(*history, "--rows", "2", "--json").json()
    assert [row["amount"] for row in found["rows"]] == [Decimal("1.25"), Decimal("0.5")]
    assert [day["consumed"] for day in found["days"]] == [Decimal("12.25")]
    later = f"{date.today() + timedelta(days=2)}"  # noqa: DTZ011 - two days are enough for any zone
    assert quotas(*history, "--since", later, "--json").json()["rows"] == []


@pytest.mark.usefixtures("narrow")
def test_no_digit_of_a_day_is_cut_off(quotas: Quotas, server: FiscusProcess, tenant: str) -> None:
    quotas("allocate", "gpu_hours", "100000000", "--scope", "project:search")
    (quota,) = quotas("list", "--json").json()["quotas"]
    with (
        Client(server.url, server.key, tenant=tenant) as client,
        client.quota("gpu_hours", "12345678.123456789012", project="search") as taken,
    ):
        taken.release("2345678.123456789012")
    shown = quotas("history", quota["quota_id"]).out
    assert " 12,345,678.123456789012 (2,345,678.123456789012 given back)" in shown


def test_history_of_a_deleted_quota_is_shown(
    quotas: Quotas, server: FiscusProcess, tenant: str
) -> None:
    quotas("allocate", "gpu_hours", "10", "--scope", "project:search")
    (quota,) = quotas("list", "--json").json()["quotas"]
    with (
        Client(server.url, server.key, tenant=tenant) as client,
        client.quota("gpu_hours", 3, project="search"),
    ):
        pass
    deleted = httpx.delete(
        f"{server.url}/budget/v1/quotas/{quota['quota_id']}",
        params={"tenant_id": tenant, "force": "true"},
        headers={"X-API-Key": server.key},
    )
    assert deleted.is_success
    done = quotas("history", quota["quota_id"])
    assert done.status == 0, done.err
    assert "gpu_hours of project search" in done.out
    assert ": deleted" in done.out
    assert "Consumed by day" in done.out


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (("allocate", "gpu", "10", "--scope", "search"), "names no scope", 2),
        (("allocate", "gpu", "10", "--scope", "team:search"), "no type of scope", 2),
        (("allocate", "gpu", "0", "--scope", "project:a"), "error: AMOUNT", 2),
        (("allocate", "gpu", "5.x", "--scope", "project:a"), "error: AMOUNT", 2),
        (("allocate", "gpu", "5.x", "--scope", "project:a"), "try: write a number", 2),
        (("allocate", "", "5", "--scope", "project:a"), "error: RESOURCE: must not be empty", 2),
        (("allocate", "gpu", "1", "--scope", "project:a", "--start", "soon"), "--start", 2),
        (("allocate", "gpu", "1", "--scope", "project:a", "--period", "custom"), "error: --end", 1),
        (("distribute", "gpu", "1", "--yes"), "nobody gets a part", 2),
        (("distribute", "gpu", "1", "--to", "user:a,level=1"), "neither tier", 2),
        (("distribute", "gpu", "1", "--to", "user:a,tier=9"), "tier", 2),
        (("distribute", "gpu", "1", "--to", "user:a", "--to", "user:a", "--yes"), "entities[1]", 1),
        (("distribute", "gpu", "0", "--to", "user:a", "--yes"), "error: TOTAL", 2),
        (("distribute", "gpu", "1", "--entities", "/nowhere.json"), "cannot be read", 1),
        (("history", "../budgets"), "no quota id", 2),
        (("history", "01890000-0000-7000-8000-000000000000"), "NOT_FOUND", 1),
        (("list", "--scope", "team"), "no type of scope", 2),
        (("list", "--resource", ""), "error: --resource: must not be empty", 1),
        (("list", "--scope", ""), "no type of scope", 2),
        (("list", "--scope", "project:"), "names no scope", 2),
        (("list", "--scope", ":search"), "no type of scope", 2),
    ],
)
def test_what_is_wrong_is_one_line(
    quotas: Quotas, arguments: tuple[str, ...], said: str, status: int
) -> None:
    done = quotas(*arguments)
    assert done.status == status
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_wrong_word_in_a_file_of_entities_is_told_with_the_words_that_may_stand_there(
    quotas: Quotas, tmp_path: Path
) -> None:
    entities = tmp_path / "entities.json"
    entities.write_text('[{"scope_type": "team", "scope_id": "search"}]')
    done = quotas("distribute", "gpu", "1", "--entities", str(entities), "--dry-run")
    assert done.status == 1
    assert "[0].scope_type" in done.err
    assert "try: Use one of tenant, project, user, feature." in done.err


AMOUNTS = st.decimals(0, 10**9, places=3)


@given(
    st.lists(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS), min_size=1, max_size=90),
    st.integers(80, 200),
)
def test_the_chart_fits_and_shows_whatever_was_consumed(
    amounts: list[tuple[Decimal, Decimal, Decimal]], width: int
) -> None:
    days = [
        DayTotal(
            day=date(2026, 1, 1) + timedelta(days=index),
            consumed=max(consumed, burst),
            released=released,
            burst=min(consumed, burst),
            consumptions=1,
        )
        for index, (consumed, burst, released) in enumerate(amounts)
    ]
    head, *lines = [line.plain for line in day_chart(days, width, ASCII)]
    assert "Consumed by day" in head
    assert len(lines) == min(len(days), MAX_BARS)
    for day, line in zip(days[-MAX_BARS:], lines, strict=True):
        assert line.startswith(f"{day.day} |")
        assert len(line) <= width
        bar = line.partition("|")[2].partition(" ")[0]
        assert bool(bar) == (day.consumed > 0)
        assert (":" in bar) == (day.burst > 0)
