"""Limits in words: `100/minute; 10/second burst 20`.

    limits  =  limit { (";" | "," | "|") limit }
    limit   =  count ("/" | "per") [number] unit { "burst" number | algorithm }
    unit    =  second | minute | hour | day | week | month | year,
               also as a plural, and s, sec, m, min, h, d, w for short

Case and spaces do not matter. Every string of the package `limits` is one of these and means the
same, but for a year, which has 365 days here. A month has 30 days. Without an algorithm it is
`token_bucket`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fiscus.errors import ValidationError
from fiscus.ratelimits.rules import Algorithm, Rule, make_rule

_UNITS: Final = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 7 * 86_400,
    "month": 30 * 86_400,
    "year": 365 * 86_400,
}
_SHORT: Final = {
    "s": "second",
    "sec": "second",
    "m": "minute",
    "min": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
}
_ALGORITHMS: Final = {algorithm.value: algorithm for algorithm in Algorithm}
_TOKEN: Final = re.compile(r"\s*(?P<token>[0-9]+|per|[a-z_]+|\S)", re.IGNORECASE | re.ASCII)
_SEPARATORS: Final = ";,|"
_MAX_DIGITS: Final = 15
# what the parts of a limit are called in the errors of rules
_WORDS: Final = {
    "limit_value": "the count",
    "time_window_seconds": "the window in seconds",
    "burst_capacity": "burst",
}


class Phrase(NamedTuple):
    """One limit, as it was written."""

    hits: int
    number: int
    """Units in the window."""
    unit: str
    algorithm: Algorithm
    burst: int

    @property
    def window_seconds(self) -> int:
        return self.number * _UNITS[self.unit]

    def __str__(self) -> str:
        """The shortest string that says the same."""
        window = self.unit if self.number == 1 else f"{self.number} {self.unit}s"
        burst = f" burst {self.burst}" if self.burst else ""
        algorithm = "" if self.algorithm is Algorithm.TOKEN_BUCKET else f" {self.algorithm}"
        return f"{self.hits}/{window}{burst}{algorithm}"


def parse_limits(text: str) -> list[tuple[Phrase, Rule]]:
    """The limits that `text` says, with the rules they are.

    Raises `ValidationError` that quotes the part that is wrong.
    """
    tokens = [(one["token"], one.start("token")) for one in _TOKEN.finditer(text)]
    reader = _Reader(text, tokens)
    limits: list[tuple[Phrase, Rule]] = []
    while True:
        begin = reader.position
        phrase = _phrase(reader)
        limits.append((phrase, _rule(text, text[begin : reader.position].strip(), phrase)))
        if reader.at_end():
            return limits
        if not reader.take(*_SEPARATORS):
            raise reader.wrong("does not belong there", "Separate limits by `;`.")


class _Reader:
    """Reads a text word by word, and says where it is."""

    def __init__(self, text: str, tokens: list[tuple[str, int]]) -> None:
        self._text = text
        self._tokens = tokens
        self._next = 0

    @property
    def position(self) -> int:
        return self._tokens[self._next][1] if not self.at_end() else len(self._text)

    def at_end(self) -> bool:
        return self._next == len(self._tokens)

    def word(self) -> str:
        """The next word, which stays the next; empty at the end."""
        return "" if self.at_end() else self._tokens[self._next][0].lower()

    def take(self, *words: str) -> str:
        """The next word when it is one of these, or else nothing."""
        word = self.word()
        if word not in words:
            return ""
        self._next += 1
        return word

    def number(self) -> int | None:
        word = self.word()
        if not (word.isascii() and word.isdigit()):
            return None
        if len(word) > _MAX_DIGITS:
            raise self.wrong("is too large", "Use a smaller number.")
        self._next += 1
        return int(word)

    def wrong(self, what: str, action: str) -> ValidationError:
        if self.at_end():
            found = "the end"
        else:
            token, at = self._tokens[self._next]
            found = f"{token[:40]!r} at character {at + 1}"
        return _error(self._text, f"{found} {what}", action)


def _phrase(reader: _Reader) -> Phrase:
    count = reader.number()
    if count is None:
        raise reader.wrong("is not a count", "Write a limit as in `100/minute`.")
    if not reader.take("/", "per"):
        raise reader.wrong("is not `/` or `per`", "Write a limit as in `100/minute`.")
    number = reader.number()
    unit = _unit(reader.word())
    if unit is None:
        raise reader.wrong("is not a unit of time", f"Known: {', '.join(_UNITS)}.")
    reader.take(reader.word())
    burst: int | None = None
    algorithm: Algorithm | None = None
    while True:
        if burst is None and reader.take("burst"):
            burst = reader.number()
            if burst is None:
                raise reader.wrong("is not a number", "Write a burst as in `burst 20`.")
        elif algorithm is None and (word := reader.take(*_ALGORITHMS)):
            algorithm = _ALGORITHMS[word]
        elif reader.at_end() or reader.word() in _SEPARATORS:
            return Phrase(
                count,
                1 if number is None else number,
                unit,
                algorithm or Algorithm.TOKEN_BUCKET,
                burst or 0,
            )
        else:
            raise reader.wrong(
                "does not belong there",
                f"After the unit may come `burst` with a number, and one of {_names()}.",
            )


def _unit(word: str) -> str | None:
    word = _SHORT.get(word, word)
    if word in _UNITS:
        return word
    singular = word.removesuffix("s")
    return singular if singular in _UNITS else None


def _rule(text: str, part: str, phrase: Phrase) -> Rule:
    try:
        return make_rule(
            phrase.algorithm,
            phrase.hits,
            phrase.window_seconds * 1_000_000,
            burst=phrase.burst,
        )
    except ValidationError as error:
        message, action = error.message, error.suggested_action or ""
        for name, word in _WORDS.items():
            message, action = message.replace(name, word), action.replace(name, word)
        raise _error(text, f"{part[:60]!r}: {message}", action) from None


def _error(text: str, what: str, action: str) -> ValidationError:
    quoted = text if len(text) <= 100 else text[:100] + "…"
    return ValidationError(
        f"Not a limit: {quoted!r}: {what}", field="limit", suggested_action=action
    )


def _names() -> str:
    return ", ".join(_ALGORITHMS)


__all__ = ["Phrase", "parse_limits"]
