"""Leaky bucket as a meter: a level that every request raises and that drains at limit / window.

Source: the continuous-state leaky bucket of ITU-T I.371 (GCRA). The capacity is the limit. Besides
the verdict it tells `delay_ms`: how long the level that the request found takes to drain. A caller
that waits so long before each admitted request sends at the drain rate.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from fiscus.ratelimits import draining

decide: Final = partial(draining.decide, shaped=True)
"""Add `count` to the level, or nothing; tells `delay_ms`."""
