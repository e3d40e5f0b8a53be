"""The application behind a real server on a loopback port, in a thread of its own."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from fiscus.access.model import Role
from fiscus.http.app import create_app
from fiscus.http.fast_lane.connections import connections_of
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from tests.http.app_client import keep_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

    from fiscus.clock import Clock
    from fiscus.engine import Engine


@dataclass
class LiveServer:
    port: int
    key: str
    engine: Engine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(
    folder: Path,
    *,
    clock: Clock | None = None,
    send_buffer_bytes: int | None = None,
    asgi: ASGIApp | None = None,
    grace_seconds: int = 5,
    **settings: Any,
) -> Iterator[LiveServer]:
    """Serve a data folder, or a `database_url`, until the block is left.

    `asgi` gets what does not go straight to the lane; the application itself if None. What is
    still in hand after `grace_seconds` of a stop is cancelled.
    """
    # on a busy machine a commit may take longer than callers wait by default
    given = {"ledger_deadline_seconds": 30, **settings}
    engine = open_engine(Settings(data_dir=folder, **given), clock=clock)
    bound = socket.create_server(("127.0.0.1", 0))
    if send_buffer_bytes is not None:
        # its connections inherit it
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    app = create_app(engine)
    server = uvicorn.Server(
        uvicorn.Config(
            app if asgi is None else asgi,
            http=connections_of(app),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=grace_seconds,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield LiveServer(bound.getsockname()[1], keep_key(engine, Role.PLATFORM_ADMIN), engine)
    finally:
        server.should_exit = True
        thread.join()
        bound.close()
        engine.close()
