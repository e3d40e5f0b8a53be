"""Where the API begins below a server's address: for those that serve it and those that call."""

from __future__ import annotations

from typing import Final

BASE_PATH: Final = "/budget/v1"
