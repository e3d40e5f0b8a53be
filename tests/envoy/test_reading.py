"""Envoy's requests as bytes."""

from __future__ import annotations

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf.message import DecodeError

from fiscus.envoy.reading import MAX_DESCRIPTORS, Descriptor, DescriptorGroup, read_request
from fiscus.errors import ValidationError
from fiscus.ratelimits.rules import MAX_LIMIT

NEGATIVE = b"\x20\x01"
"""`is_negative_hits: true` of a descriptor, which the generated code does not know."""


def descriptor(value: str = "1", hits: int | None = None) -> RateLimitRequest:
    """A request with one descriptor."""
    request = RateLimitRequest(domain="edge")
    one = request.descriptors.add()
    one.entries.add(key="k", value=value)
    if hits is not None:
        one.hits_addend.value = hits
    return request


def hits(request: RateLimitRequest) -> list[int]:
    return [one.hits for one in read_request(request.SerializeToString()).descriptors]


def test_request_without_a_number_is_one_hit() -> None:
    assert hits(descriptor()) == [1]


def test_number_of_the_request_is_for_every_descriptor() -> None:
    request = descriptor()
    request.descriptors.add()
    request.hits_addend = 5
    assert hits(request) == [5, 5]


@pytest.mark.parametrize("own", [0, 3])
def test_number_of_a_descriptor_is_its_own_and_0_only_looks(own: int) -> None:
    request = descriptor(hits=own)
    request.descriptors.add()
    request.hits_addend = 5
    assert hits(request) == [own, 5]


def test_enormous_number_is_bounded() -> None:
    assert hits(descriptor(hits=2**64 - 1)) == [MAX_LIMIT]


@pytest.mark.parametrize("value", ["1", "\udcff"])
def test_negative_hits_give_back(value: str) -> None:
    inner = b"\x0a\x06\x0a\x01k\x12\x01" + value.encode("utf-8", "surrogateescape")
    inner += b"\x1a\x02\x08\x04" + NEGATIVE
    asked = read_request(b"\x0a\x04edge\x12" + bytes([len(inner)]) + inner)
    assert [one.hits for one in asked.descriptors] == [-4]


def test_bytes_that_are_not_utf_8_are_shown() -> None:
    good = descriptor("caf_", hits=3)
    good.hits_addend = 2
    good.descriptors.add().entries.add(key="other", value="ü")
    body = good.SerializeToString().replace(b"caf_", b"caf\xe9")
    with pytest.raises(DecodeError):
        RateLimitRequest.FromString(body)
    assert read_request(body) == DescriptorGroup(
        "edge", [Descriptor((("k", "caf\\xe9"),), 3), Descriptor((("other", "ü"),), 2)]
    )


@pytest.mark.parametrize("strange", [b"\x08\x01", b"\x10\x01", b"\x1a\x01?", b"\x12\x02\x08\x01"])
def test_fields_that_are_not_as_defined_are_left_out_beside_any_text(strange: bytes) -> None:
    good = descriptor("caf_", hits=3).SerializeToString()
    asked = read_request(good + strange)
    shown = read_request(good.replace(b"caf_", b"caf\xe9") + strange)
    entries = ((("k", "caf_"),), (("k", "caf\\xe9"),))
    assert asked.descriptors[0] == Descriptor(entries[0], 3)
    assert shown.descriptors == [Descriptor(entries[1], 3), *asked.descriptors[1:]]


def test_what_is_no_message_is_an_error() -> None:
    with pytest.raises(DecodeError):
        read_request(b"\x12\x7f?")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (RateLimitRequest(descriptors=[{}]), "domain"),
        (RateLimitRequest(domain="edge"), "descriptors"),
        (RateLimitRequest(domain="edge", descriptors=[{}] * (MAX_DESCRIPTORS + 1)), "descriptors"),
    ],
)
def test_request_that_asks_nothing_or_too_much_is_wrong(
    request_: RateLimitRequest, field: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        read_request(request_.SerializeToString())
    assert caught.value.field == field
