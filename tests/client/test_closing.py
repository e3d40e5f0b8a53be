"""What is closed, or of another loop or process, says so; it never hides a program's own error."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import AsyncClient, Client, Fiscus, ServiceUnavailable
from fiscus.client.asynchronous.api import AsyncApi
from fiscus.client.blocking.api import BlockingApi
from fiscus.ids import uuid7
from tests.client.apis import BUDGET, OPERATION, RunningServer
from tests.fiscus_process import clean_environment

if TYPE_CHECKING:
    from pathlib import Path

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

ID = uuid7()
QUOTA = {"scope_type": "project", "scope_id": "search", "resource_type": "gpu_hours"}
POLICY = {"scope_type": "user", "scope_id": "*", "resource_type": "api", "limit_value": 1}
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "adjust_rate_limit": ((), {"resource_type": "api", "request_count": 1}),
    "allocate_quota": ((), {**QUOTA, "allocated_amount": 1}),
    "budgets": ((), {}),
    "check": ((), {**OPERATION, "estimate": 1}),
    "check_batch": (([{**OPERATION, "estimate": 1}],), {}),
    "check_quota": ((), {"resource_type": "gpu_hours", "required_amount": 1}),
    "check_quotas": (([{"resource_type": "gpu_hours", "required_amount": 1}],), {}),
    "check_rate_limit": ((), {"resource_type": "api"}),
    "check_rate_limits": (([{"resource_type": "api"}],), {}),
    "create_budget": ((), BUDGET),
    "create_rate_limit": ((), {**POLICY, "time_window_seconds": 60}),
    "delete_budget": ((ID,), {}),
    "delete_quota": ((ID,), {}),
    "delete_rate_limit": ((ID,), {}),
    "distribute_quota": (
        (),
        {
            "resource_type": "gpu_hours",
            "total_amount": 1,
            "strategy": "fair_share",
            "entities": [{"scope_type": "user", "scope_id": "ada"}],
        },
    ),
    "extend": ((ID, 60), {}),
    "get_budget": ((ID,), {}),
    "get_quota": ((ID,), {}),
    "get_rate_limit": ((ID,), {}),
    "get_tenant": (("acme",), {}),
    "health": ((), {}),
    "put_tenant": (("acme",), {"currency": "EUR"}),
    "quota_history": ((ID,), {}),
    "quotas": ((), {}),
    "rate_limits": ((), {}),
    "record": ((), {**OPERATION, "cost_amount": 1}),
    "record_batch": (([{**OPERATION, "cost_amount": 1}],), {}),
    "records": ((), {}),
    "release": ((ID,), {}),
    "release_consumption": ((ID,), {}),
    "report": ((), {}),
    "reset_rate_limit": ((ID,), {}),
    "settle": ((ID, 1), {}),
    "update_budget": ((ID,), {"budget_amount": 2}),
    "update_quota": ((ID,), {"allocated_amount": 2}),
    "update_rate_limit": ((ID,), {"limit_value": 2}),
    "utilization": ((ID,), {}),
}


def test_these_are_all_calls_there_are() -> None:
    public = {name for name in dir(BlockingApi) if not name.startswith("_")}
    assert public - set(CALLS) == {"close", "quota", "reserve", "source"}
    assert {name for name in dir(AsyncApi) if not name.startswith("_")} >= set(CALLS)


def assert_closed(error: ServiceUnavailable, what: str) -> None:
    assert error.message == f"{what} is closed"
    assert not error.retriable
    assert error.suggested_action


@pytest.mark.parametrize("name", CALLS)
def test_every_call_of_a_closed_client_says_that_it_is_closed(
    server: RunningServer, name: str
) -> None:
    client = Client(server.url, server.key)
    client.close()
    client.close()
    arguments, fields = CALLS[name]
    with pytest.raises(ServiceUnavailable) as refused:
        getattr(client, name)(*arguments, **fields)
    assert_closed(refused.value, "This client")


@pytest.mark.parametrize("name", CALLS)
def test_every_call_of_a_closed_async_client_says_that_it_is_closed(
    server: RunningServer, name: str
) -> None:
    async def run() -> None:
        client = AsyncClient(server.url, server.key)
        await client.close()
        await client.close()
        arguments, fields = CALLS[name]
        call = getattr(client, name)(*arguments, **fields)
        assert inspect.isawaitable(call)
        with pytest.raises(ServiceUnavailable) as refused:
            await call
        assert_closed(refused.value, "This client")

    asyncio.run(run())


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Fiscus:
    fiscus = Fiscus.open(data_dir=tmp_path_factory.mktemp("closed"), tenant="acme")
    fiscus.check_rate_limit(resource_type="api")
    fiscus.close()
    fiscus.close()
    return fiscus


@pytest.mark.parametrize("name", CALLS)
def test_every_call_of_a_closed_fiscus_says_that_it_is_closed(closed: Fiscus, name: str) -> None:
    arguments, fields = CALLS[name]
    with pytest.raises(ServiceUnavailable) as refused:
        getattr(closed, name)(*arguments, **fields)
    assert_closed(refused.value, "This Fiscus")


def test_a_fiscus_that_is_forgotten_unclosed_warns_by_its_name(tmp_path: Path) -> None:
    opened = [Fiscus.open(data_dir=tmp_path)]
    engine = opened[0]._backend._opened  # type: ignore[attr-defined]
    with pytest.warns(ResourceWarning, match=r"unclosed Fiscus: call its close\(\)"):
        opened.clear()
    engine.close()


def test_what_is_open_here_says_that_it_cannot_be_copied(tmp_path: Path) -> None:
    """As when it is given to a process of a pool that is spawned, or is in what is copied."""
    address = "http://127.0.0.1:1"
    with Fiscus.open(data_dir=tmp_path, tenant="acme") as fiscus, Client(address, "k") as client:
        block = fiscus.reserve(**OPERATION, estimate=1)
        for one in (fiscus, client, AsyncClient(address, "k"), block):
            for copied in (pickle.dumps, copy.deepcopy):
                with pytest.raises(TypeError, match="open another where you need one"):
                    copied(one)


def test_closing_inside_a_block_hides_no_error_of_the_program(
    server: RunningServer, tenant: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def close_inside(api: BlockingApi) -> None:
        with api.reserve(**OPERATION, estimate=1):
            api.close()
            raise LookupError("mine")

    for api in (Client(server.url, server.key, tenant=tenant), Fiscus.open(data_dir=tmp_path)):
        with pytest.raises(LookupError, match="mine"):
            close_inside(api)
        assert "is held until it expires" in caplog.text
        caplog.clear()


def test_closing_an_async_client_inside_a_block_hides_no_error_of_the_program(
    server: RunningServer, tenant: str
) -> None:
    async def run() -> None:
        client = AsyncClient(server.url, server.key, tenant=tenant)
        async with client.reserve(**OPERATION, estimate=1):
            await client.close()
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        asyncio.run(run())


def test_an_async_client_without_a_loop_of_asyncio_says_so(server: RunningServer) -> None:
    """Such as under trio, which sends into coroutines as is done here."""
    client = AsyncClient(server.url, server.key)
    for call in (client.health(), client.reserve(**OPERATION, estimate=1).__aenter__()):
        with pytest.raises(ServiceUnavailable, match="event loop of asyncio") as refused:
            call.send(None)
        assert not refused.value.retriable


# the connection of a loop that is gone is closed by nobody
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_async_client_in_a_second_loop_says_so_and_can_be_closed_there(
    server: RunningServer, tenant: str
) -> None:
    _use_in_three_loops(AsyncClient(server.url, server.key, tenant=tenant))
    gc.collect()  # the connection tells on itself here, not in a test that follows


def _use_in_three_loops(client: AsyncClient) -> None:
    async def look() -> bool:
        return (await client.check(**OPERATION, estimate=1, reserve=False)).allowed

    async def look_in_vain() -> None:
        with pytest.raises(ServiceUnavailable, match="another event loop") as refused:
            await look()
        assert not refused.value.retriable

    async def leave() -> None:
        async with client:
            raise LookupError("mine")

    assert asyncio.run(look())
    asyncio.run(look_in_vain())
    with pytest.raises(LookupError, match="mine"):
        asyncio.run(leave())


@needs_fork
def test_a_fiscus_in_a_forked_process_says_so_at_once_and_leaves_the_other_as_it_is(
    tmp_path: Path,
) -> None:
    script = f"""
import os, time
from fiscus import Conflict, Fiscus

operation = {{"resource_type": "llm", "estimate": 1}}
with Fiscus.open(data_dir={str(tmp_path)!r}, tenant="acme") as fiscus:
    budget = fiscus.create_budget(
        budget_name="All", budget_amount=10, period_type="monthly",
        allocated_to_type="tenant", allocated_to_id="acme",
    )
    with fiscus.reserve(**operation):
        pid = os.fork()
        if pid == 0:
            started = time.monotonic()
            for call in (
                lambda: fiscus.check(**operation),
                lambda: fiscus.reserve(**operation).__enter__(),
                lambda: fiscus.check_rate_limit(resource_type="api"),
                fiscus.budgets,
            ):
                try:
                    call()
                except Conflict as error:
                    print(error.message, "-", error.suggested_action)
            fiscus.close()
            print("at once" if time.monotonic() - started < 1 else "late", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(fiscus.utilization(budget.budget_id).periods[0].reserved)
    print(fiscus.check(**operation).allowed)
"""
    *refusals, when, held, allowed = _printed_by(script)
    assert len(refusals) == 4
    for refusal in refusals:
        assert refusal.startswith("Fiscus was opened in another process - Open it after the fork")
    assert (when, held, allowed) == ("at once", "1", "True")


@needs_fork
def test_a_client_of_before_a_fork_has_connections_of_its_own_in_every_process(
    server: RunningServer, tenant: str
) -> None:
    script = f"""
import os
from fiscus import Client

client = Client({server.url!r}, {server.key!r}, tenant={tenant!r}, max_retries=0)
for child in range(3):
    client.create_budget(
        budget_name=f"b{{child}}", budget_amount=10, period_type="monthly",
        allocated_to_type="project", allocated_to_id=f"p{{child}}",
    )

def look(child):
    answer = client.check(project=f"p{{child}}", resource_type="llm", estimate=1, reserve=False)
    return answer.budgets[0].budget_name

pids = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        found = {{look(child) for _ in range(60)}}
        client.close()
        os._exit(found != {{f"b{{child}}"}})
    pids.append(pid)
print([os.waitpid(pid, 0)[1] for pid in pids])
print(look(0))
client.close()
"""
    assert _printed_by(script) == ["[0, 0, 0]", "b0"]


@needs_fork
def test_a_process_forked_while_a_thread_works_a_type_out_does_not_wait_for_it(
    server: RunningServer, tenant: str
) -> None:
    script = f"""
import os, signal, threading, time
from fiscus import Client
from fiscus.wire import hooks

client = Client({server.url!r}, {server.key!r}, tenant={tenant!r})
begun = threading.Event()

def work_out():
    with hooks._working_out:
        begun.set()
        time.sleep(0.2)  # so that the fork comes meanwhile

threading.Thread(target=work_out).start()
begun.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    os._exit(len(client.budgets().items))
print(os.waitpid(pid, 0)[1])
client.close()
"""
    assert _printed_by(script) == ["0"]


@needs_fork
def test_a_forked_process_that_lives_on_keeps_nobody_from_counting_after_a_close(
    tmp_path: Path,
) -> None:
    script = f"""
import os
from fiscus import Fiscus

def count():
    print(opened.check_rate_limit(resource_type="api").allowed, flush=True)

ended, end = os.pipe()
with Fiscus.open(data_dir={str(tmp_path)!r}, tenant="acme") as opened:
    count()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        os.read(ended, 1)
        os._exit(0)
with Fiscus.open(data_dir={str(tmp_path)!r}, tenant="acme") as opened:
    count()
os.close(end)
os.waitpid(pid, 0)
"""
    assert _printed_by(script) == ["True", "True"]


@needs_fork
def test_a_file_that_is_open_before_a_fork_is_opened_by_no_forked_process(tmp_path: Path) -> None:
    script = f"""
import os
from fiscus import Conflict, Fiscus, ValidationError

def record():
    with Fiscus.open(data_dir={str(tmp_path)!r}, tenant="acme") as opened:
        opened.record(resource_type="llm", cost_amount=1)
        print(len(opened.records().items), flush=True)

def in_a_fork(do):
    pid = os.fork()
    if pid == 0:
        try:
            do()
        except Conflict as error:
            print(error.message, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)

with Fiscus.open(data_dir={str(tmp_path)!r}, tenant="acme") as before:
    before.record(resource_type="llm", cost_amount=1)
    in_a_fork(record)
    in_a_fork(lambda: in_a_fork(record))
in_a_fork(record)
try:
    Fiscus.open(data_dir={str(tmp_path)!r}, exchange_rates="wrong")
except ValidationError:
    in_a_fork(record)
record()
"""
    *refusals, in_fork, in_fork_after_none_was_opened, here = _printed_by(script)
    assert len(refusals) == 2
    assert all("had the same SQLite file open" in one for one in refusals)
    assert (in_fork, in_fork_after_none_was_opened, here) == ("2", "3", "4")


@needs_fork
def test_an_async_client_in_a_forked_process_says_so(server: RunningServer, tenant: str) -> None:
    script = f"""
import asyncio, os
from fiscus import AsyncClient, ServiceUnavailable

client = AsyncClient({server.url!r}, {server.key!r}, tenant={tenant!r})
loop = asyncio.new_event_loop()
loop.run_until_complete(client.budgets())
pid = os.fork()
if pid == 0:
    try:
        loop.run_until_complete(client.budgets())
    except ServiceUnavailable as error:
        print(error.message, error.retriable, flush=True)
    loop.run_until_complete(client.close())
    os._exit(0)
os.waitpid(pid, 0)
print(len(loop.run_until_complete(client.budgets()).items))
loop.run_until_complete(client.close())
"""
    refused, after = _printed_by(script)
    assert refused.startswith("This client was used in another process")
    assert refused.endswith("False")
    assert after == "0"


def _printed_by(script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()
