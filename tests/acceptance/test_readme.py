"""The README's first use and the tutorial work as they are pasted."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.fiscus_process import FiscusProcess, clean_environment, fiscus_server

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial" / "README.md"

pytestmark = pytest.mark.acceptance


def block(heading: str, beginning: str) -> str:
    """The indented block under `heading` that begins with `beginning`, as one would copy it."""
    section = README.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", section, re.MULTILINE)
    found = [text for text in map(textwrap.dedent, blocks) if text.strip().startswith(beginning)]
    assert len(found) == 1, (heading, beginning)
    return found[0]


def run_lines(lines: str, server: FiscusProcess, folder: Path) -> str:
    """Run pasted lines against `server`; what they printed."""
    lines = re.sub(r"export KEY=.*", f"export KEY={server.key}", lines)
    lines = lines.replace("http://127.0.0.1:3472", server.url)
    done = subprocess.run(
        ["bash", "-euc", lines],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run pasted lines of Python, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    pasted = [line[4:] for line in TUTORIAL.read_text().splitlines() if line.startswith("    ")]
    lines = "\n".join(line for line in pasted if line != "fiscus serve")
    with fiscus_server(tmp_path / "server") as server:
        printed = run_lines(lines, server, tmp_path)
    assert "error_code" not in printed
    assert printed.count('"allowed":true') == 1
    assert all(one.startswith("{") for one in printed.splitlines())
    assert '"max_allowed_cost":0.4,' in printed
    assert '"charged":0.25' in printed
    assert '"total_cost":0.25' in printed
    assert '"roles":["service"]' in printed


def test_the_curl_lines_reserve_settle_and_report(tmp_path: Path) -> None:
    with fiscus_server(tmp_path / "server") as server:
        lines = block("First use: curl", "export KEY=")
        printed = run_lines(lines, server, tmp_path)
    assert '"allowed":true' in printed
    assert '"charged":0.0187' in printed
    assert '"total_cost":0.0187' in printed
    assert "error_code" not in printed


def test_the_python_lines_run_without_a_server(tmp_path: Path) -> None:
    code = block("First use: Python", "from fiscus import")
    done = run_python(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "0.0187 USD\n"), done.stderr
    assert (tmp_path / "fiscus-data" / "fiscus.db").exists()


def test_the_rate_limit_lines_refuse_the_fourth_and_say_when(tmp_path: Path) -> None:
    with fiscus_server(tmp_path / "server") as server:
        printed = run_lines(block("Rate limits", "export KEY="), server, tmp_path)
    assert printed.count('"allowed":true') == 3
    refused = printed.split("429 Too Many Requests", 1)[1]
    for header in ("RateLimit-Policy: ", "RateLimit: ", "X-RateLimit-Limit: 3", "Retry-After: 20"):
        assert header in refused


def test_the_middleware_lines_limit_an_application(tmp_path: Path) -> None:
    code = block("Rate limits", "from fastapi import")
    code += """
import asyncio, httpx

async def ask() -> list[int]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        return [(await http.get("/answer")).status_code for _ in range(6)]

assert asyncio.run(ask()) == [200] * 5 + [429]
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_quota_lines_run_without_a_server(tmp_path: Path) -> None:
    code = block("Quotas", "from fiscus import")
    done = run_python(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
