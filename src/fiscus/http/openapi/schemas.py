"""Schemas of the structs that are sent and answered."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from fiscus.costs.calls import RecordRequest
from fiscus.http.openapi.descriptions import FIELDS
from fiscus.money import MAX_TEXT, Amount
from fiscus.quotas.model import QuotaSpec
from fiscus.wire.nesting import FreeForm

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
_OWN_LINE: Final = re.compile(r"\s*\n\s*")


class Schemas:
    """Schemas of structs, as what is on the wire: amounts are numbers, patterns are ECMA's."""

    def __init__(self, types: Iterable[type[Struct]], queries: Iterable[type[Struct]]) -> None:
        bodies = tuple(dict.fromkeys(types))
        self._types = tuple(dict.fromkeys((*bodies, *queries)))
        made, components = msgspec.json.schema_components(
            self._types, schema_hook=_own_type, ref_template=_REF
        )
        self._of = dict(zip(self._types, made, strict=True))
        self.components: Json = {
            name: _as_on_the_wire(schema) for name, schema in sorted(components.items())
        }
        for title, schema in self.components.items():
            for name, field in schema.get("properties", {}).items():
                if "description" not in field:
                    field["description"] = FIELDS.get(f"{title}.{name}") or FIELDS[name]
        # the parameters of a query stand with its operation
        self._queries: Json = {
            _name(self._of[kind]): self.components.pop(_name(self._of[kind]))
            for kind in self._types
            if kind not in bodies
        }
        # a record of a batch is checked apart from its neighbours, and so arrives as it is
        batch = self.components["RecordBatchRequest"]["properties"]
        batch["records"]["items"] = self.of(RecordRequest)
        batch = self.components["AllocateBatchRequest"]["properties"]
        batch["allocations"]["items"] = self.of(QuotaSpec)

    def of(self, kind: type[Struct]) -> Json:
        return self._of[kind]

    def properties(self, kind: type[Struct]) -> Json:
        """The properties of `kind` by name."""
        name = _name(self.of(kind))
        component = self._queries.get(name) or self.components[name]
        properties: Json = component.get("properties", {})
        return properties


def _name(reference: Json) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[1]


def _own_type(kind: type) -> Json:
    if kind is Amount:
        return {
            "anyOf": [
                {"type": "number"},
                {
                    "type": "string",
                    "pattern": r"^-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?$",
                    "maxLength": MAX_TEXT,
                },
            ]
        }
    if kind is FreeForm:
        return {"type": "object"}
    raise NotImplementedError(kind)  # how a hook of msgspec says that it does not know a type


def _as_on_the_wire(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_as_on_the_wire(one) for one in schema]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(schema, dict):
        return schema
    found: Json = {}
    for key, value in schema.items():  # pyright: ignore[reportUnknownVariableType]
        found[str(key)] = _as_on_the_wire(value)  # pyright: ignore[reportUnknownArgumentType]
    if found.get("format") == "decimal":
        del found["format"]
        found["type"] = "number"
    if isinstance(found.get("pattern"), str):
        found["pattern"] = found["pattern"].replace(r"\Z", "$")
    if isinstance(found.get("description"), str):
        found["description"] = _OWN_LINE.sub(" ", found["description"])
    return found


__all__ = ["Json", "Schemas"]
