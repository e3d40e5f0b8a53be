"""The books of an enclosing block."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal

from fiscus.client.lending import Lending, Used


def test_of_many_nested_costs_the_details_are_kept_once() -> None:
    lending = Lending()
    lending.begin()
    tracemalloc.start()
    for number in range(500):
        used = Used(Decimal(1), {"usage": {f"document-{number}": 1}})
        assert lending.take_over(f"nested-{number}", used)
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size_bytes < 500_000
    assert lending.used.cost == 500
    assert len(lending.used.details["usage"]) == 500
