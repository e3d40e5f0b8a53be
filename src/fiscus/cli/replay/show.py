"""What came of a replay, for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from rich.text import Text

from fiscus.cli.replay.audit import Finding, Replayed
from fiscus.cli.replay.model_prices import ModelPrices
from fiscus.cli.replay.run import Tally
from fiscus.cli.replay.trace import TraceRequest
from fiscus.cli.terminal import facts, money, new_table, out, show_table, shown

PERCENTILES: Final = (50, 95, 99)
MILLION: Final = 1_000_000


class Result(NamedTuple):
    """A replay that ended. `whole` is what all of the trace would cost; without findings it was
    not audited."""

    name: str
    requests: Sequence[TraceRequest]
    prices: ModelPrices
    whole: Decimal
    replayed: Replayed
    tally: Tally
    findings: Sequence[Finding]

    @property
    def audit_holds(self) -> bool:
        return bool(self.findings) and all(one.holds for one in self.findings)


def as_json_document(result: Result) -> dict[str, Any]:
    """All figures; amounts exact, latencies in milliseconds."""
    tally, replayed = result.tally, result.replayed
    return {
        "tenant_id": replayed.tenant_id,
        "budget_id": replayed.budget_id,
        "run_id": replayed.run_id,
        "model": result.prices.model,
        "requests": len(result.requests),
        "cost_of_the_trace": result.whole,
        "budget": replayed.amount,
        "spent": tally.spent,
        "admitted": tally.admitted,
        "refused": tally.refused,
        "released": tally.released,
        "retried": tally.retried,
        "excess": {"count": tally.excess_count, "amount": tally.excess},
        "seconds": round(tally.seconds, 3),
        "operations_per_second": round(tally.operations_per_second, 1),
        "check_ms": _percentiles(tally.check_ms),
        "settle_ms": _percentiles(tally.settle_ms),
        "audit": [one._asdict() for one in result.findings],
        "ok": result.audit_holds,
    }


def show(result: Result) -> None:
    """The figures, the latencies and the audit as tables."""
    out.print()
    show_table(facts(_figures(result), title=f"Replay of {shown(result.name)}"))
    columns = ("p50", "p95", "p99", "max")
    latencies = new_table("latency", *columns, right=columns)
    for name, values in (("check", result.tally.check_ms), ("settle", result.tally.settle_ms)):
        found = _percentiles(values)
        cells = (found[column] for column in columns)
        latencies.add_row(name, *("" if cell is None else f"{cell:,.1f} ms" for cell in cells))
    show_table(latencies)
    if not result.findings:
        return
    table = new_table("", "audit", "found", "must be", right=("found", "must be"))
    for one in result.findings:
        mark = "[green]holds[/]" if one.holds else "[bold red]FAILS[/]"
        table.add_row(mark, one.question, one.found, one.wanted)
    show_table(table)
    if result.audit_holds:
        out.print(Text("The audit holds, to the last digit.", "green"))
    else:
        out.print(Text("The audit FAILS.", "bold red"))


def _figures(result: Result) -> list[tuple[str, str]]:
    prices, tally, replayed = result.prices, result.tally, result.replayed
    requests = result.requests
    minutes = round((requests[-1].offset_seconds - requests[0].offset_seconds) / 60)
    per_input, per_output = prices.price(MILLION, 0), prices.price(0, MILLION)
    rates = f"{per_input:.2f} USD per million tokens in, {per_output:.2f} out"
    share = tally.spent / replayed.amount
    rows = [
        ("trace", f"{len(requests):,} requests of {minutes:,} minute{'' if minutes == 1 else 's'}"),
        ("prices", f"{prices.model} by {prices.provider}: {rates}"),
        ("tenant", replayed.tenant_id),
        ("admitted", f"[green]{tally.admitted:,}[/]"),
        ("refused", f"[red]{tally.refused:,}[/]"),
        ("spent", f"{money(tally.spent, 'USD')} ({share:.2%} of the budget)"),
        ("budget", f"{money(replayed.amount, 'USD')} (the whole trace costs {result.whole:,.2f})"),
    ]
    if tally.excess_count:
        above = f"{money(tally.excess, 'USD')} in {tally.excess_count:,} settles"
        rows.append(("above holds", f"{above}: longer answers than assumed, recorded in full"))
    if tally.released:
        rows.append(("released", f"{tally.released:,}"))
    if tally.retried:
        rows.append(("tried again", f"{tally.retried:,} calls"))
    speed = f"{tally.operations_per_second:,.0f} checks and settles a second"
    rows.append(("speed", f"{speed}, {tally.seconds:,.1f} s in all"))
    return rows


def _percentiles(latencies_ms: list[float]) -> dict[str, float | None]:
    ordered = sorted(latencies_ms)
    found: dict[str, float | None] = {
        f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 2)
        if ordered
        else None
        for p in PERCENTILES
    }
    return {**found, "max": round(ordered[-1], 2) if ordered else None}
