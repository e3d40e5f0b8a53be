"""The examples, and the code of the how-to page, run as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fiscus
from fiscus import limits

if TYPE_CHECKING:
    from types import ModuleType

    from tests.client.apis import RunningServer

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "how-to"
PAGE = PAGES / "python.md"
LIMITS_PAGE = PAGES / "limit-a-python-application.md"
QUOTAS_PAGE = PAGES / "quotas.md"
SAYS = {
    "embedded.py": "refused: Budget 'Search, daily' (project search) has no room",
    "client.py": "refused; 0.25 would pass now",
    "async_agent.py": "one record over 0.1 USD",
    "limited_app.py": "come back in 300 s",
    "quotas.py": "refused: The reports quota of user ada has no room",
}


def _run(arguments: list[str], server: RunningServer, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "FISCUS_URL": server.url, "FISCUS_KEY": server.key, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(server: RunningServer, tmp_path: Path, name: str) -> None:
    assert SAYS[name] in _run([str(ROOT / "examples" / name)], server, tmp_path)


@pytest.mark.parametrize("page", [PAGE, LIMITS_PAGE, QUOTAS_PAGE], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    server: RunningServer, valkey_url: str, tmp_path: Path, page: Path
) -> None:
    code = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(code) > 4
    script = tmp_path / "page.py"
    script.write_text("\n".join(code), "utf-8")
    _run([str(script)], server, tmp_path, REDIS_URL=valkey_url)


@pytest.mark.parametrize("module", [fiscus, limits], ids=lambda module: module.__name__)
def test_the_pages_name_every_public_name(module: ModuleType) -> None:
    page = (PAGE if module is fiscus else LIMITS_PAGE).read_text("utf-8")
    assert [name for name in module.__all__ if name not in page] == []


def test_the_python_of_the_readme_runs(server: RunningServer, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text("utf-8").partition("## First use: Python")[2]
    lines = section.partition("\n## ")[0].splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    assert "reserve" in code
    script = tmp_path / "readme.py"
    script.write_text(code, "utf-8")
    _run([str(script)], server, tmp_path)
