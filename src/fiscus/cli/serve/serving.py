"""One serving process: the engine, the HTTP edge and the worker, from start to a clean end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import connection, parent_process
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import uvicorn

from fiscus.cli.terminal import CommandError
from fiscus.engine import Engine
from fiscus.errors import FiscusError
from fiscus.runtime.logs import configure_logs, get_logger
from fiscus.runtime.processes import collect_rarely
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from fiscus.worker import Worker

if TYPE_CHECKING:  # the packages behind it are an extra
    from fiscus.envoy.mapping import DescriptorMapping
    from fiscus.envoy.server import EnvoyServer
    from fiscus.envoy.service import Observer

log = get_logger(__name__)

GRACE_SECONDS: Final = 10
"""How long requests and background work in hand may take after the server was told to stop."""
BACKLOG: Final = 2048
_TAKEN_AT_ONCE: Final = 4
"""Connections accepted in a turn of the event loop. With 8, one that comes alone costs a seventh
more, as each descriptor is asked for it."""


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


def listen(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """`count` sockets that listen on one address, among which the system spreads the connections.

    Connections wait until somebody accepts them. Where they cannot be spread, the same socket
    `count` times. Raises `CommandError` when the address is taken or is none of this machine.
    """
    share = count > 1 and hasattr(socket, "SO_REUSEPORT")
    first = _listening(host, port)
    if not share:
        return [first] * count
    # sharing from the start would let a second server slip in beside a first one
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return [first, *(_listening(host, port, share=True) for _ in range(count - 1))]


def descriptors_of(bound: socket.socket) -> list[socket.socket]:
    """A listening socket by several descriptors, for event loops of libuv's.

    In a turn those accept one connection from each, and a turn of a busy server is long.
    """
    return [bound, *(bound.dup() for _ in range(_TAKEN_AT_ONCE - 1))]


def bound_anew(bound: socket.socket) -> socket.socket:
    """A socket in place of one of `listen`'s whose process has ended.

    To that one the system would go on to give its share of the connections, which would wait for
    the next process. This one does not listen before there is one.
    """
    if not hasattr(socket, "SO_REUSEPORT") or not bound.getsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEPORT
    ):
        return bound
    try:
        anew = _bound(bound.family, bound.type, bound.proto, bound.getsockname(), share=True)
    except OSError as error:  # such as when no descriptor is left
        log.warning("address_not_bound_anew", reason=str(error))
        return bound
    bound.close()
    return anew


def check_free(host: str, port: int, option: str) -> None:
    """Raises `CommandError` naming `option` when the address is taken or is none of this machine.

    For servers that make their own sockets, and make them so that others can share the port.
    """
    _listening(host, port, option=option).close()


def _listening(
    host: str, port: int, *, share: bool = False, option: str = "--port"
) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = _bound(family, kind, protocol, address, share=share)
    except OSError as error:
        raise _cannot_listen(host, port, option, error) from None
    except UnicodeError:
        raise _no_host_of_ours(host, port, "no name of a host") from None
    # at once: an address on which nobody listens yet can be bound by another server
    _listen_on(bound, option)
    return bound


def _listen_on(bound: socket.socket, option: str = "--port") -> None:
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        bound.close()
        raise _cannot_listen(host, port, option, error) from None


def _cannot_listen(host: str, port: int, option: str, error: OSError) -> CommandError:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return _no_host_of_ours(host, port, error.strerror)
    return CommandError(
        f"cannot listen on {host} port {port}: {error.strerror}",
        suggested_action=f"see whether another server runs there, or take another {option}.",
    )


def _no_host_of_ours(host: str, port: int, reason: str | None) -> CommandError:
    return CommandError(
        f"cannot listen on {host or '(empty)'} port {port}: {reason}",
        suggested_action="give an address of this machine as --host or FISCUS_HOST: 127.0.0.1, or "
        "0.0.0.0 for all.",
    )


def _bound(family: int, kind: int, protocol: int, address: Any, *, share: bool) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


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
        _listen_on(bound)
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


def check_envoy(settings: Settings) -> None:
    """Find out before anything starts whether Envoy's rate limit service can be served.

    Raises `CommandError` for a missing package or mapping file, and `ValidationError` for what is
    wrong in that file. Whether the port is free, `check_free` says.
    """
    if settings.grpc_port is None:
        return
    if any(find_spec(name) is None for name in ("grpc", "envoy")):
        raise CommandError(
            "--grpc-port needs the packages grpcio and xds-protos",
            suggested_action="pip install '.[envoy]' in the folder of Fiscus's source, or leave "
            "--grpc-port out.",
        )
    mapping_of(settings)


def open_envoy(engine: Engine, port: int, observer: Observer) -> EnvoyServer:
    """Envoy's rate limit service over an engine, not started yet. Raises as `check_envoy` does."""
    from fiscus.envoy.authentication import ApiKeyAuthenticator
    from fiscus.envoy.server import EnvoyServer

    mapping = mapping_of(engine.settings)
    try:
        return EnvoyServer(
            engine.limiter,
            ApiKeyAuthenticator(engine.api_keys, engine.credential_cache),
            engine.clock,
            mapping,
            observer,
            host=engine.settings.host,
            port=port,
        )
    except OSError as error:
        raise CommandError(str(error), suggested_action="take another --grpc-port.") from None


def mapping_of(settings: Settings) -> DescriptorMapping:
    """What Envoy's descriptors stand for. Raises as `check_envoy` does."""
    from fiscus.envoy.mapping import EXAMPLE, read_mapping

    if settings.envoy_mapping_file is None:
        raise CommandError(
            "--grpc-port needs a file that says what Envoy's descriptors stand for",
            suggested_action=f"set FISCUS_ENVOY_MAPPING_FILE to a YAML file such as {EXAMPLE}",
        )
    return read_mapping(settings.envoy_mapping_file)


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


def on_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """What SIGTERM and SIGINT do from now on."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


class _Leave:
    """A signal handler that ends the process in good order, with status 0.

    What it raises is lost where exceptions are ignored, as while garbage is collected: whoever
    goes on for long asks it.
    """

    was_told = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        self.was_told = True
        raise SystemExit(0)

    def if_told(self) -> None:
        if self.was_told:
            raise SystemExit(0)


leave: Final = _Leave()
