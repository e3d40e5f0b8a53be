"""Connections without a network."""

from __future__ import annotations

import asyncio


class Pipe(asyncio.Transport):
    """The end of a connection that the test looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self._wrote = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self._wrote.set()

    async def until(self, text: bytes) -> None:
        while text not in self.written:
            self._wrote.clear()
            await asyncio.wait_for(self._wrote.wait(), 30)

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """What is read is what the test hands on."""

    def resume_reading(self) -> None:
        """As above."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
