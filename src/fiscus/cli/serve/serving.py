"""One serving process: the engine, the HTTP edge and the worker, from start to a clean end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING, Final, NoReturn

import uvicorn

from fiscus.cli.serve.envoy import check_envoy, open_envoy
from fiscus.cli.serve.sockets import BACKLOG, check_free, descriptors_of, listen, listen_on
from fiscus.cli.signals import leave, on_signals
from fiscus.cli.terminal import CommandError
from fiscus.engine import Engine
from fiscus.errors import FiscusError
from fiscus.runtime.logs import configure_logs, get_logger
from fiscus.runtime.processes import collect_rarely
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from fiscus.worker import Worker

if TYPE_CHECKING:  # the packages behind it are an extra
    from fiscus.envoy.server import EnvoyServer

log = get_logger(__name__)

GRACE_SECONDS: Final = 10
"""How long requests and background work in hand may take after the server was told to stop."""
KEEP_ALIVE_SECONDS: Final = 75
"""How long a connection may be idle: longer than clients and proxies keep theirs, or they would
send a request just as it is closed."""


def sockets_for(settings: Settings, count: int = 1) -> list[socket.socket]:
    """`listen` on a server's address, after what is unfit for a server was told.

    So it is told before anything starts, and not by each process. Raises `FiscusError`.
    """
    from fiscus.http.auth.tokens import TokenVerifier

    TokenVerifier(settings)
    check_envoy(settings)
    sockets = listen(settings.host, settings.port, count)
    if settings.grpc_port is not None:
        check_free(settings.host, settings.grpc_port, "--grpc-port")
    return sockets


class _Server(uvicorn.Server):
    """uvicorn's, that collects garbage rarely and ends the application however it is stopped."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.should_exit |= leave.was_told  # from here on, signals come to uvicorn
        collect_rarely()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # after a second Ctrl-C, which waits for no request
            await self.lifespan.shutdown()


def serve_process(
    settings: Settings,
    bound: socket.socket,
    *,
    with_worker: bool,
    alone: bool = True,
    on_listening: Callable[[Engine], None] = lambda _: None,
) -> NoReturn:
    """Serve on `bound` until SIGTERM or SIGINT, then stop accepting and drain the ledger.

    `alone`: no other process serves beside it. Calls `on_listening` once nothing can keep it from
    serving any more. Leaves by `SystemExit(0)`. For the main thread of a process.
    """
    from fiscus.http.app import create_app
    from fiscus.http.fast_lane.connections import connections_of
    from fiscus.http.monitoring.metrics import Metrics

    on_signals(leave)
    configure_logs(settings.log_level)
    apart = settings.ledger_apart
    if apart is None:
        apart = alone and os.name == "posix" and _cores() > 1
    elif apart and os.name != "posix":
        raise CommandError(
            "the ledger cannot be a process of its own on this system",
            suggested_action="leave FISCUS_LEDGER_APART out.",
        )
    engine = open_engine(settings, ledger_apart=apart)
    worker = Worker(engine)
    thread: threading.Thread | None = None
    envoy: EnvoyServer | None = None
    metrics = Metrics()
    try:
        engine.claim_counters()
        app = create_app(engine, metrics)
        engine.ledger.wait_until_ready()
        leave.if_told()
        if with_worker:
            worker.catch_up()
        if settings.grpc_port is not None:
            envoy = open_envoy(engine, settings.grpc_port, metrics)
        listen_on(bound)
        leave.if_told()
        on_listening(engine)
        if envoy is not None:
            envoy.start()
        if with_worker:
            thread = worker.start()
        config = uvicorn.Config(
            app,
            http=connections_of(app),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        _Server(config).run(sockets=descriptors_of(bound))
    finally:
        # what was accepted is committed, however often somebody presses Ctrl-C
        on_signals(signal.SIG_IGN)
        if envoy is not None:
            envoy.stop(GRACE_SECONDS)
        worker.stop()
        if thread is not None:
            thread.join(GRACE_SECONDS)
            if thread.is_alive():
                # its work is done again by whoever starts next, or leads meanwhile
                log.warning("worker_left_at_work")
        engine.close()
    raise SystemExit(0)


def _cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def serve_child(settings: Settings, bound: socket.socket, with_worker: bool) -> None:
    """`serve_process` in a process of a supervisor's, which it does not outlive."""
    threading.Thread(target=_follow_parent, name="fiscus-parent", daemon=True).start()

    def announce(_: Engine) -> None:
        log.info("process_serves", pid=os.getpid())

    try:
        serve_process(settings, bound, with_worker=with_worker, alone=False, on_listening=announce)
    except FiscusError as error:
        log.error("process_cannot_serve", reason=error.message)
        raise SystemExit(1) from None


def _follow_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
