"""The texts of requests as types: ids, names, labels, keys, currencies and tags."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec

from fiscus.money import CURRENCY
from fiscus.scopes import EVERY, ID

ID_PATTERN: Final = rf"^{ID}\Z"

Id = Annotated[
    str,
    msgspec.Meta(
        pattern=ID_PATTERN, description="An opaque id: 1-128 letters, digits and `. _ : -`."
    ),
]
ID_OR_EVERY_PATTERN: Final = rf"^(?:{re.escape(EVERY)}|{ID})\Z"
IdOrEvery = Annotated[str, msgspec.Meta(pattern=ID_OR_EVERY_PATTERN)]
RESOURCES_PATTERN: Final = r"^(?:[^*\x00]{1,256}|[^*\x00]{0,255}\*)\Z"
"""A resource type, or the beginning of one with `*` after it."""
# PostgreSQL cannot store it, and one in a tag would break every report by tags.
NO_NUL: Final = r"^[^\x00]*\Z"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=NO_NUL)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=NO_NUL)]
# For what is decided often: a pattern costs msgspec as much as all the rest of a small request, so
# of these it sees the length alone. Who takes them asks `is_id` and `is_label` for the rest.
LooseId = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=128,
        description="An opaque id: 1-128 letters, digits and `. _ : -`.",
        extra_json_schema={"pattern": ID_PATTERN},
    ),
]
LooseLabel = Annotated[
    str, msgspec.Meta(min_length=1, max_length=256, extra_json_schema={"pattern": NO_NUL})
]
KEY_PATTERN: Final = r"^[!-~]([ -~]*[!-~])?\Z"
LooseKey = Annotated[
    str, msgspec.Meta(min_length=1, max_length=256, extra_json_schema={"pattern": KEY_PATTERN})
]
"""An idempotency key: `idempotency.require_key` sees the rest."""
CURRENCY_PATTERN: Final = rf"^{CURRENCY}\Z"
Currency = Annotated[
    str, msgspec.Meta(pattern=CURRENCY_PATTERN, description="An ISO 4217 currency code.")
]
TagKey = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=NO_NUL)]
TagValue = Annotated[str, msgspec.Meta(max_length=256, pattern=NO_NUL)]
MAX_TAGS: Final = 50
_TAGS: Final = msgspec.Meta(max_length=MAX_TAGS, description=f"Free labels, at most {MAX_TAGS}.")
Tags = Annotated[dict[TagKey, TagValue], _TAGS]
LooseTagKey = Annotated[
    str, msgspec.Meta(min_length=1, max_length=128, extra_json_schema={"pattern": NO_NUL})
]
LooseTagValue = Annotated[str, msgspec.Meta(max_length=256, extra_json_schema={"pattern": NO_NUL})]
LooseTags = Annotated[dict[LooseTagKey, LooseTagValue], _TAGS]
"""Nobody asks for the rest of these: `decode` and `convert` read what may have NUL once more."""

_an_id: Final = re.compile(ID_PATTERN)


@lru_cache(maxsize=10_000)
def is_id(text: str | None) -> bool:
    """Whether a `LooseId` is an `Id`, or there is none."""
    return text is None or _an_id.search(text) is not None


def is_label(text: str | None) -> bool:
    """Whether a `LooseLabel` is a `Label`, or there is none."""
    return text is None or "\0" not in text


@cache
def strict(kind: Any) -> Any:
    """A `kind` to refuse with: `Tags` for the `LooseTags` in it, in its lists and their structs."""
    as_it_is: Any = kind
    if get_origin(kind) is Annotated:
        return Annotated[strict(kind.__origin__), *kind.__metadata__]
    if get_origin(kind) is list:
        return list[strict(*get_args(kind))]
    if kind == dict[LooseTagKey, LooseTagValue]:
        return dict[TagKey, TagValue]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        inner = {one.name: (one.type, strict(one.type)) for one in msgspec.structs.fields(kind)}
        changed = [(name, new, None) for name, (old, new) in inner.items() if new != old]
        if changed:
            return msgspec.defstruct(kind.__name__, changed, bases=(kind,), kw_only=True)
    return as_it_is


__all__ = [
    "CURRENCY_PATTERN",
    "ID_OR_EVERY_PATTERN",
    "ID_PATTERN",
    "KEY_PATTERN",
    "MAX_TAGS",
    "NO_NUL",
    "RESOURCES_PATTERN",
    "Currency",
    "Id",
    "IdOrEvery",
    "Label",
    "LooseId",
    "LooseKey",
    "LooseLabel",
    "LooseTagKey",
    "LooseTagValue",
    "LooseTags",
    "Name",
    "TagKey",
    "TagValue",
    "Tags",
    "is_id",
    "is_label",
    "strict",
]
