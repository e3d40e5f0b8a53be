from google.protobuf.message import Message

class UInt64Value(Message):
    value: int
