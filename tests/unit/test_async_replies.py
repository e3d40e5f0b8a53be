"""Commands that are due: done or answered as never begun, and not both; cancelled ones neither."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fiscus.batching.async_replies import AsyncReplies
from fiscus.batching.thread_batcher import GroupLimits

pytestmark = pytest.mark.anyio
WITHOUT_STORE, LATE = "without the store", "late"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Interrupted(asyncio.Future[str]):
    """Another thread's turn comes when it has been asked whether it is done."""

    then: Callable[[], object] | None = None

    def done(self) -> bool:
        is_done = super().done()
        if self.then is not None:
            then, self.then = self.then, None
            then()
        return is_done


class Group:
    """A batcher whose thread is the test."""

    limits = GroupLimits(deadline_seconds=0)

    def __init__(self) -> None:
        self.token: Any = None
        self.then: Callable[[], object] = lambda: None
        self.decided: list[str] = []

    def submit(self, command: str, sink: object, token: object) -> None:
        self.token = token

    def wake(self) -> None: ...

    def all_without_store(self, commands: list[str]) -> list[str]:
        self.then()
        self.decided += commands
        return [WITHOUT_STORE for _ in commands]

    def late(self, command: str) -> str:
        self.then()
        return LATE


@pytest.mark.parametrize("first", ["group", "deadline"])
async def test_a_command_that_is_due_as_its_group_begins_is_never_done_and_denied_to_be(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    loop, group, begun = asyncio.get_running_loop(), Group(), []
    sweeps: list[Callable[[], None]] = []
    monkeypatch.setattr(loop, "create_future", lambda: Interrupted(loop=loop))
    monkeypatch.setattr(loop, "call_later", lambda _, callback: sweeps.append(callback))
    asked: Any = group
    replies = AsyncReplies[str, str](asked, loop)
    future = replies.execute("one")
    assert isinstance(future, Interrupted)
    (sweep,) = sweeps

    def begin() -> None:
        begun.append(replies.is_waiting(group.token))

    if first == "group":
        future.then = sweep
        begin()
    else:
        group.then = begin
        sweep()
    assert (begun, future.result()) in (([True], LATE), ([False], WITHOUT_STORE), ([False], LATE))


async def test_what_was_cancelled_is_not_decided_without_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There it would be journaled, and nobody has been told that it may run."""
    loop, group = asyncio.get_running_loop(), Group()
    sweeps: list[Callable[[], None]] = []
    monkeypatch.setattr(loop, "call_later", lambda _, callback: sweeps.append(callback))
    asked: Any = group
    replies = AsyncReplies[str, str](asked, loop)
    replies.execute("cancelled").cancel()
    waiting = replies.execute("waiting")
    (sweep,) = sweeps
    sweep()
    assert (group.decided, waiting.result()) == (["waiting"], WITHOUT_STORE)
    assert sweeps == [sweep]  # nobody is left to be looked at again
