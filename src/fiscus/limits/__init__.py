"""Rate limits for Python applications: in process, on Redis, or against a Fiscus server.

>>> api = limit("100/minute; 10/second burst 20")
>>> if not api.hit("client-1"):
...     ...

What is named here is the whole public API, loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fiscus.errors import RateLimitViolated
    from fiscus.limits.base import Limit
    from fiscus.limits.factory import limit
    from fiscus.limits.middleware import RateLimitMiddleware
    from fiscus.limits.requests import RequestHead
    from fiscus.limits.results import LimitResult

__all__ = [
    "Limit",
    "LimitResult",
    "RateLimitMiddleware",
    "RateLimitViolated",
    "RequestHead",
    "limit",
]

_ELSEWHERE: Final = {
    "Limit": "fiscus.limits.base",
    "LimitResult": "fiscus.limits.results",
    "RateLimitMiddleware": "fiscus.limits.middleware",
    "RateLimitViolated": "fiscus.errors",
    "RequestHead": "fiscus.limits.requests",
    "limit": "fiscus.limits.factory",
}


def __getattr__(name: str) -> object:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_ELSEWHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
