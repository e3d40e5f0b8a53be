"""The mapping file: which check a descriptor stands for, and what is wrong with a file."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert

from fiscus.envoy.mapping import EXAMPLE, DescriptorMapping, MappingSpec, read_mapping
from fiscus.errors import ValidationError
from fiscus.priorities import Priority
from fiscus.ratelimits.calls import RateLimitCheckRequest
from fiscus.wire.converting import convert as checked

if TYPE_CHECKING:
    from pathlib import Path


def mapping(*rules: dict[str, Any]) -> DescriptorMapping:
    return DescriptorMapping(convert({"rules": rules}, MappingSpec))


def find(rules: DescriptorMapping, domain: str = "edge", /, **entries: str) -> Any:
    return rules.find(domain, tuple(entries.items()), 1)


def test_first_rule_that_matches_wins() -> None:
    rules = mapping(
        {"match": {"path": "/search"}, "resource_type": "search"},
        {"match": {"path": "*"}, "resource_type": "other"},
    )
    assert find(rules, path="/search").request.resource_type == "search"
    assert find(rules, path="/").request.resource_type == "other"


def test_descriptor_that_no_rule_matches_is_no_check() -> None:
    rules = mapping({"match": {"path": "*"}, "resource_type": "api"})
    assert find(rules, method="GET") is None


def test_all_of_match_has_to_be_there_and_more_may_be() -> None:
    rules = mapping({"match": {"a": "*", "b": "2"}, "resource_type": "api"})
    assert find(rules, a="1") is None
    assert find(rules, a="1", b="3") is None
    assert find(rules, a="1", b="2", c="3") is not None


def test_rule_is_for_its_domain_and_one_without_for_every() -> None:
    rules = mapping(
        {"domain": "edge", "resource_type": "edge"},
        {"domain": "mesh", "resource_type": "mesh"},
        {"resource_type": "any"},
    )
    assert find(rules, "edge").request.resource_type == "edge"
    assert find(rules, "mesh").request.resource_type == "mesh"
    assert find(rules, "else").request.resource_type == "any"


def test_rule_for_every_domain_wins_when_it_comes_first() -> None:
    rules = mapping({"resource_type": "any"}, {"domain": "edge", "resource_type": "edge"})
    assert find(rules, "edge").request.resource_type == "any"


def test_templates_are_filled_with_values() -> None:
    rules = mapping(
        {
            "match": {"org": "*", "plan": "*", "remote_address": "*", "urgency": "*"},
            "tenant": "{org}",
            "resource_type": "api.{plan}",
            "resource_key": "{{{plan}}}/{remote_address}",
            "project_id": "web",
            "user_id": "u-{remote_address}",
            "feature_id": "{plan}",
            "api_key_id": "k:{plan}",
            "priority": "{urgency}",
        }
    )
    entries = (("org", "acme"), ("plan", "gold"), ("remote_address", "10.0.0.1"))
    found = rules.find("edge", (*entries, ("urgency", "high")), 7)
    assert found is not None
    assert found.tenant_id == "acme"
    assert found.request == RateLimitCheckRequest(
        resource_type="api.gold",
        request_count=7,
        resource_key="{gold}/10.0.0.1",
        priority=Priority.HIGH,
        project_id="web",
        user_id="u-10.0.0.1",
        feature_id="gold",
        api_key_id="k:gold",
    )


def test_entry_that_fits_is_taken_when_a_key_comes_twice() -> None:
    rules = mapping({"match": {"generic_key": "b"}, "resource_type": "{generic_key}"})
    found = rules.find("edge", (("generic_key", "a"), ("generic_key", "b")), 1)
    assert found is not None
    assert found.request.resource_type == "b"


def test_value_that_is_no_id_becomes_its_hash() -> None:
    rules = mapping({"match": {"user": "*"}, "resource_type": "api", "user_id": "{user}"})
    found = find(rules, user="ann@example.com")
    assert found.request.user_id == "sha256:" + sha256(b"ann@example.com").hexdigest()


def test_empty_value_is_no_id_and_no_key() -> None:
    rules = mapping(
        {
            "match": {"user": "*"},
            "resource_type": "api",
            "user_id": "{user}",
            "resource_key": "{user}",
        }
    )
    assert find(rules, user="").request == RateLimitCheckRequest(resource_type="api")


def test_unknown_priority_is_the_keys_own() -> None:
    rules = mapping({"match": {"p": "*"}, "resource_type": "api", "priority": "{p}"})
    assert find(rules, p="very high").request.priority is None


EVERYWHERE = mapping(
    {
        "match": {"x": "*"},
        "resource_type": "{x}",
        **dict.fromkeys(
            ("tenant", "resource_key", "project_id", "user_id", "feature_id", "api_key_id"), "{x}"
        ),
        "priority": "{x}",
    }
)


@given(st.text() | st.text(min_size=1000, max_size=1100))
def test_no_value_makes_a_check_that_is_wrong(value: str) -> None:
    found = find(EVERYWHERE, x=value)
    request = found.request
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    again = checked({**fields, "tenant_id": found.tenant_id}, RateLimitCheckRequest)
    assert again.resource_type == request.resource_type
    assert again.tenant_id


WRONG = [
    ("", "rules: is missing"),
    ("rules: []", "rules: must not be empty"),
    ("rules: {", "cannot be read"),
    ("rules: [{resource_type: 2026-13-01}]", "cannot be read: month must be in"),
    ("rules: &a [*a]", "rules: is nested deeper"),
    ("[" * 1000, "cannot be read: maximum recursion depth"),
    ("limits: []", "limits is not a field"),
    ("rules: [{match: {}}]", "rules[0].resource_type is missing"),
    ("rules: [{resource_type: a}, {resource_type: a, user: b}]", "rules[1].user is not a field"),
    ("rules: [{resource_type: a, match: {tls: on}}]", "rules[0].match.tls: Expected `str`"),
    ("rules: [{resource_type: '{y}', match: {x: '*'}}]", "rules[0].resource_type: {y} is not"),
    ("rules: [{resource_type: 'a}'}]", "rules[0].resource_type: 'a}' has a brace alone"),
    ("rules: [{resource_type: a, tenant: a b}]", "rules[0].tenant is not a valid id"),
    ("rules: [{resource_type: a, user_id: a/b}]", "rules[0].user_id is not a valid id"),
    ("rules: [{resource_type: a, priority: big}]", "rules[0].priority: must be one of critical"),
    (f"rules: [{{resource_type: {'a' * 257}}}]", "rules[0].resource_type: must be 1 to 256"),
    (f"rules: [{{resource_type: a, resource_key: {'a' * 1025}}}]", "rules[0].resource_key: must"),
]


@pytest.mark.parametrize(("text", "what"), WRONG)
def test_wrong_file_names_itself_and_the_entry(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(text)
    with pytest.raises(ValidationError) as caught:
        read_mapping(file)
    assert str(file) in caught.value.message
    assert what in caught.value.message
    assert EXAMPLE in (caught.value.suggested_action or "")


def test_the_file_that_messages_show_is_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(EXAMPLE)
    request = find(read_mapping(file), user="ada").request
    assert (request.resource_type, request.user_id) == ("api", "ada")


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="cannot be read"):
        read_mapping(tmp_path / "none.yaml")


def test_json_is_read_by_its_suffix(tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps({"rules": [{"resource_type": "api"}]}, indent="\t"))
    assert find(read_mapping(file)).request.resource_type == "api"
    file.write_text("rules:")
    with pytest.raises(ValidationError, match="not valid JSON"):
        read_mapping(file)
