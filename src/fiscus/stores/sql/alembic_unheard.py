"""Alembic, of whose work the program around Fiscus hears nothing below a warning.

It tells of its parts when it is imported and of each revision when it runs, to whoever listens to
all loggers. What the program itself does with Alembic is told as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from threading import get_ident
from typing import Final

_LOGGERS: Final = ("alembic.runtime.plugins", "alembic.runtime.migration")


@contextmanager
def unheard() -> Generator[None]:
    """While this thread runs Alembic; others may run it for themselves."""
    own = get_ident()

    def is_heard(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or get_ident() != own

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(is_heard)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_heard)


with unheard():
    from alembic import command
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from alembic.util import CommandError


__all__ = ["CommandError", "Config", "Script", "ScriptDirectory", "command", "unheard"]
