"""The examples, and the code of the how-to page, run as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fiscus
from fiscus import limits
from fiscus.access.model import Role
from fiscus.clock import ManualClock
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from tests.client.apis import RunningServer, keep_key, serving

if TYPE_CHECKING:
    from types import ModuleType

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
    script = tmp_path / "page.py"
    script.write_text(_code_of(page), "utf-8")
    _run([str(script)], server, tmp_path, REDIS_URL=valkey_url)


def test_the_readme_and_the_pages_run_after_one_another_in_one_folder(
    valkey_url: str, tmp_path: Path
) -> None:
    """As somebody does who reads them all with `fiscus serve` running in the same folder."""
    settings = Settings(data_dir=tmp_path / "fiscus-data", sqlite_synchronous="OFF", port=3472)
    engine = open_engine(settings)
    try:
        with serving(engine) as url:
            key = keep_key(engine, Role.PLATFORM_ADMIN, tenant_id="default")
            server = RunningServer(url, key, engine, ManualClock(engine.clock.now()))
            script = tmp_path / "page.py"
            for code in [*_readme_blocks(), *map(_code_of, [PAGE, QUOTAS_PAGE, LIMITS_PAGE])]:
                script.write_text(code, "utf-8")
                _run([str(script)], server, tmp_path, REDIS_URL=valkey_url)
    finally:
        engine.close()


def _readme_blocks() -> list[str]:
    """Every block of Python in the README, by itself."""
    blocks = re.findall(
        r"(?:^(?:    .*)?\n)+", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    code = [one for one in map(textwrap.dedent, blocks) if one.strip().startswith("from ")]
    assert len(code) == 3
    return code


def _code_of(page: Path) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 4
    return "\n".join(blocks)


@pytest.mark.parametrize("module", [fiscus, limits], ids=lambda module: module.__name__)
def test_the_pages_name_every_public_name(module: ModuleType) -> None:
    page = (PAGE if module is fiscus else LIMITS_PAGE).read_text("utf-8")
    assert [name for name in module.__all__ if name not in page] == []
