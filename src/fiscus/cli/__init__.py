"""The command line: `fiscus …`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from io import TextIOWrapper


def main() -> None:
    """Run one command and exit: 0 done, 1 it failed or something is wrong, 2 used wrongly."""
    from fiscus.cli.app import app
    from fiscus.cli.terminal import UsageError, show_error
    from fiscus.errors import FiscusError

    _ready_streams()
    try:
        app()
    except FiscusError as error:
        # a correlation id tells that a server answered so
        code = f" ({error.code})" if error.correlation_id else ""
        show_error(error.message + code, error.suggested_action)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        # the reader of our output left, as `head` does; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        show_error(
            f"{where}{error.strerror or error}", "`fiscus doctor` looks at what may be wrong."
        )
        sys.exit(1)
    except Exception as error:
        if os.environ.get("FISCUS_LOG_LEVEL") == "debug":
            raise
        show_error(
            f"unexpected: {type(error).__name__}: {error}",
            "set FISCUS_LOG_LEVEL=debug to see where it happened, and report it.",
        )
        sys.exit(1)


def _ready_streams() -> None:
    """Whoever started us may have closed streams, or told of an encoding that lacks characters."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for the life of the process
    cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")


__all__ = ["main"]
