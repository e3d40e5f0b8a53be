"""`Limit`: what a program asks, wherever its counters are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NoReturn, ParamSpec, Self, TypeVar

from fiscus.errors import ValidationError
from fiscus.limits.decorating import decorated
from fiscus.limits.results import LimitResult
from fiscus.ratelimits.rules import MAX_LIMIT

P = ParamSpec("P")
R = TypeVar("R")

KeyOf = Callable[..., str | int | None]
"""The key of a call, from its arguments; None: not limited."""


class Limit(ABC):
    """One limit or several that are decided together: a hit is taken from all of them or none.

    Made by `fiscus.limits.limit`. Safe to share among threads and tasks. Every key has counters of
    its own; the empty key is one like others. The methods that end in `_async` are for event loops:
    they never block, and in process they do not even yield.

    As a decorator it counts the calls of a function, see `fiscus.limits.decorating`.
    """

    def __init__(self, key: KeyOf | None) -> None:
        self.key: Final = key

    @abstractmethod
    def hit(self, key: str = "", count: int = 1) -> LimitResult:
        """Take `count` hits if all limits have room for them; a denied hit takes nothing.

        Raises `ValidationError` for a count below 0 and a key that is no text.
        """

    @abstractmethod
    async def hit_async(self, key: str = "", count: int = 1) -> LimitResult:
        """As `hit`."""

    def look(self, key: str = "") -> LimitResult:
        """How things stand, taking nothing: `remaining` says how many hits would pass."""
        return self.hit(key, 0)

    async def look_async(self, key: str = "") -> LimitResult:
        """As `look`."""
        return await self.hit_async(key, 0)

    @abstractmethod
    def adjust(self, key: str, count: int) -> LimitResult:
        """Correct earlier hits by `count`, which may be negative, and look.

        Never refused, and never below zero use: for costs that are known late, such as tokens.
        Raises `ServiceUnavailable` when the counters cannot be reached, which is `retriable` when
        surely nothing was corrected.
        """

    @abstractmethod
    async def adjust_async(self, key: str, count: int) -> LimitResult:
        """As `adjust`."""

    @abstractmethod
    def reset(self, key: str = "") -> None:
        """Make the counters of a key unused. Raises `ServiceUnavailable`."""

    @abstractmethod
    async def reset_async(self, key: str = "") -> None:
        """As `reset`."""

    @abstractmethod
    def close(self) -> None:
        """Give back what this has open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a limit can be neither pickled nor deeply copied: make another where you need one"
        )

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, each call of which is a hit; a denied call raises `RateLimitViolated`."""
        return decorated(self, function)


def check_count(count: Any, least: int) -> None:
    """Raises `ValidationError` unless `count` is a whole number within bounds."""
    if type(count) is not int or not least <= count <= MAX_LIMIT:
        raise ValidationError(
            f"count must be a whole number from {least} to {MAX_LIMIT}",
            field="count",
            suggested_action="Correct count.",
        )


def check_text(given: Any, field: str) -> str:
    """`given` as the text it is; raises `ValidationError` unless that can be sent."""
    if not isinstance(given, str):
        raise ValidationError(
            f"{field} must be a str, not {type(given).__name__}",
            field=field,
            suggested_action=f"Give {field} as a str.",
        )
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ValidationError(
            f"{field} is not text: it has half a character",
            field=field,
            suggested_action="Decode with errors='replace'.",
        ) from None
    return str.__str__(given)  # the text of a subclass, such as a member of an enum


def check_function(given: Any, field: str) -> None:
    """Raises `ValidationError` unless `given` can be called, or is None."""
    if given is not None and not callable(given):
        raise ValidationError(
            f"{field} must be a function, not {type(given).__name__}",
            field=field,
            suggested_action=f"Give {field} as a function, such as a lambda, or leave it out.",
        )


__all__ = ["KeyOf", "Limit", "check_count", "check_function", "check_text"]
