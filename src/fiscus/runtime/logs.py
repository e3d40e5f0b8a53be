"""Log lines: an event and its fields.

In another program they are records of the standard library's `logging`, under the logger `fiscus`.
The long-running commands write them themselves: for people on a terminal, JSON lines elsewhere.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import NamedTuple

import structlog
from structlog.types import EventDict, FilteringBoundLogger, Processor

from fiscus.runtime.visible import visible

_command: FilteringBoundLogger | None = None
"""What writes the lines of a long-running command; None in any other program."""


class Line(NamedTuple):
    """The message of a standard record, written out when somebody reads it."""

    event: str
    fields: Mapping[str, object]

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{name}={one!r}" for name, one in self.fields.items())])


class Logger:
    """What a module tells about its work."""

    def __init__(self, name: str) -> None:
        self._standard = logging.getLogger(name)

    def info(self, event: str, /, **fields: object) -> None:
        self._tell(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._tell(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._tell(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error, with the trace of the exception that is being handled."""
        self._tell(logging.ERROR, event, fields, with_trace=True)

    def _tell(
        self, level: int, event: str, fields: Mapping[str, object], *, with_trace: bool = False
    ) -> None:
        if _command is None:
            # the record is of who called `info` and so on, two calls above this one
            self._standard.log(level, Line(event, fields), exc_info=with_trace, stacklevel=3)
        elif with_trace:
            _command.exception(event, **fields)
        else:
            _command.log(level, event, **fields)


def get_logger(name: str) -> Logger:
    """The logger of a module, `fiscus` or below it. What it tells goes where the program says."""
    return Logger(name)


def configure_logs(log_level: str) -> None:
    """Send Fiscus's and the libraries' lines to standard error, from `log_level` on."""
    global _command  # noqa: PLW0603 - a process is a command of Fiscus's or another program
    level = logging.getLevelNamesMapping()[log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info]
    if sys.stderr.isatty():
        # its own way with exceptions shows all local variables, the keys of callers among them
        plain = structlog.dev.plain_traceback
        last += [_steered_by_nobody, structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    else:
        last.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # a line and its end as one write: processes that share standard error would mix them
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _command = structlog.get_logger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    # what libraries say below a warning is theirs to know
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _steered_by_nobody(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Paths and subjects are as their senders want them, also of those whom nobody knows."""
    return {name: visible(one) if isinstance(one, str) else one for name, one in line.items()}
