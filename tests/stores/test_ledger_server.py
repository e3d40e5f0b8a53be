"""The ledger's process as its lines see it, over a real store: what is asked and answered when."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from fiscus.budgets.calls import CheckRequest
from fiscus.ledger.definitions import DefinitionCache
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.remote import server
from fiscus.ledger.remote.fallbacks import FallbackPublisher
from fiscus.ledger.remote.messages import group_message
from fiscus.ledger.remote.result_decoder import ResultDecoder
from fiscus.ledger.remote.results import GroupResult
from fiscus.ledger.remote.server import LedgerServer
from fiscus.ledger.requests.budgets import check_command
from fiscus.stores.sql.database import Database
from fiscus.wire.converting import convert
from fiscus.wiring.ledger_process import open_rates
from tests.stores.conftest import Tenant


class Line(socket.socket):
    """A line that keeps what each call sent."""

    def __init__(self, other: socket.socket) -> None:
        super().__init__(fileno=other.detach())
        self.sent: list[bytes] = []

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.sent.append(bytes(data))
        super().sendall(data, flags)


class Asked:
    """Two lines on which checks were asked for, and what the ledger then answered."""

    def __init__(self, acme: Tenant, database: Database) -> None:
        self._acme = acme
        self._database = database
        self._ours: list[socket.socket] = []
        self.lines: list[Line] = []
        for _ in range(2):
            ours, theirs = socket.socketpair()
            self._ours.append(ours)
            self.lines.append(Line(theirs))

    def ask(self, line: int, number: int, cost: str) -> None:
        acme = self._acme
        asked = convert({"resource_type": "llm", "estimated_cost": cost}, CheckRequest)
        command = check_command(asked, acme.tenant_id, acme.now)
        self._ours[line].sendall(group_message(number, [command]))

    def answered(self) -> list[list[GroupResult]]:
        """What is answered on each line until nobody asks any more."""
        for one in self._ours:
            one.shutdown(socket.SHUT_WR)
        with closing(self._database.ledger_store()) as store:
            runner = GroupRunner(store, open_rates(None, None), DefinitionCache())
            LedgerServer(self.lines, runner, FallbackPublisher(), 1_000).run()
        return [ResultDecoder().feed(b"".join(line.sent)) for line in self.lines]

    def close(self) -> None:
        for one in (*self._ours, *self.lines):
            one.close()


@pytest.fixture
def asked(acme: Tenant, database: Database) -> Iterator[Asked]:
    acme.budget()
    with closing(Asked(acme, database)) as asked:
        yield asked


def numbers_and_verdicts(results: list[GroupResult]) -> list[tuple[int, list[bool]]]:
    return [
        (one.number, [getattr(outcome, "allowed", False) for outcome in one.outcomes])
        for one in results
    ]


def test_what_is_decided_together_is_sent_together_on_each_line(asked: Asked) -> None:
    for number, cost in enumerate(("1", "1000000", "2"), 1):
        asked.ask(0, number, cost)
    asked.ask(1, 7, "3")
    first, second = asked.answered()
    assert numbers_and_verdicts(first) == [(1, [True]), (2, [False]), (3, [True])]
    assert numbers_and_verdicts(second) == [(7, [True])]
    assert [len(line.sent) for line in asked.lines] == [1, 1]


def test_much_is_sent_as_soon_as_it_is_there(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PART_BYTES", 1_050)  # the first, with its budget, is 990
    for number in (1, 2, 3):
        asked.ask(0, number, "1")
    asked.ask(1, 7, "1")
    first, second = asked.answered()
    assert numbers_and_verdicts(first + second) == [(one, [True]) for one in (1, 2, 3, 7)]
    assert [len(line.sent) for line in asked.lines] == [2, 1]
