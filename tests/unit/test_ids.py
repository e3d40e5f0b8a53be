"""Ids that Fiscus makes are UUIDv7: unique, and in the order of time."""

from __future__ import annotations

import os
import threading
import time
import uuid
from datetime import UTC, datetime

import pytest

from fiscus.ids import is_uuid, uuid7


def test_an_id_is_a_canonical_uuid_of_version_7() -> None:
    for _ in range(1000):
        text = uuid7()
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert is_uuid(text)


def test_an_id_begins_with_the_time_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(uuid7()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000
    assert datetime.fromtimestamp(made / 1000, UTC).year >= 2025


def test_ids_of_many_threads_are_unique_and_sort_by_time() -> None:
    made: list[list[str]] = []

    def make() -> None:
        made.append([uuid7() for _ in range(2000)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [one for batch in made for one in batch]
    assert len(set(everything)) == 16_000
    for batch in made:
        assert batch == sorted(batch)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_makes_other_ids_than_its_parent() -> None:
    uuid7()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, "\n".join(uuid7() for _ in range(500)).encode())
        os._exit(0)
    os.close(writing)
    ours = {uuid7() for _ in range(500)}
    with os.fdopen(reading) as pipe:
        theirs = set(pipe.read().split())
    os.waitpid(child, 0)
    assert len(theirs) == 500
    assert not ours & theirs


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no-such-id",
        "018F0000-0000-7000-8000-000000000000",
        "018f0000-0000-7000-8000-00000000000",
        "018f0000-0000-7000-8000-0000000000000",
        "018f0000-0000-7000-8000-000000000000\n",
        "{018f0000-0000-7000-8000-000000000000}",
        "018f0000000070008000000000000000",
    ],
)
def test_what_is_no_canonical_uuid_is_none(text: str) -> None:
    assert not is_uuid(text)
