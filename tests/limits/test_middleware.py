"""The middleware in a FastAPI application, called in process and over HTTP."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient

from fiscus import RateLimitViolated, ValidationError
from fiscus.limits import RateLimitMiddleware, RequestHead, limit
from tests.limits.clock import START_US, Microseconds

if TYPE_CHECKING:
    from collections.abc import Iterator


def application(**options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, **{"limit": "2/minute", **options})

    @app.get("/")
    async def root() -> dict[str, str]:
        return {"said": "hello"}

    @app.get("/{path:path}")
    async def other(path: str) -> dict[str, str]:
        return {"path": path}

    @app.post("/echo")
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @app.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    return app


def calls(
    app: FastAPI, *requests: tuple[str, dict[str, str]], peer: str = "192.0.2.1"
) -> list[int]:
    """The statuses of GET requests with path and headers."""

    async def run() -> list[int]:
        transport = httpx.ASGITransport(app, client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [
                (await client.get(path, headers=headers)).status_code for path, headers in requests
            ]

    return asyncio.run(run())


def get(app: FastAPI, path: str = "/", **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(run())


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def test_a_client_over_http_is_told_its_limit_and_refused_beyond_it() -> None:
    with served(application()) as url, httpx.Client(base_url=url) as client:
        answers = [client.get("/") for _ in range(2)]
        assert [one.json() for one in answers] == [{"said": "hello"}] * 2
        assert [one.headers["x-ratelimit-remaining"] for one in answers] == ["1", "0"]
        refused = client.post("/echo", json={"a": 1})
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) in {29, 30}
        problem = refused.json()
        assert problem["status"] == 429
        assert problem["error_code"] == "RATE_LIMIT_VIOLATED"
        assert problem["retriable"] is True
        assert problem["instance"] == "/echo"
        assert problem["details"]["limit"] == "2/minute"
        assert problem["correlation_id"] == refused.headers["x-correlation-id"]


def test_the_header_fields_are_those_of_the_draft() -> None:
    now = Microseconds()
    now.advance(0.25)
    app = application(limit=limit("2/minute; 10/second burst 20", now_us=now))
    headers = get(app).headers
    assert headers["ratelimit-policy"] == '"2/minute";q=2;w=60, "10/second burst 20";q=10;w=1'
    assert headers["ratelimit"] == '"2/minute";r=1;t=30, "10/second burst 20";r=29;t=1'
    assert headers["x-ratelimit-limit"] == "2"
    assert headers["x-ratelimit-remaining"] == "1"
    assert headers["x-ratelimit-reset"] == str(START_US // 1_000_000 + 31)
    assert "retry-after" not in headers
    get(app)
    now.advance(5)
    headers = get(app).headers
    assert headers["ratelimit"] == '"2/minute";r=0;t=25, "10/second burst 20";r=30;t=0'
    assert headers["retry-after"] == "25"
    assert headers["x-ratelimit-remaining"] == "0"


def test_a_correlation_id_is_kept() -> None:
    app = application(limit="1/minute")
    get(app)
    assert get(app, **{"x-correlation-id": "mine"}).json()["correlation_id"] == "mine"


def test_clients_are_told_apart_by_address() -> None:
    app = application()
    assert calls(app, *[("/", {})] * 3) == [200, 200, 429]
    assert calls(app, ("/", {}), peer="192.0.2.2") == [200]


def test_one_ipv6_subscriber_is_one_client() -> None:
    app = application()
    assert calls(app, ("/", {}), peer="2001:db8::1") == [200]
    assert calls(app, ("/", {}), peer="2001:db8::2") == [200]
    assert calls(app, ("/", {}), peer="2001:db8::3") == [429]
    assert calls(app, ("/", {}), peer="2001:db8:0:1::3") == [200]
    assert calls(app, *[("/", {})] * 2, peer="::ffff:192.0.2.1") == [200, 200]
    assert calls(app, ("/", {}), peer="192.0.2.1") == [429]


def test_a_forwarded_address_is_not_believed_unless_there_are_proxies() -> None:
    app = application(limit="1/minute")
    assert calls(app, ("/", {"x-forwarded-for": "198.51.100.1"})) == [200]
    assert calls(app, ("/", {"x-forwarded-for": "198.51.100.2"})) == [429]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "198.51.100.1", "192.0.2.1"),
        (1, "198.51.100.1", "198.51.100.1"),
        (1, "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        (2, "6.6.6.6, 198.51.100.1, 10.0.0.1", "198.51.100.1"),
        (2, "10.0.0.1", "192.0.2.1"),
        (1, "", "192.0.2.1"),
        (1, "unknown", "192.0.2.1"),
        (1, "198.51.100.1:4711", "198.51.100.1"),
        (1, "[2001:db8::1]:4711", "2001:db8::/64"),
        (1, '"[2001:db8::1]"', "2001:db8::/64"),
        (1, "fe80::1%eth0", "fe80::/64"),
    ],
)
def test_the_address_is_the_one_that_the_outermost_trusted_proxy_saw(
    proxies: int, forwarded: str, address: str
) -> None:
    scope = {
        "type": "http",
        "client": ("192.0.2.1", 1),
        "headers": [(b"x-forwarded-for", forwarded.encode())],
    }
    assert RequestHead(scope, proxies).client_address == address


def test_several_fields_are_one_list_and_an_unknown_peer_is_empty() -> None:
    scope = {
        "type": "http",
        "client": None,
        "headers": [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"198.51.100.1")],
    }
    assert RequestHead(scope, 1).client_address == "198.51.100.1"
    assert RequestHead(scope).client_address == ""


def test_a_key_is_made_of_the_request() -> None:
    app = application(limit="1/minute", key=lambda request: request.header("X-User"))
    requests = [("/", {"x-user": user}) for user in ("a", "a", "b")]
    assert calls(app, *requests) == [200, 429, 200]
    assert calls(app, *[("/", {})] * 5) == [200] * 5


def test_a_key_may_depend_on_method_and_path() -> None:
    app = application(limit="1/minute", key=lambda request: f"{request.method} {request.path}")
    assert calls(app, ("/", {}), ("/a", {}), ("/a", {})) == [200, 200, 429]


def test_paths_have_limits_of_their_own_or_none() -> None:
    app = application(
        limit="1/minute",
        paths={"/login": "2/minute", "/reports/*": "1/minute", "/reports/big/*": "3/minute"},
        exempt=["/healthz", "/static/*", "/reports/free"],
    )
    assert calls(app, *[("/login", {})] * 3) == [200, 200, 429]
    assert calls(app, ("/reports/a", {}), ("/reports/b", {})) == [200, 429]
    assert calls(app, *[("/reports/big/a", {})] * 4) == [200, 200, 200, 429]
    assert calls(app, ("/other", {}), ("/login/x", {})) == [200, 429]
    for path in ("/healthz", "/static/a.css", "/reports/free"):
        assert calls(app, *[(path, {})] * 4) == [200] * 4
    assert "ratelimit" not in get(app, "/healthz").headers


def test_websockets_pass() -> None:
    app = application(limit="1/hour")
    with TestClient(app) as client:
        for _ in range(3):
            with client.websocket_connect("/talk") as socket:
                assert socket.receive_text() == "hello"


def test_an_error_of_the_application_is_its_own() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("mine")

    async def run() -> None:
        scope = {"type": "http", "path": "/", "headers": [], "client": None}
        await RateLimitMiddleware(failing, "1/minute")(scope, None, None)  # type: ignore[arg-type]

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(run())


def test_an_endpoint_with_a_limit_of_its_own_is_answered_by_that() -> None:
    app = application()

    @limit("1/hour")
    def work() -> str:
        return "done"

    @app.get("/work", name="work")
    async def endpoint() -> str:
        return work()

    app.router.routes.insert(0, app.router.routes.pop())  # before the one for every path
    assert get(app, "/work").headers["ratelimit-policy"] == '"2/minute";q=2;w=60'
    refused = get(app, "/work")
    assert (refused.status_code, refused.json()["details"]["limit"]) == (429, "1/hour")
    assert refused.headers["ratelimit-policy"] == '"1/hour";q=1;w=3600'
    assert refused.headers["retry-after"] in {"3600", "3599"}


def test_a_refusal_when_the_answer_has_begun_is_for_the_server() -> None:
    sent: list[str] = []

    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise limit("1/hour").hit("a", 2).violation()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "path": "/", "headers": [], "client": None}
    with pytest.raises(RateLimitViolated):
        asyncio.run(RateLimitMiddleware(streaming, "9/minute")(scope, None, send))  # type: ignore[arg-type]
    assert sent == ["http.response.start"]


def test_every_field_is_sent_as_text_that_http_allows() -> None:
    headers = get(application(limit="2/minute fixed_window; 3/2 hours leaky_bucket")).headers
    told = {name: value for name, value in headers.items() if "ratelimit" in name}
    assert set(told) == {
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    }
    for value in told.values():
        assert re.fullmatch(r"[\x20-\x7e]+", value)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"limit": "2/fortnight"}, "limit"),
        ({"exempt": "/healthz"}, "exempt"),
        ({"exempt": ["healthz"]}, "exempt"),
        ({"exempt": [5]}, "exempt"),
        ({"exempt": 5}, "exempt"),
        ({"paths": {"/a*b": "1/minute"}}, "paths"),
        ({"paths": {5: "1/minute"}}, "paths"),
        ({"paths": ["/login"]}, "paths"),
        ({"trusted_proxies": -1}, "trusted_proxies"),
        ({"trusted_proxies": "1"}, "trusted_proxies"),
        ({"key": "user"}, "key"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        RateLimitMiddleware(lambda *_: None, **{"limit": "1/minute", **options})  # type: ignore[arg-type]
    assert raised.value.field == field
