"""The HTTP application: the fast lane around the edge around FastAPI's routes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from fiscus.engine import Engine
from fiscus.errors import FiscusError, NotFound, ValidationError
from fiscus.http import budgets, costs, keys, tenants
from fiscus.http.auth import Authenticator
from fiscus.http.decisions import BASE_PATH, DECISIONS, DecisionLane
from fiscus.http.docs import docs_router
from fiscus.http.edge import Edge
from fiscus.http.endpoints import Endpoint, Server, problem_reply, run_endpoint
from fiscus.http.metrics import Metrics
from fiscus.http.openapi import build_document
from fiscus.http.probes import probes_router

ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    *budgets.ENDPOINTS,
    *costs.ENDPOINTS,
    *keys.ENDPOINTS,
    *tenants.ENDPOINTS,
)
_DECISION: Final = re.compile(
    "|".join(re.sub(r"{\w+}", "[^/]+", BASE_PATH + one.path) for one in DECISIONS)
)


def create_app(engine: Engine, metrics: Metrics | None = None) -> ASGIApp:
    """The ASGI application over an opened engine, for one event loop.

    The caller closes the engine after the server has stopped. Raises `ValidationError` for a JWT
    setting that is unfit.
    """
    metrics = Metrics() if metrics is None else metrics
    metrics.watch(engine.ledger)
    authenticator = Authenticator(engine.api_keys, engine.settings)
    server = Server(engine, authenticator, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        yield
        server.closing = True

    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_exception_handler(HTTPException, _no_such_route)
    app.include_router(docs_router(build_document(ENDPOINTS)))
    app.include_router(probes_router(server))
    app.include_router(probes_router(server), prefix=BASE_PATH)
    app.include_router(_endpoints_router(server), prefix=BASE_PATH)
    return DecisionLane(engine, authenticator, metrics, Edge(app, metrics))


def _endpoints_router(server: Server) -> APIRouter:
    router = APIRouter(include_in_schema=False)
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
        return await run_endpoint(endpoint, server, request)

    return handle


async def _no_such_route(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405 as problems."""
    assert isinstance(error, HTTPException)
    problem: FiscusError
    if error.status_code == 405:
        problem = ValidationError(
            f"{request.method} is not a method of this path",
            field="method",
            suggested_action="See /docs for the methods of each path.",
        )
    else:
        problem = NotFound(
            "There is no such path", suggested_action=f"See /docs; paths begin with {BASE_PATH}."
        )
    reply = problem_reply(problem, request, status=error.status_code)
    if error.status_code == 405:
        reply.headers["Allow"] = ", ".join(sorted(_methods_of(request)))
    return reply


def _methods_of(request: Request) -> set[str]:
    """The methods of a path, over all its routes; Starlette tells those of the first only."""
    found: set[str] = set()
    path: str = request.scope["path"]
    if _DECISION.fullmatch(path):
        found.add("POST")
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            found |= route.methods or set()
    return found - {"HEAD"}


__all__ = ["ENDPOINTS", "create_app"]
