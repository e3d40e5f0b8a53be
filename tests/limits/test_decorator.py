"""Limits on functions."""

from __future__ import annotations

import asyncio
import inspect
from typing import NamedTuple

import pytest

from fiscus import RateLimitViolated
from fiscus.limits import LimitResult, limit


class Request(NamedTuple):
    user: str | int | None


def test_calls_beyond_the_limit_do_not_begin() -> None:
    calls: list[int] = []

    @limit("2/hour")
    def f(number: int, *, more: int = 0) -> int:
        """Counts."""
        calls.append(number)
        return number + more

    assert f(1, more=2) == 3
    assert f(2) == 2
    with pytest.raises(RateLimitViolated) as raised:
        f(3)
    assert calls == [1, 2]
    assert isinstance(raised.value.answer, LimitResult)
    assert raised.value.retry_after_seconds == 1800
    assert (f.__name__, f.__doc__) == ("f", "Counts.")
    assert list(inspect.signature(f).parameters) == ["number", "more"]


def test_a_key_is_made_of_the_arguments() -> None:
    @limit("1/hour", key=lambda request: request.user)
    def f(request: Request) -> str:
        return "done"

    assert f(Request("a")) == f(Request(17)) == f(request=Request("b")) == "done"
    for user in ("a", 17, "17"):
        with pytest.raises(RateLimitViolated):
            f(Request(user))


def test_no_key_is_no_limit() -> None:
    @limit("1/hour", key=lambda request: request.user)
    def f(request: Request) -> None: ...

    for _ in range(5):
        f(Request(None))


def test_a_key_that_is_an_object_is_refused() -> None:
    @limit("1/hour", key=lambda request: request)
    def f(request: Request) -> None: ...

    with pytest.raises(TypeError, match="not Request"):
        f(Request("a"))


def test_functions_under_one_limit_are_counted_apart_unless_a_key_says_else() -> None:
    api = limit("1/hour")
    shared = limit("1/hour", key=lambda: "all")

    @api
    def f() -> None: ...

    @api
    def g() -> None: ...

    @shared
    def h() -> None: ...

    @shared
    def i() -> None: ...

    f()
    g()
    h()
    with pytest.raises(RateLimitViolated):
        i()


def test_coroutine_functions_stay_what_they_are() -> None:
    @limit("1/hour", key=lambda user: user)
    async def f(user: str) -> str:
        await asyncio.sleep(0)
        return user

    async def run() -> None:
        assert await f("a") == "a"
        late = f("a")
        assert await f("b") == "b"
        with pytest.raises(RateLimitViolated):
            await late

    assert inspect.iscoroutinefunction(f)
    asyncio.run(run())


def test_an_error_of_the_call_is_its_own_and_the_call_counts() -> None:
    @limit("1/hour")
    def f() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        f()
    with pytest.raises(RateLimitViolated):
        f()


def test_methods_are_limited_for_all_objects_or_by_a_key() -> None:
    class Service:
        def __init__(self, name: str) -> None:
            self.name = name

        @limit("1/hour")
        def shared(self) -> str:
            return self.name

        @limit("1/hour", key=lambda self: self.name)
        def own(self) -> str:
            return self.name

        @classmethod
        @limit("1/hour")
        def of_class(cls) -> str:
            return cls.__name__

        @staticmethod
        @limit("1/hour")
        def of_none() -> str:
            return "none"

    one, other = Service("one"), Service("other")
    assert one.shared() == "one"
    with pytest.raises(RateLimitViolated):
        other.shared()
    assert (one.own(), other.own()) == ("one", "other")
    assert (Service.of_class(), one.of_none()) == ("Service", "none")
    with pytest.raises(RateLimitViolated):
        other.of_class()


def test_what_runs_after_its_call_is_refused() -> None:
    def generator():
        yield 1

    async def async_generator():
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="a generator runs after its call"):
            limit("1/hour")(function)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="decorates a function"):
        limit("1/hour")(Request)
    with pytest.raises(TypeError, match="decorates a function"):
        limit("1/hour")("5/minute")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="below @classmethod"):
        limit("1/hour")(classmethod(lambda cls: None))  # type: ignore[arg-type]
