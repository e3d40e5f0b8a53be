"""The metrics' reference is made from the metrics, so it cannot fall behind."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from fiscus.http.monitoring.metrics import Metrics
from fiscus.http.monitoring.most_used import MostUsed, _Gauges

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"

HEAD = """# Metrics

`GET /budget/v1/metrics`, in Prometheus' text format, for the roles `platform_admin` and
`system_architect`. With several workers it shows the sums over all of them. Latencies have the
buckets 1, 2, 5, 10, 15, 25, 50, 100, 250 and 500 ms. Made from `families.py` and
`most_used.py` in `fiscus/http/monitoring`.

The budgets and quotas used most are told to `platform_admin` alone, as their series name tenants.
They are read from the database when metrics are asked for, once a minute at most. While it does not
answer within a second the last ones are shown for five minutes, then none; all else comes at once.
There are never more than 20 series of each, but which ones they are changes with time.

Of a histogram there are `_bucket`, `_sum` and `_count`. The `outcome` of a decision is `allowed`,
`denied`, `error`, or `limited` when the limits on Fiscus's own API refused the call, so that
nothing was decided.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
"""
_ENDINGS = {"counter": "_total"}
"""What the parser takes from the names that are shown."""


def reference() -> str:
    """The page as it should be."""
    shown = b"".join(Metrics().render()) + MostUsed([], []).render()
    families = text_string_to_metric_families(shown.decode())
    labels = _labels()
    rows = sorted(
        f"| `{one.name}{_ENDINGS.get(one.type, '')}` | {one.type} | {labels[one.name]} | "
        f"{one.documentation} |\n"
        for one in families
        if not one.name.endswith("_created")
    )
    return HEAD + "".join(rows)


def _labels() -> dict[str, str]:
    """The names of each metric's labels."""
    kept = {one._name: one._labelnames for one in vars(Metrics()._families).values()}
    kept |= {one.name: one._labelnames for one in _Gauges(MostUsed([], [])).collect()}
    return {name: ", ".join(f"`{label}`" for label in labels) for name, labels in kept.items()}


def test_the_reference_names_every_metric_with_its_meaning() -> None:
    assert REFERENCE.read_text() == reference(), "write reference() to docs/reference/metrics.md"
