"""Clients that keep a server busy and remember everything they were told.

Each request has an idempotency key of its own. What was answered is acknowledged; what was not is
unknown, and is sent again after the crash, as a client would.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.crash.server_process import ServerProcess

RETRIES = 300
PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Request:
    """One request, as it is sent and sent again."""

    path: str
    key: str
    body: dict[str, Any]

    def send(self, client: httpx.Client) -> dict[str, Any] | None:
        """The answer; None when none came or the server could not say."""
        try:
            answer = client.post(self.path, json=self.body, headers={"X-Idempotency-Key": self.key})
        except httpx.TransportError:
            return None
        if answer.status_code == 503:
            return None
        assert answer.status_code in {200, 202}, answer.text
        return answer.json()

    def send_until_answered(self, client: httpx.Client) -> dict[str, Any]:
        wait = threading.Event()
        for _ in range(RETRIES):
            answer = self.send(client)
            if answer is not None:
                return answer
            wait.wait(PAUSE_SECONDS)
        raise AssertionError(f"never answered: {self}")


@dataclass
class Known:
    """What the clients know."""

    acknowledged: list[tuple[Request, dict[str, Any]]] = field(default_factory=list)
    unknown: list[Request] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)
    wanted: int = 200

    def told(self, request: Request, answer: dict[str, Any] | None) -> None:
        if answer is None:
            self.unknown.append(request)
            return
        self.acknowledged.append((request, answer))
        if len(self.acknowledged) >= self.wanted:
            self.enough.set()


class Clients:
    """Threads that reserve and settle, record, and consume, until an answer does not come."""

    def __init__(self, server: ServerProcess, name: str, count: int = 6) -> None:
        self.known = Known()
        self._server = server
        self._threads = [
            threading.Thread(target=self._work, args=(f"{name}-{number}", _STEPS[number % 3]))
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_until_busy(self) -> None:
        """Until enough was acknowledged that a crash falls in the middle of a load."""
        assert self.known.enough.wait(60), self._server.log()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def finish(self) -> None:
        """Send again what was not answered; then everything is acknowledged."""
        with self._server.client() as client:
            for request in self.known.unknown:
                self.known.acknowledged.append((request, request.send_until_answered(client)))
        self.known.unknown = []

    def _work(self, name: str, steps: Steps) -> None:
        with self._server.client() as client:
            for number in itertools.count():
                answer: dict[str, Any] | None = {}
                for step in steps[: 1 if number % 3 == 0 else 2]:  # some are left as they began
                    request = step(f"{name}-{number}", answer)
                    answer = request.send(client)
                    self.known.told(request, answer)
                    if answer is None:
                        return


Steps = tuple[Callable[[str, dict[str, Any]], Request], ...]
"""Requests by their key and by the answer to the one before."""

_STEPS: tuple[Steps, ...] = (
    (
        lambda key, _: Request("/budgets/check", key, check_body("0.02")),
        lambda key, answer: Request(
            f"/budgets/reservations/{answer['reservation_id']}/settle", key, {"actual_cost": 0.01}
        ),
    ),
    (lambda key, _: Request("/cost-tracking/record", key, record_body("0.01")),),
    (
        lambda key, _: Request("/quotas/check", key, consume_body("0.02")),
        lambda key, answer: Request(
            f"/quotas/consumptions/{answer['consumption_id']}/release", key, {}
        ),
    ),
)


def check_body(cost: str, **fields: Any) -> dict[str, Any]:
    return {
        "resource_type": "llm",
        "estimated_cost": cost,
        "project_id": "p",
        "ttl_seconds": 3600,
        **fields,
    }


def consume_body(amount: str) -> dict[str, Any]:
    return {"resource_type": "llm", "required_amount": amount, "project_id": "p"}


def record_body(cost: str, **fields: Any) -> dict[str, Any]:
    return {"resource_type": "llm", "cost_amount": cost, "project_id": "p", **fields}
