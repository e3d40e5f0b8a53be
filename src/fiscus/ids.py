"""UUIDv7 identifiers (RFC 9562, section 5.7): sortable by the time they were made."""

from __future__ import annotations

import re
import threading
import time
from os import urandom

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class _Uuid7Maker:
    """Monotonic within a process: RFC 9562 method 1, a 42-bit counter after the milliseconds.

    The 42 counter bits are `rand_a` (12) and the top 30 of `rand_b`; each new millisecond seeds
    the counter at random with its top bit clear, so it cannot run over within one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0
        self._counter = 0
        self._entropy = b""
        self._offset = 0

    def make(self) -> str:
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if self._offset + 9 > len(self._entropy):
                self._entropy, self._offset = urandom(4096), 0
            noise = self._entropy[self._offset : self._offset + 9]
            self._offset += 9
            if now_ms > self._last_ms:
                self._last_ms = now_ms
                self._counter = int.from_bytes(noise[:5], "big") & 0x1FF_FFFF_FFFF
            else:
                self._counter += 1
            counter, ms = self._counter, self._last_ms
        tail = int.from_bytes(noise[5:], "big")
        high, low = counter >> 30, counter & 0x3FFF_FFFF
        text = f"{ms:012x}7{high:03x}{(0b10 << 62) | (low << 32) | tail:016x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_maker = _Uuid7Maker()
uuid7 = _maker.make
"""A new UUIDv7 as its canonical 36 characters."""


def is_uuid(text: str) -> bool:
    """Whether `text` is a canonical lower-case UUID, so that it may be looked up as an id."""
    return _UUID.fullmatch(text) is not None
