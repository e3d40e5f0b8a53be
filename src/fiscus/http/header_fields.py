"""The header fields of a request."""

from __future__ import annotations


class HeaderFields(dict[bytes, bytes]):
    """Header fields by their lower-case names, and what was worked out of them.

    Requests with the same head on one connection have the same ones.
    """

    credential_digest: str | None = None
    """The hash of the credential among them; None until somebody asks who calls."""


__all__ = ["HeaderFields"]
