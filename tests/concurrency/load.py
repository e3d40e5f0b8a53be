"""What one process of a concurrency test does: threads with random commands on one engine.

Run as a script it is one of several processes. Each line of its input is the work of one test, as
JSON; it says when it is ready, begins at the next line, and prints what it was told as one line of
JSON, so that the test adds up what the processes were told and compares it to the store.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from fiscus.engine import Engine
from fiscus.errors import FiscusError
from fiscus.money import ZERO
from tests.ledger.desk import Desk, open_at
from tests.ledger.quota_desk import QuotaDesk


@dataclass
class Told:
    """What the callers of one process were told."""

    counts: Counter[str] = field(default_factory=Counter)
    held: Decimal = ZERO
    spent: Decimal = ZERO
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, *, held: Decimal = ZERO, spent: Decimal = ZERO) -> None:
        with self.lock:
            self.counts[what] += 1
            self.held += held
            self.spent += spent


def equal_checks(desk: Desk, told: Told, chance: random.Random, count: int) -> None:
    """Reserve the same amount again and again, for users in turn."""
    for _ in range(count):
        answer = desk.check("1", user_id=f"u{chance.randrange(4)}", ttl_seconds=3600)
        told.add("allowed" if answer.allowed else "denied", held=Decimal(answer.allowed))


def mixed(desk: Desk, told: Told, chance: random.Random, count: int) -> None:
    """Checks, settles, releases and records on overlapping budgets, in random order."""
    held: list[tuple[str, Decimal]] = []
    for _ in range(count):
        ids = {
            "project_id": f"p{chance.randrange(3)}",
            "user_id": f"u{chance.randrange(3)}",
            "feature_id": chance.choice([None, "f"]),
        }
        cost = Decimal(chance.randrange(1, 300)) / 100
        what = chance.choice(["check", "check", "settle", "release", "record"])
        try:
            if what == "check" or (what != "record" and not held):
                answer = desk.check(cost, ttl_seconds=3600, **ids)
                if answer.reservation_id is not None:
                    held.append((answer.reservation_id, cost))
                    told.add("allowed", held=cost)
                else:
                    told.add("denied")
            elif what == "record":
                desk.record(cost, **ids)
                told.add("recorded", spent=cost)
            else:
                reservation_id, amount = held.pop(chance.randrange(len(held)))
                if what == "settle":
                    desk.settle(reservation_id, cost)
                    told.add("settled", held=-amount, spent=cost)
                else:
                    desk.release(reservation_id)
                    told.add("released", held=-amount)
        except FiscusError as error:
            told.add(f"error {error.code}: {error.message}")


def consume(desk: QuotaDesk, told: Told, chance: random.Random, count: int) -> None:
    """Take the same amount again and again, for users in turn."""
    for _ in range(count):
        answer = desk.consume("0.1", user_id=f"u{chance.randrange(4)}")
        told.add("allowed" if answer.allowed else "denied")


def take_and_give_back(desk: QuotaDesk, told: Told, chance: random.Random, count: int) -> None:
    """Consumptions of many quotas, given back whole or in part, and costs on the same budgets."""
    held: list[tuple[str, Decimal]] = []
    for _ in range(count):
        ids = {"project_id": f"p{chance.randrange(2)}", "user_id": f"u{chance.randrange(3)}"}
        amount = Decimal(chance.randrange(1, 300)) / 100
        what = chance.choice(["take", "take", "give back", "record"])
        try:
            if what == "take" or (what == "give back" and not held):
                answer = desk.consume(amount, **ids)
                if answer.consumption_id is None:
                    told.add("denied")
                else:
                    held.append((answer.consumption_id, amount))
                    told.add("taken", held=amount)
            elif what == "record":
                desk.record(amount, **ids)
                told.add("recorded", spent=amount)
            else:
                consumption_id, left = held.pop(chance.randrange(len(held)))
                part = left if chance.random() < 0.5 else left / 2
                desk.give_back(consumption_id, part)
                told.add("given back", held=-part)
                if part < left:
                    held.append((consumption_id, left - part))
        except FiscusError as error:
            told.add(f"error {error.code}: {error.message}")


WORKS: dict[str, Callable[[QuotaDesk, Told, random.Random, int], None]] = {
    "equal_checks": equal_checks,
    "mixed": mixed,
    "consume": consume,
    "take_and_give_back": take_and_give_back,
}


def run_threads(engine: Engine, tenant_id: str, work: str, threads: int, count: int) -> Told:
    """Run `work` in `threads` threads on one engine; what they were told."""
    told = Told()
    desk = QuotaDesk(engine, tenant_id)
    start = threading.Barrier(threads)

    def one(number: int) -> None:
        chance = random.Random(number)
        start.wait()
        try:
            WORKS[work](desk, told, chance, count)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must be told
            told.add(f"error {error!r}")

    running = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return told


def serve(given: dict[str, Any]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_at(given["url"], Path(folder))) as engine,
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()  # all processes begin together
        told = run_threads(
            engine, given["tenant_id"], given["work"], given["threads"], given["count"]
        )
    answer = {
        "counts": told.counts,
        "held": str(told.held),
        "spent": str(told.spent),
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    while line := sys.stdin.readline():
        serve(json.loads(line))
