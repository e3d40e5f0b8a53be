"""The command line: `fiscus …`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run one command and exit: 0 done, 1 it failed or something is wrong, 2 used wrongly."""
    from fiscus.cli.app import app
    from fiscus.cli.terminal import show_error
    from fiscus.errors import FiscusError

    try:
        app()
    except FiscusError as error:
        show_error(error.message, error.suggested_action)
        sys.exit(1)
    except BrokenPipeError:
        # the reader of our output left, as `head` does
        sys.stderr.close()
        sys.exit(1)


__all__ = ["main"]
