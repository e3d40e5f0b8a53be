"""Limits for ASGI applications: FastAPI, Starlette, Litestar, Quart and others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from fiscus.errors import RateLimitViolated, ValidationError
from fiscus.limits.base import Limit, check_function, check_text
from fiscus.limits.decorating import key_text
from fiscus.limits.factory import limit as make_limit
from fiscus.limits.requests import RequestHead, Scope
from fiscus.limits.results import LimitResult
from fiscus.wire.correlation import correlation_id_of
from fiscus.wire.headers import raw
from fiscus.wire.problems import PROBLEM_JSON, render_problem

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
KeyOfRequest = Callable[[RequestHead], str | int | None]


class RateLimitMiddleware:
    """Answers 429 to HTTP requests beyond a limit, and tells the limits on every other answer.

    >>> app.add_middleware(RateLimitMiddleware, limit="100/minute", exempt=["/healthz"])

    `limit` is a string or a `Limit`, also one on Redis or on a Fiscus server. `key` gives the key
    of a request, None when it is not limited; without it that is the client's address, see
    `RequestHead.client_address`, for which `trusted_proxies` is the number of your own proxies
    before the application.

    `paths` gives some paths a limit of their own instead, `exempt` are not limited. Both are exact,
    or a beginning with `*` after it; an exact one counts before the longest beginning, and all
    paths of one entry share its counters.

    The answer is made before the body is read, as a problem (RFC 9457); so is that of an endpoint
    whose own limit, such as a decorator, raised `RateLimitViolated`. WebSockets pass.
    Raises `ValidationError` for arguments that make no sense.
    """

    def __init__(
        self,
        app: App,
        limit: str | Limit,
        *,
        key: KeyOfRequest | None = None,
        paths: Mapping[str, str | Limit] | None = None,
        exempt: Sequence[str] = (),
        trusted_proxies: int = 0,
    ) -> None:
        # of untyped callers, such as a text of the environment: told here, and not by every request
        if isinstance(exempt, str) or not isinstance(exempt, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _wrong("exempt", "exempt must be a list of paths")
        if not isinstance(trusted_proxies, int) or trusted_proxies < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _wrong("trusted_proxies", "trusted_proxies must be a whole number, 0 or more")
        if not isinstance(paths, Mapping | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _wrong("paths", "paths must be a dict of paths and their limits")
        check_function(key, "key")
        self._app = app
        self._key_of = _client_address if key is None else key
        self._trusted_proxies = trusted_proxies
        own: dict[str, Limit | None] = {}
        for path, one in (paths or {}).items():
            own[_path(path, "paths")] = _limit(one)
        for path in exempt:
            own[_path(path, "exempt")] = None
        self._limits: Final = _ByPath(_limit(limit), own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limits.of(scope["path"]) if scope["type"] == "http" else None
        if limit is None:
            await self._app(scope, receive, send)
            return
        key = key_text(self._key_of(RequestHead(scope, self._trusted_proxies)))
        if key is None:
            await self._app(scope, receive, send)
            return
        result = await limit.hit_async(key)
        if not result.allowed:
            await _refuse(scope, send, result.violation())
            return
        headers = raw(result.headers())
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except RateLimitViolated as violation:  # of a limit inside, such as a decorated endpoint
            if begun:
                raise
            await _refuse(scope, send, violation)


class _ByPath:
    """Which limit holds for a path; None: no limit."""

    def __init__(self, general: Limit, own: Mapping[str, Limit | None]) -> None:
        self._general = general
        self._exact = {path: one for path, one in own.items() if not path.endswith("*")}
        beginnings = [(path[:-1], one) for path, one in own.items() if path.endswith("*")]
        self._beginnings = sorted(beginnings, key=lambda one: -len(one[0]))

    def of(self, path: str) -> Limit | None:
        if path in self._exact:
            return self._exact[path]
        for beginning, limit in self._beginnings:
            if path.startswith(beginning):
                return limit
        return self._general


async def _refuse(scope: Scope, send: Send, violation: RateLimitViolated) -> None:
    correlation_id = correlation_id_of(dict(scope["headers"]))
    status, headers, body = render_problem(
        violation,
        correlation_id=correlation_id,
        tenant_id=None,
        instance=scope["path"],
    )
    if isinstance(violation.answer, LimitResult):
        headers = violation.answer.headers()
    told = [
        ("Content-Type", PROBLEM_JSON),
        ("Content-Length", str(len(body))),
        ("X-Correlation-ID", correlation_id),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw(told)})
    await send({"type": "http.response.body", "body": body})


def _client_address(request: RequestHead) -> str:
    return request.client_address


def _path(given: str, field: str) -> str:
    """A path, or a beginning with `*` after it; raises `ValidationError` naming `field`."""
    check_text(given, field)
    if not given.startswith(("/", "*")) or "*" in given[:-1]:
        raise _wrong(field, f"{given!r} is not a path, or a beginning with `*` after it")
    return given


def _limit(given: str | Limit) -> Limit:
    return given if isinstance(given, Limit) else make_limit(given)


def _wrong(field: str, message: str) -> ValidationError:
    return ValidationError(message, field=field, suggested_action=f"Correct {field}.")


__all__ = ["RateLimitMiddleware"]
