"""SQLite's files as the system sees them: made, told apart, locked, and whether one may write."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, Final

from fiscus.errors import ValidationError

_BESIDE: Final = ("-wal", "-shm", "-turn", "-counters")
"""How the names go on of the files that stand beside a database's own."""

FileId = tuple[int, int]
"""A file's device and number."""


def make_folder(folder: Path, setting: str) -> None:
    """Make a folder for the database, for this user alone: keys, journals and money are in there.

    Raises `ValidationError` naming the setting it is from.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a ValueError for a name that no file can have
        name, why = (
            (folder, error.strerror) if isinstance(error, OSError) else (repr(str(folder)), error)
        )
        raise ValidationError(
            f"{name} cannot be the folder of Fiscus's data: {why}",
            field=setting,
            suggested_action=f"Set {setting} to a folder that Fiscus's user may write to.",
        ) from error


def existing(path: Path) -> str:
    """The URI by which SQLite opens a database that is there, and makes none that is not."""
    return f"{path.absolute().as_uri()}?mode=rw"


def file_at(path: Path) -> FileId | None:
    """What the system knows a file by, whatever its name; None when none is there."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # the latter for a name that no system has
        return None
    return found.st_dev, found.st_ino


def log_beside(path: Path) -> Path:
    """The log that a database's commits are in until a checkpoint.

    It is there from the first transaction of a connection to the end of the last one.
    """
    return path.with_name(f"{path.name}-wal")


def unwritable(path: Path) -> Path | None:
    """Which of a database's folder, its file and those beside it this process may not write to.

    The first that is there; the folder, because files come and go in it. Asked of the system: to
    open a file of SQLite's beside SQLite would, on closing it, let go of all locks on it.
    """
    folder = path.parent
    if folder.is_dir() and not _may(folder, os.W_OK | os.X_OK):
        return folder
    files = (path, *(path.with_name(path.name + end) for end in _BESIDE))
    return next((one for one in files if _may(one, os.F_OK) and not _may(one, os.W_OK)), None)


def _may(path: Path, how: int) -> bool:
    try:
        return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)
    except ValueError:  # no name of the system's, so there is nothing there
        return False


def lock_file(path: Path) -> IO[bytes] | None:
    """A file locked for this process until it is closed; None when another process has it."""
    file = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def unlock_file(file: IO[bytes]) -> None:
    """Let go of `lock_file`'s lock, also where a forked process has the file open still."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()
