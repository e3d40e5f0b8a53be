"""`limit`: the one way to make a `Limit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack, overload

from fiscus.errors import ValidationError
from fiscus.limits.base import KeyOf, Limit, check_function, check_text
from fiscus.limits.strings import parse_limits
from fiscus.ratelimits.model import OnCountersFailure

if TYPE_CHECKING:
    from fiscus.client.asynchronous.api import AsyncApi
    from fiscus.client.blocking.api import BlockingApi
    from fiscus.client.fields import Who

COUNTERS_TIMEOUT_SECONDS: Final = 0.01
SERVER_TIMEOUT_SECONDS: Final = 1.0


@overload
def limit(
    limits: str,
    /,
    *,
    key: KeyOf | None = None,
    now_us: Callable[[], int] | None = None,
) -> Limit: ...


@overload
def limit(
    limits: str,
    /,
    *,
    counters: str,
    name: str,
    key: KeyOf | None = None,
    on_store_failure: Literal["allow", "deny", "local"] = "local",
    timeout_seconds: float = COUNTERS_TIMEOUT_SECONDS,
) -> Limit: ...


@overload
def limit(
    *,
    resource: str,
    client: BlockingApi | AsyncApi,
    key: KeyOf | None = None,
    on_store_failure: Literal["allow", "deny"] = "allow",
    timeout_seconds: float = SERVER_TIMEOUT_SECONDS,
    **who: Unpack[Who],
) -> Limit: ...


def limit(
    limits: str | None = None,
    /,
    *,
    key: KeyOf | None = None,
    now_us: Callable[[], int] | None = None,
    counters: str | None = None,
    name: str | None = None,
    resource: str | None = None,
    client: BlockingApi | AsyncApi | None = None,
    on_store_failure: str | None = None,
    timeout_seconds: float | None = None,
    **who: Any,
) -> Limit:
    """A limit, or several decided together.

    >>> api = limit("100/minute; 10/second burst 20")
    >>> api.hit("client-1").allowed
    True

    In process, as above; `now_us` is the clock, in microseconds since the epoch. For several
    processes `counters` is the URL of a Redis or Valkey server and `name` tells this limit from
    others there. While it cannot be reached within `timeout_seconds`, `on_store_failure` decides:
    `local` counts in this process, `allow` and `deny` do what they say.

    Against a Fiscus server `resource` is the resource type whose policies hold, and `who` may name
    tenant, project, user and feature; there is no `local` then.

    `key` gives the key of a call where this is used as a decorator. For the strings see
    `fiscus.limits.strings`. Raises `ValidationError` that says what is wrong.
    """
    check_function(key, "key")
    check_function(now_us, "now_us")
    if client is not None:
        for other, given in (("counters", counters), ("name", name), ("now_us", now_us)):
            if given is not None:
                raise _wrong(
                    other, f"with a client, {other} is the server's", f"Leave {other} out."
                )
        return _on_server(client, limits, resource, key, on_store_failure, timeout_seconds, {**who})
    if limits is None or resource is not None or who:
        raise _wrong("client", "resource and its scopes need a client", "Give client=Client(…).")
    check_text(limits, "limits")
    phrases = parse_limits(limits)
    if counters is None:
        if name is not None or on_store_failure is not None or timeout_seconds is not None:
            raise _wrong(
                "counters",
                "name, on_store_failure and timeout_seconds are for counters in Redis",
                "Give counters='redis://…', or leave them out.",
            )
        from fiscus.limits.in_process import InProcessLimit

        return InProcessLimit(phrases, key=key, now_us=now_us)
    check_text(counters, "counters")
    if not name:
        raise _wrong(
            "name",
            "counters in Redis need a name, which tells this limit from others there",
            "Give a name, such as name='api'.",
        )
    name = check_text(name, "name")
    if now_us is not None:
        raise _wrong("now_us", "counters in Redis go by its clock", "Leave now_us out.")
    from fiscus.limits.in_redis import RedisLimit

    return RedisLimit(
        phrases,
        url=counters,
        name=name,
        key=key,
        on_store_failure=_failure(on_store_failure or "local", OnCountersFailure),
        timeout_seconds=_seconds(timeout_seconds, COUNTERS_TIMEOUT_SECONDS),
    )


def _on_server(
    client: BlockingApi | AsyncApi,
    limits: str | None,
    resource: str | None,
    key: KeyOf | None,
    on_store_failure: str | None,
    timeout_seconds: float | None,
    operation: dict[str, Any],
) -> Limit:
    if limits is not None or not resource:
        raise _wrong(
            "resource",
            "with a client, the policies of a resource type hold",
            "Give resource, and no limits of its own.",
        )
    check_text(resource, "resource")
    from fiscus.client.asynchronous.api import AsyncApi
    from fiscus.client.blocking.api import BlockingApi
    from fiscus.limits.on_server import ServerLimit

    if not isinstance(client, BlockingApi | AsyncApi):  # pyright: ignore[reportUnnecessaryIsInstance] - from untyped callers
        raise _wrong(
            "client",
            f"client takes a Client, an AsyncClient or a Fiscus, not {type(client).__name__}",
            "Give client=Client(…).",
        )
    return ServerLimit(
        client,
        {"resource_type": resource, **operation},
        key=key,
        on_store_failure=_failure(
            on_store_failure or "allow", (OnCountersFailure.ALLOW, OnCountersFailure.DENY)
        ),
        timeout_seconds=_seconds(timeout_seconds, SERVER_TIMEOUT_SECONDS),
    )


def _failure(given: str, known: Any) -> OnCountersFailure:
    for one in known:
        if one == given:
            return one
    names = ", ".join(known)
    raise _wrong("on_store_failure", f"on_store_failure must be one of {names}", f"Use {names}.")


def _seconds(given: float | None, default: float) -> float:
    if given is None:
        return default
    if not isinstance(given, int | float) or not 0 < given <= 60:  # pyright: ignore[reportUnnecessaryIsInstance] - from untyped callers
        raise _wrong("timeout_seconds", "timeout_seconds must be above 0, at most 60", "Change it.")
    return given


def _wrong(field: str, message: str, action: str) -> ValidationError:
    return ValidationError(message, field=field, suggested_action=action)


__all__ = ["limit"]
