"""What the authenticator remembers, and for how long."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access import keys
from fiscus.access.model import Role
from fiscus.errors import ServiceUnavailable, Unauthorized
from fiscus.http.auth import authenticator as authenticator_module
from fiscus.http.auth.authenticator import Authenticator
from fiscus.http.header_fields import HeaderFields
from fiscus.ids import uuid7
from tests.http.app_client import NOON

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio


def sent(key: str) -> HeaderFields:
    return HeaderFields({b"x-api-key": key.encode()})


def authenticator(client: AppClient) -> Authenticator:
    engine = client.engine
    return Authenticator(engine.api_keys, engine.credential_cache, engine.settings)


class SlowFind:
    """Holds the store's `find`, or `find_many`, until it is let go, and counts it."""

    def __init__(
        self, client: AppClient, monkeypatch: pytest.MonkeyPatch, name: str = "find"
    ) -> None:
        self.count = 0
        self.begun = threading.Event()
        self.go = threading.Event()
        kind = type(client.engine.api_keys)
        find = getattr(kind, name)

        def slow(store: Any, asked: Any) -> Any:
            self.count += 1
            found = find(store, asked)
            self.begun.set()
            assert self.go.wait(20)
            return found

        monkeypatch.setattr(kind, name, slow)


async def test_a_known_key_is_answered_from_memory_for_ten_seconds(client: AppClient) -> None:
    door, key = authenticator(client), sent(client.make_key(Role.SERVICE))
    assert door.cached(key, NOON) is None
    principal = await door.authenticate(key, NOON)
    assert door.cached(key, NOON + timedelta(seconds=9.9)) == principal
    assert door.cached(key, NOON + timedelta(seconds=10)) is None
    # a clock that goes back must not make a key live longer
    assert door.cached(key, NOON - timedelta(seconds=1)) is None


async def test_nothing_is_remembered_of_a_bad_key(client: AppClient) -> None:
    door = authenticator(client)
    for number in range(5):
        with pytest.raises(Unauthorized):
            await door.authenticate(sent(f"fsk_made-up-{number}"), NOON)
    assert client.engine.credential_cache._known == {}
    assert door._of_keys.in_hand == {}


async def test_memory_is_bounded_and_the_oldest_goes_first(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KNOWN", 2)
    door = authenticator(client)
    callers = [sent(client.make_key(Role.SERVICE)) for _ in range(3)]
    for key in callers:
        await door.authenticate(key, NOON)
    assert [door.cached(key, NOON) is not None for key in callers] == [False, True, True]


async def test_lookups_in_hand_are_bounded(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator_module, "MAX_LOOKUPS", 1)
    door, slow = authenticator(client), SlowFind(client, monkeypatch)
    first = asyncio.create_task(door.authenticate(sent("fsk_first"), NOON))
    await asyncio.to_thread(slow.begun.wait, 20)
    with pytest.raises(ServiceUnavailable):
        await door.authenticate(sent("fsk_second"), NOON)
    slow.go.set()
    with pytest.raises(Unauthorized):
        await first


async def test_tokens_that_wait_for_their_provider_leave_keys_their_lookups(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator_module, "MAX_LOOKUPS", 1)
    door, begun, go = authenticator(client), threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        begun.set()
        assert go.wait(20)
        raise ServiceUnavailable("The keys of the identity provider cannot be fetched")

    monkeypatch.setattr(door._tokens, "verify", hang)
    waiting = asyncio.create_task(door.authenticate(sent("a.b.c"), NOON))
    await asyncio.to_thread(begun.wait, 20)
    with pytest.raises(ServiceUnavailable, match="Too many"):
        await door.authenticate(sent("d.e.f"), NOON)
    assert await door.authenticate(sent(client.make_key(Role.SERVICE)), NOON)
    go.set()
    with pytest.raises(ServiceUnavailable, match="identity provider"):
        await waiting


async def test_callers_at_the_same_time_share_a_lookup_and_one_may_give_up(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, key = authenticator(client), sent(client.make_key(Role.SERVICE))
    slow = SlowFind(client, monkeypatch)
    callers = [asyncio.create_task(door.authenticate(key, NOON)) for _ in range(5)]
    await asyncio.to_thread(slow.begun.wait, 20)
    callers[0].cancel()
    slow.go.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert {one.tenant_id for one in results[1:]} == {"acme"}
    assert slow.count == 1


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, key_id = authenticator(client), uuid7()
    key = sent(client.make_key(Role.SERVICE, key_id=key_id))
    slow = SlowFind(client, monkeypatch)
    caller = asyncio.create_task(door.authenticate(key, NOON))
    await asyncio.to_thread(slow.begun.wait, 20)
    client.engine.api_keys.revoke("acme", key_id, NOON)
    client.engine.credential_cache.forget(key_id)
    slow.go.set()
    await caller
    assert door.cached(key, NOON) is None
    with pytest.raises(Unauthorized, match="revoked"):
        await door.authenticate(key, NOON)


async def test_keys_in_use_are_looked_up_again_together_before_their_time(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = authenticator(client)
    used = [sent(client.make_key(Role.SERVICE)) for _ in range(3)]
    idle = sent(client.make_key(Role.SERVICE))
    for key in (*used, idle):
        await door.authenticate(key, NOON)
    asked: list[int] = []
    kind = type(client.engine.api_keys)
    find_many = kind.find_many

    def counted(store: Any, key_hashes: Any) -> Any:
        asked.append(len(key_hashes))
        return find_many(store, key_hashes)

    monkeypatch.setattr(kind, "find_many", counted)
    for key in used:
        door.cached(key, NOON + timedelta(seconds=4))
    door.cached(used[0], NOON + timedelta(seconds=6))
    assert door._refreshing is not None
    await door._refreshing
    assert asked == [3]
    for key in used:
        assert door.cached(key, NOON + timedelta(seconds=12)) is not None
    assert door.cached(idle, NOON + timedelta(seconds=12)) is None


async def test_a_key_revoked_while_it_is_looked_up_again_is_not_remembered(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, key_id = authenticator(client), uuid7()
    key = sent(client.make_key(Role.SERVICE, key_id=key_id))
    await door.authenticate(key, NOON)
    slow = SlowFind(client, monkeypatch, "find_many")
    soon = NOON + timedelta(seconds=6)
    assert door.cached(key, soon) is not None
    refreshing = door._refreshing
    assert refreshing is not None
    await asyncio.to_thread(slow.begun.wait, 20)
    client.engine.api_keys.revoke("acme", key_id, NOON)
    client.engine.credential_cache.forget(key_id)
    slow.go.set()
    await refreshing
    assert door.cached(key, soon) is None


async def test_a_key_revoked_elsewhere_is_found_out_by_the_next_look(client: AppClient) -> None:
    door, key_id = authenticator(client), uuid7()
    key = sent(client.make_key(Role.SERVICE, key_id=key_id))
    await door.authenticate(key, NOON)
    client.engine.api_keys.revoke("acme", key_id, NOON)
    assert door.cached(key, NOON + timedelta(seconds=6)) is not None
    assert door._refreshing is not None
    await door._refreshing
    assert door.cached(key, NOON + timedelta(seconds=6)) is None


def lose_store(client: AppClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every look-up of keys fail from now on."""

    def fail(*_: object) -> None:
        raise ServiceUnavailable("The database cannot be reached")

    for name in ("find", "find_many"):
        monkeypatch.setattr(type(client.engine.api_keys), name, fail)


async def test_a_key_that_was_good_is_taken_on_while_the_store_is_gone(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = authenticator(client)
    key, other = sent(client.make_key(Role.SERVICE)), sent(client.make_key(Role.SERVICE))
    principal = await door.authenticate(key, NOON)
    lose_store(client, monkeypatch)
    for seconds in (11, 60, 300, 599):
        now = NOON + timedelta(seconds=seconds)
        assert await door.authenticate(key, now) == principal
        assert door.cached(key, now) == principal  # the store is asked again, but not by each call
    for now in (NOON + timedelta(minutes=10), NOON - timedelta(seconds=1)):
        with pytest.raises(ServiceUnavailable):
            await door.authenticate(key, now)
    with pytest.raises(ServiceUnavailable):
        await door.authenticate(other, NOON)


async def test_keys_in_use_are_taken_on_together_while_the_store_is_gone(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, key = authenticator(client), sent(client.make_key(Role.SERVICE))
    await door.authenticate(key, NOON)
    lose_store(client, monkeypatch)
    for seconds in range(6, 600, 6):
        assert door.cached(key, NOON + timedelta(seconds=seconds)) is not None
        if door._refreshing is not None:
            await door._refreshing
    assert door.cached(key, NOON + timedelta(seconds=600)) is None


async def test_no_key_is_taken_past_its_end_or_after_it_was_seen_to_be_revoked(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, key_id = authenticator(client), uuid7()
    ends = sent(client.make_key(Role.SERVICE, expires_at=NOON + timedelta(seconds=30)))
    revoked = sent(client.make_key(Role.SERVICE, key_id=key_id))
    for key in (ends, revoked):
        await door.authenticate(key, NOON)
    client.engine.api_keys.revoke("acme", key_id, NOON)
    with pytest.raises(Unauthorized, match="revoked"):
        await door.authenticate(revoked, NOON + timedelta(seconds=11))
    lose_store(client, monkeypatch)
    assert await door.authenticate(ends, NOON + timedelta(seconds=29))
    for key, seconds in ((ends, 30), (revoked, 12)):
        with pytest.raises(ServiceUnavailable):
            await door.authenticate(key, NOON + timedelta(seconds=seconds))


async def test_a_store_that_hangs_holds_up_a_known_key_but_for_a_moment(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator_module, "PATIENCE_SECONDS", 0.01)
    door, key_id = authenticator(client), uuid7()
    key = sent(client.make_key(Role.SERVICE, key_id=key_id))
    principal = await door.authenticate(key, NOON)
    client.engine.api_keys.revoke("acme", key_id, NOON)
    slow = SlowFind(client, monkeypatch)
    late = NOON + timedelta(seconds=11)
    assert await door.authenticate(key, late) == principal
    assert door.cached(key, late) == principal
    (lookup,) = door._of_keys.in_hand.values()
    slow.go.set()
    await asyncio.wait({lookup})
    assert door.cached(key, late) is None  # what the store said in the end counts
