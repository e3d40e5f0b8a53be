"""Requests as an Envoy makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


def asking(
    *descriptors: Mapping[str, str],
    domain: str = "edge",
    hits: int = 0,
    own_hits: int | None = None,
) -> RateLimitRequest:
    """A request with a descriptor per mapping; `own_hits` is every descriptor's own number."""
    request = RateLimitRequest(domain=domain, hits_addend=hits)
    for entries in descriptors:
        descriptor = request.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
        if own_hits is not None:
            descriptor.hits_addend.value = own_hits
    return request
