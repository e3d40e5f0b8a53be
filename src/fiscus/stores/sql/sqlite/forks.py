"""Which of SQLite's files a process had open when this one was forked from it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakSet

from fiscus.errors import Conflict
from fiscus.stores.sql.sqlite.files import FileId, file_at
from fiscus.stores.sql.urls import file_of


class OpenDatabase(Protocol):
    """Something that has a file of SQLite's open."""

    @property
    def sqlite_path(self) -> Path: ...


_open_here: Final[WeakSet[OpenDatabase]] = WeakSet()
"""What was opened in this process and is not closed."""
_open_before_fork: Final[set[FileId]] = set()
"""Files that were open in a process that this one was forked from."""


def _forked() -> None:
    _open_before_fork.update(filter(None, (file_at(one.sqlite_path) for one in _open_here)))
    _open_here.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)


def register(one: OpenDatabase) -> None:
    """Remember that its file is open in this process, until `unregister`."""
    _open_here.add(one)


def unregister(one: OpenDatabase) -> None:
    _open_here.discard(one)


def require_apart_from_parent(url: str) -> None:
    """Raises `Conflict` for a file of SQLite's that was open in the process before a fork.

    SQLite in this process goes on to believe that it holds the locks of then, and takes none: the
    other process would remove the log in which commits of this one are.
    """
    file = file_of(url)
    if file is not None and file_at(file) in _open_before_fork:
        raise Conflict(
            "The process that this one was forked from had the same SQLite file open, and SQLite "
            "would mix up the locks of both",
            suggested_action="Close Fiscus before the fork, or open it after the fork only.",
        )
