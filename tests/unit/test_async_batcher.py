"""Which callers of an event loop share a group, and who is kept back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import pytest

from fiscus.batching.async_batcher import AsyncBatcher, GroupCallback
from fiscus.batching.thread_batcher import GroupLimits, ThreadBatcher
from fiscus.clock import SystemClock
from fiscus.runtime.breaker import CircuitBreaker

pytestmark = pytest.mark.anyio
DEADLINE_SECONDS = 20.0
"""Of it a twentieth, for which others follow a group, is long for a machine to be busy."""
MAX_GROUP = 3
Ask = Callable[[Sequence[int]], list[asyncio.Future[str]]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Numbers(ThreadBatcher[int, str]):
    """The owner of the groups; a number weighs one."""

    def __init__(self, max_group: int) -> None:
        super().__init__(
            "numbers",
            lambda numbers: list(map(str, numbers)),
            SystemClock(),
            CircuitBreaker(failure_ratio=0.4, window_seconds=30),
            GroupLimits(max_group, max_queue=1_000, deadline_seconds=DEADLINE_SECONDS),
            expected_failure=RuntimeError,
        )

    def without_store(self, command: int) -> str:
        return "without the store"

    def late(self, command: int) -> str:
        return "late"

    def weight(self, command: int) -> int:
        return 1


class Transport:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], GroupCallback[str]]] = []
        self.given_up = asyncio.Event()

    def ask_all(self, commands: list[int], on_done: GroupCallback[str]) -> Transport:
        self.asked.append((commands, on_done))
        return self

    def answer_first(self) -> None:
        commands, on_done = self.asked.pop(0)
        on_done(list(map(str, commands)))

    def groups(self) -> list[list[int]]:
        return [commands for commands, _ in self.asked]

    def give_up(self) -> None:
        self.given_up.set()

    def close(self) -> None: ...


@pytest.fixture
def numbers(request: pytest.FixtureRequest) -> Iterator[Numbers]:
    numbers = Numbers(getattr(request, "param", MAX_GROUP))
    yield numbers
    numbers.close()


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
async def ask(numbers: Numbers, transport: Transport) -> Ask:
    groups = AsyncBatcher(transport, numbers, asyncio.get_running_loop())
    return lambda asked: [groups.execute(number) for number in asked]


@pytest.fixture
async def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time of the event loop on."""
    loop = asyncio.get_running_loop()
    real, moved = loop.time, 0.0

    def move(seconds: float) -> None:
        nonlocal moved
        moved += seconds

    monkeypatch.setattr(loop, "time", lambda: real() + moved)
    return move


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_each_turn_is_sent_while_earlier_ones_are_on_their_way(
    ask: Ask, transport: Transport
) -> None:
    answers = []
    for first in (0, 2, 4, 6, 8):
        answers += ask([first, first + 1])
        await turn()
    assert transport.groups() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    for _ in range(5):
        transport.answer_first()
    assert await asyncio.gather(*answers) == [str(number) for number in range(10)]


@pytest.mark.parametrize("numbers", [100], indirect=True)
async def test_the_first_of_a_turn_are_sent_before_it_ends(ask: Ask, transport: Transport) -> None:
    answers = ask(range(40))
    assert transport.groups() == [list(range(32))]
    await turn()
    assert transport.groups() == [list(range(32)), list(range(32, 40))]
    transport.answer_first()
    transport.answer_first()
    assert await asyncio.gather(*answers) == [str(number) for number in range(40)]


async def test_what_four_full_groups_weigh_is_on_its_way_at_most(
    ask: Ask, transport: Transport
) -> None:
    answers = ask(range(20))
    await turn()
    assert transport.groups() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    for _ in range(7):
        transport.answer_first()
    assert transport.groups() == []
    assert await asyncio.gather(*answers) == [str(number) for number in range(20)]


async def test_nobody_follows_a_group_that_has_been_on_its_way_for_long(
    ask: Ask, transport: Transport, later: Callable[[float], None]
) -> None:
    (first,) = ask([1])
    await turn()
    later(DEADLINE_SECONDS * 0.1)
    (kept_back,) = ask([2])
    await turn()
    assert transport.groups() == [[1]]
    later(DEADLINE_SECONDS)
    assert await asyncio.wait_for(first, DEADLINE_SECONDS) == "late"
    assert await asyncio.wait_for(kept_back, DEADLINE_SECONDS) == "without the store"


async def test_when_a_group_was_given_up_one_caller_at_a_time_tries_for_all(
    ask: Ask, transport: Transport, later: Callable[[float], None]
) -> None:
    (first,) = ask([1])
    await turn()
    later(DEADLINE_SECONDS * 0.5)
    answers = ask([2, 3, 4])
    later(DEADLINE_SECONDS * 0.6)
    assert await asyncio.wait_for(first, DEADLINE_SECONDS) == "late"
    await asyncio.wait_for(transport.given_up.wait(), DEADLINE_SECONDS)
    assert transport.groups() == [[1], [2]]
    later(DEADLINE_SECONDS * 0.5)
    assert await asyncio.wait_for(asyncio.gather(*answers), DEADLINE_SECONDS) == [
        "late",
        "without the store",
        "without the store",
    ]


async def test_when_the_one_that_tried_is_answered_all_are_sent_again(
    ask: Ask, transport: Transport, later: Callable[[float], None]
) -> None:
    ask([1])
    await turn()
    later(DEADLINE_SECONDS * 0.5)
    answers = ask([2, 3, 4])
    later(DEADLINE_SECONDS * 0.6)
    await asyncio.wait_for(transport.given_up.wait(), DEADLINE_SECONDS)
    del transport.asked[0]
    transport.answer_first()
    assert transport.groups() == [[3, 4]]
    transport.answer_first()
    assert await asyncio.gather(*answers) == ["2", "3", "4"]


async def test_who_was_kept_back_is_sent_when_the_group_is_told_of(
    ask: Ask, transport: Transport, later: Callable[[float], None]
) -> None:
    answers = ask([1])
    await turn()
    later(DEADLINE_SECONDS * 0.1)
    answers += ask([2])
    await turn()
    transport.answer_first()
    assert transport.groups() == [[2]]
    transport.answer_first()
    assert await asyncio.gather(*answers) == ["1", "2"]
