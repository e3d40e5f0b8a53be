"""`fiscus.reserve(...)` without carrying a client around: one that the program named before."""

from __future__ import annotations

from typing import Unpack

from fiscus.client.blocking import BlockingApi
from fiscus.client.fields import ReserveFields
from fiscus.client.reserving import OnUnreachable, Reservation
from fiscus.errors import ValidationError

_used: BlockingApi | None = None


def use(api: BlockingApi | None) -> None:
    """Make a `Fiscus` or `Client` the one that `fiscus.reserve` uses in this process; None: none.

    >>> fiscus.use(fiscus.Client("http://127.0.0.1:3472", key))
    """
    global _used  # noqa: PLW0603 - that there is one per process is what this is for
    _used = api


def reserve(
    *, on_unreachable: OnUnreachable = "raise", **operation: Unpack[ReserveFields]
) -> Reservation:
    """As `reserve` of the `Fiscus` or `Client` that was given to `fiscus.use`.

    >>> with fiscus.reserve(tenant="acme", resource_type="llm", estimate="0.02") as r:
    ...     r.settle(call_the_model().cost)
    """
    if _used is None:
        raise ValidationError(
            "fiscus.reserve has nothing to reserve with",
            field="use",
            suggested_action="Call fiscus.use with a Client or a Fiscus once, at the start.",
        )
    return _used.reserve(on_unreachable=on_unreachable, **operation)
