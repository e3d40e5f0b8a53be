"""Calls in this process, over and over for a while: one after another, or by many coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import cycle
from time import perf_counter, process_time
from typing import Final

from bench.rivals import Ask, AskAsync
from bench.samples import Sample

_AT_ONCE: Final = 500
"""Calls between two looks at the clock."""


def one_by_one(ask: Ask, keys: Sequence[str]) -> Callable[[float], Sample]:
    """A measure of `ask` for the keys in turn, on one thread."""
    parts = cycle([keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE)])

    def run(seconds: float) -> Sample:
        done = 0
        cpu_began, began = process_time(), perf_counter()
        while (elapsed := perf_counter() - began) < seconds:
            part = next(parts)
            for key in part:
                ask(key)
            done += len(part)
        cpu_us = (process_time() - cpu_began) / done * 1e6
        rate = done / elapsed
        return Sample(
            operations=done, operations_per_second=rate, requests_per_second=rate, cpu_us=cpu_us
        )

    return run


def at_once(
    runner: asyncio.Runner, ask: AskAsync, keys: Sequence[str], callers: int
) -> Callable[[float], Sample]:
    """A measure of `ask` by so many coroutines of one event loop, each with one call at a time."""
    turns = cycle(keys)

    async def caller(until: float, took: list[float]) -> None:
        began = perf_counter()
        while began < until:
            await ask(next(turns))
            ended = perf_counter()
            took.append(ended - began)
            began = ended

    async def all_of_them(seconds: float) -> tuple[float, list[float]]:
        took: list[float] = []
        began = perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(caller(began + seconds, took))
        return perf_counter() - began, took

    def run(seconds: float) -> Sample:
        cpu_began = process_time()
        elapsed, took = runner.run(all_of_them(seconds))
        cpu_us = (process_time() - cpu_began) / len(took) * 1e6
        took.sort()
        rate = len(took) / elapsed
        return Sample(
            operations=len(took),
            operations_per_second=rate,
            requests_per_second=rate,
            p50_ms=_part(took, 50),
            p95_ms=_part(took, 95),
            p99_ms=_part(took, 99),
            cpu_us=cpu_us,
        )

    return run


def _part(took: Sequence[float], percent: int) -> float:
    return took[len(took) * percent // 100] * 1000
