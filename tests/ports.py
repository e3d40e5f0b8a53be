"""Ports for the servers of tests, which are started a while after theirs is chosen.

They are below those that the system gives to whoever asks for any, so nobody is given one
meanwhile; each process of a test run has a part of them, and goes round it.
"""

from __future__ import annotations

import os
import random
import socket
from itertools import cycle
from typing import Final

_FIRST: Final = 15_000
_OF_A_PROCESS: Final = 1_000
_PROCESSES: Final = 16


def _own() -> list[int]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = int(worker.removeprefix("gw")) if worker.startswith("gw") else 0
    begin = _FIRST + number % _PROCESSES * _OF_A_PROCESS
    ports = list(range(begin, begin + _OF_A_PROCESS))
    at = random.SystemRandom().randrange(_OF_A_PROCESS)  # other runs begin elsewhere
    return ports[at:] + ports[:at]


_ports: Final = cycle(_own())


def free_port() -> int:
    for _ in range(_OF_A_PROCESS):
        port = next(_ports)
        with socket.socket() as probe:
            # as servers do: one that has just ended keeps nobody from its port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError("no port is free")
