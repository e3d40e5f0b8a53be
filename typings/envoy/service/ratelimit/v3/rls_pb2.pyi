# The part of `xds-protos` that Fiscus uses; the package ships no types.

from collections.abc import MutableMapping, Sequence
from typing import ClassVar, Generic, Literal, TypeVar

from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

T = TypeVar("T")

class _Added(Sequence[T], Generic[T]):
    def add(self, **fields: int | str) -> T: ...

class RateLimitRequest(Message):
    domain: str
    hits_addend: int
    descriptors: Sequence[RateLimitDescriptor]

class _HeaderValue(Message):
    key: str
    value: str

class _Value(Message):
    bool_value: bool

class _Struct(Message):
    fields: MutableMapping[str, _Value]

class RateLimitResponse(Message):
    UNKNOWN: ClassVar[Literal[0]]
    OK: ClassVar[Literal[1]]
    OVER_LIMIT: ClassVar[Literal[2]]

    class RateLimit(Message):
        SECOND: ClassVar[Literal[1]]
        MINUTE: ClassVar[Literal[2]]
        HOUR: ClassVar[Literal[3]]
        DAY: ClassVar[Literal[4]]
        MONTH: ClassVar[Literal[5]]
        YEAR: ClassVar[Literal[6]]
        WEEK: ClassVar[Literal[7]]
        name: str
        requests_per_unit: int
        unit: int

    class DescriptorStatus(Message):
        code: int
        limit_remaining: int
        current_limit: RateLimitResponse.RateLimit
        duration_until_reset: Duration

    overall_code: int
    statuses: _Added[DescriptorStatus]
    response_headers_to_add: _Added[_HeaderValue]
    dynamic_metadata: _Struct

    def __init__(self, *, overall_code: int) -> None: ...
