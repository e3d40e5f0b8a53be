"""The examples of the OpenAPI document, from `examples.json`.

Requests are written by hand; answers and errors were captured from a server that got them in order
(`python -m tests.http.example_run` does it again). A test sends each one and compares.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

_ALL: Final[dict[str, dict[str, Any]]] = json.loads(
    (files("fiscus.http.openapi") / "examples.json").read_text("utf-8")
)

PATH_IDS: Final[dict[str, str]] = _ALL["path_ids"]
"""An id for each name in a path."""

QUERIES: Final = _ALL["queries"]
"""Query parameters by operation."""

REQUESTS: Final = _ALL["requests"]
"""Bodies by operation, but for the decisions, whose table has them."""

ANSWERS: Final = _ALL["answers"]
"""Bodies of answers by operation."""

ERRORS: Final = _ALL["errors"]
"""Bodies of problems by code."""

OWN_ERRORS: Final[dict[str, dict[str, Any]]] = _ALL["own_errors"]
"""Bodies of problems by operation and code, where the operation has one for other reasons."""
