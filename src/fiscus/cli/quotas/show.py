"""Quotas, parts of a distribution and history, as tables and a small chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from rich.text import Text

from fiscus.cli.marks import ASCII, BLOCKS, Marks
from fiscus.cli.terminal import facts, new_table, notes, out, show_table, shown
from fiscus.money import ZERO, add, plain, subtract
from fiscus.quotas.calls import DayTotal, DistributeAnswer, HistoryRow, QuotaHistory, QuotaView
from fiscus.quotas.model import UsageKind
from fiscus.zones import zone_of

MAX_BARS: Final = 62
"""Days of the chart: the latest two months."""
WIDEST_BAR: Final = 50


def show_quotas(quotas: Sequence[QuotaView]) -> None:
    numbers = ["allocated", "burst", "used", "left"]
    table = new_table("quota id", "resource", "scope", "period", *numbers, right=numbers)
    for quota in quotas:
        table.add_row(
            quota.quota_id,
            shown(quota.resource_type),
            shown(_scope_text(quota.scope_type, quota.scope_id)),
            _period(quota),
            number(quota.allocated_amount),
            number(quota.max_burst_amount) if quota.max_burst_amount else "",
            _used(quota),
            "" if quota.remaining_amount is None else number(quota.remaining_amount),
        )
    show_table(table, stack=("quota id", "resource", "scope", "period"))


def show_quota(quota: QuotaView) -> None:
    rows = [
        ("quota", quota.quota_id),
        ("of", shown(quota.resource_type)),
        ("for", shown(_scope_text(quota.scope_type, quota.scope_id))),
        ("amount", f"[bold]{number(quota.allocated_amount)}[/]"),
        ("burst", number(quota.max_burst_amount)),
        ("period", f"{_period(quota)} {quota.timezone}"),
        ("renews itself", quota.renewal_amount.replace("_", " ") if quota.auto_renew else "no"),
    ]
    if quota.burst_premium_rate is not None:
        rows.insert(5, ("premium", f"{number(quota.burst_premium_rate)} {quota.currency} a unit"))
    show_table(facts(rows))


def show_parts(answer: DistributeAnswer, resource_type: str) -> None:
    """Who gets, or would get, what."""
    total = number(answer.total_amount)
    verb = "would be shared out" if answer.dry_run else "is shared out"
    how = answer.strategy.replace("_", " ")
    out.print(f"[bold]{total} {shown(resource_type)}[/] {verb}, {how}:", soft_wrap=True)
    has_usage = any(part.usage is not None for part in answer.parts)
    numbers = ["amount", "share", *(["used in 30 days"] if has_usage else [])]
    identified = [] if answer.dry_run else ["quota id"]
    table = new_table("scope", *numbers, *identified, right=numbers)
    for part in answer.parts:
        share = part.allocated_amount / answer.total_amount
        cells = [number(part.allocated_amount), f"{share * 100:.1f} %"]
        if has_usage:
            cells.append("" if part.usage is None else number(part.usage))
        if identified:
            cells.append(part.quota_id or "(none: a part of 0)")
        table.add_row(shown(_scope_text(part.scope_type, part.scope_id)), *cells)
    show_table(table)


def show_history(quota: QuotaView, found: QuotaHistory, *, deleted: bool) -> None:
    """A bar for each day, then the latest rows."""
    stands = "deleted" if deleted else f"{number(quota.allocated_amount)} allocated"
    if quota.used_amount is not None:
        stands += f", {_used(quota)} used"
    out.print(
        f"[bold]{shown(quota.resource_type)}[/] of "
        f"{shown(_scope_text(quota.scope_type, quota.scope_id))}, {_period(quota)}: {stands}",
        soft_wrap=True,
    )
    if not found.rows and not found.days:
        notes.print("Nothing was taken from it.")
        return
    marks = ASCII if out.options.ascii_only else BLOCKS
    for line in day_chart(found.days, out.width, marks):
        out.print(line, soft_wrap=True)
    numbers = ["amount", "of burst", "used after"]
    table = new_table("time", "what", "scope", *numbers, right=numbers)
    for row in found.rows:
        table.add_row(_time(row, quota), *_row(row))
    show_table(table)


def day_chart(days: Sequence[DayTotal], width: int, marks: Marks = BLOCKS) -> Iterator[Text]:
    """A line for each of the latest days, oldest first: what was consumed, its burst apart.

    Days without use are left out; what was given back is said in words beside the bar.
    """
    latest = sorted(days, key=lambda day: day.day)[-MAX_BARS:]
    if not latest:
        return
    most = max(day.consumed for day in latest)
    label = max(len(number(day.consumed)) for day in latest)
    notes_width = max(len(_given_back(day)) for day in latest)
    bar = max(10, min(WIDEST_BAR, width - 14 - label - notes_width))
    yield Text.assemble(
        ("Consumed by day", "bold"),
        "   ",
        (marks.admitted * 2, "green"),
        " of the allocation   ",
        (marks.denied * 2, "red"),
        " of the burst",
    )
    for day in latest:
        whole, burst = _length(day.consumed, most, bar), _length(day.burst, most, bar)
        yield Text.assemble(
            f"{day.day:%Y-%m-%d} {marks.axis}",
            (marks.admitted * max(0, whole - burst), "green"),
            (marks.denied * min(whole, burst), "red"),
            f" {number(day.consumed)}",
            (_given_back(day), "dim"),
        )


def number(amount: Decimal) -> str:
    """All digits of an amount, thousands apart."""
    return f"{plain(amount):,f}"


def _length(amount: Decimal, most: Decimal, bar: int) -> int:
    """What is not nothing is seen: one mark at least."""
    return max(1, round(amount / most * bar)) if amount > 0 else 0


def _given_back(day: DayTotal) -> str:
    return f" ({number(day.released)} given back)" if day.released else ""


def _row(row: HistoryRow) -> list[str]:
    taken = row.kind is UsageKind.CONSUME
    return [
        "taken" if taken else "[yellow]given back[/]",
        shown(row.scope_id),
        number(row.amount if taken else subtract(ZERO, row.amount)),
        number(row.burst if taken else subtract(ZERO, row.burst)) if row.burst else "",
        number(row.used_after),
    ]


def _used(quota: QuotaView) -> str:
    if quota.used_amount is None or quota.burst_used is None:
        return "of each id"
    used = add(quota.used_amount, quota.burst_used)
    share = used / quota.allocated_amount
    colour = "red" if share >= 1 else "yellow" if share >= Decimal("0.8") else ""
    text = f"{number(used)} ({share * 100:.0f} %)"
    return f"[{colour}]{text}[/]" if colour else text


def _scope_text(kind: str, scope_id: str) -> str:
    return f"{kind} {scope_id}"


def _period(quota: QuotaView) -> str:
    return f"{_local(quota.period_start, quota)} to {_local(quota.period_end, quota)}"


def _time(row: HistoryRow, quota: QuotaView) -> str:
    return f"{row.at.astimezone(zone_of(quota.timezone)):%Y-%m-%d %H:%M:%S}"


def _local(moment: datetime, quota: QuotaView) -> str:
    """A day in the quota's zone, with the time unless it is midnight."""
    local = moment.astimezone(zone_of(quota.timezone))
    return f"{local:%Y-%m-%d}" if f"{local:%H%M}" == "0000" else f"{local:%Y-%m-%d %H:%M}"
