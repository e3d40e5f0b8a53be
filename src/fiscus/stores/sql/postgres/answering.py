"""Connections to PostgreSQL that give up a server which hangs.

A server that is stopped, or whose machine is, keeps its connections open and says nothing for ever.
Neither keep-alives nor `tcp_user_timeout` tell of it, as its system still acknowledges.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Ready

T = TypeVar("T")

CONNECT_SECONDS: Final = 2
STATEMENT_SECONDS: Final = 8
"""No statement may take longer, by `statement_timeout`, unless it is told that it may.

Clients wait for an answer a little longer: it is to come from here, as who hears none asks again.
"""
LOOK_SECONDS: Final = 0.1
SILENT_LOOKS: Final = 10
"""After so many looks without a word, and again after as many, it is asked whether it hangs."""
MAX_LOOKS: Final = 90
"""After so many the server has not ended what took longer than `STATEMENT_SECONDS`."""


class ServerHangs(psycopg.OperationalError):
    """The connection was given up: the server does not answer."""


class AnsweringConnection(psycopg.Connection[Any]):
    """A connection whose every wait ends, with `ServerHangs`, soon after the server hangs.

    A server that takes its time over a statement still lets others connect, one that hangs does
    not: so the one is waited for, and the other is found out within three seconds.
    """

    statements_may_last = False
    """Whether they are waited for as long as the server does not hang."""

    def wait(self, gen: PQGen[T], interval: float = LOOK_SECONDS, *args: Any, **more: Any) -> T:
        del interval  # `_unless_it_hangs` counts looks of this length
        return super().wait(self._unless_it_hangs(gen), LOOK_SECONDS, *args, **more)

    def _unless_it_hangs(self, gen: PQGen[T]) -> PQGen[T]:
        silent = 0
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready == Ready.NONE:
                    silent += 1
                    too_long = silent >= MAX_LOOKS and not self.statements_may_last
                    if too_long or (silent % SILENT_LOOKS == 0 and self._hangs()):
                        self.pgconn.finish()
                        raise ServerHangs("the server does not answer")
                else:
                    silent = 0
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value

    def _hangs(self) -> bool:
        """Whether the server would not let another connect; if it refuses to, it is awake."""
        info = self.info
        # of several hosts, the one that this connection leads to
        this_one = {"host": info.host, "hostaddr": info.hostaddr, "port": str(info.port)}
        same = {**info.get_parameters(), **this_one, "password": info.password}
        same["connect_timeout"] = str(CONNECT_SECONDS)
        try:
            psycopg.connect(make_conninfo("", **same)).close()
        except errors.ConnectionTimeout:
            return True
        except psycopg.Error:
            return False  # if it is gone, this connection tells
        return False
