"""The HTTP application: the fast lane around the edge around FastAPI's routes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from fiscus.engine import Engine
from fiscus.errors import NotFound, ValidationError
from fiscus.http.api_limits import ApiLimits
from fiscus.http.auth.authenticator import Authenticator
from fiscus.http.docs import docs_router
from fiscus.http.edge import Edge
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS
from fiscus.http.fast_lane.lane import DecisionLane
from fiscus.http.limiting import LoopLimiter
from fiscus.http.management import (
    budgets,
    costs,
    counters,
    keys,
    policies,
    quota_requests,
    quotas,
    tenants,
)
from fiscus.http.management.endpoints import Endpoint, run_endpoint
from fiscus.http.monitoring.metrics import Metrics
from fiscus.http.monitoring.most_used import MostUsedReader
from fiscus.http.monitoring.probes import probes_router
from fiscus.http.openapi.document import build_document
from fiscus.http.replies import problem_reply
from fiscus.http.server import Server
from fiscus.wire.paths import BASE_PATH, path_below_mount
from fiscus.wire.problems import request_failed

ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    *budgets.ENDPOINTS,
    *costs.ENDPOINTS,
    *policies.ENDPOINTS,
    *counters.ENDPOINTS,
    # requests before quotas: /quotas/{quota_id} would take "requests" for an id
    *quota_requests.ENDPOINTS,
    *quotas.ENDPOINTS,
    *keys.ENDPOINTS,
    *tenants.ENDPOINTS,
)
_TAKEN: Final = (
    *(("POST", BASE_PATH + one.path) for one in DECISION_ENDPOINTS),
    *((one.method, BASE_PATH + one.path) for one in ENDPOINTS),
)
"""What each path takes, for `Allow`: the router tells the methods of one route only."""
_EXACT: Final = frozenset(path for _, path in _TAKEN if "{" not in path)
_PATTERNS: Final = tuple(
    (method, re.compile(re.sub(r"{\w+}", "[^/]+", path))) for method, path in _TAKEN if "{" in path
)


def create_app(engine: Engine, metrics: Metrics | None = None) -> DecisionLane:
    """The ASGI application over an opened engine, for one event loop.

    The caller closes the engine after the server has stopped; an application that mounts it runs
    its lifespan, too. Raises `ValidationError` for a JWT setting that is unfit.
    """
    metrics = Metrics() if metrics is None else metrics
    authenticator = Authenticator(engine.api_keys, engine.credential_cache, engine.settings)
    metrics.watch(engine.ledger, engine.limiter, authenticator.lookups, engine.store.pool_use)
    limiter = LoopLimiter(engine.limiter)
    api_limits = ApiLimits(engine.settings, limiter)
    server = Server(engine, authenticator, api_limits, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        engine.limiter.start()
        telling = asyncio.create_task(metrics.keep_told())
        yield
        server.closing = True
        telling.cancel()
        await asyncio.wait({telling})

    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_exception_handler(Exception, _failed)
    app.include_router(docs_router(_document()))
    most_used = MostUsedReader(server)
    app.include_router(probes_router(server, most_used))
    app.include_router(probes_router(server, most_used, BASE_PATH))
    app.include_router(_endpoints_router(server))
    rest = Edge(app, metrics)
    return DecisionLane(engine, authenticator, limiter, api_limits, metrics, rest)


@cache
def _document() -> bytes:
    return build_document(ENDPOINTS)


def _endpoints_router(server: Server) -> APIRouter:
    # the prefix is given here and not when including, so that the metrics see whole templates
    router = APIRouter(prefix=BASE_PATH, include_in_schema=False)
    for endpoint in ENDPOINTS:
        router.add_api_route(
            endpoint.path,
            _handler(endpoint, server),
            methods=[endpoint.method],
            name=endpoint.operation,
            response_model=None,
        )
    return router


def _handler(endpoint: Endpoint[Any, Any], server: Server) -> Any:
    async def handle(request: Request) -> Response:
        # a word in the place of an id is a path of its own, whatever the method
        if is_pattern and path_below_mount(request.scope) in _EXACT:
            del request.scope["route"]  # so that the metrics do not take it for this one
            return _wrong_method(request)
        return await run_endpoint(endpoint, server, request)

    is_pattern = "{" in endpoint.path
    return handle


async def _no_such_route(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405 as problems."""
    assert isinstance(error, HTTPException)
    if not _methods_of(request) and error.status_code != 405:
        return problem_reply(
            NotFound(
                "There is no such path",
                suggested_action=f"See /docs; paths begin with {BASE_PATH}.",
            ),
            request,
        )
    return _wrong_method(request)


async def _failed(request: Request, _: Exception) -> Response:
    """In place of Starlette's plain text; the edge gets the exception all the same, and logs it."""
    return problem_reply(request_failed(), request)


def _methods_of(request: Request) -> set[str]:
    path = path_below_mount(request.scope)
    if path in _EXACT:
        methods = {method for method, taken in _TAKEN if taken == path}
    else:
        methods = {method for method, pattern in _PATTERNS if pattern.fullmatch(path)}
    return methods | {"HEAD"} if "GET" in methods else methods


def _wrong_method(request: Request) -> Response:
    problem = ValidationError(
        f"{request.method} is not a method of this path",
        field="method",
        suggested_action="See /docs for the methods of each path.",
    )
    reply = problem_reply(problem, request, status=405)
    # a path that is in no table is one of the probes or the docs
    reply.headers["Allow"] = ", ".join(sorted(_methods_of(request) or {"GET", "HEAD"}))
    return reply


__all__ = ["ENDPOINTS", "create_app"]
