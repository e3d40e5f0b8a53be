"""Threads that meet a kind of request for the first time, all at once.

msgspec 0.22 ends the process with a segmentation fault when threads work out one type together;
so this runs in a process of its own.
"""

from __future__ import annotations

import enum
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from fiscus.wire.converting import convert
from fiscus.wire.decoding import decode

THREADS, KINDS = 8, 100


def make_kind(number: int) -> type[msgspec.Struct]:
    """A struct never seen before, with the parts that take msgspec long."""
    word = enum.StrEnum(f"Word{number}", {f"W{n}": f"w{n}" for n in range(40)})
    inner = msgspec.defstruct(f"Inner{number}", [("word", word), ("other", word, None)])
    fields = [("inner", inner), ("word", word), ("inners", list[inner])]
    return msgspec.defstruct(f"Kind{number}", fields)


def use_all_at_once() -> None:
    """Read every kind in every thread, as near to the same moment as can be."""
    kinds = [make_kind(number) for number in range(KINDS)]
    meet = threading.Barrier(THREADS)
    body = {"inner": {"word": "w1"}, "word": "w2", "inners": [{"word": "w3", "other": "w4"}]}
    raw = msgspec.json.encode(body)

    def work(number: int) -> None:
        for kind in kinds:
            meet.wait()
            found = decode(raw, kind) if number % 2 else convert(body, kind)
            assert msgspec.to_builtins(found)["word"] == "w2"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_threads_may_use_a_kind_of_request_for_the_first_time_at_once() -> None:
    program = (
        "import sys; sys.setswitchinterval(1e-6);"
        "from tests.concurrency.test_first_use import use_all_at_once; use_all_at_once()"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
