"""Counters in Redis or Valkey, shared by processes: a script decides, in one step on the server.

The scripts in `lua/` are the algorithms of `ratelimits` once more; tests hold the two to each
other. Keys are `fiscus:{<tenant id>}:<key>`, so that a tenant's counters share a slot of a cluster.
A counter's own state says when it is unused; expiry in the server only collects garbage.

Arguments and answers are one MessagePack message each: what redis-py does for every argument would
cost more than all else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import sha1
from importlib import resources
from typing import Final

from msgspec import msgpack

from fiscus.ratelimits.deciding import State
from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Algorithm, Rule, Verdict
from fiscus.stores.counters.redis_commands import Command, ask_all
from fiscus.stores.counters.redis_states import read_list, read_string
from fiscus.stores.counters.redis_urls import Servers, open_servers

_NUMBERS: Final = {
    Algorithm.TOKEN_BUCKET: 1,
    Algorithm.LEAKY_BUCKET: 2,
    Algorithm.FIXED_WINDOW: 3,
    Algorithm.SLIDING_WINDOW_LOG: 4,
}
"""What the scripts call the algorithms."""

_PARTS: Final = (
    "opening",
    "draining",
    "token_bucket",
    "leaky_bucket",
    "fixed_window",
    "sliding_window_log",
    "deciding",
)
"""What the scripts have in common, in an order in which each part knows what it uses."""

_encode = msgpack.Encoder().encode
_decode_reply = msgpack.Decoder(list[int]).decode


class RedisCounters:
    """A `ratelimits.port.CounterStore`. `now_us` None is the server's clock.

    Safe to use from several threads, which wait each for its own answer. Raises `ValidationError`
    for a URL that names no server; connects at the first use. `timeout_seconds` is the longest that
    a connection or an answer is waited for; then, and when a server answers with an error,
    `CountersUnavailable` is raised.
    """

    immediate = False

    def __init__(self, url: str, *, timeout_seconds: float = 0.01) -> None:
        self._servers: Servers = open_servers(url, timeout_seconds)
        self._decide = _Script("decide_all")
        self._adjust = _Script("adjust")

    def decide_all(self, takes: Sequence[Take], now_us: int | None) -> list[Taken | None]:
        asking = [take for take in takes if take.keys]
        if len(asking) < len(takes):
            # one without counters is admitted, and nothing is to be asked for it
            decided = iter(self.decide_all(asking, now_us))
            return [next(decided) if take.keys else Taken(True, []) for take in takes]
        if not takes:
            return []
        if not self._servers.apart:
            command = self._decide.command(takes, now_us)
            return _results(takes, ask_all(self._servers, [command])[0])
        tenants: dict[str, list[int]] = {}
        for place, take in enumerate(takes):
            tenants.setdefault(take.tenant_id, []).append(place)
        groups = [[takes[place] for place in places] for places in tenants.values()]
        commands = [self._decide.command(group, now_us) for group in groups]
        replies = ask_all(self._servers, commands)
        results: list[Taken | None] = [None] * len(takes)
        for places, group, reply in zip(tenants.values(), groups, replies, strict=True):
            for place, taken in zip(places, _results(group, reply), strict=True):
                results[place] = taken
        return results

    def adjust(self, take: Take, now_us: int | None) -> list[Verdict]:
        command = self._adjust.command([take], now_us)
        (taken,) = _results([take], ask_all(self._servers, [command])[0])
        assert taken is not None
        return taken.verdicts

    def forget(self, tenant_id: str, keys: Sequence[str]) -> None:
        names = [_name(tenant_id, key) for key in keys]
        ask_all(self._servers, [Command(name, ("DEL", name)) for name in names])

    def state(self, tenant_id: str, key: str) -> State | None:
        """What a counter holds; None when it is unused."""
        name = _name(tenant_id, key)
        (kind,) = ask_all(self._servers, [Command(name, ("TYPE", name))])
        if kind == b"list":
            (runs,) = ask_all(self._servers, [Command(name, ("LRANGE", name, 0, -1))])
            return read_list(runs) if runs else None
        (text,) = ask_all(self._servers, [Command(name, ("GET", name))])
        return None if text is None else read_string(text)

    def sweep(self, now_us: int) -> int:
        """None: the server forgets by itself."""
        return 0

    def ping_ms(self) -> float:
        """Milliseconds of a trivial call, to one server of several."""
        began = time.perf_counter()
        ask_all(self._servers, [Command("ping", ("PING",))])
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        self._servers.close()


class _Script:
    """A script by its text, and by the name that servers give it."""

    def __init__(self, ending: str) -> None:
        folder = resources.files("fiscus.stores.counters") / "lua"
        self._text: Final = "\n".join(
            (folder / f"{name}.lua").read_text(encoding="utf-8") for name in (*_PARTS, ending)
        )
        self._sha: Final = sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def command(self, takes: Sequence[Take], now_us: int | None) -> Command:
        """A run of the script for takes; see `lua/opening.lua` and `lua/deciding.lua`."""
        keys: list[str] = []
        numbers: list[int] = []
        rules: list[tuple[int, ...]] = []
        known: dict[int, int] = {}
        tenant_id = prefix = ""
        for take in takes:
            if take.tenant_id != tenant_id:
                tenant_id = take.tenant_id
                prefix = _name(tenant_id, "")
            asks = take.asks
            rank = 0 if asks else take.priority + 1
            numbers += (len(take.keys), int(take.gated), take.count, rank)
            for place, (key, rule) in enumerate(zip(take.keys, take.rules, strict=True)):
                keys.append(prefix + key)
                # most takes of a group have a rule in common, and it is the same object
                number = known.get(id(rule))
                if number is None:
                    rules.append(_packed(rule))
                    number = known[id(rule)] = len(rules)
                numbers.append(number)
                if asks:
                    numbers += (asks[place][0], asks[place][1] + 1)
        rest = (len(keys), *keys, _encode((now_us, rules, numbers)))
        return Command(keys[0], ("EVALSHA", self._sha, *rest), ("EVAL", self._text, *rest))


def _name(tenant_id: str, key: str) -> str:
    return f"fiscus:{{{tenant_id}}}:{key}"


def _packed(rule: Rule) -> tuple[int, ...]:
    algorithm, _, window_us, ceilings, rate, window_ends, shadow = rule
    number = _NUMBERS[algorithm]
    if number <= 2:
        return (number, window_us, *ceilings, shadow, rate.drain, rate.scale, rate.unit_us)
    return (number, window_us, *ceilings, shadow, *window_ends)


def _results(takes: Sequence[Take], reply: bytes) -> list[Taken | None]:
    """The reply of a script, whose form `lua/deciding.lua` describes."""
    numbers = _decode_reply(reply)
    results: list[Taken | None] = []
    at = 0
    for take in takes:
        admitted = numbers[at]
        at += 1
        if admitted < 0:
            results.append(None)
            continue
        verdicts: list[Verdict] = []
        for _ in take.rules:
            allowed, remaining, wait_us, reset_us, delay_ms = numbers[at : at + 5]
            wait = None if wait_us < 0 else wait_us
            verdicts.append(Verdict(allowed == 1, remaining, wait, reset_us, delay_ms, None))
            at += 5
        results.append(Taken(admitted == 1, verdicts))
    return results
