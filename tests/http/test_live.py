"""What only shows on a socket: streams both ways, clients that hang up, a graceful stop."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.http.app_client import API
from tests.http.live_server import LiveServer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STREAM = f"{API}/cost-tracking/record/stream"


def line(**fields: Any) -> bytes:
    return json.dumps({"resource_type": "llm", "cost_amount": 1, **fields}).encode() + b"\n"


@pytest.fixture
def server(data_dir: Path) -> Iterator[LiveServer]:
    with serving(data_dir) as server:
        yield server


def open_stream(server: LiveServer, receive_buffer_bytes: int | None = None) -> socket.socket:
    """A connection on which the head of a stream request was sent."""
    connection = socket.socket()
    connection.settimeout(30)
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.connect(("127.0.0.1", server.port))
    head = (
        f"POST {STREAM} HTTP/1.1\r\nHost: fiscus.test\r\nX-API-Key: {server.key}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        part = connection.recv(65_536)
        assert part, found
        found += part
    return found


def records_of(server: LiveServer) -> int:
    with httpx.Client(base_url=server.url, headers={"X-API-Key": server.key}) as client:
        report = client.get(f"{API}/cost-tracking/reports").json()
    assert report["total_cost"] == report["record_count"]
    return report["record_count"]


def test_answers_come_while_records_are_still_being_sent(server: LiveServer) -> None:
    with open_stream(server) as connection:
        for number in (1, 2, 3):
            connection.sendall(chunk(line()))
            answer = read_until(connection, b'"line":%d,' % number)
            assert b'"summary"' not in answer
        connection.sendall(b"0\r\n\r\n")
        assert b'"recorded":3' in read_until(connection, b'"summary"')


def test_a_client_that_reads_nothing_until_it_sent_everything_is_served(data_dir: Path) -> None:
    """More answers than both sockets can hold; the client would wait for the server for ever."""
    count = 8000
    with serving(data_dir, send_buffer_bytes=16_384) as server:
        with open_stream(server, receive_buffer_bytes=16_384) as connection:
            for _ in range(0, count, 1000):
                connection.sendall(chunk(line() * 1000))
            connection.sendall(b"0\r\n\r\n")
            answer = read_until(connection, b'"summary"')
        assert answer.count(b'"record_id"') == count
        assert records_of(server) == count


def test_a_client_that_hangs_up_mid_stream_leaves_whole_chunks(server: LiveServer) -> None:
    connection = open_stream(server)
    connection.sendall(chunk(line() * 40))
    read_until(connection, b'"line":40')
    connection.sendall(chunk(line()[:-5]))
    connection.close()
    # the next request is served as if nothing had happened
    assert records_of(server) == 40


def test_a_client_that_hangs_up_mid_body_changes_nothing(server: LiveServer) -> None:
    body = b'{"resource_type":"llm","cost_amount":1}'
    head = (
        f"POST {API}/cost-tracking/record HTTP/1.1\r\nHost: fiscus.test\r\n"
        f"X-API-Key: {server.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for cut in (0, 1, len(body) - 1):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(head.encode() + body[:cut])
    assert records_of(server) == 0


def test_a_stop_ends_a_stream_that_goes_on_without_its_summary(
    data_dir: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(data_dir, grace_seconds=1) as server:
        connection = open_stream(server)
        connection.sendall(chunk(line() * 40))
        answer = read_until(connection, b'"line":40')
    with connection:
        while part := connection.recv(65_536):
            answer += part
    assert answer.endswith(b"}\n\r\n0\r\n\r\n")
    assert b'"summary"' not in answer
    logged = caplog.text + "".join(capsys.readouterr())
    assert "Traceback" not in logged
    assert "without completing" not in logged
    with serving(data_dir) as server:
        assert records_of(server) == 40
