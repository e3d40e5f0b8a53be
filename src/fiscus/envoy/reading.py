"""Envoy's requests: from the bytes of a `RateLimitRequest` to what is asked.

Read with the published definitions. Two things these do not give are found in the fields that
they left over: `is_negative_hits`, which is newer than the generated code, and text that is not
UTF-8. Envoy passes the bytes of a header on as they are, and a request must not escape its limit
by a header that cannot be read.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from google.protobuf.wrappers_pb2 import UInt64Value

from fiscus.errors import ValidationError
from fiscus.ratelimits.rules import MAX_LIMIT

MAX_DESCRIPTORS: Final = 500

_VARINT, _LENGTH = 0, 2
# fields in rls.proto and ratelimit.proto: their numbers, and how they are on the wire
_DOMAIN, _DESCRIPTORS, _REQUEST_HITS = (1, _LENGTH), (2, _LENGTH), (3, _VARINT)
_ENTRIES, _HITS, _IS_NEGATIVE = (1, _LENGTH), (3, _LENGTH), (4, _VARINT)
_KEY, _VALUE = (1, _LENGTH), (2, _LENGTH)

_KNOWS_NEGATIVE: Final = "is_negative_hits" in RateLimitDescriptor.DESCRIPTOR.fields_by_name


class Descriptor(NamedTuple):
    """One descriptor: how many requests are taken from, or given back to, what it stands for."""

    entries: tuple[tuple[str, str], ...]
    hits: int
    """0 only looks; negative gives back."""


class DescriptorGroup(NamedTuple):
    """The descriptors of one request, which are decided together."""

    domain: str
    descriptors: list[Descriptor]


def read_request(body: bytes) -> DescriptorGroup:
    """What a `RateLimitRequest` asks. Raises `DecodeError` for what is no such message, and
    `ValidationError` naming the field for one that asks nothing."""
    try:
        request = RateLimitRequest.FromString(body)
    except DecodeError:
        asked = _read_raw(body)
    else:
        # Envoy leaves the number out to say 1; only a descriptor of its own can say 0
        hits = request.hits_addend or 1
        asked = DescriptorGroup(
            request.domain,
            [
                Descriptor(
                    tuple([(entry.key, entry.value) for entry in one.entries]),
                    _signed(
                        one.hits_addend.value if one.HasField("hits_addend") else hits,
                        _is_negative(one),
                    ),
                )
                for one in request.descriptors
            ],
        )
    if not asked.domain:
        raise ValidationError("domain is empty", field="domain")
    if not 1 <= len(asked.descriptors) <= MAX_DESCRIPTORS:
        raise ValidationError(
            f"descriptors must be 1 to {MAX_DESCRIPTORS}, are {len(asked.descriptors)}",
            field="descriptors",
        )
    return asked


def _is_negative(descriptor: Any) -> bool:
    if _KNOWS_NEGATIVE:
        return descriptor.is_negative_hits
    return any(field == _IS_NEGATIVE and value for field, value in _unknown(descriptor))


def _signed(hits: int, negative: bool) -> int:
    # more than any limit is as good as any number above it
    bounded = min(hits, MAX_LIMIT)
    return -bounded if negative else bounded


def _read_raw(body: bytes) -> DescriptorGroup:
    """As `read_request`, with bytes that are not UTF-8 shown as `\\xff` in the text."""
    domain, hits = "", 0
    descriptors: list[bytes] = []
    for field, value in _fields(body):
        if field == _DOMAIN:
            domain = _text(value)
        elif field == _DESCRIPTORS:
            descriptors.append(value)
        elif field == _REQUEST_HITS:
            hits = value
    return DescriptorGroup(domain, [_read_raw_descriptor(one, hits or 1) for one in descriptors])


def _read_raw_descriptor(body: bytes, hits: int) -> Descriptor:
    entries: list[tuple[str, str]] = []
    negative = False
    for field, value in _fields(body):
        if field == _ENTRIES:
            entry = dict(_fields(value))
            entries.append((_text(entry.get(_KEY, b"")), _text(entry.get(_VALUE, b""))))
        elif field == _HITS:
            hits = UInt64Value.FromString(value).value
        elif field == _IS_NEGATIVE:
            negative = bool(value)
    return Descriptor(tuple(entries), _signed(hits, negative))


def _fields(body: bytes) -> list[tuple[tuple[int, int], Any]]:
    """A message's fields with their values: to a message without fields, all are unknown."""
    return _unknown(Empty.FromString(body))


def _unknown(message: Any) -> list[tuple[tuple[int, int], Any]]:
    return [((one.field_number, one.wire_type), one.data) for one in UnknownFieldSet(message)]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


__all__ = ["MAX_DESCRIPTORS", "Descriptor", "DescriptorGroup", "read_request"]
