"""Where counters are kept: what `FISCUS_REDIS_URL` names, as connection pools of redis-py.

    redis://[[user]:password@]host[:port][/db]        one server
    rediss://...                                      the same with TLS
    unix:///path/to/socket[?db=1]
    redis+sentinel://[[user]:password@]host:port,host:port/service[?db=1&...]
    redis+cluster://[[user]:password@]host:port,host:port

`rediss+sentinel` and `rediss+cluster` use TLS. TLS, user and password are for the servers of the
counters. Sentinels have theirs apart, as in `?sentinel_username=..&sentinel_password=..` and
`?sentinel_ssl=true`. At most one time-out is waited for a connection, and for each answer; nothing
is tried twice behind the caller's back.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from redis import ConnectionPool, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from fiscus.errors import ValidationError

FIELD: Final = "FISCUS_REDIS_URL"
_NAMED: Final = {"client_name": "fiscus"}
"""With TLS a round trip is needed before a new connection is used: the session tickets that follow
the handshake are read with its answer. Unread, the pool takes them for an answer nobody waits for,
and gives the connection up (redis-py 8.1 with hiredis)."""


class Connection(Protocol):
    """What is used of redis-py's connections."""

    _sock: socket.socket | None
    """None unless connected. There is no other way to it."""

    def send_command(self, *arguments: str | bytes | int) -> None: ...

    def read_response(self) -> Any: ...

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...


class Pool(Protocol):
    """What is used of redis-py's pools of connections."""

    connection_class: Callable[..., Any]

    @property
    def connection_kwargs(self) -> dict[str, Any]: ...

    def get_connection(self) -> Connection: ...

    def release(self, connection: Any) -> None: ...

    def disconnect(self, inuse_connections: bool = True) -> None: ...


class Servers(Protocol):
    """The servers that hold the counters, as pools of connections."""

    apart: bool
    """Whether each tenant's counters have a server of their own."""

    @property
    def known(self) -> bool:
        """Whether `pool_of` and `pool_at` answer without asking a server."""
        ...

    def look(self) -> None:
        """Ask who holds what, unless that is known. Raises redis-py's errors."""
        ...

    def pool_of(self, key: str) -> Pool:
        """Connections to the server that holds a key. Raises redis-py's errors."""
        ...

    def pool_at(self, host: str, port: int) -> Pool:
        """Connections to the server that another one pointed to."""
        ...

    def have_moved(self) -> None:
        """What is known of who holds what is no longer so."""
        ...

    def close(self) -> None: ...


def open_servers(url: str, timeout_seconds: float) -> Servers:
    """The servers that a URL names; connects to none. Raises `ValidationError`."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        # RESP 2, and no name given, so that a new connection may be used without a round trip
        "protocol": 2,
        "driver_info": None,
    }
    scheme = urlsplit(url).scheme
    if scheme.startswith("rediss"):
        options |= _NAMED
    try:
        if scheme in ("redis", "rediss", "unix"):
            return _OneServer(_pool(url, options))
        if scheme in ("redis+sentinel", "rediss+sentinel"):
            return _OneServer(_sentinel_pool(url, options))
        if scheme in ("redis+cluster", "rediss+cluster"):
            return _Cluster(url, options)
    except TypeError as error:
        raise _invalid(f"an option is not known: {error}") from None
    except ValueError:
        # not what it says: that may hold a part of the password
        raise _invalid("it cannot be read") from None
    raise _invalid(f"the scheme {scheme!r} is not known")


class _OneServer:
    apart = False
    known = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def look(self) -> None:
        pass

    def pool_of(self, key: str) -> Pool:
        return self._pool

    def pool_at(self, host: str, port: int) -> Pool:
        return self._pool

    def have_moved(self) -> None:
        """A Sentinel is asked anew whenever a connection is made."""
        self._pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        self._pool.disconnect()


class _Cluster:
    """redis-py's view of a cluster: who holds which slot. Connects at the first use.

    Its own way of sending commands is not used: that sends a group again when its answer was late.
    """

    apart = True

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        hosts, login, path, query = _parts(url)
        if path or query:
            raise _invalid("a cluster's ends with its hosts")
        self._lock = threading.Lock()
        self._timeout_seconds: float = options["socket_timeout"]
        self._known: RedisCluster | None = None
        self._stale = False
        self._connect: Callable[[], RedisCluster] = lambda: RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in hosts],
            ssl=url.startswith("rediss"),
            require_full_coverage=False,  # tenants elsewhere are served when a slot is nobody's
            **login,
            **options,
        )

    @property
    def known(self) -> bool:
        return self._known is not None and not self._stale

    def look(self) -> None:
        self._cluster()

    def pool_of(self, key: str) -> Pool:
        cluster = self._cluster()
        node = cluster.get_node_from_key(key)  # pyright: ignore[reportUnknownMemberType]
        assert node is not None  # a slot that is nobody's is an error
        return cluster.get_redis_connection(node).connection_pool

    def pool_at(self, host: str, port: int) -> Pool:
        cluster = self._cluster()
        node = cluster.get_node(host=host, port=port)  # pyright: ignore[reportUnknownMemberType]
        if node is None:
            raise ConnectionError(f"{host}:{port} is not known to be of the cluster")
        return cluster.get_redis_connection(node).connection_pool

    def have_moved(self) -> None:
        self._stale = True

    def close(self) -> None:
        with self._lock:
            if self._known is not None:
                self._known.close()

    def _cluster(self) -> RedisCluster:
        if not self._lock.acquire(timeout=self._timeout_seconds):
            raise TimeoutError("the cluster's nodes are being looked for")
        try:
            if self._known is None:
                self._known = self._connect()
            elif self._stale:
                self._known.nodes_manager.initialize()
            self._stale = False
            return self._known
        finally:
            self._lock.release()


def _pool(url: str, options: dict[str, Any]) -> Pool:
    pool = ConnectionPool.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType]
    pool.make_connection()  # does not connect; an option that there is none of is a TypeError
    pool.reset()
    return pool


def _sentinel_pool(url: str, options: dict[str, Any]) -> Pool:
    hosts, login, path, query = _parts(url)
    service = unquote(path.strip("/"))
    db = query.pop("db", ["0"])
    asking = dict(options)
    for name in ("username", "password"):
        if given := query.pop(f"sentinel_{name}", None):
            asking[name] = given[0]
    by_tls = query.pop("sentinel_ssl", ["false"])
    if by_tls == ["true"]:
        asking |= {"ssl": True, **_NAMED}
    elif by_tls != ["false"]:
        raise _invalid("sentinel_ssl is true or false")
    if not service or "/" in service or query:
        raise _invalid(
            "a Sentinel's ends with /service, and after a ? with what is needed of db, "
            "sentinel_username, sentinel_password and sentinel_ssl"
        )
    sentinel = Sentinel(hosts, sentinel_kwargs=asking)
    return SentinelConnectionPool(
        service,
        sentinel,
        ssl=url.startswith("rediss"),
        db=int(db[0]),
        **login,
        **options,
    )


def _parts(
    url: str,
) -> tuple[list[tuple[str, int]], dict[str, str], str, dict[str, list[str]]]:
    """Hosts and ports, user and password, path, and query of a URL with several hosts."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    login: dict[str, str] = {}
    if name:
        login["username"] = unquote(name)
    if password:
        login["password"] = unquote(password)
    query = parse_qs(parts.query.replace("+", "%2B"))  # no space, as in the password before a host
    return [_host(one) for one in hosts.split(",")], login, parts.path, query


def _host(text: str) -> tuple[str, int]:
    one = urlsplit(f"//{text}")
    if not one.hostname or one.port is None:
        raise _invalid("every server is given as host:port")
    return one.hostname, one.port


def _invalid(why: str) -> ValidationError:
    return ValidationError(
        f"{FIELD} is not a URL of Redis or Valkey: {why}",
        field=FIELD,
        suggested_action="Set redis://host:6379/0, rediss://, unix:///path, "
        "redis+sentinel://host:26379/service or redis+cluster://host:6379.",
    )
