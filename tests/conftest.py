"""What every test may ask for: a clock that stands still, a real PostgreSQL, a real Valkey.

`FISCUS_TEST_PROFILE=long` (`make test-long`) generates many more examples, new ones at each run.
"""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from fiscus.clock import ManualClock
from tests.crash.own_postgres import OwnPostgres
from tests.profile import PROFILE
from tests.servers import (
    PostgresServer,
    drop_database,
    fresh_database,
    running_postgres,
    stop_postgres,
)
from tests.valkey import ENVIRONMENT_VARIABLE as VALKEY_VARIABLE
from tests.valkey import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long one example takes says nothing on a shared machine: pytest's own time-out decides.
settings.register_profile(
    "ci",
    max_examples=50,
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long",
    max_examples=2000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(PROFILE)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

_HOME = pytest.StashKey[Path]()
_GUARDED_PID = pytest.StashKey[int]()


# One server for the whole run: the first process makes a folder for it, xdist's workers are told
# where, whoever needs the server first starts it there, the first process stops it.


def pytest_configure(config: pytest.Config) -> None:
    told = getattr(config, "workerinput", None)
    if told is None:
        config.stash[_HOME] = Path(tempfile.mkdtemp(prefix="fiscus-postgres-"))
        config.stash[_GUARDED_PID] = os.getpid()
    else:
        config.stash[_HOME] = Path(told["fiscus_postgres_home"])
        config.stash[_GUARDED_PID] = told["fiscus_guarded_pid"]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:  # an xdist worker, made by the first process
    node.workerinput["fiscus_postgres_home"] = str(node.config.stash[_HOME])
    node.workerinput["fiscus_guarded_pid"] = node.config.stash[_GUARDED_PID]


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and _HOME in config.stash:
        stop_postgres(config.stash[_HOME])


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands at a Tuesday noon until the test moves it."""
    return ManualClock(datetime(2026, 3, 10, 12, 0, tzinfo=UTC))


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt`, also where the tests were started in the background, or
    an event loop of an earlier test has left a handler of its own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder to copy, whose SQLite file has its tables; making them takes longer than most
    tests."""
    from fiscus.stores.sql import migrate
    from fiscus.stores.sql.database import Database

    folder = tmp_path_factory.mktemp("migrated")
    url = f"sqlite:///{folder / 'fiscus.db'}"
    migrate.upgrade(url)
    with closing(Database(url)) as database, database.read("nobody"):
        pass  # the first connection turns the journal to WAL, which stays
    return folder


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> PostgresServer:
    """A real PostgreSQL, shared by the whole run; make a `fresh_database` in it."""
    return running_postgres(pytestconfig.stash[_HOME], pytestconfig.stash[_GUARDED_PID])


@pytest.fixture(scope="module")
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The owner's URL of an empty database that the tests of one module share."""
    url = fresh_database(postgres_server)
    yield url
    drop_database(postgres_server, url)


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[OwnPostgres]:
    """A real PostgreSQL of one module, whose tests may kill, freeze and start it again."""
    server = OwnPostgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real Valkey, shared by the tests of one process: make tenants of your own in it."""
    given = os.environ.get(VALKEY_VARIABLE)
    if given:
        yield given
        return
    servers = Servers()
    try:
        yield servers.start().url
    finally:
        servers.close()


@pytest.fixture
def valkey_servers() -> Iterator[Servers]:
    """Valkey servers of one test, which may stop, pause and break them."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; a test that asks is skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA
