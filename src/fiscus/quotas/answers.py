"""What was decided on a check of quotas, and how it is answered.

Deciding and answering are apart, so that whoever asked can put the answer into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from msgspec import Struct

from fiscus.money import ZERO, add, plain, ratio, subtract
from fiscus.quotas.calls import QuotaCheckAnswer, QuotaLine
from fiscus.quotas.matching import MatchedQuota
from fiscus.quotas.rules import reached

NO_QUOTA: Final = "No quota matches this operation."
ALLOW: Final = "allow"
DENY: Final = "deny"


class QuotaStanding(Struct, frozen=True, array_like=True, gc=False):
    """How a quota stands after the decision."""

    used: Decimal
    burst_used: Decimal
    from_burst: Decimal
    """What was taken of the burst just now."""
    denies: bool


class QuotasDecided(Struct, frozen=True, gc=False):
    """A decision over every quota that an operation meets, of which there may be none."""

    matched: Sequence[MatchedQuota]
    allowed: bool
    deciding: int
    """Which of them the answer is about."""
    fits_at: datetime | None
    """When it would fit, if it is denied and that is known."""
    standings: list[QuotaStanding]
    """In the order of `matched`."""


def answer(decided: QuotasDecided, amount: Decimal, consumption_id: str | None) -> QuotaCheckAnswer:
    """The answer to a check of `amount`; without an id for what was taken, nothing was."""
    if not decided.matched:
        return _without_quota(decided)
    allowed = decided.allowed
    taken = amount if allowed and consumption_id is not None else ZERO
    lines: list[QuotaLine] = []
    least: Decimal | None = None
    for one, standing in zip(decided.matched, decided.standings, strict=True):
        line = _line(one, standing, taken)
        lines.append(line)
        if least is None or line.remaining_amount < least:
            least = line.remaining_amount
    shown = lines[decided.deciding]
    return QuotaCheckAnswer(  # by position: with names it takes six times as long
        allowed,
        len(lines),
        shown.quota_id,
        consumption_id if allowed else None,
        shown.remaining_amount,
        ZERO if least is None or least < ZERO else least,
        decided.fits_at,
        _message(decided, shown, amount),
        lines,
    )


def _message(decided: QuotasDecided, shown: QuotaLine, amount: Decimal) -> str:
    label = decided.matched[decided.deciding].label
    if not decided.allowed:
        whole = plain(add(shown.allocated_amount, shown.max_burst_amount))
        left = f"{shown.remaining_amount} of {whole} left"
        return f"{label} has no room: {left}, {plain(amount)} needed."
    if shown.from_burst:
        return (
            f"{label} is past its allocation: {plain(shown.from_burst)} of {plain(amount)} came "
            f"from the burst, {shown.remaining_amount} left."
        )
    return f"{label} has room."


def _line(matched: MatchedQuota, standing: QuotaStanding, taken: Decimal) -> QuotaLine:
    quota = matched.quota
    allocated, burst = quota.allocated_amount, quota.max_burst_amount
    used = add(standing.used, standing.burst_used)
    levels = reached(quota, used)
    crossed: list[str] = []
    if taken and len(levels) > 1:
        crossed = levels[len(reached(quota, subtract(used, taken))) :]
    return QuotaLine(  # by position, as above
        quota.quota_id,
        matched.scope,
        allocated,
        burst,
        standing.used,
        standing.burst_used,
        plain(subtract(add(allocated, burst), used)),
        ratio(used, allocated),
        DENY if standing.denies else ALLOW,
        levels[-1],
        crossed,
        standing.from_burst,
        quota.period_start,
        quota.period_end,
    )


def _without_quota(decided: QuotasDecided) -> QuotaCheckAnswer:
    allowed = decided.allowed
    return QuotaCheckAnswer(
        allowed=allowed,
        matched=0,
        quota_id=None,
        consumption_id=None,
        remaining_amount=None,
        max_allowed_amount=None if allowed else ZERO,
        fits_at=decided.fits_at,
        message=NO_QUOTA if allowed else NO_QUOTA + " This tenant requires one.",
        quotas=[],
    )
