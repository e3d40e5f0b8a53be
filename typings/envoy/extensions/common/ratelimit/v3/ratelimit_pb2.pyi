# The part of `xds-protos` that Fiscus uses; the package ships no types.

from collections.abc import Mapping, Sequence
from typing import ClassVar

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt64Value

class _Descriptor:
    fields_by_name: Mapping[str, object]

class RateLimitDescriptor(Message):
    DESCRIPTOR: ClassVar[_Descriptor]

    class Entry(Message):
        key: str
        value: str

    entries: Sequence[Entry]
    hits_addend: UInt64Value
