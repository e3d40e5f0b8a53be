"""Scopes and entities as they are typed: `project:search`, `user:ada,tier=1`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fiscus.cli.terminal import CommandError, UsageError, cannot_be_read
from fiscus.errors import ValidationError
from fiscus.quotas.calls import Entity
from fiscus.scopes import EVERY, ScopeType, is_id
from fiscus.wire.converting import convert
from fiscus.wire.decoding import decode


def entities_given(given: list[str], path: Path | None) -> list[Entity]:
    """Who gets a part: from the options, and from a file."""
    entities = [_entity(one) for one in given]
    if path is not None:
        try:
            entities += decode(path.read_bytes(), list[Entity])
        except OSError as failure:
            raise cannot_be_read(path, failure.strerror) from None
        except ValidationError as error:
            a_list = 'write a list such as [{"scope_type": "project", "scope_id": "search"}].'
            todo = a_list if error.field == "body" else error.suggested_action
            raise CommandError(f"{path}: {error.message}", suggested_action=todo) from None
    if not entities:
        raise UsageError(
            "nobody gets a part", suggested_action="add --to project:search or --entities FILE."
        )
    return entities


def _entity(given: str) -> Entity:
    """`project:search`, `user:ada,tier=1` or `user:ada,reserved=100`."""
    scope, *options = given.split(",")
    kind, scope_id = scope_given(scope)
    values: dict[str, Any] = {"scope_type": kind, "scope_id": scope_id}
    for option in options:
        name, _, value = option.partition("=")
        if name == "tier" and value.isdecimal():
            values["tier"] = int(value)
        elif name == "reserved" and value:
            values["reserved_amount"] = value
        else:
            raise UsageError(
                f"{option} in --to {given} is neither tier=1 to 3 nor reserved=AMOUNT",
                suggested_action="write --to project:search,tier=1.",
            )
    try:
        return convert(values, Entity)
    except ValidationError as error:
        raise UsageError(
            f"--to {given}: {error.message}",
            suggested_action="write --to project:search,tier=1 or --to user:ada,reserved=100.",
        ) from None


def scope_or_type_given(given: str | None) -> tuple[ScopeType | None, str | None]:
    """`project:` is no type: what somebody left empty is not every project."""
    if given is None:
        return None, None
    return scope_given(given) if ":" in given else (_scope_type(given), None)


def scope_given(given: str) -> tuple[ScopeType, str]:
    kind, colon, scope_id = given.partition(":")
    if not colon or not (scope_id == EVERY or is_id(scope_id)):
        raise UsageError(
            f"{given} names no scope", suggested_action="write its type and id: project:search."
        )
    return _scope_type(kind), scope_id


def _scope_type(kind: str) -> ScopeType:
    try:
        return ScopeType(kind)
    except ValueError:
        raise UsageError(
            f"{kind or '(empty)'} is no type of scope",
            suggested_action=f"Use one of {', '.join(ScopeType)}.",
        ) from None
