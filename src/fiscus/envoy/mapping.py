"""The mapping file: which check a descriptor of Envoy's stands for.

A descriptor is a list of entries (key, value) under a domain. The first rule whose domain and
entries match makes it a rate-limit check; a descriptor that no rule matches has no limit.

    rules:
      - domain: edge
        match: {plan: "*", remote_address: "*"}
        resource_type: "api.{plan}"
        resource_key: "{remote_address}"

No value that a client can send makes a request fail: what cannot be an id becomes its hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, cast

import yaml
from msgspec import Meta, Struct

from fiscus.errors import ValidationError
from fiscus.priorities import Priority
from fiscus.ratelimits.calls import MAX_RESOURCE_KEY, RateLimitCheckRequest, fitting, hashed
from fiscus.scopes import is_id, parse_id
from fiscus.wire.converting import convert
from fiscus.wire.decoding import decode_any

ANY: Final = "*"
MAX_LABEL: Final = 256

_SETTING: Final = "FISCUS_ENVOY_MAPPING_FILE"
_BRACES: Final = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]+)\}|[{}]")
_PRIORITIES: Final = {str(one): one for one in Priority}

Text = Annotated[str, Meta(min_length=1)]


class RuleSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `rules`. Every field but `domain` and `match` is a template: `{key}` stands for
    the value of the descriptor's entry of that key, which must be named in `match`."""

    resource_type: Text
    domain: Text = ANY
    match: dict[Text, str] = {}
    """Entries that must be there, each with its value or `*`; others may be there too."""
    tenant: Text | None = None
    """Default: the tenant of the API key."""
    resource_key: Text | None = None
    project_id: Text | None = None
    user_id: Text | None = None
    feature_id: Text | None = None
    api_key_id: Text | None = None
    priority: Text | None = None


EXAMPLE: Final = 'rules: [{match: {user: "*"}, resource_type: api, user_id: "{user}"}]'
"""A whole mapping on one line, for messages."""


class MappingSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    rules: Annotated[list[RuleSpec], Meta(min_length=1)]
    response_headers: bool = True
    """Whether Envoy is told to add the rate limit headers to its responses."""


class Mapped(NamedTuple):
    """The check that a descriptor stands for; `tenant_id` None: of the API key's tenant."""

    tenant_id: str | None
    request: RateLimitCheckRequest


class DescriptorMapping:
    """A mapping file, checked. Safe to share among threads."""

    def __init__(self, spec: MappingSpec) -> None:
        """Raises `ValidationError` that names the entry."""
        self.response_headers: Final = spec.response_headers
        self._rules: Final = [
            _Rule(rule, f"rules[{index}]") for index, rule in enumerate(spec.rules)
        ]
        domains = {rule.domain for rule in self._rules}
        self._by_domain: Final = {
            domain: [rule for rule in self._rules if rule.domain in {domain, ANY}]
            for domain in domains | {ANY}
        }

    def find(self, domain: str, entries: Sequence[tuple[str, str]], count: int) -> Mapped | None:
        """The check of `count` requests that a descriptor stands for; None: no rule matches."""
        for rule in self._by_domain.get(domain, self._by_domain[ANY]):
            values = rule.values(entries)
            if values is not None:
                return rule.mapped(values, count)
        return None


def read_mapping(path: Path) -> DescriptorMapping:
    """The mapping in a YAML or (by its suffix) JSON file.

    Raises `ValidationError` that names the file and the entry.
    """
    try:
        text = path.read_text("utf-8")
        content: Any = decode_any(text) if path.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(content, dict):
            raise _wrong("rules", "is missing: the file has to hold a list of rules")
        return DescriptorMapping(convert(cast("dict[str, Any]", content), MappingSpec))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _refused(path, f"cannot be read: {error}") from None
    except ValidationError as error:
        raise _refused(path, error.message) from None


class Template:
    """Text with `{key}` for values of a descriptor; `{{` and `}}` are braces."""

    def __init__(self, text: str, keys: Mapping[str, str], where: str) -> None:
        """Raises `ValidationError` naming `where` for a brace alone, or a key not in `keys`."""
        parts: list[str] = []
        names: list[str] = []
        literal, end = "", 0
        for found in _BRACES.finditer(text):
            literal += text[end : found.start()]
            end = found.end()
            name = found["name"]
            if name is None:
                if len(found[0]) == 1:
                    raise _wrong(where, f"{text!r} has a brace alone; write it twice")
                literal += found[0][0]
                continue
            if name not in keys:
                raise _wrong(where, f"{{{name}}} is not among the keys of match")
            parts.append(literal)
            names.append(name)
            literal = ""
        self._parts: Final = parts
        self._names: Final = names
        self._last: Final = literal + text[end:]

    @property
    def constant(self) -> str | None:
        """The text when no value is in it."""
        return None if self._names else self._last

    def fill(self, values: Mapping[str, str]) -> str:
        if not self._names:
            return self._last
        pairs = zip(self._parts, self._names, strict=True)
        return "".join([part + values[name] for part, name in pairs]) + self._last


class _Rule:
    """A rule ready to be used."""

    def __init__(self, spec: RuleSpec, where: str) -> None:
        self.domain: Final = spec.domain
        self._match: Final = tuple(spec.match.items())

        def template(
            name: str, text: str | None, check: Callable[[str, str], object] = parse_id
        ) -> Template | None:
            return None if text is None else required(name, text, check)

        def required(name: str, text: str, check: Callable[[str, str], object]) -> Template:
            made = Template(text, spec.match, f"{where}.{name}")
            if made.constant is not None:
                check(made.constant, f"{where}.{name}")
            return made

        self._tenant: Final = template("tenant", spec.tenant)
        self._resource_type: Final = required("resource_type", spec.resource_type, _check_label)
        self._resource_key: Final = template("resource_key", spec.resource_key, _check_key)
        self._project_id: Final = template("project_id", spec.project_id)
        self._user_id: Final = template("user_id", spec.user_id)
        self._feature_id: Final = template("feature_id", spec.feature_id)
        self._api_key_id: Final = template("api_key_id", spec.api_key_id)
        self._priority: Final = template("priority", spec.priority, _check_priority)

    def values(self, entries: Sequence[tuple[str, str]]) -> dict[str, str] | None:
        """The values of the keys in `match`, of the first entry that fits each; None: no match."""
        values: dict[str, str] = {}
        for wanted_key, wanted in self._match:
            for key, value in entries:
                if key == wanted_key and (wanted in {ANY, value}):
                    values[key] = value
                    break
            else:
                return None
        return values

    def mapped(self, values: Mapping[str, str], count: int) -> Mapped:
        def filled(template: Template | None) -> str | None:
            return None if template is None else template.fill(values)

        def as_id(template: Template | None) -> str | None:
            value = filled(template)
            return id_of(value) if value else None

        tenant, key = filled(self._tenant), filled(self._resource_key)
        request = RateLimitCheckRequest(
            resource_type=fitting(self._resource_type.fill(values), MAX_LABEL),
            request_count=count,
            resource_key=fitting(key, MAX_RESOURCE_KEY) if key else None,
            priority=_PRIORITIES.get(filled(self._priority) or ""),
            project_id=as_id(self._project_id),
            user_id=as_id(self._user_id),
            feature_id=as_id(self._feature_id),
            api_key_id=as_id(self._api_key_id),
        )
        return Mapped(None if tenant is None else id_of(tenant), request)


def id_of(value: str) -> str:
    """`value` when it can be an id, else `sha256:` and its hash."""
    return value if is_id(value) else hashed(value)


def _check_label(value: str, where: str) -> None:
    if len(value) > MAX_LABEL or "\0" in value:
        raise _wrong(where, f"must be 1 to {MAX_LABEL} characters without NUL")


def _check_key(value: str, where: str) -> None:
    if len(value) > MAX_RESOURCE_KEY or "\0" in value:
        raise _wrong(where, f"must be 1 to {MAX_RESOURCE_KEY} characters without NUL")


def _check_priority(value: str, where: str) -> None:
    if value not in _PRIORITIES:
        raise _wrong(where, f"must be one of {', '.join(_PRIORITIES)}")


def _wrong(where: str, what: str) -> ValidationError:
    return ValidationError(f"{where}: {what}", field=where)


def _refused(path: Path, what: str) -> ValidationError:
    return ValidationError(
        f"the mapping file {path}: {what}",
        field=_SETTING,
        suggested_action=f"write rules as in {EXAMPLE}; a rule can have "
        f"{', '.join(RuleSpec.__struct_fields__)}.",
    )


__all__ = [
    "ANY",
    "EXAMPLE",
    "DescriptorMapping",
    "Mapped",
    "MappingSpec",
    "RuleSpec",
    "Template",
    "id_of",
    "read_mapping",
]
