"""Commands that call a running server: demo, report, and how replay refuses what it cannot do."""

from __future__ import annotations

import asyncio
import gzip
import json
import shlex
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from fiscus.cli import demo_data
from fiscus.cli.demo import examples, show_what_to_try
from fiscus.cli.replay.http_connection import HttpConnection, Reply
from fiscus.cli.replay.run import PATIENCE_SECONDS
from fiscus.cli.replay.trace import read_azure_llm
from fiscus.cli.terminal import CommandError
from fiscus.client.transports import BlockingTransport
from fiscus.clock import SystemClock
from tests.client.faulty import Answer, faulty_server, problem
from tests.fiscus_process import ADMIN_KEY, fiscus_server
from tests.valkey import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.cli.conftest import Run
    from tests.fiscus_process import FiscusProcess

# by the clock of the server, which is a process of its own
LONG_AGO = f"{datetime.now(UTC) - timedelta(days=100):%Y-%m-%d}"
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2225670,879,55
"""
CUT_OFF = gzip.compress(TRACE.encode()) + gzip.compress(b"2023")[:12]
DAMAGED = CUT_OFF[:-2] + b"\xff" * 12


def send(server: FiscusProcess, method: str, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.request(
        method,
        f"{server.url}/budget/v1/{path}",
        json=body,
        headers={"X-API-Key": server.key},
        timeout=30,
    )
    return answer.raise_for_status().json()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(TRACE.encode()))
    return path


def test_demo_is_loaded_once_and_reported(on_server: Run) -> None:
    first = on_server("demo")
    assert first.status == 0, first.err
    report = ("report", "--tenant", "demo", "--start", LONG_AGO, "--json")
    whole = on_server(*report).json()
    assert whole["record_count"] == demo_data.count()
    again = on_server("demo")
    assert "loaded already" in again.err
    assert on_server(*report).json()["total_cost"] == whole["total_cost"]


@pytest.mark.parametrize("option", ["--host", "--port", "--data-dir"])
def test_options_of_the_demos_own_server_do_not_lead_to_another(
    on_server: Run, option: str
) -> None:
    done = on_server("demo", option, "8080")
    assert done.status == 2
    assert f"{option} goes with --serve" in done.err


def test_three_lines_to_try_do_what_they_say(on_server: Run, server: FiscusProcess) -> None:
    on_server("demo")
    answers = [
        subprocess.run(shlex.split(line), capture_output=True, check=True, timeout=30).stdout
        for _, line in examples(server.url, server.key)
    ]
    passes, refused, report = (json.loads(answer) for answer in answers)
    assert passes["allowed"] is True
    assert refused["allowed"] is False
    assert "Playground" in refused["message"]
    assert len(report["groups"]) == 7


@pytest.mark.parametrize("option", ["--url", "--key"])
def test_a_server_that_is_there_does_not_go_with_the_demos_own(
    run: Run, tmp_path: Path, option: str
) -> None:
    value = {"--url": "http://127.0.0.1:9", "--key": ADMIN_KEY}[option]
    done = run("demo", "--serve", option, value)
    assert done.status == 2
    assert f"{option} does not go with --serve" in done.err
    assert not (tmp_path / "data").exists()


def test_demo_data_is_the_same_for_the_same_end(clock) -> None:
    first, second = (list(demo_data.records(clock.now())) for _ in range(2))
    assert first == second
    assert len(first) == demo_data.count()
    assert len({record["operation_id"] for record in first}) == len(first)


def test_demo_has_spikes_and_weekends(clock) -> None:
    end = clock.now()
    by_day: dict[int, Decimal] = {}
    for record in demo_data.records(end):
        if record["project_id"] == "assistant":
            day = (end.date() - record["timestamp"].date()).days
            by_day[day] = by_day.get(day, Decimal(0)) + record["cost_amount"]
    spike = next(one for one in demo_data.SPIKES if one.project_id == "assistant")
    assert by_day[spike.days_ago] > 3 * by_day[spike.days_ago + 7]
    others = [by_day[day] for day in range(1, demo_data.DAYS) if day != spike.days_ago]
    assert min(others) < max(others) / 2


def test_demo_with_a_server_keeps_its_key_private(tmp_path: Path) -> None:
    with fiscus_server(tmp_path, command=("demo", "--serve"), admin_key=None) as server:
        path = server.data_dir / "demo-admin-key"
        assert path.stat().st_mode & 0o077 == 0
        key = path.read_text().strip()
        answer = httpx.get(
            f"{server.url}/budget/v1/budgets?tenant_id=demo", headers={"X-API-Key": key}
        )
        assert answer.status_code == 200
        assert server.stop() == 0


def test_demo_shows_a_given_key_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    key = "Zq'9aB[red]c[/x]_0123456789abcdef"
    show_what_to_try("http://127.0.0.1:3472", key)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in shown if "admin key" in line] == [key]
    lines = [shlex.split(line) for line in shown if line.startswith("curl")]
    assert [f"X-API-Key: {key}" in words for words in lines] == [True] * 3


def test_demo_with_a_key_that_was_revoked_says_so(tmp_path: Path) -> None:
    command = ("demo", "--serve", "--data-dir", str(tmp_path / "data[red]"))
    with fiscus_server(tmp_path, command=command, admin_key=None) as server:
        key = (tmp_path / "data[red]" / "demo-admin-key").read_text().strip()
        wait_until(lambda: "data[red]." in server.output())
        keys = f"{server.url}/budget/v1/api-keys"
        (one,) = httpx.get(keys, headers={"X-API-Key": key}).json()["api_keys"]
        httpx.delete(f"{keys}/{one['key_id']}", headers={"X-API-Key": key}).raise_for_status()
        assert server.stop() == 0
    with fiscus_server(tmp_path, command=command, admin_key=None) as server:
        wait_until(lambda: "The server runs at" in server.output())
        assert "the demo is not loaded: The API key was revoked" in server.output()
        assert "Traceback" not in server.output()
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "is shorter"), (b"\xff" * 40, "has characters that are no visible")],
    ids=["empty", "no text"],
)
def test_demo_names_the_file_whose_key_is_none(
    run: Run, tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo-admin-key").write_bytes(content)
    done = run("demo", "--serve")
    assert done.status == 1
    assert f"{tmp_path / 'data' / 'demo-admin-key'} {told}" in done.err
    assert "remove" in done.err
    assert "FISCUS_BOOTSTRAP_ADMIN_KEY" not in done.err


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"FISCUS_JWT_SECRET": "0123456789abc"}, "shorter than 32 bytes"),
        ({"FISCUS_GRPC_PORT": "3991"}, "Envoy's descriptors"),
    ],
)
def test_demo_tells_what_a_server_cannot_start_with_before_anything_starts(
    run: Run, tmp_path: Path, settings: dict[str, str], told: str
) -> None:
    done = run("demo", "--serve", **settings)
    assert done.status == 1
    assert told in " ".join(done.err.split())
    assert [one.name for one in (tmp_path / "data").iterdir()] == ["demo-admin-key"]


def test_report_is_a_table_and_csv(on_server: Run) -> None:
    on_server("demo")
    wanted = ("report", "--tenant", "demo", "--start", LONG_AGO, "--group-by", "project")
    table = on_server(*wanted)
    assert table.status == 0
    assert "gpt-4o-mini" in table.out
    assert "USD" in table.out
    csv = on_server(*wanted, "--csv").out.splitlines()
    assert csv[0].startswith("service_name,project,currency,cost")


def test_report_that_is_no_terminals_is_not_wrapped(on_server: Run, server: FiscusProcess) -> None:
    name, tenant = "a-service-with-a-long-name-" * 5, "a-tenant-with-a-long-name-" * 4
    cost = {"resource_type": "llm", "cost_amount": 1, "currency": "USD", "service_name": name}
    send(server, "POST", "cost-tracking/record", {**cost, "tenant_id": tenant})
    title, *rest = on_server("report", "--tenant", tenant).out.splitlines()
    assert title.startswith(f"Costs of {tenant}, ")
    assert title.endswith(" UTC")
    assert any(name in line for line in rest)


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_report_takes_no_page_of_a_proxy_for_its_answer(
    on_server: Run, server: FiscusProcess, form: str
) -> None:
    page = Answer(200, {"Content-Type": "text/html"}, b"<html>Please sign in</html>")
    with faulty_server(server.url) as faulty:
        faulty.steps.append(page)
        done = on_server("report", form, FISCUS_URL=faulty.url)
    assert (done.status, done.out) == (1, "")
    assert "The answer is not one of Fiscus" in done.err


def test_report_takes_no_other_encoding_for_its_csv(on_server: Run, server: FiscusProcess) -> None:
    page = Answer(200, {"Content-Type": "text/csv"}, "Straße;1".encode("latin-1"))
    with faulty_server(server.url) as faulty:
        faulty.steps.append(page)
        done = on_server("report", "--csv", FISCUS_URL=faulty.url)
    assert (done.status, done.out) == (1, "")
    assert "The answer is not one of Fiscus: it is no UTF-8 from byte 4 on" in done.err


def test_report_steers_no_terminal(on_server: Run, server: FiscusProcess) -> None:
    name = "\x1b]0;owned\x07\x1b[2J\x9b1m\u202e[red]"
    cost = {"resource_type": "llm", "cost_amount": 1, "currency": "USD", "service_name": name}
    send(server, "POST", "cost-tracking/record", cost)
    done = on_server("report", "--group-by", "service_name")
    assert done.status == 0
    assert not set("\x1b\x07\x9b\u202e") & set(done.out)
    assert r"\x1b]0;owned\x07\x1b[2J\x9b1m\u202e[red]" in done.out


def test_report_tells_an_empty_tag_from_none(on_server: Run, server: FiscusProcess) -> None:
    cost = {"resource_type": "llm", "cost_amount": 1, "currency": "USD", "tags": {"squad": ""}}
    send(server, "POST", "cost-tracking/record", cost)
    send(server, "POST", "cost-tracking/record", {**cost, "tags": {}})
    wanted = ("report", "--type", "summary", "--group-by", "tag:squad")
    table, csv = on_server(*wanted).out, on_server(*wanted, "--csv").out
    assert {line.split()[0] for line in table.splitlines() if line.strip()} >= {"(none)", '""'}
    assert {line.split(",")[0] for line in csv.splitlines()[1:]} == {"", '""'}


@pytest.mark.parametrize(
    ("option", "text"), [("--start", "yesterday"), ("--end", "2026-01-31T09:00:00")]
)
def test_report_names_a_time_it_cannot_read(on_server: Run, option: str, text: str) -> None:
    done = on_server("report", option, text)
    assert done.status == 2
    assert option in done.err


def test_a_demo_without_a_key_is_wrong_use(run: Run) -> None:
    done = run("demo")
    assert done.status == 2
    assert "FISCUS_KEY" in done.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("report", "--tenant", "a b"), "--tenant is not a valid id"),
        (("report", "--currency", "usd"), "--currency is not a currency code"),
        (("quotas", "list", "--tenant", "a b"), "--tenant is not a valid id"),
        (("quotas", "list", "--scope", "project:a b"), "project:a b names no scope"),
        (("quotas", "history", "q1", "--scope-id", "a b"), "--scope-id is not a valid id"),
        (("quotas", "distribute", "gpu", "0", "--to", "user:ada"), "TOTAL must be above 0"),
        (("replay", "azure-llm", "TRACE", "--tenant", "a b"), "--tenant is not a valid id"),
        (("replay", "azure-llm", "TRACE", "--budget", "-5"), "--budget must be above 0"),
        (("simulate", "--policies", "p", "--trace", "-", "--timezone", "Foo"), "--timezone is not"),
        (("simulate", "--policies", "p", "--trace", "-", "--tenant", "a b"), "--tenant is not"),
        (("keys", "create", "--tenant", "a b"), "--tenant is not a valid id"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_what_no_server_is_needed_to_tell_is_wrong_use(
    run: Run, trace: Path, command: tuple[str, ...], told: str
) -> None:
    typed = (str(trace) if one == "TRACE" else one for one in command)
    done = run(*typed, FISCUS_URL="http://127.0.0.1:9", FISCUS_KEY=ADMIN_KEY)
    assert told in done.err
    assert done.status == 2


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("0",), "AMOUNT must be above 0"),
        (("nan",), "AMOUNT is not a decimal number"),
        (("5", "--burst", "-1"), "--burst must not be negative"),
        (("5", "--premium-rate", "-1"), "--premium-rate must not be negative"),
        (("5", "--timezone", "Mars/X"), "--timezone is not a known IANA time zone"),
        (("5", "--currency", "usd"), "--currency is not a currency code"),
        (("5", "--tenant", "a b"), "--tenant is not a valid id"),
    ],
)
def test_a_quota_that_no_server_would_allocate_is_wrong_use(
    run: Run, typed: tuple[str, ...], told: str
) -> None:
    where = {"FISCUS_URL": "http://127.0.0.1:9", "FISCUS_KEY": ADMIN_KEY}
    done = run("quotas", "allocate", "gpu", *typed, "--scope", "project:search", **where)
    assert told in done.err
    assert done.status == 2


def test_report_shows_the_servers_reason(on_server: Run) -> None:
    done = on_server("report", "--group-by", "moon-phase")
    assert done.status == 1
    assert "error: --group-by[0] is 'moon-phase'" in done.err
    assert "VALIDATION_ERROR" in done.err


def test_wrong_key_is_one_line(on_server: Run) -> None:
    done = on_server("report", FISCUS_KEY="fsk_" + "x" * 43)
    assert done.status == 1
    assert "UNAUTHORIZED" in done.err


def test_a_command_waits_for_as_long_as_the_server_asks(
    on_server: Run, server: FiscusProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(_: BlockingTransport, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(BlockingTransport, "pause", pause)
    with faulty_server(server.url) as faulty:
        faulty.steps.append(problem(503, "SERVICE_UNAVAILABLE", retry_after="7"))
        done = on_server("report", FISCUS_URL=faulty.url)
    assert done.status == 0, done.err
    assert [int(seconds) for seconds in pauses] == [7]


def test_missing_server_is_one_line_that_says_how_to_start_one(run: Run) -> None:
    done = run("report", "--url", "http://127.0.0.1:9", "--key", ADMIN_KEY)
    assert done.status == 1
    assert "fiscus serve" in done.err


def test_replay_of_a_tiny_trace_adds_up(on_server: Run, trace: Path) -> None:
    done = on_server("replay", "azure-llm", str(trace), "--budget", "1", "--json")
    assert done.status == 0, done.err
    result = done.json()
    assert (result["admitted"], result["refused"]) == (3, 0)
    # 1649 tokens in at 2.50 and 208 out at 10 dollars per million
    assert result["spent"] == result["cost_of_the_trace"] == Decimal("0.0062025")
    assert result["ok"] is True


@pytest.mark.parametrize("role", ["tenant_admin", "service"])
@pytest.mark.parametrize(
    ("command", "told", "todo"),
    [
        (
            ("replay", "azure-llm", "TRACE"),
            "this key may not make a new tenant for the replay (FORBIDDEN)",
            "name the tenant of a tenant_admin's key with --tenant, or use the key of a platform_",
        ),
        (
            ("replay", "azure-llm", "TRACE", "--tenant", "other"),
            "this key may not replay for the tenant other (FORBIDDEN)",
            "use the key of a tenant_admin of other, or of a platform_admin.",
        ),
        (
            ("demo",),
            "this key may not load the tenant demo (FORBIDDEN)",
            "use the key of a platform_admin,",
        ),
    ],
    ids=["replay", "replay of a tenant", "demo"],
)
def test_a_key_that_may_not_is_told_what_the_command_needs(
    on_server: Run,
    server: FiscusProcess,
    trace: Path,
    role: str,
    command: tuple[str, ...],
    told: str,
    todo: str,
) -> None:
    key = send(server, "POST", "api-keys", {"name": "weak", "roles": [role]})["api_key"]
    done = on_server(*(str(trace) if one == "TRACE" else one for one in command), FISCUS_KEY=key)
    assert done.status == 1
    assert told in done.err
    assert todo in done.err


def test_the_key_of_a_service_is_told_which_role_replays_for_its_tenant(
    on_server: Run, server: FiscusProcess, trace: Path
) -> None:
    key = send(server, "POST", "api-keys", {"name": "weak", "roles": ["service"]})["api_key"]
    done = on_server("replay", "azure-llm", str(trace), "--tenant", "default", FISCUS_KEY=key)
    assert done.status == 1
    assert "use the key of a tenant_admin of default" in done.err


@pytest.mark.parametrize("currency", ["EUR", "XAU"])
def test_a_replay_for_a_tenant_of_another_currency_adds_up_in_dollars(
    on_server: Run, server: FiscusProcess, trace: Path, currency: str
) -> None:
    tenant = f"replay-{currency}"
    send(server, "PUT", f"tenants/{tenant}", {"currency": currency})
    done = on_server(
        "replay", "azure-llm", str(trace), "--tenant", tenant, "--budget", "1", "--json"
    )
    assert done.status == 0, done.err
    assert done.json()["spent"] == Decimal("0.0062025")


def test_a_used_up_budget_that_only_warns_does_not_fail_a_replays_audit(
    on_server: Run, server: FiscusProcess, trace: Path
) -> None:
    send(server, "PUT", "tenants/replay-soft", {"currency": "USD"})
    send(
        server,
        "POST",
        "budgets",
        {
            "tenant_id": "replay-soft",
            "budget_name": "warns",
            "budget_amount": "0.0000001",
            "period_type": "monthly",
            "allocated_to_type": "tenant",
            "allocated_to_id": "replay-soft",
            "enforcement_action": "soft_limit",
        },
    )
    done = on_server(
        "replay", "azure-llm", str(trace), "--tenant", "replay-soft", "--budget", "1", "--json"
    )
    assert done.status == 0, done.err
    assert (done.json()["admitted"], done.json()["ok"]) == (3, True)


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), timedelta(days=3)])
def test_a_replays_audit_goes_by_the_servers_clock(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    # ahead of the clock of the server, which is a process of its own
    monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + ahead)
    done = on_server("replay", "azure-llm", str(trace), "--budget", "1", "--json")
    assert done.status == 0, done.err
    assert done.json()["admitted"] == 3


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a replay waits, without waiting."""
    seconds: list[float] = []
    sleep, wait_for = asyncio.sleep, asyncio.wait_for

    async def hardly(delay: float) -> None:
        seconds.append(delay)
        await sleep(0.001)

    async def hardly_for(awaited: Any, delay: float) -> Any:
        seconds.append(delay)
        return await wait_for(awaited, 0.001)

    monkeypatch.setattr("fiscus.cli.replay.run.asyncio.sleep", hardly)
    monkeypatch.setattr("fiscus.cli.replay.run.asyncio.wait_for", hardly_for)
    return seconds


def answer_instead(
    monkeypatch: pytest.MonkeyPatch, kind: str, replies: Iterator[Reply | None]
) -> None:
    """Have a replay's calls of a kind answered by `replies`; by the server where that is None."""
    post = HttpConnection.post

    async def answered(self: HttpConnection, path: str, body: bytes, key: str) -> Reply:
        reply = next(replies, None) if path.endswith(kind) else None
        return reply or await post(self, path, body, key)

    monkeypatch.setattr(HttpConnection, "post", answered)


NO_ROOM = Reply(429, b"", 1.0)


def test_a_replay_waits_as_the_limit_on_calls_tells_it_to(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch, waited: list[float]
) -> None:
    answer_instead(monkeypatch, "/check", repeat(NO_ROOM, 100))
    done = on_server("replay", "azure-llm", str(trace), "--budget", "1", "--json")
    assert done.status == 0, done.err
    assert (done.json()["admitted"], done.json()["retried"]) == (3, 100)
    assert waited.count(1.0) == 100


def test_a_replay_does_not_wait_for_ever(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch, waited: list[float]
) -> None:
    answer_instead(monkeypatch, "/check", repeat(NO_ROOM))
    done = on_server("replay", "azure-llm", str(trace), "--limit", "1", "--json")
    assert done.status == 1
    assert "429" in done.err
    assert PATIENCE_SECONDS <= sum(one for one in waited if one >= 1) < PATIENCE_SECONDS + 60


@pytest.mark.parametrize("status", [429, 503])
def test_a_replay_that_is_told_to_wait_for_an_hour_ends(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch, waited: list[float], status: int
) -> None:
    answer_instead(monkeypatch, "/check", repeat(Reply(status, b"", 3600.0)))
    done = on_server("replay", "azure-llm", str(trace), "--limit", "1", "--json")
    assert done.status == 1
    assert str(status) in done.err
    assert max(waited) < 1


def ctrl_c_and(replies: Iterable[Reply]) -> Iterator[Reply]:
    signal.raise_signal(signal.SIGINT)
    yield from replies


def test_ctrl_c_ends_a_replay_whose_checks_are_told_to_wait(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_to_wait = ctrl_c_and(repeat(Reply(429, b"", 60.0)))
    answer_instead(monkeypatch, "/check", chain([None], told_to_wait))
    done = on_server("replay", "azure-llm", str(trace), "--budget", "1", "--concurrency", "1")
    assert done.status == 130
    assert "what was held is given back" in done.err


def test_ctrl_c_leaves_a_replay_the_time_to_settle_what_is_held(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch, waited: list[float]
) -> None:
    answer_instead(monkeypatch, "/settle", ctrl_c_and(repeat(NO_ROOM, 20)))
    done = on_server(
        *("replay", "azure-llm", str(trace), "--budget", "1", "--concurrency", "1", "--json")
    )
    assert (done.status, waited.count(1.0)) == (130, 20)
    result = done.json()
    assert (result["admitted"], result["ok"]) == (1, True)


def ctrl_c_twice_and(replies: Iterable[Reply]) -> Iterator[Reply]:
    asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
    yield from ctrl_c_and(replies)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_second_ctrl_c_ends_a_replay_at_once_with_what_is_known(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    told_to_wait = ctrl_c_twice_and(repeat(Reply(429, b"", 5.0), 1))
    answer_instead(monkeypatch, "/settle", chain([None], told_to_wait))
    options = ("--budget", "1", "--concurrency", "1", *(["--json"] if as_json else []))
    done = on_server("replay", "azure-llm", str(trace), *options)
    assert done.status == 130
    assert "not audited" in done.err
    if as_json:
        result = done.json()
        assert (result["admitted"], result["audit"], result["ok"]) == (1, [], False)
    else:
        assert ["admitted", "1"] in [line.split() for line in done.out.splitlines()]
        assert "audit" not in done.out


def test_ctrl_c_ends_the_audit_of_a_replay_with_what_is_known(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiscus.cli.replay.command.audit", lambda *_: ctrl_c_and([]))
    done = on_server("replay", "azure-llm", str(trace), "--budget", "1", "--json")
    assert done.status == 130
    assert "not audited" in done.err
    assert "is held" not in done.err
    assert (done.json()["admitted"], done.json()["ok"]) == (3, False)


def test_ctrl_c_ends_a_replay_that_failed_at_once_and_both_are_told(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_instead(monkeypatch, "/settle", iter((Reply(429, b"", 5.0), Reply(403, b"", None))))
    answer_instead(monkeypatch, "/release", ctrl_c_and([Reply(200, b"", None)]))
    done = on_server("replay", "azure-llm", str(trace), "--budget", "1", "--concurrency", "2")
    assert done.status == 1
    assert "what was on its way is held until it expires" in done.err
    assert "HTTP 403" in done.err


@pytest.mark.parametrize("kind", ["/settle", "/check"])
def test_a_replay_whose_call_fails_gives_back_what_is_held_and_audits(
    on_server: Run, trace: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    refused = Reply(403, problem(403, "FORBIDDEN").body, None)
    replies = chain([None], repeat(refused))
    answer_instead(monkeypatch, kind, replies)
    done = on_server(
        *("replay", "azure-llm", str(trace), "--budget", "1", "--concurrency", "1", "--json")
    )
    assert done.status == 1
    assert "said FORBIDDEN" in done.err
    result = done.json()
    assert (result["admitted"], result["released"]) == (1, int(kind == "/settle"))
    assert result["ok"] is True


def test_replay_shows_its_audit(on_server: Run, trace: Path) -> None:
    tenant = "a-tenant-with-a-long-name-" * 4
    wanted = ("--budget", "0.000001", "--tenant", tenant)
    done = on_server("replay", "azure-llm", str(trace), *wanted)
    assert done.status == 0
    assert "The audit holds" in done.out
    assert ["tenant", tenant] in [line.split() for line in done.out.splitlines()]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--model", "no-such-model"), 2, "no price is known"),
        (("--budget", "lots"), 2, "--budget"),
        (("--budget", "0"), 2, "--budget"),
        (("--budget", f"{10**80}%"), 2, "--budget is out of range"),
        (("--budget=-5",), 2, "--budget"),
        (("--budget", "-5%"), 2, "--budget"),
        (("--speed", "warp"), 2, "--speed"),
    ],
)
def test_replay_names_what_is_wrong(
    on_server: Run, trace: Path, options: tuple[str, ...], status: int, said: str
) -> None:
    done = on_server("replay", "azure-llm", str(trace), *options)
    assert done.status == status
    assert said in done.err


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", TRACE + "2023-11-16 18:15:52,many,3\n", TRACE + "yesterday,1,2\n"]
)
def test_trace_that_is_none_is_named(on_server: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    done = on_server("replay", "azure-llm", str(path))
    assert done.status == 1
    assert "bad.csv" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TRACE.encode() + b'2023-11-16 18:15:52,1,"' + b"2" * 200_000 + b'"\n', "line 5"),
        (TRACE.encode() + b"2023-11-16 18:15:52+00:00,1,2\n", "line 5"),
        (TRACE.encode() + b"2023-11-16 18:15:52,1,2,3\n", "line 5"),
        (TRACE.encode() + b"2023-11-16 18:15:52,1,\xff\n", "after line 4"),
        (DAMAGED, "after line 4"),
        (CUT_OFF, "after line 4"),
    ],
    ids=["a long field", "one offset from UTC", "more cells", "no UTF-8", "damaged", "cut off"],
)
def test_a_trace_that_cannot_be_read_names_the_line(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / ("bad.csv.gz" if content.startswith(b"\x1f\x8b") else "bad.csv")
    path.write_bytes(content)
    with pytest.raises(CommandError, match=said):
        read_azure_llm(path)


def test_a_trace_may_begin_with_a_byte_order_mark_and_say_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(
        b"\xef\xbb\xbfTIMESTAMP,ContextTokens,GeneratedTokens\n"
        b"2024-05-10 00:00:00+00:00,7,1\n2024-05-10 00:00:01.2500000+00:00,8,2\n"
    )
    assert read_azure_llm(path) == [(0.0, 7, 1), (1.25, 8, 2)]


def test_missing_trace_is_one_line(on_server: Run, tmp_path: Path) -> None:
    done = on_server("replay", "azure-llm", str(tmp_path / "none.csv"))
    assert done.status == 1
    assert "none.csv cannot be read" in done.err
