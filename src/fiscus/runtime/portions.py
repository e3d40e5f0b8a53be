"""Work that is done in portions, so that it can be left before all of it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fiscus.errors import FiscusError
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

_SHOWN = 10

ShouldContinue = Callable[[], bool]
"""Asked before each portion: whether to begin on it."""


def to_the_end() -> bool:
    """Goes on until nothing is left."""
    return True


def for_each_tenant(
    tenants: Iterable[str], work: Callable[[str], int], goes_on: ShouldContinue, late: set[str]
) -> int:
    """Do the work of one tenant after the other; how much was done.

    One whose work fails does not keep the others waiting: that is raised once all had their turn.
    The next time it comes last, as it may take all the time there is; `late` keeps those.
    """
    done = 0
    failed: dict[str, FiscusError] = {}
    for tenant_id in sorted(tenants, key=late.__contains__):
        if not goes_on():
            break
        try:
            done += work(tenant_id)
        except FiscusError as error:
            failed[tenant_id] = error
            late.add(tenant_id)
        else:
            late.discard(tenant_id)
    raise_any(failed)
    return done


def raise_any(failed: Mapping[str, FiscusError]) -> None:
    """Raise one of what tenants' work failed with, if any did, and tell whose did."""
    if failed:
        log.warning("tenants_left_out", tenants=sorted(failed)[:_SHOWN], count=len(failed))
        raise next(iter(failed.values()))
