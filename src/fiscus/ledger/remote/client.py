"""The client's side: commands of threads and of an event loop, sent to the ledger's process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from fiscus.batching.async_batcher import AsyncBatcher, GroupCallback
from fiscus.batching.thread_batcher import Failure, GroupLimits, GroupOutcomeUnknown
from fiscus.clock import Clock
from fiscus.errors import ServiceUnavailable
from fiscus.ledger.answers import to_answer
from fiscus.ledger.commands import ANSWERS, Command, Outcome
from fiscus.ledger.degraded import DegradedDecisions
from fiscus.ledger.loop import Ledger
from fiscus.ledger.port import StoreUnavailable
from fiscus.ledger.remote.fallbacks import FallbackReplica
from fiscus.ledger.remote.messages import PART_BYTES, group_message
from fiscus.ledger.remote.process import LedgerProcess
from fiscus.ledger.remote.result_decoder import ResultDecoder
from fiscus.ledger.remote.results import EncodedAnswer, GroupResult, RemoteOutcome
from fiscus.runtime.cache_stats import CacheStats
from fiscus.wire.decoding import decode

_HANG_UP_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 10.0
_ENDED: Final = "the ledger's process has ended"
_OUT_OF_REACH: Final = "the ledger's process cannot be reached"

ResultCallback = GroupCallback[RemoteOutcome | Outcome]


class RemoteLedger(Ledger):
    """A `loop.Ledger` whose groups are done by another process.

    Its thread sends for callers in threads; the event loop of the server sends by itself.
    """

    def __init__(
        self,
        process: LedgerProcess,
        fallbacks: FallbackReplica,
        clock: Clock,
        degraded: DegradedDecisions,
        limits: GroupLimits,
    ) -> None:
        self._process = process
        self._fallbacks = fallbacks
        self._line, self._asked_count = process.thread_line()
        """And the `began_count` of the process that it leads to."""
        self._decoder = ResultDecoder()
        self._number = 0
        self._loop_line: LoopLine | None = None
        self._batcher: AsyncBatcher[Command, RemoteOutcome | Outcome] | None = None
        super().__init__(self._ask, clock, degraded, limits, CacheStats())

    def wait_until_ready(self) -> None:
        """Raises `ServiceUnavailable` when the process ends instead."""
        try:
            self._ask([])
        except (GroupOutcomeUnknown, StoreUnavailable) as error:
            raise ServiceUnavailable(
                "The ledger's process ended as it began; what it logged says why"
            ) from error

    def for_running_loop(self) -> AsyncBatcher[Command, RemoteOutcome | Outcome]:
        """For the coroutines of the running event loop, the only one that may use it."""
        loop = asyncio.get_running_loop()
        if self._batcher is None:
            self._loop_line = LoopLine(self._process, self._fallbacks, self.lookups, loop)
            self._batcher = AsyncBatcher(self._loop_line, self, loop)
        elif self._batcher.loop is not loop:
            raise AssertionError("another event loop asks the ledger's process")
        return self._batcher

    @property
    def pid(self) -> int:
        """The process that decides now."""
        return self._process.pid

    @property
    def queue_depth(self) -> int:
        return super().queue_depth + (self._batcher.queue_depth if self._batcher is not None else 0)

    @property
    def _failures(self) -> Sequence[Failure | None]:
        of_batcher = [] if self._batcher is None else [self._batcher.failure]
        return [*super()._failures, *of_batcher]

    @property
    def trouble(self) -> str | None:
        return super().trouble if self._process.is_alive else "its process is started again"

    def close(self) -> None:
        # a store that hangs must not keep the server from stopping
        killing = threading.Timer(_CLOSE_SECONDS, self._process.kill)
        killing.start()
        super().close()
        killing.cancel()
        self._line.close()
        if self._loop_line is not None:
            self._loop_line.hang_up()
        self._process.close()

    def _ask(self, commands: list[Command]) -> list[Outcome]:
        """Have a group done; on the thread, which waits."""
        done = self._done(commands)
        self._fallbacks.update(done.fallbacks)
        self.lookups.add(*done.lookups)
        if done.failure is not None:
            raise done.failure
        return [
            decode(one.answer, ANSWERS[type(command)])
            if isinstance(one, EncodedAnswer)
            else to_answer(command, one)
            for command, one in zip(commands, done.outcomes, strict=True)
        ]

    def _done(self, commands: list[Command]) -> GroupResult:
        self._number += 1
        try:
            if self._asked_count != self._process.began_count:
                # or later, when there are no descriptors left
                line, self._asked_count = self._process.thread_line()
                self._line.close()
                self._line = line
                self._decoder = ResultDecoder()
            self._line.sendall(group_message(self._number, commands))
        except OSError as error:
            what = _OUT_OF_REACH if self._process.is_alive else _ENDED
            raise StoreUnavailable(f"{what}: {error}") from None
        try:
            while data := self._line.recv(PART_BYTES):
                for done in self._decoder.feed(data):
                    return done
        except OSError as error:
            raise GroupOutcomeUnknown(f"{_ENDED}: {error}") from None
        raise GroupOutcomeUnknown(_ENDED)


class LoopLine:
    """A `GroupTransport` to the ledger's process, for one event loop."""

    def __init__(
        self,
        process: LedgerProcess,
        fallbacks: FallbackReplica,
        lookups: CacheStats,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._process = process
        self._fallbacks = fallbacks
        self._lookups = lookups
        self._loop = loop
        self._number = 0
        self._waiting: dict[int, ResultCallback] = {}
        """Who waits, by the number of their group."""
        self._socket: socket.socket | None = None
        self._opened_count = 0
        """Of the process that `_socket` leads to."""
        self._why_closed = _ENDED
        self._open()
        process.when_started(partial(self._call, self._another_began))

    def ask_all(self, commands: list[Command], on_done: ResultCallback) -> _Sent:
        self._number += 1
        number = self._number
        if self._socket is None and self._process.is_alive:
            self._open()
        if self._socket is None:
            self._loop.call_soon(on_done, StoreUnavailable(self._why_closed))
        else:
            self._waiting[number] = on_done
            self._send(group_message(number, commands))
        return _Sent(self._waiting, number)

    def close(self) -> None:
        """Send no more; on the event loop."""
        self._end(GroupOutcomeUnknown(_ENDED))

    def hang_up(self) -> None:
        """`close`, from any thread, also when the event loop is closed."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop or self._loop.is_closed():
            self.close()
        else:
            closed = threading.Event()
            self._call(lambda: (self.close(), closed.set()))
            closed.wait(_HANG_UP_SECONDS)

    def _call(self, call: Callable[[], object]) -> None:
        """From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody asks any more
            self._loop.call_soon_threadsafe(call)

    def _another_began(self) -> None:
        if self._opened_count != self._process.began_count:
            self._end(GroupOutcomeUnknown(_ENDED))
        # somebody may have asked it before this was told, or when told that the line has ended
        if self._socket is None:
            self._open()

    def _open(self) -> None:
        """Connect where no line is, if that can be done: the process may have been closed by now,
        and there may be no descriptors left, for now."""
        before = self._opened_count
        try:
            self._socket, self._opened_count = self._process.loop_line()
        except OSError as error:
            self._why_closed = f"{_OUT_OF_REACH}: {error}"
            return
        self._why_closed = _ENDED
        self._socket.setblocking(False)
        if self._opened_count != before:  # the same process goes on where it was
            self._decoder = ResultDecoder()
        self._unsent = bytearray()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _send(self, data: bytearray) -> None:
        if self._unsent:
            self._unsent += data
            return
        assert self._socket is not None
        sent = self._taken(data)
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.add_writer(self._socket.fileno(), self._send_rest)

    def _send_rest(self) -> None:
        if self._socket is None:
            return
        del self._unsent[: self._taken(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _taken(self, data: bytearray) -> int:
        """How many bytes the system took."""
        assert self._socket is not None
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            # not at once: who asks is not done with asking
            self._loop.call_soon(self._broke, self._socket, error)
            return len(data)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(PART_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(GroupOutcomeUnknown(_ENDED))
            return
        for done in self._decoder.feed(data):
            self._answer(done)

    def _answer(self, done: GroupResult) -> None:
        self._fallbacks.update(done.fallbacks)
        self._lookups.add(*done.lookups)
        on_done = self._waiting.pop(done.number, None)
        if on_done is None:
            return
        if done.failure is not None:
            on_done(done.failure)
        else:
            on_done(done.outcomes, done.seconds)

    def _broke(self, line: socket.socket, error: Exception) -> None:
        """A line is of no use any more; another may have taken its place meanwhile."""
        if line is self._socket:
            self._end(GroupOutcomeUnknown(f"{_ENDED}: {error}"))

    def _end(self, error: Exception) -> None:
        """Disconnect, and call back those who wait with `error`."""
        ended, self._socket = self._socket, None
        if ended is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(ended.fileno())
            self._loop.remove_writer(ended.fileno())
        ended.close()
        asked, self._waiting = list(self._waiting.values()), {}
        for on_done in asked:
            on_done(error)


class _Sent:
    """A group that was sent."""

    __slots__ = ("_number", "_waiting")

    def __init__(self, waiting: dict[int, ResultCallback], number: int) -> None:
        self._waiting = waiting
        self._number = number

    def give_up(self) -> None:
        self._waiting.pop(self._number, None)
