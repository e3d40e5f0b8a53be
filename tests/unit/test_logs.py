"""Log lines go through `logging` in another program, and to standard error in a command."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

from fiscus.runtime.logs import get_logger
from tests.fiscus_process import clean_environment

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

log = get_logger("fiscus.testing")


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_line_is_a_record_of_the_caller_under_the_logger_fiscus(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="fiscus"):
        log.info("group_done", commands=3, message="a field, not the message")
        log.warning("group_slow")
    done, slow = caplog.records
    assert done.name == "fiscus.testing"
    assert (done.levelno, slow.levelno) == (logging.INFO, logging.WARNING)
    assert done.getMessage() == "group_done commands=3 message='a field, not the message'"
    assert slow.getMessage() == "group_slow"
    assert done.filename == "test_logs.py"
    assert done.funcName == "test_a_line_is_a_record_of_the_caller_under_the_logger_fiscus"


def test_an_exception_is_logged_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise LookupError("gone")
    except LookupError:
        log.exception("group_failed", commands=2)
    log.error("group_lost")
    assert [bool(one.exc_info) for one in caplog.records] == [True, False]
    assert "LookupError: gone" in caplog.text


def test_a_new_folder_is_told_by_fiscus_and_not_by_what_migrates_it(tmp_path: Path) -> None:
    done = run_python(
        "import logging\n"
        "logging.basicConfig(level=logging.INFO, format='%(name)s %(message)s')\n"
        "from fiscus import Fiscus\n"
        f"for _ in range(2): Fiscus.open(data_dir={str(tmp_path / 'new')!r}).close()\n"
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("fiscus.stores.sql.migrate database_migrated revision_before=None ")


def test_a_program_hears_of_its_own_migrations_as_ever(tmp_path: Path) -> None:
    done = run_python(
        "import logging\n"
        "logging.basicConfig(level=logging.INFO, format='%(name)s')\n"
        "from fiscus import Fiscus\n"
        f"Fiscus.open(data_dir={str(tmp_path / 'new')!r}).close()\n"
        "import sqlalchemy\n"
        "from alembic.migration import MigrationContext\n"
        "with sqlalchemy.create_engine('sqlite://').connect() as connection:\n"
        "    MigrationContext.configure(connection)\n"
    )
    assert "alembic.runtime.migration" in done.stderr.splitlines()


def test_a_program_that_says_nothing_about_logs_keeps_its_output_to_itself() -> None:
    done = run_python(
        "from fiscus.runtime.logs import get_logger\n"
        "log = get_logger('fiscus.testing')\n"
        "log.info('group_done')\n"
        "log.warning('group_slow', seconds=2)\n"
        "print('mine')"
    )
    assert done.stdout == "mine\n"
    assert done.stderr == "group_slow seconds=2\n"  # as `logging` does when nobody told it anything


def test_a_program_with_a_structlog_of_its_own_does_not_get_the_lines_there() -> None:
    done = run_python(
        "import logging, structlog\n"
        "structlog.configure(processors=[structlog.processors.JSONRenderer()])\n"
        "logging.getLogger('fiscus').addHandler(logging.NullHandler())\n"
        "from fiscus.runtime.logs import get_logger\n"
        "get_logger('fiscus.testing').warning('group_slow')\n"
    )
    assert done.stdout == done.stderr == ""


def test_a_program_with_fiscus_in_it_finds_its_lines_in_logging_and_none_in_its_output(
    tmp_path: Path,
) -> None:
    done = run_python(
        "import logging, sqlite3\n"
        "logging.basicConfig(format='%(name)s %(levelname)s %(message)s')\n"
        "from fiscus import Fiscus, ServiceUnavailable\n"
        f"with Fiscus.open(data_dir={str(tmp_path)!r}) as fiscus:\n"
        f"    broken = sqlite3.connect({str(tmp_path / 'fiscus.db')!r})\n"
        "    broken.execute('DROP TABLE tenants')\n"
        "    broken.close()\n"
        "    try:\n"
        "        fiscus.check(resource_type='llm', estimate=1)\n"
        "    except ServiceUnavailable:\n"
        "        print('refused')\n"
    )
    assert done.stdout == "refused\n"
    assert done.stderr.startswith("fiscus.batching.thread_batcher WARNING store_unavailable ")
    assert "no such table" in done.stderr


def test_a_command_writes_json_lines_to_standard_error_with_what_is_bound() -> None:
    done = run_python(
        "import structlog\n"
        "from fiscus.runtime.logs import configure_logs, get_logger\n"
        "log = get_logger('fiscus.testing')\n"
        "configure_logs('info')\n"
        "structlog.contextvars.bind_contextvars(correlation_id='c-1')\n"
        "log.info('group_done', commands=3)\n"
        "try:\n"
        "    1 / 0\n"
        "except ZeroDivisionError:\n"
        "    log.exception('group_failed')\n"
        "configure_logs('error')\n"
        "log.warning('not serious enough')\n"
    )
    assert done.stdout == ""
    first, second = map(json.loads, done.stderr.splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "group_done",
        "level": "info",
        "commands": 3,
        "correlation_id": "c-1",
    }
    assert (second["event"], second["level"]) == ("group_failed", "error")
    assert "ZeroDivisionError" in second["exception"]


def test_on_a_terminal_no_text_steers_it_and_no_trace_tells_what_variables_hold() -> None:
    done = run_python(
        "import io, logging, sys\n"
        "class Terminal(io.StringIO):\n"
        "    def isatty(self):\n"
        "        return True\n"
        "sys.stderr = Terminal()\n"
        "from fiscus.runtime.logs import configure_logs, get_logger\n"
        "log = get_logger('fiscus.testing')\n"
        "configure_logs('info')\n"
        "def fail(headers):\n"
        "    raise LookupError('\\x1b]0;trace')\n"
        "log.warning('access_denied', path='/\\x1b[2J', subject='\\u202eann')\n"
        "try:\n"
        "    fail({'x-api-key': 'fsk_' + 'secret'})\n"
        "except LookupError:\n"
        "    log.exception('request_failed')\n"
        "    logging.getLogger('asyncio').error('\\x9b2J', exc_info=True)\n"
        "print(ascii(sys.stderr.getvalue()))"
    )
    shown = ast.literal_eval(done.stdout)
    assert r"/\x1b[2J" in shown
    assert r"\u202eann" in shown
    assert r"\x9b2J" in shown
    assert shown.count(r"LookupError: \x1b]0;trace") == 2
    assert not any(one in shown for one in ("\x1b[2J", "\x1b]", "\x9b", "\u202e"))
    assert "fsk_secret" not in shown


def test_a_line_and_its_end_are_one_write() -> None:
    """Several processes share standard error, and two writes of one would let another between."""
    done = run_python(
        "import io, sys\n"
        "class Shared(io.StringIO):\n"
        "    writes = 0\n"
        "    def write(self, text):\n"
        "        Shared.writes += 1\n"
        "        return super().write(text)\n"
        "sys.stderr = Shared()\n"
        "from fiscus.runtime.logs import configure_logs, get_logger\n"
        "configure_logs('info')\n"
        "for number in range(3):\n"
        "    get_logger('fiscus.testing').info('said', number=number)\n"
        "print(Shared.writes, sys.stderr.getvalue().count('\\n'))"
    )
    assert done.stdout.split() == ["3", "3"]
