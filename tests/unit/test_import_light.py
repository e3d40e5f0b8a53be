"""The core is a library: importing it must not pull in a web framework or a database driver."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

HEAVY = ("fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "psycopg", "redis", "typer")


@pytest.mark.parametrize(
    "modules",
    [
        "fiscus",
        "fiscus.budgets, fiscus.ledger",
        "fiscus.costs, fiscus.access",
        "fiscus.client.clients",
        "fiscus.limits",
        "fiscus.limits.in_process, fiscus.limits.in_redis, fiscus.limits.middleware",
    ],
)
def test_importing_the_core_loads_no_framework_and_no_driver(modules: str) -> None:
    script = f"import {modules}, sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))


def test_limits_in_process_need_next_to_nothing() -> None:
    script = "from fiscus.limits import limit; limit('5/minute').hit(); import sys; "
    script += "print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({*HEAVY, "cryptography", "httpx", "pydantic", "structlog"})


@pytest.mark.parametrize("module", ["fiscus.ids", "fiscus.wire.hooks", "fiscus.client.holds"])
def test_what_clients_are_made_of_loads_where_nothing_forks(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """As on Windows, whose `os` has no `register_at_fork`."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
