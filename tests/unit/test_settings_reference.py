"""The settings' reference is made from the settings, so it cannot fall behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from fiscus.settings import Settings

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"

HEAD = """# Settings

Each is an environment variable; in Python, `Fiscus.open` takes it by the name without `FISCUS_` in
lower case. An empty variable is as one that is not there. Made from `fiscus/settings.py`.

| variable | default | meaning |
| --- | --- | --- |
"""


def reference() -> str:
    """The page as it should be."""
    rows = [
        f"| `FISCUS_{name.upper()}` | {'' if one.default is None else f'`{one.default}`'} "
        f"| {one.description} |\n"
        for name, one in Settings.model_fields.items()
    ]
    return HEAD + "".join(rows)


def test_the_reference_names_every_setting_with_its_default_and_meaning() -> None:
    assert REFERENCE.read_text() == reference(), "write reference() to docs/reference/settings.md"


def test_every_choice_of_a_setting_is_told() -> None:
    for name, one in Settings.model_fields.items():
        if get_origin(one.annotation) is Literal:
            told = re.findall(r"\w+", one.description or "")
            assert set(get_args(one.annotation)) <= set(told), name


@pytest.mark.parametrize("name", ["database_url", "port", "ledger_apart", "jwt_secret", "data_dir"])
def test_an_empty_variable_is_as_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"FISCUS_{name.upper()}", "")
    assert getattr(Settings(), name) == Settings.model_fields[name].default
