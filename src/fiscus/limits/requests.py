"""What a key can be made of: the head of an HTTP request, and who sent it."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

Scope = MutableMapping[str, Any]

_IPV6_PREFIX: Final = 64
"""What one subscriber usually has for itself, so that one cannot be many."""


class RequestHead:
    """Method, path, headers and client of a request, before its body is read."""

    __slots__ = ("_trusted_proxies", "scope")

    def __init__(self, scope: Scope, trusted_proxies: int = 0) -> None:
        self.scope: Final = scope
        """The ASGI scope, with what outer middleware has put there."""
        self._trusted_proxies = trusted_proxies

    @property
    def method(self) -> str:
        return self.scope["method"]

    @property
    def path(self) -> str:
        return self.scope["path"]

    def header(self, name: str) -> str | None:
        """The value of a header field; several are joined by commas; None when it is missing."""
        wanted = name.lower().encode("latin-1")
        found = [value for one, value in self.scope["headers"] if one == wanted]
        return b", ".join(found).decode("latin-1") if found else None

    @property
    def client_address(self) -> str:
        """The client's address; empty when the server does not know it.

        With so many trusted proxies, that is the entry of `X-Forwarded-For` which the outermost of
        them wrote; entries before it are the client's own claim. Without them, or when a request
        came around them, it is the peer. Of an IPv6 address it is the network of 64 bits.
        """
        peer = self.scope.get("client")
        address = _network(peer[0]) if peer else ""
        if self._trusted_proxies:
            forwarded = (self.header("x-forwarded-for") or "").split(",")
            if len(forwarded) >= self._trusted_proxies:
                return _network(forwarded[-self._trusted_proxies]) or address
        return address


@lru_cache(maxsize=4096)
def _network(text: str) -> str:
    """An address as a key, without its port; empty when it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, _IPV6_PREFIX), strict=False))


__all__ = ["RequestHead", "Scope"]
