"""`fiscus simulate`: histories with known answers, a real access log, and what people see."""

from __future__ import annotations

import io
import json
import os
import re
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fiscus.cli.simulate.input import Input
from fiscus.cli.simulate.traces import Trace
from tests.fiscus_process import run_fiscus
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.cli.conftest import Done, Run

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "ratelimits.json"
LOG = "logs/elastic_apache_logs.gz"
LOG_LINES = 10_000

HISTORIES: list[dict[str, Any]] = (
    json.loads(VECTORS.read_text(), parse_float=Decimal)["histories"] if VECTORS.is_file() else []
)

ONE_A_MINUTE = {"limit_value": 1, "time_window_seconds": 60, "algorithm": "fixed_window"}


@pytest.fixture(params=["memory", "valkey"])
def counters(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory"
    return request.getfixturevalue("valkey_url")


class Desk:
    """Simulations of policies and traces given as values."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self._folder = folder

    def run(self, policies: Any, lines: Iterable[Any], *options: str) -> Done:
        """Lines that are no text are written as JSON; options win over the files made here."""
        policy_file = self._folder / "policies.json"
        trace = self._folder / "trace"
        policy_file.write_text(_json(policies))
        trace.write_text(
            "\n".join(line if isinstance(line, str) else _json(line) for line in lines)
        )
        files = ("--policies", str(policy_file), "--trace", str(trace))
        return self._run("simulate", *files, *options)

    def decisions(self, policies: Any, lines: Iterable[Any], *options: str) -> list[dict[str, Any]]:
        done = self.run(policies, lines, "--json", *options)
        assert done.status == 0, done.err
        return read_decisions(done.out)


@pytest.fixture
def desk(run: Run, tmp_path: Path) -> Desk:
    return Desk(run, tmp_path)


def _json(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: {_json(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def read_decisions(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_float=Decimal) for line in text.splitlines()]


def admitted(decisions: Iterable[dict[str, Any]]) -> list[bool]:
    return [one["allowed"] for one in decisions]


# ---------------------------------------------------------------- histories with known answers


def trace_of(history: dict[str, Any]) -> list[dict[str, Any]]:
    steps = [{"time": step["t"], "request_count": step["n"]} for step in history["steps"]]
    if "after" in history:
        steps.append({"time": history["after"]["t"], "request_count": 0})
    return steps


def require_expected(history: dict[str, Any], decisions: list[dict[str, Any]]) -> None:
    for step, decision in zip(history["steps"], decisions, strict=False):
        expected = {"allowed": step["allowed"], "remaining_requests": step["remaining"]}
        if "retry_after" in step:
            expected["retry_after"] = step["retry_after"]
        assert {name: decision[name] for name in expected} == expected, step
        assert (decision["time"], decision["request_count"]) == (step["t"], step["n"])
        assert (decision["retry_after"] == 0) is step["allowed"]
    if "after" in history:
        lines = decisions[-1]["policies"]
        assert [one["policy_id"] for one in lines] == [
            f"policy-{number}" for number in range(1, len(lines) + 1)
        ]
        remaining = [one["remaining_requests"] for one in lines]
        assert remaining == history["after"]["remaining_by_policy"]


@pytest.mark.parametrize("history", HISTORIES, ids=[one["name"] for one in HISTORIES])
def test_history_has_the_expected_answers(
    desk: Desk, counters: str, history: dict[str, Any]
) -> None:
    decisions = desk.decisions(history["policies"], trace_of(history), "--counters", counters)
    assert len(decisions) == len(trace_of(history))
    require_expected(history, decisions)


def test_bucket_hit_once_a_second_drains_exactly(desk: Desk, counters: str) -> None:
    policy = {"limit_value": 10, "time_window_seconds": 30}
    decisions = desk.decisions(
        [policy], [{"time": second} for second in range(11)], "--counters", counters
    )
    remaining = [one["remaining_requests"] for one in decisions]
    assert remaining == [9, 8, 7, 7, 6, 5, 5, 4, 3, 3, 2]


# ---------------------------------------------------------------- a real access log


@pytest.fixture
def access_log(shared_data: Path) -> Path:
    path = shared_data / LOG
    if not path.is_file():
        pytest.skip(f"no access log at {path}")
    return path


def counted_by_hand(log: Path, limit: int, window_seconds: int) -> list[bool]:
    """Fixed windows per client, as one would count them; a clock that goes back stands still."""
    latest: dict[str, tuple[int, int]] = {}
    answers: list[bool] = []
    with closing(Input(str(log))) as source:
        requests = list(Trace(source))
    for request in requests:
        client = str(request.line.resource_key)
        window = request.at_us // 1_000_000 // window_seconds
        last, used = latest.get(client, (window, 0))
        if window > last:
            last, used = window, 0
        answers.append(used < limit)
        latest[client] = (last, used + (used < limit))
    return answers


@pytest.mark.acceptance
def test_access_log_is_decided_alike_by_both_counter_stores(
    run: Run, tmp_path: Path, access_log: Path, valkey_url: str
) -> None:
    policies = tmp_path / "policies.yaml"
    policies.write_text(
        "- {limit_value: 20, time_window_seconds: 60, algorithm: fixed_window}\n"
        "- {limit_value: 100, time_window_seconds: 3600, shadow: true}\n"
    )
    command = ("simulate", "--json", "--policies", str(policies), "--trace", str(access_log))
    in_memory = run(*command)
    assert in_memory.status == 0, in_memory.err
    assert "go back in time, by up to 59 s" in in_memory.err
    assert admitted(read_decisions(in_memory.out)) == counted_by_hand(access_log, 20, 60)

    # on Valkey in a process of its own, as it is used
    on_valkey = run_fiscus(*command, "--counters", valkey_url)
    assert on_valkey.returncode == 0, on_valkey.stderr
    assert on_valkey.stdout == in_memory.out

    summary = run("simulate", "--policies", str(policies), "--trace", str(access_log))
    denied = admitted(read_decisions(in_memory.out)).count(False)
    assert denied > 100
    assert re.search(rf"checks +{LOG_LINES:,}\n", re.sub(r" +\n", "\n", summary.out))
    assert re.search(rf"admitted +{LOG_LINES - denied:,} \(", summary.out)
    assert re.search(rf"denied +{denied:,} \(", summary.out)


# ---------------------------------------------------------------- what a decision says


def test_times_are_answered_in_the_notation_of_the_trace(desk: Desk) -> None:
    seconds, moment = desk.decisions(
        [ONE_A_MINUTE], [{"time": Decimal("30.50")}, {"time": "1970-01-01T02:00:30.5+01:00"}]
    )
    assert (str(seconds["time"]), seconds["reset_time"]) == ("30.50", 60)
    assert moment["time"] == "1970-01-01T02:00:30.5+01:00"
    assert moment["reset_time"] == "1970-01-01T01:01:00Z"


def test_reset_in_seconds_has_the_digits_it_takes(desk: Desk) -> None:
    (decision,) = desk.decisions(
        [{"limit_value": 3, "time_window_seconds": 1}], [{"time": Decimal("0.25")}]
    )
    assert decision["reset_time"] == Decimal("0.583334")


def test_denial_says_who_denied_and_until_when(desk: Desk) -> None:
    policies = [
        {"policy_id": "hourly", **ONE_A_MINUTE, "time_window_seconds": 3600},
        {**ONE_A_MINUTE, "limit_value": 5},
    ]
    line = {"time": 10, "resource_key": "k", "resource_type": "llm", "tenant_id": "acme"}
    _, denied = desk.decisions(policies, [line, {**line, "time": Decimal("10.0005")}])
    assert denied == {
        "time": Decimal("10.0005"),
        "tenant_id": "acme",
        "resource_type": "llm",
        "resource_key": "k",
        "request_count": 1,
        "allowed": False,
        "remaining_requests": 0,
        "retry_after": 3590,
        "retry_after_ms": 3_590_000,
        "reset_time": 3600,
        "policy_id": "hourly",
        "limit_value": 1,
        "delay_ms": 0,
        "policies": [
            {
                "policy_id": "hourly",
                "decision": "deny",
                "remaining_requests": 0,
                "retry_after": 3590,
            },
            {
                "policy_id": "policy-2",
                "decision": "allow",
                "remaining_requests": 4,
                "retry_after": 0,
            },
        ],
    }


def test_request_that_no_policy_applies_to_is_admitted(desk: Desk) -> None:
    (decision,) = desk.decisions(
        [{**ONE_A_MINUTE, "resource_type": "llm"}], [{"time": 0, "resource_type": "api"}]
    )
    assert (decision["allowed"], decision["policy_id"], decision["policies"]) == (True, None, [])


def test_line_without_a_priority_is_normal(desk: Desk) -> None:
    policy = {"limit_value": 10, "time_window_seconds": 60}
    lines = [
        {"time": 0, "request_count": 0, "priority": priority}
        for priority in (None, "low", "normal", "high", "critical")
    ]
    remaining = [one["remaining_requests"] for one in desk.decisions([policy], lines)]
    assert remaining == [10, 5, 10, 15, 20]


# ---------------------------------------------------------------- tenants and policies


def test_policy_without_a_tenant_counts_for_each_tenant_apart(desk: Desk, counters: str) -> None:
    lines = [{"time": 0, "tenant_id": tenant} for tenant in ("a", "b", "a", "b")]
    decisions = desk.decisions([ONE_A_MINUTE], lines, "--counters", counters)
    assert admitted(decisions) == [True, True, False, False]


@pytest.mark.parametrize(
    "whose", [{"tenant_id": "a"}, {"scope_type": "tenant", "scope_id": "a"}], ids=str
)
def test_policy_of_one_tenant_leaves_the_others_alone(desk: Desk, whose: dict[str, str]) -> None:
    lines = [{"time": 0, "tenant_id": tenant} for tenant in ("a", "b", "a", "b")]
    decisions = desk.decisions([{**ONE_A_MINUTE, **whose}], lines)
    assert admitted(decisions) == [True, True, False, True]


def test_lines_without_a_tenant_are_the_given_ones(desk: Desk) -> None:
    policy = {**ONE_A_MINUTE, "tenant_id": "acme"}
    decisions = desk.decisions([policy], [{"time": 0}, {"time": 1}], "--tenant", "acme")
    assert [one["tenant_id"] for one in decisions] == ["acme", "acme"]
    assert admitted(decisions) == [True, False]


def test_two_runs_on_one_server_do_not_see_each_other(desk: Desk, valkey_url: str) -> None:
    for _ in range(2):
        decisions = desk.decisions([ONE_A_MINUTE], [{"time": 0}], "--counters", valkey_url)
        assert admitted(decisions) == [True]


def test_a_run_leaves_nothing_on_the_server(desk: Desk, valkey_servers: Any) -> None:
    server = valkey_servers.start()
    lines = [{"time": 0, "tenant_id": f"t{n % 3}", "resource_key": f"k{n}"} for n in range(50)]
    desk.decisions([ONE_A_MINUTE], lines, "--counters", server.url)
    client = server.client()
    assert client.dbsize() == 0
    client.close()


def test_calendar_windows_follow_the_time_zone(desk: Desk) -> None:
    policy = {"limit_value": 1, "algorithm": "fixed_window", "calendar": "day"}
    lines = [{"time": f"2026-01-31T{hour}:30:00Z"} for hour in ("22", "23")]
    assert admitted(desk.decisions([policy], lines)) == [True, False]
    assert admitted(desk.decisions([policy], lines, "--timezone", "Europe/Berlin")) == [True, True]


def test_policies_are_read_as_the_api_lists_them(desk: Desk) -> None:
    listed = {
        "policies": [
            {
                "policy_id": "0198c0de-0000-7000-8000-000000000001",
                "tenant_id": "default",
                "version": 3,
                "scope_type": "tenant",
                "scope_id": "default",
                "resource_type": "api",
                **ONE_A_MINUTE,
                "burst_capacity": 0,
                "calendar": None,
                "timezone": "UTC",
                "overrides": {"time_of_day": [], "usage_pattern": None},
                "shadow": False,
                "on_store_failure": "local",
                "created_at": "2026-01-01T00:00:00Z",
                "updated_at": "2026-01-01T00:00:00Z",
                "effective_limit": 1,
                "emergencies": [],
            }
        ],
        "pagination": {"page": 1},
    }
    _, denied = desk.decisions(listed, [{"time": 0}, {"time": 1}])
    assert denied["policy_id"] == "0198c0de-0000-7000-8000-000000000001"


@pytest.mark.parametrize("other", ["next_page_token", "prev_page_token"])
def test_one_page_of_several_is_refused(desk: Desk, other: str) -> None:
    place = {"next_page_token": None, "prev_page_token": None, other: "eyJ"}
    done = desk.run({"policies": [ONE_A_MINUTE], "pagination": place}, [{"time": 0}])
    assert (done.status, done.out) == (1, "")
    assert "is one page of several" in done.err
    assert "GET /rate-limits?page_size=1000" in done.err


def test_multiplier_in_yaml_keeps_its_digits(run: Run, tmp_path: Path) -> None:
    policies, trace = tmp_path / "policies.yml", tmp_path / "trace.csv"
    policies.write_text(
        "limit_value: 100\n"
        "time_window_seconds: 60\n"
        "overrides: {time_of_day: [{from_hour: 0, to_hour: 24, multiplier: 0.29}]}\n"
    )
    trace.write_text("time\n0\n")
    done = run("simulate", "--json", "--policies", str(policies), "--trace", str(trace))
    assert done.json()["limit_value"] == 29  # 28 in binary fractions


# ---------------------------------------------------------------- what people see


def test_summary_tells_policies_apart_and_who_was_denied(desk: Desk) -> None:
    policies = [
        {"policy_id": "per-user", **ONE_A_MINUTE, "scope_type": "user", "scope_id": "*"},
        {"policy_id": "trial", **ONE_A_MINUTE, "limit_value": 2, "shadow": True},
    ]
    lines = [
        {"time": f"2026-01-31T09:{minute:02}:00Z", "user_id": user, "request_count": count}
        for minute in range(20)
        for user, count in (("ada", 1), ("ada", 1), ("bob", 1), ("cy", 2))
    ]
    done = desk.run(policies, lines, "--timezone", "Europe/Berlin")
    assert done.status == 0
    text = re.sub(r" +", " ", done.out)
    assert "time 2026-01-31 10:00:00+01:00 to 2026-01-31 10:19:00+01:00" in text
    assert "checks 80" in text
    assert "admitted 40 (50.0%)" in text
    assert "requests 100, 40 of them admitted" in text
    assert "per-user 80 40 40 0 40 60 s\n 1 per 60 s 20 never\n fixed_window" in text
    assert "trial 80 40 0 20 40 60 s\n 2 per 60 s\n fixed_window\n shadow" in text
    assert "ada 20" in text
    assert "cy 20" in text
    assert "bob" not in text
    assert "Requests over time" in text
    assert "10:00" in text
    assert done.err == ""


def test_what_is_no_terminals_is_neither_wrapped_nor_cut(desk: Desk) -> None:
    policy_id, key = "a-policy-with-a-long-name-" * 4, "a-key-with-a-long-name-" * 4
    policies = [{"policy_id": policy_id, **ONE_A_MINUTE}]
    lines = [{"time": second, "resource_key": key} for second in range(2)]
    shown = [line.split() for line in desk.run(policies, lines).out.splitlines()]
    assert [policy_id, "2", "1", "1", "59", "s"] in shown
    assert [policy_id, key, "1"] in shown


@pytest.mark.usefixtures("narrow")
def test_headings_are_whole_words_in_80_columns(desk: Desk) -> None:
    policies = [{"policy_id": "p" * 30, **ONE_A_MINUTE, "shadow": True}]
    lines = [{"time": f"2026-01-31T09:{minute:02}:00Z", "request_count": 2} for minute in range(9)]
    done = desk.run(policies, lines)
    headings = done.out[: done.out.index("p" * 30)].split()
    assert {"checks", "admitted", "denied", "shadow", "requests", "longest"} <= set(headings)


def test_chart_stacks_admitted_below_denied_without_colour(desk: Desk) -> None:
    policy = {**ONE_A_MINUTE, "limit_value": 5}
    lines = [{"time": 60 * minute} for minute in range(60) for _ in range(10)]
    done = desk.run([policy], lines)
    rows = [line for line in done.out.splitlines() if "┤" in line]
    assert len(rows) == 10
    assert [row.count("░") for row in rows] == [60] * 5 + [0] * 5
    assert [row.count("█") for row in rows] == [0] * 5 + [60] * 5
    assert "1 min a column" in done.out
    assert "\x1b" not in done.out


def test_characters_that_move_a_terminal_are_not_shown(desk: Desk) -> None:
    lines = [{"time": 0, "resource_key": "a\x1b[2Jb"}] * 2
    done = desk.run([ONE_A_MINUTE], lines)
    assert "a�[2Jb" in done.out
    assert "\x1b" not in done.out


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ([{"time_window_seconds": 60}], "policy 1: limit_value is missing"),
        ([ONE_A_MINUTE, {**ONE_A_MINUTE, "limit_value": 0}], "policy 2: limit_value: "),
        ([{**ONE_A_MINUTE, "time_window_seconds": 0}], "policy 1: time_window_seconds: "),
        ([{**ONE_A_MINUTE, "burst_capacity": 5}], "policy 1: burst_capacity is not known to"),
        ([{**ONE_A_MINUTE, "limit": 5}], "policy 1: limit is not a field"),
        ([{**ONE_A_MINUTE, "policy_id": "two words"}], "policy 1: policy_id is not a valid id"),
        ([{**ONE_A_MINUTE, "policy_id": "a"}] * 2, "policy 2: policy_id a is another policy's"),
        ([{**ONE_A_MINUTE, "tenant_id": "a", "scope_id": "b"}], "policy 1: A policy of scope"),
        ([5], "policy 1: not an object"),
        ([], "holds no policies"),
        ("none", "is no list of policies"),
    ],
    ids=str,
)
def test_wrong_policy_is_named(desk: Desk, policies: Any, said: str) -> None:
    done = desk.run(policies, [{"time": 0}])
    assert done.status == 1
    assert said in done.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("policies.json", "[{]", "is not valid JSON"),
        ("policies.yaml", "- {", "is not valid YAML"),
    ],
)
def test_file_that_is_no_json_or_yaml_is_told(
    run: Run, tmp_path: Path, name: str, text: str, said: str
) -> None:
    path, trace = tmp_path / name, tmp_path / "trace"
    path.write_text(text)
    trace.write_text('{"time": 0}')
    done = run("simulate", "--policies", str(path), "--trace", str(trace))
    assert done.status == 1
    assert said in done.err


def test_bad_line_ends_the_run_and_is_named(desk: Desk) -> None:
    lines = [{"time": 0}, {"time": 1, "request_count": "two"}, {"time": 2}]
    done = desk.run([ONE_A_MINUTE], lines, "--json")
    assert done.status == 1
    assert len(read_decisions(done.out)) == 1
    assert "trace:2: request_count: " in done.err
    assert "--skip-bad-lines" in done.err


def test_bad_lines_may_be_skipped_and_are_counted(desk: Desk) -> None:
    lines = [{"time": 0}, "nonsense", {"time": "soon"}, {"time": 2}]
    done = desk.run([ONE_A_MINUTE], lines, "--json", "--skip-bad-lines")
    assert done.status == 0
    assert admitted(read_decisions(done.out)) == [True, False]
    assert "2 lines that cannot be read were left out" in done.err


def test_trace_without_requests_is_told(desk: Desk) -> None:
    done = desk.run([ONE_A_MINUTE], [])
    assert done.status == 1
    assert "holds no requests" in done.err


def test_lines_that_go_back_far_are_told(desk: Desk) -> None:
    done = desk.run([ONE_A_MINUTE], [{"time": 500}, {"time": 100}, {"time": 400}])
    assert done.status == 0
    assert "2 lines go back in time, by up to 400 s" in done.err
    assert "Sort the trace" in done.err


def test_counters_that_cannot_be_reached_end_the_run(desk: Desk) -> None:
    where = f"redis://127.0.0.1:{free_port()}"
    done = desk.run([ONE_A_MINUTE], [{"time": 0}], "--counters", where)
    assert done.status == 1
    assert "the counters cannot be reached" in done.err


def test_address_that_is_no_server_is_refused(desk: Desk) -> None:
    done = desk.run([ONE_A_MINUTE], [{"time": 0}], "--counters", "disk")
    assert done.status == 2
    assert "--counters is not a URL of Redis or Valkey" in done.err
    assert "FISCUS_REDIS_URL" not in done.err


@pytest.mark.parametrize(
    ("option", "given"), [("--timezone", "Mars/Olympus"), ("--tenant", "a b"), ("--format", "xml")]
)
def test_an_option_that_cannot_be_is_wrong_use(desk: Desk, option: str, given: str) -> None:
    done = desk.run([ONE_A_MINUTE], [{"time": 0}], option, given)
    assert done.status == 2
    assert option in done.err


@pytest.mark.parametrize("given", [".inf", "-.inf", ".nan", ".NaN"])
def test_a_number_that_is_none_is_named_by_its_line(run: Run, tmp_path: Path, given: str) -> None:
    path, trace = tmp_path / "policies.yaml", tmp_path / "trace"
    path.write_text(f"- limit_value: 5\n  time_window_seconds: {given}\n")
    trace.write_text('{"time": 0}')
    done = run("simulate", "--policies", str(path), "--trace", str(trace))
    assert done.status == 1
    assert f"line 2: {given}" in done.err
    assert "unexpected" not in done.err


def test_a_number_in_json_that_is_out_of_range_is_named(run: Run, tmp_path: Path) -> None:
    path, trace = tmp_path / "policies.json", tmp_path / "trace"
    path.write_text('[{"limit_value": 5, "time_window_seconds": 1e99999999999999999999}]')
    trace.write_text('{"time": 0}')
    done = run("simulate", "--policies", str(path), "--trace", str(trace))
    assert done.status == 1
    assert f"{path} is not valid JSON: 1e99999999999999999999 is out of range" in done.err


def test_trace_comes_from_standard_input(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.BytesIO(b'{"time":0}\n{"time":1}\n')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(text)))
    done = desk.run([ONE_A_MINUTE], [], "--trace", "-", "--json")
    assert admitted(read_decisions(done.out)) == [True, False]


@pytest.fixture
def pipe() -> Iterator[Path]:
    """A pipe that holds a trace of two requests, by its name."""
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb") as file:  # noqa: PTH123 - of descriptors
        file.write(b'{"time":0}\n{"time":1}\n')
        file.close()
        yield Path(f"/dev/fd/{reading}")


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="names pipes by their descriptors")
@pytest.mark.parametrize("by_name", [False, True])
def test_what_comes_of_a_pipe_is_shown(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, pipe: Path, by_name: bool
) -> None:
    with pipe.open() as standard_input:
        monkeypatch.setattr("sys.stdin", standard_input)
        done = desk.run([ONE_A_MINUTE], [], "--trace", str(pipe) if by_name else "-")
    assert done.status == 0, done.err
    assert "1 (50.0%)" in done.out
