"""The server's side: groups from the other process, done one after the other."""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Sequence
from time import perf_counter

from fiscus.batching.thread_batcher import GroupOutcomeUnknown
from fiscus.ledger.commands import Command, weight
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.port import StoreUnavailable
from fiscus.ledger.remote.fallbacks import FallbackPublisher
from fiscus.ledger.remote.messages import PART_BYTES, Frames, Group, read_group
from fiscus.ledger.remote.result_encoder import ResultEncoder, unavailable_message
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)


class LedgerServer:
    """Does what comes in on `lines`, until the other process closes one of them or ends.

    Groups that have come in while another one was done share a transaction, up to `max_group`
    commands. `runner` has to pass what it read again to `fallbacks`.
    """

    def __init__(
        self,
        lines: Sequence[socket.socket],
        runner: GroupRunner,
        fallbacks: FallbackPublisher,
        max_group: int,
    ) -> None:
        self._runner = runner
        self._fallbacks = fallbacks
        self._max_group = max_group
        self._selector = selectors.DefaultSelector()
        for line in lines:
            self._selector.register(line, selectors.EVENT_READ, Frames())
        self._encoders = {line: ResultEncoder() for line in lines}
        self._waiting: deque[tuple[socket.socket, Group]] = deque()

    def run(self) -> None:
        try:
            while self._receive():
                self._do(self._take())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the other process is gone, and what it has not asked for is not begun

    def _receive(self) -> bool:
        """Take what has come in, or wait for it; False at the end."""
        for key, _ in self._selector.select(0 if self._waiting else None):
            line, frames = key.fileobj, key.data
            assert isinstance(line, socket.socket)
            data = line.recv(PART_BYTES)
            if not data:
                return False
            for message in frames.feed(data):
                self._waiting.append((line, read_group(message)))
        return True

    def _take(self) -> list[tuple[socket.socket, Group]]:
        taken: list[tuple[socket.socket, Group]] = []
        size = 0
        while self._waiting:
            size += sum(map(weight, self._waiting[0][1].commands))
            if taken and size > self._max_group:
                break
            taken.append(self._waiting.popleft())
        return taken

    def _do(self, groups: list[tuple[socket.socket, Group]]) -> None:
        commands: list[Command] = [one for _, group in groups for one in group.commands]
        began = perf_counter()
        try:
            outcomes = self._runner.decide(commands) if commands else []
        except Exception as error:
            # whatever it was: nothing of it is promised, and others are to be done after these
            if not isinstance(error, StoreUnavailable | GroupOutcomeUnknown):
                log.exception("group_failed", commands=len(commands))
            for line, group in groups:
                line.sendall(unavailable_message(group.number, error))
            return
        seconds = perf_counter() - began
        # sent together: what comes by itself makes a turn of the other's event loop
        unsent: dict[socket.socket, bytearray] = {}
        start = 0
        for line, group in groups:
            end = start + len(group.commands)
            done = outcomes[start:end]
            fallbacks = self._fallbacks.next()
            looked_up = self._runner.definitions.lookups.take()
            message = self._encoders[line].encode(
                group.number, group.commands, done, fallbacks, looked_up, seconds
            )
            if line in unsent:
                unsent[line] += message
            else:
                unsent[line] = message
            if len(unsent[line]) >= PART_BYTES:  # the other has enough to begin with
                line.sendall(unsent.pop(line))
            start = end
        for line, message in unsent.items():
            line.sendall(message)
