"""Where the API begins below a server's address: for those that serve it and those that call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

BASE_PATH: Final = "/budget/v1"


def path_below_mount(scope: Mapping[str, Any]) -> str:
    """The path of an ASGI request below what the application is mounted at (`root_path`)."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", ""))
    # a server may know a root_path that is not part of its paths
    return below if below.startswith("/") else path


def mount_of(scope: Mapping[str, Any]) -> str:
    """What the application is mounted at, as a URL has it; empty where that is the root."""
    path: str = scope["path"]
    # quoted, as it may be of the caller's choice: a header's line would end where that does
    return quote(path.removesuffix(path_below_mount(scope)))
