"""Answers that wait for the clients of streams, within what one process keeps of them."""

from __future__ import annotations

import asyncio
from tempfile import SpooledTemporaryFile
from typing import Final

MAX_WAITING_BYTES: Final = 1_000_000_000
"""Of all streams together: some eleven million answers to records."""
_IN_MEMORY_BYTES: Final = 1_000_000
_SEND_BYTES: Final = 65_536


class AnswerSpace:
    """What the answers of all streams may take in files that is not taken yet."""

    def __init__(self, most_bytes: int) -> None:
        self.free_bytes = most_bytes
        self._given_back = asyncio.Event()

    def take(self, size_bytes: int) -> None:
        self.free_bytes -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.free_bytes += size_bytes
        told, self._given_back = self._given_back, asyncio.Event()
        told.set()

    async def next_given_back(self) -> None:
        """Return once somebody gave some of it back."""
        await self._given_back.wait()


class Backlog:
    """Answers that wait for one client, in order; beyond a megabyte in a temporary file.

    The file is as large as what was put since the client last had taken all of it.
    """

    def __init__(self, space: AnswerSpace) -> None:
        self._space = space
        self._file = SpooledTemporaryFile[bytes](max_size=_IN_MEMORY_BYTES)
        self._written = 0
        self._read = 0
        self._ready = asyncio.Event()
        self._finished = False

    async def room(self) -> None:
        """Return once more may be put.

        One may be as large as what is left for all, so that those who come later find some, too;
        a small one is always let go on.
        """
        while self._written > max(self._space.free_bytes, _IN_MEMORY_BYTES):
            await self._space.next_given_back()

    def put(self, part: bytes) -> None:
        self._file.seek(self._written)
        self._written += self._file.write(part)
        self._space.take(len(part))
        self._ready.set()

    def finish(self) -> None:
        """No more is put."""
        self._finished = True
        self._ready.set()

    async def next(self) -> bytes:
        """What to send next; empty at the end."""
        while self._read == self._written:
            if self._finished:
                return b""
            self._ready.clear()
            await self._ready.wait()
        self._file.seek(self._read)
        part = self._file.read(_SEND_BYTES)
        self._read += len(part)
        if self._read == self._written:
            # the client keeps up: the file needs not grow
            self._empty()
            self._file.seek(0)
            self._file.truncate()
        return part

    def close(self) -> None:
        self._empty()
        self._file.close()

    def _empty(self) -> None:
        self._space.give_back(self._written)
        self._read = self._written = 0


__all__ = ["MAX_WAITING_BYTES", "AnswerSpace", "Backlog"]
