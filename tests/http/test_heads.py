"""Requests that ask for another protocol, heads that are too large, and what is no request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.http.app_client import API
from tests.http.wire import Answer, Wire
from tests.log_lines import told

if TYPE_CHECKING:
    from tests.http.live_server import LiveServer

CHECK = {"resource_type": "llm", "estimated_cost": 1}
LIMIT = {"resource_type": "api"}
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")
WEBSOCKET = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
MEMBERS = {
    "type", "title", "status", "detail", "instance", "error_code", "message", "details",
    "correlation_id", "retriable", "suggested_action", "tenant_id",
}  # fmt: skip


def chunked(content: bytes) -> bytes:
    half = len(content) // 2
    return b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:half], content[half:], b"")
    )


def get(server: LiveServer, path: str) -> dict[str, Any]:
    with httpx.Client(base_url=server.url, headers={"X-API-Key": server.key}) as client:
        return client.get(API + path).json()


def require_problem(answer: Answer, status: int, code: str = "VALIDATION_ERROR") -> dict[str, Any]:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    problem = answer.json()
    assert set(problem) == MEMBERS
    assert (problem["status"], problem["error_code"]) == (status, code)
    assert problem["correlation_id"] == answer.headers["x-correlation-id"]
    return problem


# -- asking for another protocol


@pytest.mark.parametrize("asked", [H2C, WEBSOCKET])
@pytest.mark.parametrize("sent", ["at once", "body later", "byte by byte"])
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/budgets/check", CHECK, 200),
        ("/rate-limits/check", LIMIT, 200),
        ("/cost-tracking/record", {"resource_type": "llm", "cost_amount": 1}, 202),
        ("/api-keys", {"name": "ours", "roles": ["service"]}, 201),
    ],
)
def test_a_request_that_asks_for_another_protocol_is_answered_as_it_was_sent(
    server: LiveServer, asked: tuple[str, ...], sent: str, path: str, body: Any, status: int
) -> None:
    with Wire(server) as wire:
        request = wire.request(path, body, *asked)
        cut = {"at once": 0, "body later": request.index(b"\r\n\r\n") + 4, "byte by byte": -1}[sent]
        if cut < 0:
            wire.send(*(request[at : at + 1] for at in range(len(request))))
        else:
            wire.send(request[:cut], request[cut:])
        assert wire.answer().status == status
        # and the connection goes on
        wire.send(wire.request("/budgets/check", CHECK))
        assert wire.answer().json()["allowed"]


def test_a_body_in_chunks_is_read_of_a_request_that_asks_for_another_protocol(
    server: LiveServer,
) -> None:
    body = json.dumps(CHECK).encode()
    with Wire(server) as wire:
        wire.send(
            wire.request("/budgets/check", chunked(body), "Transfer-Encoding: chunked", *H2C)
            + wire.request("/budgets/check", CHECK)
        )
        assert wire.answer().json()["allowed"]
        assert wire.answer().json()["allowed"]


def test_a_stream_that_asks_for_another_protocol_is_recorded(server: LiveServer) -> None:
    lines = b'{"resource_type":"llm","cost_amount":1}\n' * 3
    answered = httpx.post(
        f"{server.url}{API}/cost-tracking/record/stream",
        content=lines,
        headers={"X-API-Key": server.key, "Connection": "Upgrade", "Upgrade": "h2c"},
    )
    assert json.loads(answered.text.splitlines()[-1])["recorded"] == 3


def test_a_release_that_asks_for_another_protocol_gives_back_what_it_says(
    server: LiveServer,
) -> None:
    quota = {"scope_type": "tenant", "scope_id": "acme", "resource_type": "gpu"}
    with Wire(server) as wire:
        wire.send(wire.request("/quotas", {**quota, "allocated_amount": 10}))
        quota_id = wire.answer().json()["quota_id"]
        wire.send(
            wire.request("/quotas/check", {"resource_type": "gpu", "required_amount": 2}, *H2C)
        )
        taken = wire.answer().json()["consumption_id"]
        wire.send(wire.request(f"/quotas/consumptions/{taken}/release", {"amount": 0.5}, *H2C))
        assert wire.answer().status == 200
    assert get(server, f"/quotas/{quota_id}")["used_amount"] == 1.5


@pytest.mark.parametrize("cut", [True, False])
def test_the_body_of_a_request_that_asks_for_another_protocol_is_never_a_request(
    server: LiveServer, cut: bool
) -> None:
    with Wire(server) as wire:
        inner = wire.request("/budgets/check", CHECK)
        outer = wire.request("/budgets/check", inner, *H2C)
        at = len(outer) - len(inner) if cut else 0
        wire.send(outer[:at], outer[at:])
        assert wire.answer().status == 400
        wire.send(wire.get(f"{API}/budgets/reservations"))
        assert wire.answer().json()["pagination"]["total_count"] == 0


def test_pipelined_requests_that_ask_for_another_protocol_are_answered_in_their_order(
    server: LiveServer,
) -> None:
    with Wire(server) as wire:
        plain = wire.request("/budgets/check", CHECK)
        asking = wire.request("/rate-limits/check", LIMIT, *H2C)
        page = wire.get(f"{API}/budgets").replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n")
        page = page % "\r\n".join(WEBSOCKET).encode()
        order = [plain, asking, asking, page, plain, page, asking, plain]
        wire.send(b"".join(order))
        for sent in order:
            kind = {plain: "reservation_id", asking: "retry_after", page: "pagination"}[sent]
            assert kind in wire.answer().json()


def test_a_decision_that_asks_for_another_protocol_needs_no_asgi(straight: LiveServer) -> None:
    with Wire(straight) as wire:
        wire.send(wire.request("/budgets/check", CHECK, *H2C))
        assert wire.answer().json()["allowed"]


@pytest.mark.parametrize(
    ("next_request", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET \0 HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nContent-Length: some\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_what_follows_one_that_asks_for_another_protocol_is_refused_for_what_it_is(
    server: LiveServer, next_request: bytes, status: int
) -> None:
    with Wire(server) as wire:
        wire.send(wire.request("/rate-limits/check", LIMIT, *H2C) + next_request)
        assert wire.answer().status == 200
        code = "PAYLOAD_TOO_LARGE" if status == 431 else "VALIDATION_ERROR"
        require_problem(wire.answer(), status, code)
        assert wire.is_closed()


def test_a_tunnel_is_refused(server: LiveServer) -> None:
    with Wire(server) as wire:
        wire.send(b"CONNECT fiscus.test:443 HTTP/1.1\r\nHost: fiscus.test\r\n\r\n")
        wire.send(wire.request("/budgets/check", CHECK))
        assert require_problem(wire.answer(), 400)["details"] == {"field": "method"}
        assert wire.is_closed()
    assert get(server, "/budgets/reservations")["reservations"] == []


# -- fields that may be sent once


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("X-API-Key: other", 401),
        ("x-idempotency-key: b", 400),
        ("Content-Encoding: identity", 400),
        ('If-Match: "1"', 400),
    ],
)
@pytest.mark.parametrize("path", ["/budgets/check", "/api-keys", "/cost-tracking/record/stream"])
def test_a_field_that_decides_is_sent_once(
    server: LiveServer, path: str, line: str, status: int
) -> None:
    lines = ["X-Idempotency-Key: a", "Content-Encoding: identity", 'If-Match: "1"', line]
    with Wire(server) as wire:
        wire.send(wire.request(path, CHECK, *lines))
        answer = wire.answer()
        assert answer.status == status
        problem = answer.json()
        assert "twice" in problem["message"] or problem["message"] == "Two credentials were sent"
        assert problem["correlation_id"] == answer.headers["x-correlation-id"]


@pytest.mark.parametrize("more", ["Authorization: Bearer b", "Idempotency-Key: b"])
def test_the_other_names_of_those_fields_are_sent_once_too(server: LiveServer, more: str) -> None:
    for path in ("/budgets/check", "/api-keys"):
        with Wire(server) as wire:
            wire.send(wire.request(path, CHECK, more, more))
            assert wire.answer().status in {400, 401}


def test_metrics_too_take_one_credential(server: LiveServer) -> None:
    good = f"X-API-Key: {server.key}"
    for first, second in ((good, "X-API-Key: other"), ("X-API-Key: other", good), (good, good)):
        with Wire(server) as wire:
            head = f"GET {API}/metrics HTTP/1.1\r\nHost: a\r\n{first}\r\n{second}\r\n\r\n"
            wire.send(head.encode())
            assert wire.answer().status == 401


def test_other_fields_may_be_sent_twice(server: LiveServer) -> None:
    with Wire(server) as wire:
        wire.send(wire.request("/budgets/check", CHECK, "Via: 1.1 a", "Via: 1.1 b"))
        assert wire.answer().status == 200


# -- bodies as they are


@pytest.mark.parametrize("path", ["/budgets/check", "/budgets", "/cost-tracking/record/stream"])
@pytest.mark.parametrize("line", ["Content-Encoding: gzip", "Transfer-Encoding: gzip, chunked"])
def test_a_compressed_body_is_refused(server: LiveServer, path: str, line: str) -> None:
    is_chunked = "chunked" in line
    with Wire(server) as wire:
        body = json.dumps(CHECK).encode()
        wire.send(wire.request(path, chunked(body) if is_chunked else body, line))
        answer = wire.answer()
        assert answer.status == 400
        assert answer.json()["details"] == {"field": line.partition(":")[0]}


@pytest.mark.parametrize("line", ["Via: a", "Content-Length: 0"])
def test_a_coding_without_a_body_refuses_nothing(server: LiveServer, line: str) -> None:
    coding = f"\r\n{line}\r\nContent-Encoding: gzip\r\n\r\n".encode()
    with Wire(server) as wire:
        wire.send(wire.get(f"{API}/budgets").replace(b"\r\n\r\n", coding))
        assert wire.answer().status == 200


@pytest.mark.parametrize("path", ["/budgets/check", "/budgets"])
def test_a_length_may_begin_with_any_zeros(server: LiveServer, path: str) -> None:
    body = json.dumps({**CHECK, "budget_name": ""}).encode()
    with Wire(server) as wire:
        request = wire.request(path, body)
        zeros = b"Content-Length: " + b"0" * 5000
        wire.send(request.replace(b"Content-Length: ", zeros))
        assert wire.answer().status == 400
        wire.send(wire.request("/budgets/check", CHECK))
        assert wire.answer().status == 200


# -- heads that are too large


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Long: " + "a" * 66_000],
        [f"X-{number}: {'a' * 1000}" for number in range(70)],
        [f"X-{number}: a" for number in range(101)],
    ],
)
def test_a_head_that_is_too_large_is_a_431(server: LiveServer, lines: list[str]) -> None:
    for path, body in (("/budgets/check", CHECK), ("/api-keys", {"name": "x", "roles": []})):
        with Wire(server) as wire:
            wire.send(wire.request("/rate-limits/check", LIMIT))  # a sound one goes before
            wire.send(wire.request(path, body, *lines))
            assert wire.answer().status == 200
            problem = require_problem(wire.answer(), 431, "PAYLOAD_TOO_LARGE")
            assert problem["details"] == {"maximum_bytes": 65_536, "maximum_headers": 100}
            assert problem["title"] == "Request Header Fields Too Large"
            assert wire.is_closed()
    assert get(server, "/budgets/reservations")["reservations"] == []


def test_a_path_that_is_too_long_is_a_431(server: LiveServer) -> None:
    with Wire(server) as wire:
        wire.send(wire.get(f"{API}/budgets?user_id={'a' * 66_000}"))
        assert require_problem(wire.answer(), 431, "PAYLOAD_TOO_LARGE")["instance"] == (
            f"{API}/budgets"
        )


def test_a_large_head_within_the_limit_is_taken(server: LiveServer) -> None:
    lines = [f"X-{number}: {'a' * 650}" for number in range(97)]
    with Wire(server) as wire:
        large = wire.request("/budgets/check", CHECK, *lines)
        assert 63_000 < len(large) < 65_536
        wire.send(large * 3)
        for _ in range(3):
            assert wire.answer().status == 200
        wire.send(wire.request("/budgets/check", {"pad": "a" * 60_000}) + large)
        assert [wire.answer().status, wire.answer().status] == [400, 200]


@pytest.mark.parametrize("line", [b"X-%d: " + b"a" * 1000 + b"\r\n", b"a%d"])
def test_a_head_without_end_is_refused_while_it_is_sent(server: LiveServer, line: bytes) -> None:
    """The answer arrives although the client goes on sending."""
    with Wire(server) as wire:
        wire.send(b"GET /health HTTP/1.1\r\nX-First: a")
        wire.send(*(line % number for number in range(30_000)))
        require_problem(wire.answer(), 431, "PAYLOAD_TOO_LARGE")
        assert wire.is_closed()


@pytest.mark.parametrize("end", [b"0\r\nX-Trailer: ", b"1;extension="])
def test_what_stands_around_chunks_has_the_same_limit(server: LiveServer, end: bytes) -> None:
    with Wire(server) as wire:
        body = json.dumps(CHECK).encode()
        content = b"%x\r\n%b\r\n%b" % (len(body), body, end)
        wire.send(wire.request("/budgets/check", content, "Transfer-Encoding: chunked"))
        wire.send(*([b"a" * 10_000] * 100))
        require_problem(wire.answer(), 431, "PAYLOAD_TOO_LARGE")
        assert wire.is_closed()
    assert get(server, "/budgets/reservations")["reservations"] == []


def test_trailers_are_no_headers(server: LiveServer) -> None:
    body = json.dumps(CHECK).encode()
    content = b"%x\r\n%b\r\n0\r\nX-Correlation-ID: late\r\n\r\n" % (len(body), body)
    with Wire(server) as wire:
        wire.send(wire.request("/budgets/check", content, "Transfer-Encoding: chunked"))
        answer = wire.answer()
    assert answer.status == 200
    assert answer.headers["x-correlation-id"] != "late"


# -- what is no request


@pytest.mark.parametrize(
    ("request_line", "lines", "field"),
    [
        ("GARBAGE", [], "method"),
        ("FETCH /health HTTP/1.1", [], "method"),
        ("GET /h\xe9 HTTP/1.1", [], "path"),
        ("GET  HTTP/1.1", [], "path"),
        ("GET http://fiscus.test:99999/health HTTP/1.1", [], "path"),
        ("GET http:///health HTTP/1.1", [], "path"),
        ("GET /health HTTP/9.9", [], "request"),
        ("GET /health HTTP/1.1", ["Content-Length: some"], "request"),
        ("GET /health HTTP/1.1", ["Content-Length: 1", "Content-Length: 2"], "request"),
        ("GET /health HTTP/1.1", ["Content-Length: 1", "Transfer-Encoding: chunked"], "request"),
        ("GET /health HTTP/1.1", ["X-Nul: a\0b"], "request"),
        ("GET /health HTTP/1.1", ["X-Folded: a", " b"], "request"),
    ],
)
def test_what_is_no_request_is_a_problem_that_the_log_names(
    server: LiveServer,
    caplog: pytest.LogCaptureFixture,
    request_line: str,
    lines: list[str],
    field: str,
) -> None:
    head = "\r\n".join([request_line, "Host: fiscus.test", *lines, "", ""]).encode("latin-1")
    with Wire(server) as wire:
        wire.send(head)
        problem = require_problem(wire.answer(), 400)
        assert wire.is_closed()
    assert problem["details"] == {"field": field}
    assert problem["tenant_id"] is None
    (line,) = [line.fields for line in told(caplog) if line.event == "request_refused"]
    assert line["correlation_id"] == problem["correlation_id"]
    assert line["reason"] == problem["detail"]


def test_requests_before_what_is_none_are_answered_first(server: LiveServer) -> None:
    with Wire(server) as wire:
        check, page = wire.request("/budgets/check", CHECK), wire.get(f"{API}/budgets")
        wire.send(check + page + check + b"no request\r\n\r\n" + check)
        assert [wire.answer().status for _ in range(3)] == [200, 200, 200]
        require_problem(wire.answer(), 400)
        assert wire.is_closed()
    assert get(server, "/budgets/reservations")["pagination"]["total_count"] == 2


@pytest.mark.parametrize("kind", ["straight", "in chunks", "page"])
def test_the_request_before_one_with_a_path_that_is_none_gets_its_own_answer(
    server: LiveServer, kind: str
) -> None:
    with Wire(server) as wire:
        before = {
            "straight": wire.request("/budgets/check", CHECK),
            "in chunks": wire.request(
                "/budgets/check", chunked(json.dumps(CHECK).encode()), "Transfer-Encoding: chunked"
            ),
            "page": wire.get(f"{API}/budgets"),
        }[kind]
        wire.send(before + wire.get("http://fiscus.test:99999/health") + before)
        assert wire.answer().status == 200
        problem = require_problem(wire.answer(), 400)
        assert problem["details"] == {"field": "path"}
        assert wire.is_closed()


@pytest.mark.parametrize("target", ["http://fiscus.test", "http://fiscus.test?a=1"])
def test_the_path_of_an_absolute_target_may_be_left_out(server: LiveServer, target: str) -> None:
    with Wire(server) as wire:
        wire.send(wire.get("/") + wire.get(target) + wire.get("http://fiscus.test/health"))
        root, same, health = wire.head(), wire.head(), wire.answer()
    assert root[0] == same[0] == 307
    assert root[1]["location"] == same[1]["location"]
    assert health.status == 200


@pytest.mark.parametrize("before", [0, 1])
def test_a_body_with_a_broken_chunk_is_refused_and_changes_nothing(
    server: LiveServer, before: int
) -> None:
    with Wire(server) as wire:
        broken = wire.request("/budgets/check", b"5\r\n{", "Transfer-Encoding: chunked")
        wire.send(wire.get(f"{API}/budgets") * before + broken, b'"res"no chunk at all\r\n')
        for _ in range(before):
            assert wire.answer().status == 200
        require_problem(wire.answer(), 400)
        assert wire.is_closed()
    assert get(server, "/budgets/reservations")["reservations"] == []


def test_what_is_refused_is_counted(server: LiveServer) -> None:
    with Wire(server) as wire:
        wire.send(b"no request\r\n\r\n")
        assert wire.answer().status == 400
    with httpx.Client(base_url=server.url, headers={"X-API-Key": server.key}) as client:
        shown = client.get("/metrics").text
    assert 'fiscus_http_requests_total{method="none",route="none",status="400"} 1.0' in shown


# -- clients that say when they are done


@pytest.mark.parametrize("kind", ["decision", "large decision", "page", "pipelined"])
def test_a_client_that_only_ends_its_sending_gets_its_answer(server: LiveServer, kind: str) -> None:
    with Wire(server) as wire:
        check, page = wire.request("/budgets/check", CHECK), wire.get(f"{API}/budgets")
        many = wire.request("/budgets/check/batch", {"checks": [CHECK] * 500})
        sent = {
            "decision": [check],
            "large decision": [many],
            "page": [page],
            "pipelined": [check, page, page, check, many],
        }[kind]
        wire.send(b"".join(sent))
        wire.end()
        answers = [wire.answer() for _ in sent]
        assert [answer.status for answer in answers] == [200] * len(sent)
        assert wire.is_closed()


def test_a_client_that_ends_with_nothing_asked_is_let_go(server: LiveServer) -> None:
    with Wire(server) as wire:
        wire.send(wire.request("/rate-limits/check", LIMIT))
        assert wire.answer().status == 200
        wire.end()
        assert wire.is_closed()


@pytest.mark.parametrize("left_out", [1, 300])
def test_a_request_that_ends_before_it_is_whole_is_refused(
    server: LiveServer, left_out: int
) -> None:
    pad = {"tags": {"pad": "a" * 250}}
    for path, body in (("/budgets/check", {**CHECK, **pad}), ("/api-keys", {"name": "a" * 250})):
        with Wire(server) as wire:
            wire.send(wire.get(f"{API}/budgets") + wire.request(path, body)[:-left_out])
            wire.end()
            assert wire.answer().status == 200
            assert require_problem(wire.answer(), 400)["detail"] == (
                "The request ended before it was whole"
            )
            assert wire.is_closed()
    assert get(server, "/budgets/reservations")["reservations"] == []
