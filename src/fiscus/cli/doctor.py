"""`fiscus doctor`: is everything as it should be, and if not, how is it mended?"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import typer

from fiscus.access.model import check_given_key
from fiscus.cli.configuration import DataDir, read_settings
from fiscus.cli.terminal import CommandError, JsonFlag, new_table, print_json, show_table, shown
from fiscus.errors import FiscusError, ValidationError
from fiscus.health import LOW_DISK_BYTES, NO_DISK_BYTES
from fiscus.scopes import parse_id
from fiscus.settings import Settings

if TYPE_CHECKING:
    from fiscus.wiring.engine import DatabaseFacts

MAX_SKEW_SECONDS: Final = 2.0
COUNTERS_SECONDS: Final = 2.0
DIFFERENT_CHARACTERS: Final = 10
"""A secret with fewer is none."""


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Finding(NamedTuple):
    """What was looked at, what was seen and, unless it is well, how to mend it."""

    check: str
    verdict: Verdict
    seen: str
    mend: str | None = None


def doctor(data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    """Check configuration, secrets, disk, database and clock; exit code 1 if something is wrong."""
    findings = list(examine(data_dir))
    wrong = any(one.verdict is Verdict.WRONG for one in findings)
    if as_json:
        print_json({"ok": not wrong, "checks": [one._asdict() for one in findings]})
    else:
        _show(findings)
    if wrong:
        raise typer.Exit(1)


def examine(data_dir: Path | None) -> Iterator[Finding]:
    """Look at one thing after another; what cannot be looked at is itself a finding."""
    try:
        settings = read_settings(data_dir=data_dir)
    except CommandError as error:
        yield Finding("configuration", Verdict.WRONG, error.message, error.suggested_action)
        return
    yield from _configuration(settings)
    yield from _start(settings)
    yield from _secrets(settings)
    yield from _disk(settings)
    yield from _database(settings)
    yield from _counters(settings)


def _configuration(settings: Settings) -> Iterator[Finding]:
    yield Finding("configuration", Verdict.OK, f"listens on {settings.host}:{settings.port}")
    known = {f"FISCUS_{name}".upper() for name in Settings.model_fields} | _ELSEWHERE
    for name in sorted(os.environ):
        if name.startswith("FISCUS_") and not name.startswith("FISCUS_TEST_") and name not in known:
            yield Finding(
                "configuration",
                Verdict.WARNING,
                f"{name} is set but is no setting",
                "correct its name, or unset it.",
            )


_ELSEWHERE: Final = {"FISCUS_URL", "FISCUS_KEY"}
"""Read by the commands that call a server."""


def _start(settings: Settings) -> Iterator[Finding]:
    """What `fiscus serve` looks at before it starts, by its own checks."""
    from fiscus.cli.serve.envoy import check_envoy, mapping_of
    from fiscus.http.auth.tokens import TokenVerifier
    from fiscus.wiring.ledger_process import open_rates

    given = settings.model_fields_set
    admin_key = settings.bootstrap_admin_key
    checks: list[tuple[str, bool, str, Callable[[], object]]] = [
        (
            "default tenant",
            "default_tenant" in given,
            settings.default_tenant,
            lambda: parse_id(settings.default_tenant, "FISCUS_DEFAULT_TENANT"),
        ),
        (
            "exchange rates",
            bool(given & {"exchange_rates_file", "exchange_rates"}),
            "they can be read",
            lambda: open_rates(settings.exchange_rates_file, settings.exchange_rates),
        ),
        (
            "tokens",
            bool(given & {"jwt_secret", "jwt_public_key", "jwt_jwks_url"}),
            "they can be verified",
            lambda: TokenVerifier(settings),
        ),
        (
            "FISCUS_BOOTSTRAP_ADMIN_KEY",
            admin_key is not None,
            "long enough",
            lambda: (
                admin_key
                and check_given_key(admin_key.get_secret_value(), "FISCUS_BOOTSTRAP_ADMIN_KEY")
            ),
        ),
        (
            "Envoy",
            settings.grpc_port is not None or settings.envoy_mapping_file is not None,
            f"{settings.envoy_mapping_file} says what its descriptors stand for",
            lambda: mapping_of(settings) if settings.grpc_port is None else check_envoy(settings),
        ),
    ]
    for check, is_set, seen, look in checks:
        if is_set:
            try:
                look()
            except FiscusError as error:
                yield Finding(check, Verdict.WRONG, error.message, error.suggested_action)
            else:
                yield Finding(check, Verdict.OK, seen)


def _secrets(settings: Settings) -> Iterator[Finding]:
    for name, secret in (
        ("FISCUS_JWT_SECRET", settings.jwt_secret),
        ("FISCUS_BOOTSTRAP_ADMIN_KEY", settings.bootstrap_admin_key),
    ):
        if secret is not None and len(set(secret.get_secret_value())) < DIFFERENT_CHARACTERS:
            yield Finding(
                name,
                Verdict.WRONG,
                "it repeats a few characters: it can be guessed",
                "use a long random value, such as the output of `openssl rand -hex 32`.",
            )


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    is_there = os.path.lexists(folder)
    try:
        free = _free_bytes_of(folder) if is_there else _free_bytes_for(folder)
    except OSError as error:
        yield Finding(
            "data folder",
            Verdict.WRONG,
            f"{folder} cannot be {'written' if is_there else 'made'}: {error.strerror}",
            "make room on its disk."
            if error.errno in {errno.ENOSPC, errno.EDQUOT}
            else "give Fiscus's user the right to write there, or set FISCUS_DATA_DIR.",
        )
        return
    seen = f"{folder} {'is writable' if is_there else 'is not there yet and can be made'}"
    seen += f", {free / (1 << 30):,.1f} GiB are free"
    if free < NO_DISK_BYTES:
        yield Finding("data folder", Verdict.WRONG, seen, "make room: writes will soon fail.")
    elif free < LOW_DISK_BYTES:
        yield Finding("data folder", Verdict.WARNING, seen, "make room before it is full.")
    else:
        yield Finding("data folder", Verdict.OK, seen)
    for path in (folder / "demo-admin-key", folder / "fiscus.db"):
        if _is_open_to_all(folder, path):
            yield Finding(
                "data folder",
                Verdict.WARNING,
                f"{path} can be read by every user of this machine",
                f"chmod 700 {folder}",
            )


def _free_bytes_of(folder: Path) -> int:
    """Raises `OSError` unless it can be written to."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
    return shutil.disk_usage(folder).free


def _free_bytes_for(folder: Path) -> int:
    """Of a folder that is not there, without making it. Raises `OSError` unless it can be made."""
    with suppress(FileNotFoundError, NotADirectoryError):
        folder.lstat()  # tells a name that no folder can have
    within = next(one for one in folder.absolute().parents if os.path.lexists(one))
    if not within.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{within} is no folder")
    by_effective_ids = os.access in os.supports_effective_ids
    if not os.access(within, os.W_OK | os.X_OK, effective_ids=by_effective_ids):
        raise PermissionError(errno.EACCES, f"{within} may not be written to")
    return shutil.disk_usage(within).free


def _is_open_to_all(folder: Path, path: Path) -> bool:
    """Whether any user of this machine can read a file of the folder."""
    if os.name == "nt" or not path.exists():
        return False
    return bool(folder.stat().st_mode & stat.S_IXOTH and path.stat().st_mode & stat.S_IROTH)


def _database(settings: Settings) -> Iterator[Finding]:
    from fiscus.wiring.engine import diagnose_database, migration_status

    try:
        facts = diagnose_database(settings)
        after = datetime.now(UTC)
        if facts.not_writable is not None:
            yield Finding(
                "database",
                Verdict.WRONG,
                f"{facts.not_writable} cannot be written",
                "give Fiscus's user the right to write to it, or set FISCUS_DATA_DIR.",
            )
            return
        pending = [one.revision for one in migration_status(settings) if not one.applied]
    except FiscusError as error:
        yield Finding("database", Verdict.WRONG, error.message, error.suggested_action)
        return
    seen = f"{facts.kind} {facts.version} answers"
    if not facts.is_there:
        seen = f"there is none yet: the first start makes the file, of {facts.kind} {facts.version}"
    if facts.may_only_be_read:
        yield Finding(
            "database",
            Verdict.WRONG,
            f"{seen}, but may only be read",
            "see that FISCUS_DATABASE_URL leads to the primary, and that the setting "
            "default_transaction_read_only is off.",
        )
    else:
        yield Finding("database", Verdict.OK, seen)
    yield _tables(facts, pending)
    if facts.now is None:
        yield Finding("clock", Verdict.OK, f"{facts.kind} goes by this machine's")
    else:
        skew = abs((after - facts.now).total_seconds())
        seen = f"{skew:.1f} s from the database's"
        if skew > MAX_SKEW_SECONDS:
            mend = "synchronise both clocks (NTP): periods and expiries depend on them."
            yield Finding("clock", Verdict.WRONG, seen, mend)
        else:
            yield Finding("clock", Verdict.OK, seen)
    if facts.kind == "postgresql" and not pending:
        yield _row_security(facts)


def _tables(facts: DatabaseFacts, pending: list[str]) -> Finding:
    check = "tables"
    if pending:
        return Finding(
            check,
            Verdict.WARNING,
            f"{len(pending)} migrations are not applied: {', '.join(pending)}",
            "`fiscus migrate up`; `fiscus serve` does it by itself when its login may.",
        )
    if facts.missing_tables:
        seen = "gone: " + ", ".join(facts.missing_tables)
        return Finding(check, Verdict.WRONG, seen, "restore the database from a backup.")
    if facts.missing_rights:
        missing = [f"{one.verb} ON {one.table}" for one in facts.missing_rights]
        seen = f"the role {facts.role} has no right to " + ", ".join(missing)
        grants = (f'GRANT {one} TO "{facts.role}";' for one in missing)
        return _for_the_owner(check, seen, grants)
    if facts.partition_faults:
        seen = "; ".join(one.seen for one in facts.partition_faults)
        return _for_the_owner(check, seen, (one.mend for one in facts.partition_faults))
    return Finding(check, Verdict.OK, "up to date")


def _for_the_owner(check: str, seen: str, statements: Iterable[str]) -> Finding:
    mend = "as the tables' owner: " + " ".join(statements)
    return Finding(check, Verdict.WRONG, seen, mend)


def _counters(settings: Settings) -> Iterator[Finding]:
    from fiscus.ratelimits.port import CountersUnavailable
    from fiscus.wiring.counters import open_counters

    check = "counters"
    if settings.redis_url is None:
        yield Finding(check, Verdict.OK, "rate limits are counted in the one process that serves")
        return
    try:
        counters = open_counters(settings.redis_url, timeout_seconds=COUNTERS_SECONDS)
    except ValidationError as error:
        yield Finding(check, Verdict.WRONG, error.message, error.suggested_action)
        return
    try:
        counters.ping_ms()  # connects, which takes several round trips and the checks no time
        took_ms = counters.ping_ms()
    except CountersUnavailable as error:
        mend = "see that Redis runs and that FISCUS_REDIS_URL is right, user and password too."
        yield Finding(check, Verdict.WRONG, f"Redis does not answer: {error}", mend)
        return
    finally:
        counters.close()
    seen = f"Redis answers in {took_ms:.1f} ms"
    limit_ms = settings.counters_timeout_seconds * 1000
    if took_ms > limit_ms:
        mend = "raise FISCUS_COUNTERS_TIMEOUT_SECONDS, or bring Redis nearer."
        seen += f", checks wait {limit_ms:.0f} ms at most"
        yield Finding(check, Verdict.WARNING, seen, mend)
    else:
        yield Finding(check, Verdict.OK, seen)


def _row_security(facts: DatabaseFacts) -> Finding:
    check = "tenant isolation"
    mend = (
        "let `fiscus migrate up` run as a login that may create roles: it makes the role that "
        "serves, named after the database and _app; keep that login in "
        "FISCUS_MIGRATION_DATABASE_URL and serve with a member of the role."
    )
    if facts.bypasses_row_security:
        seen = f"the role {facts.role} passes by row-level security"
        return Finding(check, Verdict.WRONG, seen, mend)
    if facts.owns_tables:
        return Finding(check, Verdict.WARNING, f"the role {facts.role} owns the tables", mend)
    if facts.unprotected_tables:
        seen = "no forced row-level security on " + ", ".join(facts.unprotected_tables)
        bound = (
            f"ALTER TABLE {one} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            for one in facts.unprotected_tables
        )
        return _for_the_owner(check, seen, bound)
    if facts.policy_faults:
        seen = "; ".join(one.seen for one in facts.policy_faults)
        return _for_the_owner(check, seen, (one.mend for one in facts.policy_faults))
    return Finding(check, Verdict.OK, f"row-level security binds the role {facts.role}")


def _show(findings: list[Finding]) -> None:
    table = new_table("", "what", "seen")
    mark = {
        Verdict.OK: "[green]ok[/]",
        Verdict.WARNING: "[yellow]look[/]",
        Verdict.WRONG: "[bold red]wrong[/]",
    }
    for one in findings:
        seen = shown(one.seen)
        if one.mend is not None:
            seen += f"\n[cyan]mend:[/] {shown(one.mend)}"
        table.add_row(mark[one.verdict], one.check, seen)
    show_table(table)
