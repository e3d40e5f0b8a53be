"""Where the API begins below a server's address: for those that serve it and those that call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

BASE_PATH: Final = "/budget/v1"


def path_below_mount(scope: Mapping[str, Any]) -> str:
    """The path of an ASGI request below what the application is mounted at (`root_path`)."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", ""))
    # a server may know a root_path that is not part of its paths
    return below if below.startswith("/") else path
