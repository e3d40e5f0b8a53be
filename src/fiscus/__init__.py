"""Fiscus: budgets, rate limits, quotas and cost observability for multi-tenant platforms.

What is named here is the whole public API. It is loaded when it is first used, so that importing
`fiscus` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fiscus.client.clients import AsyncClient, Client
    from fiscus.client.consuming import AsyncConsumption, Consumption
    from fiscus.client.default import quota, reserve, use
    from fiscus.client.fields import OperationFields
    from fiscus.client.reserving import AsyncReservation, Reservation
    from fiscus.client.settlements import Settlement
    from fiscus.embedded.api import Fiscus
    from fiscus.errors import (
        BudgetExceeded,
        Conflict,
        CostCalculationError,
        FiscusError,
        Forbidden,
        IdempotencyConflict,
        InternalError,
        NotFound,
        PayloadTooLarge,
        QuotaExhausted,
        RateLimitViolated,
        Refused,
        ServiceUnavailable,
        Unauthorized,
        ValidationError,
    )
    from fiscus.wire.encoding import to_json

__version__: str
"""The version that is installed."""

__all__ = [
    "AsyncClient",
    "AsyncConsumption",
    "AsyncReservation",
    "BudgetExceeded",
    "Client",
    "Conflict",
    "Consumption",
    "CostCalculationError",
    "Fiscus",
    "FiscusError",
    "Forbidden",
    "IdempotencyConflict",
    "InternalError",
    "NotFound",
    "OperationFields",
    "PayloadTooLarge",
    "QuotaExhausted",
    "RateLimitViolated",
    "Refused",
    "Reservation",
    "ServiceUnavailable",
    "Settlement",
    "Unauthorized",
    "ValidationError",
    "__version__",
    "quota",
    "reserve",
    "to_json",
    "use",
]

_ELSEWHERE: Final = {
    "AsyncClient": "fiscus.client.clients",
    "AsyncConsumption": "fiscus.client.consuming",
    "AsyncReservation": "fiscus.client.reserving",
    "Client": "fiscus.client.clients",
    "Consumption": "fiscus.client.consuming",
    "Fiscus": "fiscus.embedded.api",
    "OperationFields": "fiscus.client.fields",
    "Reservation": "fiscus.client.reserving",
    "Settlement": "fiscus.client.settlements",
    "quota": "fiscus.client.default",
    "reserve": "fiscus.client.default",
    "to_json": "fiscus.wire.encoding",
    "use": "fiscus.client.default",
}
"""Where a public name is; the others are errors."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object
    if name == "__version__":
        value = import_module("importlib.metadata").version("fiscus")
    else:
        value = getattr(import_module(_ELSEWHERE.get(name, "fiscus.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
