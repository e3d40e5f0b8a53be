"""Commands run in the test's own process, as the console script runs them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fiscus.cli import main, terminal
from tests.fiscus_process import FiscusProcess, fiscus_server

GOOD_SECRET = "0123456789abcdef-0123456789-ABCDEF"


@dataclass(frozen=True)
class Done:
    """What a command printed and its exit status."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out, parse_float=Decimal)


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`run("keys", "list")`: on a data folder of the test's own, in a terminal of 100 columns."""
    for name in list(os.environ):
        if name.startswith("FISCUS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FISCUS_DATA_DIR", str(tmp_path / "data"))
    for console in (terminal.out, terminal.notes):
        monkeypatch.setattr(console, "_width", 100)

    def run_one(*arguments: str, **settings: str) -> Done:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["fiscus", *arguments])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        printed = capsys.readouterr()
        return Done(status, printed.out, printed.err)

    return run_one


@pytest.fixture
def in_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`in_terminal(80)`: standard output is a terminal of so many columns, without colours."""

    def take(columns: int) -> None:
        monkeypatch.setattr(terminal.out, "_force_terminal", True)
        monkeypatch.setattr(terminal.out, "_color_system", None)
        monkeypatch.setattr(terminal.out, "_width", columns)

    return take


@pytest.fixture
def narrow(run: Run, in_terminal: Callable[[int], None]) -> None:
    """A terminal of 80 columns."""
    in_terminal(80)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server on SQLite that the tests of a module share."""
    with fiscus_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def on_server(run: Run, server: FiscusProcess) -> Run:
    """As `run`, with the address and the key of a running server."""

    def run_one(*arguments: str, **settings: str) -> Done:
        where = {"FISCUS_URL": server.url, "FISCUS_KEY": server.key}
        return run(*arguments, **{**where, **settings})

    return run_one
