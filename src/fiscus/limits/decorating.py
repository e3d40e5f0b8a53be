"""Calls of a function as hits of a limit."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from fiscus.limits.base import Limit

P = ParamSpec("P")
R = TypeVar("R")


def decorated(limit: Limit, function: Callable[P, R]) -> Callable[P, R]:
    """`function` or coroutine function with `limit` before every call.

    A call is a hit of the key that `limit.key` gives for its arguments; it is not limited when that
    is None. Without `limit.key` all calls of the function, also those of a method on different
    objects, are hits of one key. A denied call does not begin: it raises `RateLimitViolated`, whose
    `answer` is the `LimitResult`. A hit counts also when the call raises.

    Raises `TypeError` for what has no calls to count: a generator runs after its call has returned.
    """
    name = _name_of(function)

    def key_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        if limit.key is None:
            return name
        return key_text(limit.key(*args, **kwargs))

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def limited_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            key = key_of(args, kwargs)
            if key is not None:
                result = await limit.hit_async(key)
                if not result.allowed:
                    raise result.violation()
            return await function(*args, **kwargs)

        return cast("Callable[P, R]", limited_async)

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        key = key_of(args, kwargs)
        if key is not None:
            result = limit.hit(key)
            if not result.allowed:
                raise result.violation()
        return function(*args, **kwargs)

    return limited


def _name_of(function: Any) -> str:
    """The key of a function's calls. Raises `TypeError` for what has none."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("a generator runs after its call: limit the function that iterates over it")
    if isinstance(function, (classmethod, staticmethod)):
        raise TypeError("the limit goes below @classmethod or @staticmethod")
    name = getattr(function, "__qualname__", None)
    if inspect.isclass(function) or not callable(function) or name is None:
        raise TypeError("a limit decorates a function")
    return f"{function.__module__}.{name}"


def key_text(key: str | int | None) -> str | None:
    """A key as text. Raises `TypeError` for objects, whose text may differ for equal ones."""
    if key is None or isinstance(key, str):
        return key
    if type(key) is int:
        return str(key)
    raise TypeError(f"a key must be a str, an int or None, not {type(key).__name__}")


__all__ = ["decorated", "key_text"]
