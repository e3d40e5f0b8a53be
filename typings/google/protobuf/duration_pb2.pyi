from datetime import timedelta

from google.protobuf.message import Message

class Duration(Message):
    def FromTimedelta(self, td: timedelta) -> None: ...
