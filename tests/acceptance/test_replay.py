"""The main job on real input: a production trace against a real server, with a budget for half.

The whole trace on SQLite; on PostgreSQL its first third, on two processes less. `make test-long`
takes more of it.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.fiscus_process import FiscusProcess, fiscus_server, run_fiscus
from tests.profile import LONG

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.acceptance

TRACE = "llm_traces/azure_llm_inference_2023_conv.csv.gz"
REQUESTS = 19_366
ON_POSTGRESQL = REQUESTS if LONG else 6_000
ON_TWO_PROCESSES = 6_000 if LONG else 3_000


@pytest.fixture
def trace(shared_data: Path) -> Path:
    path = shared_data / TRACE
    if not path.is_file():
        pytest.skip(f"no trace at {path}")
    return path


def replay(server: FiscusProcess, trace: Path, *options: str) -> dict[str, Any]:
    done = run_fiscus(
        "replay", "azure-llm", str(trace), "--json", *options,
        env={"FISCUS_URL": server.url, "FISCUS_KEY": server.key},
        seconds=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + server.output()
    return json.loads(done.stdout, parse_float=Decimal)


def require_half_used_up(result: dict[str, Any], requests: int) -> None:
    """Every request was decided, the budget is used up, and the audit holds."""
    assert result["requests"] == requests
    assert result["admitted"] + result["refused"] == requests
    assert result["admitted"] > requests // 4
    assert result["refused"] > requests // 4
    assert result["spent"] > result["budget"] * Decimal("0.99")
    assert result["spent"] <= result["budget"] + result["excess"]["amount"]
    assert result["ok"] is True
    assert [one["question"] for one in result["audit"] if not one["holds"]] == []


def test_replay_on_sqlite_spends_half_and_adds_up(tmp_path: Path, trace: Path) -> None:
    with fiscus_server(tmp_path) as server:
        result = replay(server, trace)
        require_half_used_up(result, REQUESTS)
        assert server.stop() == 0


@pytest.mark.postgres
def test_replay_on_postgresql_spends_half_and_adds_up(
    tmp_path: Path, trace: Path, postgres_url: str
) -> None:
    with fiscus_server(tmp_path, env={"FISCUS_DATABASE_URL": postgres_url}) as server:
        result = replay(server, trace, "--limit", str(ON_POSTGRESQL))
        require_half_used_up(result, ON_POSTGRESQL)
        assert server.stop() == 0


@pytest.mark.postgres
def test_replay_on_two_processes_spends_half_and_adds_up(
    tmp_path: Path, trace: Path, postgres_url: str, valkey_url: str
) -> None:
    with fiscus_server(
        tmp_path,
        command=("serve", "--workers", "2"),
        env={"FISCUS_DATABASE_URL": postgres_url, "FISCUS_REDIS_URL": valkey_url},
    ) as server:
        result = replay(server, trace, "--limit", str(ON_TWO_PROCESSES))
        require_half_used_up(result, ON_TWO_PROCESSES)
        assert server.stop() == 0


def test_generous_estimates_never_spend_past_the_budget(tmp_path: Path, trace: Path) -> None:
    """With an assumed output that no answer exceeds, nothing can be above its hold."""
    with fiscus_server(tmp_path) as server:
        result = replay(server, trace, "--limit", "2000", "--assumed-output", "1000")
    assert result["excess"]["count"] == 0
    assert result["refused"] > 0
    assert result["spent"] <= result["budget"]
