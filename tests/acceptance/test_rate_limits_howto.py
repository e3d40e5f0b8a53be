"""The lines of the how-to of rate limits work as they are pasted, one after the other."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fiscus_process import clean_environment, fiscus_server

HOWTO = Path(__file__).parents[2] / "docs" / "how-to" / "rate-limits.md"

pytestmark = pytest.mark.acceptance

ANSWERED = {"POLICY": "policy_id", "EMERGENCY": "emergency_id", "COLLEAGUE": "api_key"}


def test_the_how_to_does_what_it_says(tmp_path: Path) -> None:
    text = HOWTO.read_text()
    pasted = re.findall(r"^    ((?:api|KEY|export)\b.*(?:\n      .*)*)", text, re.MULTILINE)
    answers: list[Any] = []
    before: list[str] = []
    with fiscus_server(tmp_path) as server:
        for command in pasted:
            if command.startswith("export"):
                name = command.removeprefix("export ").split("=")[0]
                value = server.key if name == "KEY" else answers[-1][ANSWERED[name]]
                before.append(f"export {name}={value}")
            elif command.startswith("api()"):
                before.append(command.replace("http://127.0.0.1:3472", server.url))
            else:
                printed = subprocess.run(
                    ["bash", "-euc", "\n".join([*before, command])],
                    env=clean_environment(),
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=True,
                ).stdout
                answers.append(json.loads(printed) if printed else None)
                assert "error_code" not in printed, (command, printed)
    made, check, adjusted, used, replaced, emergency, _, approved, reset, ended = answers
    assert check["allowed"] is True
    assert check["remaining_requests"] == 78_800
    assert adjusted["remaining_requests"] > check["remaining_requests"]
    assert used["counter"]["scope_id"] == "ada"
    assert (made["version"], replaced["version"]) == (1, 2)
    assert emergency["effective_until"] < emergency["ends_at"]
    assert approved["effective_until"] == approved["ends_at"]
    assert (reset, ended) == (None, None)
