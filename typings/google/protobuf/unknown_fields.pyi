from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

class _UnknownField:
    field_number: int
    wire_type: int
    data: Any  # an int, or bytes for what has a length

class UnknownFieldSet:
    def __init__(self, msg: Message) -> None: ...
    def __iter__(self) -> Iterator[_UnknownField]: ...
