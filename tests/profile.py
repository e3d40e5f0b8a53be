"""How much a run generates: `FISCUS_TEST_PROFILE` is `ci`, or `long` for many times as much."""

from __future__ import annotations

import os
from typing import Final

PROFILE: Final = os.environ.get("FISCUS_TEST_PROFILE", "ci")
LONG: Final = PROFILE == "long"
