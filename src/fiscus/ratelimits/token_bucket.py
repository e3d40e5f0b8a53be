"""Token bucket: a bucket of limit + burst tokens that refills all the time.

Source: the token bucket of RFC 2697 with one rate, kept as the tokens that are missing (see
`draining`). It starts full and refills at limit / window, also in the middle of a window, so a
client may use the whole bucket at once and then limit / window. Burst adds to the bucket, not to
the refill.
"""

from __future__ import annotations

from typing import Final

from fiscus.ratelimits import draining

decide: Final = draining.decide
"""Take `count` tokens, or none."""
