"""Valkey gone, slow, back, empty, read-only, full or busy; Sentinels and clusters on the move.

Whatever is wrong, a caller is told within the time-out, and nothing is decided twice.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing

import pytest
from redis.crc import key_slot
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError

from fiscus.ratelimits.port import CountersUnavailable, Take
from fiscus.ratelimits.rules import Algorithm, make_rule
from fiscus.stores.counters.redis import RedisCounters
from fiscus.stores.counters.redis_commands import Command, conversation
from fiscus.stores.counters.redis_urls import open_servers
from tests.counters.histories import NORMAL, SECOND_US, new_tenant
from tests.counters.on_loop import OpenStore
from tests.counters.redis_states import state_of
from tests.valkey import Servers, Valkey, wait_until

TIMEOUT_SECONDS = 1.0
PATIENT_SECONDS = 2.0
"""Where it does not matter how soon: several servers are first met, maybe on a busy machine."""
SLACK_SECONDS = 2.0
"""What a busy machine may add to a timeout; far less than waiting for ever."""
DAY = tuple(make_rule(one, 100, 86_400 * SECOND_US) for one in Algorithm)


def request(tenant_id: str, count: int = 1) -> Take:
    """Of four counters, one of each algorithm."""
    return Take(tenant_id, tuple(Algorithm), DAY, count, NORMAL)


def used(store: RedisCounters, tenant_id: str) -> int:
    (look,) = store.decide_all([request(tenant_id, 0)], None)
    assert look is not None
    # buckets refill a little meanwhile; windows and logs count exactly
    counts = {100 - one.remaining for one in look.verdicts[2:]}
    assert len(counts) == 1
    return counts.pop()


def assert_unavailable(
    store: RedisCounters, tenant_id: str, waits: int = 1, timeout: float = TIMEOUT_SECONDS
) -> None:
    began = time.monotonic()
    with pytest.raises(CountersUnavailable):
        store.decide_all([request(tenant_id)], None)
    assert time.monotonic() - began < waits * timeout + SLACK_SECONDS


def is_back(store: RedisCounters, tenant_id: str) -> bool:
    try:
        store.decide_all([request(tenant_id, 0)], None)
    except CountersUnavailable:
        return False
    return True


@pytest.fixture
def valkey(valkey_servers: Servers) -> Valkey:
    return valkey_servers.start()


@pytest.fixture
def store(open_store: OpenStore, valkey: Valkey) -> Iterator[RedisCounters]:
    opened = open_store(valkey.url, TIMEOUT_SECONDS)
    yield opened
    opened.close()


def test_server_that_is_gone_and_comes_back_empty(store: RedisCounters, valkey: Valkey) -> None:
    tenant_id = new_tenant()
    store.decide_all([request(tenant_id, 7)], None)
    valkey.stop()
    for _ in range(3):
        assert_unavailable(store, tenant_id)
    with pytest.raises(CountersUnavailable) as caught:
        store.adjust(request(tenant_id), None)
    assert caught.value.nothing_done
    with pytest.raises(CountersUnavailable):
        store.forget(tenant_id, ["key"])
    valkey.start()
    # the script is unknown there: it is sent, and the take decided once
    store.decide_all([request(tenant_id, 2)], None)
    assert used(store, tenant_id) == 2


def test_server_that_was_restarted_between_two_calls_is_not_noticed(
    store: RedisCounters, valkey: Valkey
) -> None:
    tenant_id = new_tenant()
    assert used(store, tenant_id) == 0
    valkey.stop()
    valkey.start()
    store.decide_all([request(tenant_id, 2)], None)
    assert used(store, tenant_id) == 2


def test_server_that_was_never_there(valkey: Valkey, store: RedisCounters) -> None:
    valkey.stop()
    assert_unavailable(store, new_tenant())


def test_paused_server_is_waited_for_once_and_its_late_answers_are_not_mixed_up(
    store: RedisCounters, valkey: Valkey
) -> None:
    tenant_id = new_tenant()
    store.decide_all([request(tenant_id, 10)], None)
    valkey.pause()
    for _ in range(3):
        assert_unavailable(store, tenant_id)
    valkey.resume()
    wait_until(lambda: is_back(store, tenant_id))
    # what was sent before the pause was noticed may have been decided since, at most once each
    assert 10 <= used(store, tenant_id) <= 13
    before = used(store, tenant_id)
    store.decide_all([request(tenant_id, 5)], None)
    assert used(store, tenant_id) == before + 5


def test_a_correction_that_is_not_answered_is_not_said_to_be_undone(
    store: RedisCounters, valkey: Valkey
) -> None:
    tenant_id = new_tenant()
    store.decide_all([request(tenant_id, 10)], None)
    store.adjust(request(tenant_id, 0), None)  # from here on the server knows the script
    valkey.pause()
    with pytest.raises(CountersUnavailable) as caught:
        store.adjust(request(tenant_id, -3), None)
    assert not caught.value.nothing_done
    valkey.resume()
    wait_until(lambda: is_back(store, tenant_id))
    wait_until(lambda: used(store, tenant_id) == 7)


def test_what_ran_when_it_was_sent_again_is_not_said_to_be_undone() -> None:
    script = Command("key", ("EVALSHA", "sha"), ("EVAL", "text"))
    talk = conversation(open_servers("redis://127.0.0.1:1", 1), [script, script])
    next(talk)
    talk.send([NoScriptError(), NoScriptError()])
    with pytest.raises(CountersUnavailable) as caught:
        talk.send([b"what became of it", OutOfMemoryError()])
    assert not caught.value.nothing_done


def test_scripts_that_were_flushed_are_sent_again(store: RedisCounters, valkey: Valkey) -> None:
    tenant_id = new_tenant()
    with closing(valkey.client()) as client:
        for taken in range(1, 4):
            client.script_flush()
            store.decide_all([request(tenant_id)], None)
            assert used(store, tenant_id) == taken
        client.script_flush()
        store.adjust(request(tenant_id, -1), None)
    assert used(store, tenant_id) == 2


def test_read_only_replica_decides_nothing_until_it_is_promoted(
    open_store: OpenStore, valkey_servers: Servers
) -> None:
    tenant_id = new_tenant()
    primary = valkey_servers.start()
    replica = valkey_servers.replica_of(primary)
    with (
        closing(open_store(replica.url, TIMEOUT_SECONDS)) as store,
        closing(replica.client()) as client,
    ):
        assert_unavailable(store, tenant_id)
        client.replicaof("NO", "ONE")
        store.decide_all([request(tenant_id)], None)
        assert used(store, tenant_id) == 1


def test_full_server_decides_nothing_and_charges_no_part(
    store: RedisCounters, valkey: Valkey
) -> None:
    tenant_id = new_tenant()
    store.decide_all([request(tenant_id)], None)
    with closing(valkey.client()) as client:
        client.config_set("maxmemory", 1)
        for _ in range(2):
            assert_unavailable(store, tenant_id)
        client.config_set("maxmemory", 0)
    assert used(store, tenant_id) == 1


def test_server_busy_with_a_script_until_that_is_killed(
    store: RedisCounters, valkey: Valkey
) -> None:
    tenant_id = new_tenant()
    used(store, tenant_id)

    def run_for_ever() -> None:
        with closing(valkey.client()) as client, contextlib.suppress(RedisError):
            client.eval("while true do end", 0)

    with closing(valkey.client()) as client:
        client.config_set("busy-reply-threshold", 10)
        busy = threading.Thread(target=run_for_ever)
        busy.start()
        wait_until(lambda: not is_back(store, tenant_id))
        assert_unavailable(store, tenant_id)
        client.script_kill()
        busy.join()
    wait_until(lambda: is_back(store, tenant_id))
    assert used(store, tenant_id) == 0


def test_server_restarted_under_load_answers_or_is_said_to_be_unavailable(
    store: RedisCounters, valkey: Valkey
) -> None:
    longest: list[float] = []
    answers: list[bool] = []
    stop = threading.Event()

    def ask(tenant_id: str) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                store.decide_all([request(tenant_id)] * 3, None)
                answers.append(True)
            except CountersUnavailable:
                answers.append(False)
                stop.wait(0.01)
            longest.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask, args=(new_tenant(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: answers.count(True) > 20)
        valkey.stop()
        wait_until(lambda: answers.count(False) > 4)
        valkey.start()
        seen = len(answers)
        wait_until(lambda: answers[seen:].count(True) > 20)
        valkey.pause()
        failed = answers.count(False)
        wait_until(lambda: answers.count(False) > failed + 4)
        valkey.resume()
        seen = len(answers)
        wait_until(lambda: answers[seen:].count(True) > 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert max(longest) < 2 * TIMEOUT_SECONDS + SLACK_SECONDS


# ---------------------------------------------------------------- Sentinel


def test_sentinel_leads_to_the_primary_and_after_its_end_to_the_next(
    open_store: OpenStore, valkey_servers: Servers
) -> None:
    tenant_id = new_tenant()
    primary = valkey_servers.start()
    valkey_servers.replica_of(primary)
    sentinel = valkey_servers.sentinel_of(primary, "counters")
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/counters?db=2"
    with (
        closing(open_store(url, PATIENT_SECONDS)) as store,
        closing(sentinel.client()) as client,
    ):
        wait_until(lambda: client.sentinel_master("counters")["num-slaves"] == 1)
        store.decide_all([request(tenant_id, 3)], None)
        assert used(store, tenant_id) == 3
        with closing(primary.client()) as told:
            told.wait(1, 5000)  # the replica has it
        primary.stop()
        assert_unavailable(store, tenant_id, waits=3, timeout=PATIENT_SECONDS)
        wait_until(lambda: is_back(store, tenant_id))
        store.decide_all([request(tenant_id, 2)], None)
        assert used(store, tenant_id) == 5


# ---------------------------------------------------------------- cluster


def slot_of(tenant_id: str) -> int:
    return key_slot(tenant_id.encode())


def tenants_of(nodes: int) -> list[str]:
    """One tenant for each node of a cluster whose slots are shared evenly, in its order."""
    found: dict[int, str] = {}
    while len(found) < nodes:
        tenant_id = new_tenant()
        found.setdefault(slot_of(tenant_id) * nodes // 16384, tenant_id)
    return [found[node] for node in range(nodes)]


def test_cluster_decides_each_tenant_where_it_is(
    open_store: OpenStore, valkey_servers: Servers
) -> None:
    nodes = valkey_servers.cluster(3)
    tenants = tenants_of(3)
    url = f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"
    with closing(open_store(url, PATIENT_SECONDS)) as store:
        group = [request(tenant, 40) for tenant in tenants * 3]
        results = store.decide_all(group, None)
        assert [one and one.admitted for one in results] == [True] * 6 + [False] * 3
        assert [used(store, tenant) for tenant in tenants] == [80, 80, 80]
        _forgets_and_adjusts(store, tenants[2])
        _follows_a_slot_that_moved(store, nodes, tenants)
        _asks_where_a_slot_is_moving_to(store, nodes, tenants)
        _goes_on_with_the_nodes_that_are_there(store, nodes, tenants)


def _forgets_and_adjusts(store: RedisCounters, tenant_id: str) -> None:
    store.adjust(request(tenant_id, -30), None)
    assert used(store, tenant_id) == 50
    store.forget(tenant_id, tuple(Algorithm))
    assert used(store, tenant_id) == 0
    assert state_of(store, tenant_id, "token_bucket") is None
    store.decide_all([request(tenant_id)], None)
    assert state_of(store, tenant_id, "sliding_window_log") is not None


def _follows_a_slot_that_moved(
    store: RedisCounters, nodes: list[Valkey], tenants: list[str]
) -> None:
    store.forget(tenants[1], tuple(Algorithm))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(closing(one.client())) for one in nodes]
        to = clients[2].execute_command("CLUSTER", "MYID")
        for client in reversed(clients):
            client.execute_command("CLUSTER", "SETSLOT", slot_of(tenants[1]), "NODE", to)
    results = store.decide_all([request(tenant) for tenant in tenants], None)
    assert [one and one.admitted for one in results] == [True, True, True]
    assert used(store, tenants[1]) == 1


def _asks_where_a_slot_is_moving_to(
    store: RedisCounters, nodes: list[Valkey], tenants: list[str]
) -> None:
    store.forget(tenants[0], tuple(Algorithm))
    slot = slot_of(tenants[0])
    with closing(nodes[0].client()) as source, closing(nodes[2].client()) as target:
        from_id = source.execute_command("CLUSTER", "MYID")
        to_id = target.execute_command("CLUSTER", "MYID")
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", from_id)
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", to_id)
        # of a slot on the move one key is asked for where it will be; several are nowhere together
        one = Take(tenants[0], ("one",), DAY[:1], 60, NORMAL)
        results = store.decide_all([one], None) + store.decide_all([one], None)
        assert [taken and taken.admitted for taken in results] == [True, False]
        assert_unavailable(store, tenants[0], waits=2, timeout=PATIENT_SECONDS)
        target.execute_command("CLUSTER", "SETSLOT", slot, "NODE", to_id)
        source.execute_command("CLUSTER", "SETSLOT", slot, "NODE", to_id)
    (taken,) = store.decide_all([one], None)
    assert taken is not None
    assert not taken.admitted
    assert used(store, tenants[0]) == 0


def _goes_on_with_the_nodes_that_are_there(
    store: RedisCounters, nodes: list[Valkey], tenants: list[str]
) -> None:
    nodes[1].stop()
    lonely = next(one for one in iter(new_tenant, "") if 6000 < slot_of(one) < 10_000)
    with pytest.raises(CountersUnavailable):
        store.decide_all([request(lonely), request(tenants[2])], None)
    assert is_back(store, tenants[2])


def test_cluster_that_is_not_there(open_store: OpenStore, valkey_servers: Servers) -> None:
    plain = valkey_servers.start()
    url = f"redis+cluster://127.0.0.1:{plain.port}"
    with closing(open_store(url, TIMEOUT_SECONDS)) as store:
        assert_unavailable(store, new_tenant())
        plain.stop()
        assert_unavailable(store, new_tenant())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # connections that redis-py leaves open when it finds no cluster
