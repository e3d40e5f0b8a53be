"""A connection to a live server of which the bytes are the test's own."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.http.app_client import API

if TYPE_CHECKING:
    from tests.http.live_server import LiveServer


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Wire:
    """A connection of which the bytes are the test's own."""

    def __init__(self, server: LiveServer) -> None:
        self.key = server.key
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        self._read = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self._socket.sendall(part)

    def request(self, path: str, body: Any, *lines: str, version: str = "1.1") -> bytes:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        is_chunked = any("ransfer-" in line for line in lines)
        head = [
            f"POST {API}{path} HTTP/{version}",
            "Host: fiscus.test",
            f"X-API-Key: {self.key}",
            *([] if is_chunked else [f"Content-Length: {len(content)}"]),
            *lines,
        ]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + content

    def get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: fiscus.test\r\nX-API-Key: {self.key}\r\n\r\n".encode()

    def answer(self) -> Answer:
        """The next answer, whole."""
        status, headers = self.head()
        length = int(headers["content-length"])
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return Answer(status, headers, body)

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        first, *lines = self._until(b"\r\n\r\n").decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split(" ")[1]), headers

    def is_closed(self) -> bool:
        return self._socket.recv(1) == b""

    def end(self) -> None:
        """Say that no more is sent, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        found, _, self._read = self._read.partition(end)
        return found

    def _more(self) -> None:
        part = self._socket.recv(65_536)
        assert part, self._read
        self._read += part
