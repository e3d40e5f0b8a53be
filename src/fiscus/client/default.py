"""`fiscus.reserve(...)` and `fiscus.quota(...)` without carrying a client around.

They use the one that the program named before.
"""

from __future__ import annotations

from typing import Unpack

from fiscus.client.blocking.api import BlockingApi
from fiscus.client.consuming import Consumption, take_request
from fiscus.client.fields import AmountLike, QuotaFields, ReserveFields
from fiscus.client.reserving import OnUnreachable, Reservation
from fiscus.client.telling import in_python
from fiscus.errors import ValidationError

_used: BlockingApi | None = None


def use(api: BlockingApi | None) -> None:
    """Make a `Fiscus` or `Client` the one that `fiscus.reserve` and `fiscus.quota` use in this
    process; None: none.

    >>> fiscus.use(fiscus.Client("http://127.0.0.1:3472", key))
    """
    if api is not None and not isinstance(api, BlockingApi):  # pyright: ignore[reportUnnecessaryIsInstance] - from untyped callers
        raise ValidationError(
            f"use takes a Client or a Fiscus, not {type(api).__name__}",
            field="api",
            suggested_action="Give fiscus.use a Client or a Fiscus, or None.",
        )
    global _used  # noqa: PLW0603 - that there is one per process is what this is for
    _used = api


def reserve(
    *, on_unreachable: OnUnreachable = "raise", **operation: Unpack[ReserveFields]
) -> Reservation:
    """As `reserve` of the `Fiscus` or `Client` that was given to `fiscus.use`.

    >>> with fiscus.reserve(tenant="acme", resource_type="llm", estimate="0.02") as r:
    ...     r.settle(call_the_model().cost)
    """
    return _named("reserve", "reserve").reserve(on_unreachable=on_unreachable, **operation)


@in_python
def quota(
    resource_type: str,
    amount: AmountLike | float = 1,
    *,
    give_back_on_error: bool = False,
    **operation: Unpack[QuotaFields],
) -> Consumption:
    """As `quota` of the `Fiscus` or `Client` that was given to `fiscus.use`.

    That is looked up when a block is entered or a decorated function called, so a module can
    decorate its functions before the program has called `fiscus.use`.

    >>> with fiscus.quota("gpu_hours", 2.5, project="search"):
    ...     train()

    >>> @fiscus.quota("reports", 1)
    ... def report(): ...
    """
    return Consumption(
        lambda: _named("quota", "take").source,
        take_request(resource_type, amount, operation),
        give_back_on_error=give_back_on_error,
    )


def _named(call: str, verb: str) -> BlockingApi:
    if _used is None:
        raise ValidationError(
            f"fiscus.{call} has nothing to {verb} with",
            field="use",
            suggested_action="Call fiscus.use with a Client or a Fiscus once, at the start.",
        )
    return _used
