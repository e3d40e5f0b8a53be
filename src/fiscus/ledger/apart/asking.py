"""The other side: commands of threads and of an event loop, asked of the ledger's process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from fiscus.clock import Clock
from fiscus.errors import ServiceUnavailable
from fiscus.groups import Failure, GroupLimits, MaybeDone
from fiscus.ledger.answers import in_words
from fiscus.ledger.apart.fallbacks import ToldFallbacks
from fiscus.ledger.apart.messages import PART_BYTES, group_message
from fiscus.ledger.apart.outcomes import Answered, Done, Hearer, ToldOutcome
from fiscus.ledger.apart.process import LedgerProcess
from fiscus.ledger.commands import ANSWERS, Command, Outcome
from fiscus.ledger.degraded import DegradedDecisions
from fiscus.ledger.loop import Ledger
from fiscus.ledger.port import StoreUnavailable
from fiscus.lookups import Lookups
from fiscus.loop_groups import LoopGroups, Told
from fiscus.wire import decode

_HANG_UP_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 10.0
_ENDED: Final = "the ledger's process has ended"
_OUT_OF_REACH: Final = "the ledger's process cannot be reached"

Hears = Told[ToldOutcome | Outcome]


class LedgerApart(Ledger):
    """A `loop.Ledger` whose groups are done by another process.

    Its thread asks for callers in threads; the event loop of the server asks for itself.
    """

    def __init__(
        self,
        process: LedgerProcess,
        fallbacks: ToldFallbacks,
        clock: Clock,
        degraded: DegradedDecisions,
        limits: GroupLimits,
    ) -> None:
        self._process = process
        self._fallbacks = fallbacks
        self._line, self._asked_count = process.thread_line()
        """And the `began_count` of the process that it leads to."""
        self._hearer = Hearer()
        self._number = 0
        self._loop_line: LoopLine | None = None
        self._here: LoopGroups[Command, ToldOutcome | Outcome] | None = None
        super().__init__(self._ask, clock, degraded, limits, Lookups())

    def wait_until_ready(self) -> None:
        """Raises `ServiceUnavailable` when the process ends instead."""
        try:
            self._ask([])
        except (MaybeDone, StoreUnavailable) as error:
            raise ServiceUnavailable(
                "The ledger's process ended as it began; what it logged says why"
            ) from error

    def here(self) -> LoopGroups[Command, ToldOutcome | Outcome]:
        """For the coroutines of the running event loop, the only one that asks."""
        loop = asyncio.get_running_loop()
        if self._here is None:
            self._loop_line = LoopLine(self._process, self._fallbacks, self.lookups, loop)
            self._here = LoopGroups(self._loop_line, self, loop)
        elif self._here.loop is not loop:
            raise AssertionError("another event loop asks the ledger's process")
        return self._here

    @property
    def pid(self) -> int:
        """The process that decides now."""
        return self._process.pid

    @property
    def queue_depth(self) -> int:
        return super().queue_depth + (self._here.queue_depth if self._here is not None else 0)

    @property
    def _failures(self) -> Sequence[Failure | None]:
        here = [] if self._here is None else [self._here.failure]
        return [*super()._failures, *here]

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
        self._fallbacks.told(done.fallbacks)
        self.lookups.add(*done.lookups)
        if done.failure is not None:
            raise done.failure
        return [
            decode(one.answer, ANSWERS[type(command)])
            if isinstance(one, Answered)
            else in_words(command, one)
            for command, one in zip(commands, done.outcomes, strict=True)
        ]

    def _done(self, commands: list[Command]) -> Done:
        self._number += 1
        try:
            if self._asked_count != self._process.began_count:
                # or later, when there are no descriptors left
                line, self._asked_count = self._process.thread_line()
                self._line.close()
                self._line = line
                self._hearer = Hearer()
            self._line.sendall(group_message(self._number, commands))
        except OSError as error:
            what = _OUT_OF_REACH if self._process.is_alive else _ENDED
            raise StoreUnavailable(f"{what}: {error}") from None
        try:
            while data := self._line.recv(PART_BYTES):
                for done in self._hearer.feed(data):
                    return done
        except OSError as error:
            raise MaybeDone(f"{_ENDED}: {error}") from None
        raise MaybeDone(_ENDED)


class LoopLine:
    """A `loop_groups.Elsewhere`: the process, as one event loop asks it."""

    def __init__(
        self,
        process: LedgerProcess,
        fallbacks: ToldFallbacks,
        lookups: Lookups,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._process = process
        self._fallbacks = fallbacks
        self._lookups = lookups
        self._loop = loop
        self._number = 0
        self._told: dict[int, Hears] = {}
        """Who waits, by the number of their group."""
        self._socket: socket.socket | None = None
        self._opened_count = 0
        """Of the process that `_socket` leads to."""
        self._why_closed = _ENDED
        self._open()
        process.when_started(partial(self._call, self._another_began))

    def ask_all(self, commands: list[Command], told: Hears) -> _Sent:
        self._number += 1
        number = self._number
        if self._socket is None and self._process.is_alive:
            self._open()
        if self._socket is None:
            self._loop.call_soon(told, StoreUnavailable(self._why_closed))
        else:
            self._told[number] = told
            self._send(group_message(number, commands))
        return _Sent(self._told, number)

    def close(self) -> None:
        """Ask no more; on the event loop."""
        self._end(MaybeDone(_ENDED))

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
            self._end(MaybeDone(_ENDED))
        # somebody may have asked it before this was told, or when told that the line has ended
        if self._socket is None:
            self._open()

    def _open(self) -> None:
        """Connect where no line is, if that can be done: the process may have been closed by now,
        and there may be no descriptors left, for now."""
        try:
            self._socket, self._opened_count = self._process.loop_line()
        except OSError as error:
            self._why_closed = f"{_OUT_OF_REACH}: {error}"
            return
        self._why_closed = _ENDED
        self._socket.setblocking(False)
        self._hearer = Hearer()
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
            self._end(MaybeDone(_ENDED))
            return
        for done in self._hearer.feed(data):
            self._answer(done)

    def _answer(self, done: Done) -> None:
        self._fallbacks.told(done.fallbacks)
        self._lookups.add(*done.lookups)
        told = self._told.pop(done.number, None)
        if told is None:
            return
        if done.failure is not None:
            told(done.failure)
        else:
            told(done.outcomes, done.seconds)

    def _broke(self, line: socket.socket, error: Exception) -> None:
        """A line is of no use any more; another may have taken its place meanwhile."""
        if line is self._socket:
            self._end(MaybeDone(f"{_ENDED}: {error}"))

    def _end(self, error: Exception) -> None:
        """Disconnect, and tell those who wait that there will be no answer."""
        ended, self._socket = self._socket, None
        if ended is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(ended.fileno())
            self._loop.remove_writer(ended.fileno())
        ended.close()
        asked, self._told = list(self._told.values()), {}
        for told in asked:
            told(error)


class _Sent:
    """A group that was sent."""

    __slots__ = ("_number", "_told")

    def __init__(self, told: dict[int, Hears], number: int) -> None:
        self._told = told
        self._number = number

    def give_up(self) -> None:
        self._told.pop(self._number, None)
