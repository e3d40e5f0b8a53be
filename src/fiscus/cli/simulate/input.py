"""Lines of a file, of gzip or of standard input, one at a time."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, cast

from fiscus.cli.terminal import CommandError, cannot_be_read

MAX_LINE_BYTES: Final = 1 << 20

_GZIP: Final = b"\x1f\x8b"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line without its end; numbers begin at 1."""

    number: int
    content: bytes


class Input:
    """What a path leads to; `-` is standard input. Gzip is known by its first bytes.

    Raises `CommandError` when it cannot be opened.
    """

    name: str
    size_bytes: int | None = None
    """As it is stored; None where the end is not known: of standard input and of pipes."""

    def __init__(self, path: str) -> None:
        if path == "-":
            self.name = "standard input"
            self._file = cast("io.BufferedReader", sys.stdin.buffer)
            return
        self.name = path
        try:
            self._file = Path(path).open("rb")  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise cannot_be_read(path, error.strerror or error) from None
        if self._file.seekable():
            self.size_bytes = os.fstat(self._file.fileno()).st_size

    def position_bytes(self) -> int | None:
        """How much of `size_bytes` has been read; None as that, as pipes do not tell."""
        return None if self.size_bytes is None else self._file.tell()

    def lines(self) -> Iterator[Line]:
        """All lines but blank ones. Raises `CommandError` naming where reading ends."""
        number = 0
        try:
            content = self._file
            if content.peek(2).startswith(_GZIP):
                unpacked = gzip.GzipFile(fileobj=content)
                content = io.BufferedReader(cast("io.RawIOBase", unpacked), MAX_LINE_BYTES)
            while line := content.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise CommandError(
                        f"{self.name}:{number}: the line is longer than {MAX_LINE_BYTES} bytes",
                        suggested_action="see that every request is on a line of its own.",
                    )
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                line = line.strip()
                if line:
                    yield Line(number, line)
        except (OSError, EOFError, zlib.error) as error:
            raise CommandError(
                f"{self.name} cannot be read after line {number}: {error}",
                suggested_action="see whether it is complete.",
            ) from None

    def close(self) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()
