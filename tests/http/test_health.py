"""Health probes: what they look at, and that anybody may ask."""

from __future__ import annotations

import asyncio
import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import health as health_module
from fiscus.access.model import Role
from fiscus.errors import ServiceUnavailable
from fiscus.http.api_limits import ApiLimits
from fiscus.http.auth.authenticator import Authenticator
from fiscus.http.limiting import LoopLimiter
from fiscus.http.monitoring.health import Health
from fiscus.http.server import Server
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.port import StoreUnavailable
from fiscus.worker import Worker
from tests.file_modes import bound_by_modes, folder_for_anybody
from tests.http.app_client import API, open_app

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio


async def health(client: AppClient) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    reply = await client.send("GET", "/health", key=None)
    answer = reply.json()
    return reply.status_code, answer, {one["name"]: one for one in answer["dependencies"]}


async def test_probes_need_no_credential_at_the_root_and_under_the_base_path(
    client: AppClient,
) -> None:
    for prefix in ("", API):
        for path, status in (
            ("/health", "UP"),
            ("/health/live", "live"),
            ("/health/ready", "ready"),
        ):
            reply = await client.send("GET", prefix + path, key=None)
            assert (reply.status_code, reply.json()["status"]) == (200, status)
            assert reply.json()["reasons"] == []


async def test_health_looks_at_everything_fiscus_needs(client: AppClient) -> None:
    _, answer, dependencies = await health(client)
    assert set(dependencies) == {"store", "ledger", "counters", "disk", "exchange_rates"}
    assert dependencies["store"]["latency_ms"] > 0
    assert answer["version"]
    assert "fiscus-data" not in str(answer)


async def test_a_store_that_does_not_answer_is_down_and_not_ready(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> float:
        raise ServiceUnavailable("The database cannot be reached")

    monkeypatch.setattr(type(client.engine.store), "ping_ms", fail)
    status, answer, dependencies = await health(client)
    assert (status, answer["status"]) == (503, "DOWN")
    assert dependencies["store"]["status"] == "DOWN"
    assert answer["reasons"] == ["store: The database cannot be reached"]
    ready = await client.send("GET", "/health/ready", key=None)
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["The database cannot be reached"])
    assert (await client.send("GET", "/health/live", key=None)).status_code == 200


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
@pytest.mark.parametrize("name", ["fiscus.db", "fiscus.db-wal", "fiscus.db-turn"])
async def test_a_file_that_may_not_be_written_is_down_and_not_ready(
    migrated: Path, name: str
) -> None:
    with folder_for_anybody() as folder:
        shutil.copytree(migrated, folder, dirs_exist_ok=True)
        async with open_app(folder) as client:
            await client.make_budget()
            await health(client)  # what it reads may be out of another user's reach
            (folder / name).chmod(0o444)
            with bound_by_modes(folder):
                ready = await client.send("GET", "/health/ready", key=None)
                status, _, dependencies = await health(client)
            assert (status, dependencies["store"]["status"]) == (503, "DOWN")
            assert ready.status_code == 503
            assert f"{name} is not writable" in ready.json()["reasons"][0]
            assert str(folder) not in ready.text


async def test_pending_migrations_make_it_not_ready(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(client.engine.store), "pending_migrations", lambda _: ["0002"])
    ready = await client.send("GET", "/health/ready", key=None)
    assert ready.status_code == 503
    assert "fiscus migrate up" in ready.json()["reasons"][0]


async def test_a_closing_ledger_is_down_and_not_ready(client: AppClient) -> None:
    client.engine.ledger.close()
    status, answer, _ = await health(client)
    assert (status, answer["status"]) == (503, "DOWN")
    ready = await client.send("GET", "/health/ready", key=None)
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")


async def test_who_asks_at_the_same_time_shares_one_look(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.engine
    door = Authenticator(engine.api_keys, engine.credential_cache, engine.settings)
    limits = ApiLimits(engine.settings, LoopLimiter(engine.limiter))
    probes = Health(Server(engine, door, limits, client.metrics))
    looks: list[float] = []
    kind = type(engine.store)
    ping_ms = kind.ping_ms

    def counted(store: Any) -> float:
        looks.append(ping_ms(store))
        return looks[-1]

    monkeypatch.setattr(kind, "ping_ms", counted)
    for looked in (1, 2):  # the next look is a new one
        answers = await asyncio.gather(*(probes.answer(str(number)) for number in range(5)))
        assert [one.correlation_id for one in answers] == ["0", "1", "2", "3", "4"]
        assert len(looks) == looked
    assert await asyncio.gather(*(probes.why_not_ready() for _ in range(5))) == [[]] * 5
    assert len(looks) == 3


async def test_old_exchange_rates_degrade_but_do_not_stop(client: AppClient) -> None:
    client.clock.set(datetime(2031, 1, 1, tzinfo=UTC))
    status, answer, dependencies = await health(client)
    assert (status, answer["status"]) == (200, "DEGRADED")
    assert dependencies["exchange_rates"]["status"] == "DEGRADED"
    assert "FISCUS_EXCHANGE_RATES_FILE" in answer["reasons"][0]


async def test_a_worker_that_has_trouble_degrades_the_server_it_is_inside(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> bool:
        raise RuntimeError("nobody thought of this")

    worker = Worker(client.engine)
    monkeypatch.setattr(type(client.engine.maintenance), "try_lead", fail)
    worker.step()
    worker.stop()
    worker.run()
    status, answer, dependencies = await health(client)
    assert (status, answer["status"]) == (200, "DEGRADED")
    assert dependencies["worker"]["message"] == "its last round failed: RuntimeError"
    monkeypatch.undo()
    worker.step()
    _, answer, dependencies = await health(client)
    assert (answer["status"], dependencies["worker"]["status"]) == ("UP", "UP")


async def test_a_server_whose_data_has_no_room_left_is_down_and_not_ready(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "NO_DISK_BYTES", 2**62)
    status, _, dependencies = await health(client)
    assert (status, dependencies["disk"]["status"]) == (503, "DOWN")
    ready = await client.send("GET", "/health/ready", key=None)
    assert ready.status_code == 503
    assert "The disk is full" in ready.json()["reasons"][0]


async def test_the_disk_of_a_database_elsewhere_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    full: list[Path] = []
    usage = shutil.disk_usage

    def usage_of(folder: Path) -> Any:
        found = usage(folder)
        return found._replace(free=0) if folder in full else found

    async with open_app(data, database_url=f"sqlite:///{elsewhere}/fiscus.db") as client:
        monkeypatch.setattr(shutil, "disk_usage", usage_of)
        assert (await health(client))[0] == 200
        for folder, word in ((data, "data"), (elsewhere, "database's")):
            full[:] = [folder]
            status, _, dependencies = await health(client)
            assert (status, dependencies["disk"]["status"]) == (503, "DOWN")
            assert dependencies["disk"]["message"] == f"0 MB are free for the {word} folder"


async def test_a_group_that_failed_lately_degrades_before_the_breaker_opens(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = client.make_key(Role.SERVICE)
    body = {"resource_type": "llm", "estimated_cost": 1}

    async def check() -> int:
        return (await client.post("/budgets/check", body, key=key)).status_code

    def fail(_: object, __: object) -> None:
        raise StoreUnavailable("the disk is full")

    assert await check() == 200
    with monkeypatch.context() as broken:
        broken.setattr(GroupRunner, "decide", fail)
        assert await check() == 503
    status, answer, dependencies = await health(client)
    assert (status, answer["status"]) == (200, "DEGRADED")
    assert dependencies["ledger"]["message"] == "the last operations were not durable in time"
    assert await check() == 200
    assert (await health(client))[1]["status"] == "UP"
