"""The sockets of a server: listening before it starts, and spread over its processes."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final

from fiscus.cli.terminal import CommandError
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)


BACKLOG: Final = 2048
_TAKEN_AT_ONCE: Final = 4
"""Connections accepted in a turn of the event loop. With 8, one that comes alone costs a seventh
more, as each descriptor is asked for it."""


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


def listen_on(bound: socket.socket, option: str = "--port") -> None:
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        bound.close()
        raise _cannot_listen(host, port, option, error) from None


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
    listen_on(bound, option)
    return bound


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
