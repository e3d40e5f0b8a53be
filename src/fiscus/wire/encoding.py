"""Answers as JSON, amounts as numbers with exactly the stored digits."""

from __future__ import annotations

from typing import Final

import msgspec

from fiscus.wire.hooks import write_custom

_encoder: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=write_custom)
encode: Final = _encoder.encode
"""An answer as JSON bytes, amounts as numbers with their exact digits."""
encode_into: Final = _encoder.encode_into
"""As `encode`, into a buffer."""


def to_json(answer: msgspec.Struct) -> bytes:
    """An answer of Fiscus's as the JSON that a server sends, amounts as exact numbers: for a
    web framework, a queue or a log, which do not know its types."""
    return encode(answer)


_BLANK: Final = "\0"  # JSON writes it in another way


def pieces_around(value: msgspec.Struct, *fields: str) -> tuple[str, ...]:
    """`value` as JSON, in pieces between which the values of `fields` belong.

    They are in the order of the struct, and themselves JSON.
    """
    blank = msgspec.Raw(_BLANK.encode())
    blanked = msgspec.structs.replace(value, **dict.fromkeys(fields, blank))
    return tuple(encode(blanked).decode().split(_BLANK))


_canonical: Final = msgspec.json.Encoder(
    decimal_format="number", order="deterministic", enc_hook=write_custom
)
encode_canonical: Final = _canonical.encode

__all__ = ["encode", "encode_canonical", "encode_into", "pieces_around", "to_json"]
