"""Takes as commands to Redis, and its replies as what became of them.

Arguments and answers are one MessagePack message each: what redis-py does for every argument would
cost more than all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from importlib import resources
from typing import Final

from msgspec import msgpack

from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Algorithm, Rule, Verdict
from fiscus.stores.counters.redis_commands import Command

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


class Script:
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
                prefix = name_of(tenant_id, "")
            asks = take.asks
            rank = 0 if asks else take.priority + 1
            numbers += (len(take.keys), 1 if take.gated else 0, take.count, rank)
            for key in take.keys:
                keys.append(prefix + key)  # noqa: PERF401 - it is one mostly, not worth a list
            for place, rule in enumerate(take.rules):
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


class TakeGroup:
    """Takes that are asked for together: one command for all, or where counters are apart, one for
    each tenant."""

    def __init__(
        self, script: Script, takes: Sequence[Take], now_us: int | None, *, apart: bool
    ) -> None:
        self._takes = takes
        self._places: list[list[int]] = []
        """Which takes each command is for, where it is not one for all."""
        if takes and not apart and all(take.keys for take in takes):
            self.commands = [script.command(takes, now_us)]
            return
        tenants: dict[str, list[int]] = {}
        for place, take in enumerate(takes):
            if take.keys:  # one without counters is admitted, and nothing is to be asked for it
                tenants.setdefault(take.tenant_id if apart else "", []).append(place)
        self._places = list(tenants.values())
        self.commands = [
            script.command([takes[place] for place in places], now_us) for places in self._places
        ]

    def outcome(self, replies: Sequence[bytes]) -> list[Taken | None]:
        """What became of the takes, from the replies to `commands`."""
        takes = self._takes
        if replies and not self._places:
            return results_of(takes, replies[0])
        results: list[Taken | None] = [None if take.keys else Taken(True, []) for take in takes]
        for places, reply in zip(self._places, replies, strict=True):
            decided = results_of([takes[place] for place in places], reply)
            for place, taken in zip(places, decided, strict=True):
                results[place] = taken
        return results


def name_of(tenant_id: str, key: str) -> str:
    """What the server calls a counter."""
    return f"fiscus:{{{tenant_id}}}:{key}"


def results_of(takes: Sequence[Take], reply: bytes) -> list[Taken | None]:
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
            allowed, remaining, wait, reset_us, delay_ms = numbers[at : at + 5]
            verdicts.append(
                Verdict(
                    allowed == 1, remaining, None if wait < 0 else wait, reset_us, delay_ms, None
                )
            )
            at += 5
        results.append(Taken(admitted == 1, verdicts))
    return results


def _packed(rule: Rule) -> tuple[int, ...]:
    algorithm, _, window_us, ceilings, rate, window_ends, shadow = rule
    number = _NUMBERS[algorithm]
    if number <= 2:
        return (number, window_us, *ceilings, shadow, rate.drain, rate.scale, rate.unit_us)
    return (number, window_us, *ceilings, shadow, *window_ends)
