"""The policies of a simulation: a file of bodies that `POST /rate-limits` takes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, cast

import yaml

from fiscus.cli.terminal import CommandError, cannot_be_read
from fiscus.clock import EPOCH
from fiscus.errors import ValidationError
from fiscus.ratelimits.definitions import define
from fiscus.ratelimits.model import Policy, PolicyScope, PolicySpec, PolicyState
from fiscus.ratelimits.policy_port import TenantPolicies
from fiscus.scopes import EVERY, parse_id
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert

_WHAT_POLICIES_ARE: Final = "write a list of bodies as POST /rate-limits takes them."
MAX_FILE_BYTES: Final = 64 << 20
MAX_TENANTS: Final = 10_000
"""Tenants whose policies are held at a time."""

_ANSWERED: Final = frozenset((
    "policy_id", "created_at", "updated_at", "effective_limit", "emergencies", "correlation_id"
))  # fmt: skip
"""Fields of a policy as the API answers it that are none of its definition."""
_LEFT_OUT: Final = {"scope_type": PolicyScope.TENANT.value, "scope_id": EVERY, "resource_type": "*"}
_ANY_TENANT: Final = "default"


class FilePolicies:
    """The policies of a file for every tenant of a trace: a `ratelimits.policies.PolicySource`.

    One whose body names a tenant is this tenant's; the others hold for every tenant, each with
    counters of its own. Counters are new for every object of this class, also in a store that
    earlier runs have used.
    """

    def __init__(self, specs: Mapping[str, PolicySpec], timezone: str = "UTC") -> None:
        self._specs = specs
        self._settings = TenantSettings(timezone=timezone)
        self._generation = secrets.randbits(48)
        self._tenants: dict[str, TenantPolicies] = {}
        self.policies: Final = [
            self._defined(policy_id, spec, _tenant_of(spec) or _ANY_TENANT)
            for policy_id, spec in specs.items()
        ]
        """Every policy of the file, as it stands for one of its tenants."""

    def live(self, tenant_id: str, now: datetime) -> TenantPolicies:
        known = self._tenants.get(tenant_id)
        if known is None:
            if len(self._tenants) >= MAX_TENANTS:
                self._tenants.clear()
            known = self._tenants[tenant_id] = TenantPolicies(1, list(self._states(tenant_id)))
        return known

    def versions(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(tenant_ids, 1)

    def _states(self, tenant_id: str) -> Iterator[PolicyState]:
        for policy_id, spec in self._specs.items():
            if _tenant_of(spec) in (None, tenant_id):
                policy = self._defined(policy_id, spec, tenant_id)
                yield PolicyState(policy=policy, generation=self._generation)

    def _defined(self, policy_id: str, spec: PolicySpec, tenant_id: str) -> Policy:
        return define(
            spec,
            self._settings,
            policy_id=policy_id,
            tenant_id=tenant_id,
            version=1,
            created_at=EPOCH,
            now=EPOCH,
        )


def read_policies(path: Path, timezone: str) -> FilePolicies:
    """Raises `CommandError` naming the policy and the field that is wrong."""
    specs: dict[str, PolicySpec] = {}
    for number, body in enumerate(_bodies(path), 1):
        try:
            policy_id = parse_id(str(body.get("policy_id") or f"policy-{number}"), "policy_id")
            spec = convert(
                {
                    name: value
                    for name, value in (_LEFT_OUT | body).items()
                    if name not in _ANSWERED
                },
                PolicySpec,
            )
            FilePolicies({policy_id: spec}, timezone)  # each for itself, so that errors name it
        except ValidationError as error:
            raise _wrong(path, number, error.message, error.suggested_action) from None
        if policy_id in specs:
            raise _wrong(path, number, f"policy_id {policy_id} is another policy's", "Rename one.")
        specs[policy_id] = spec
    if not specs:
        raise CommandError(f"{path} holds no policies", suggested_action=_WHAT_POLICIES_ARE)
    return FilePolicies(specs, timezone)


def _bodies(path: Path) -> Iterator[dict[str, Any]]:
    found = _parsed(path)
    if isinstance(found, dict):
        # a page as `GET /rate-limits` answers it, or a single body
        holder = cast("dict[str, Any]", found)
        _require_whole(path, holder)
        found = holder.get("policies", [holder])
    if not isinstance(found, list):
        raise CommandError(
            f"{path} is no list of policies",
            suggested_action=_WHAT_POLICIES_ARE,
        )
    for number, body in enumerate(cast("list[Any]", found), 1):
        if not isinstance(body, dict):
            raise _wrong(path, number, "not an object", "Write its fields, such as limit_value.")
        yield cast("dict[str, Any]", body)


def _require_whole(path: Path, answer: dict[str, Any]) -> None:
    """Refuse a page that others come after or before: policies would be missing unseen."""
    place = answer.get("pagination")
    if isinstance(place, dict):
        known = cast("dict[str, Any]", place)
        if known.get("next_page_token") or known.get("prev_page_token"):
            raise CommandError(
                f"{path} is one page of several: the policies of the others are missing",
                suggested_action="ask for up to 1000 at once, GET /rate-limits?page_size=1000, or "
                "put the policies of all pages into one list.",
            )


def _parsed(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CommandError(
                f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB",
                suggested_action="see that it is a file of policies, or simulate some at a time.",
            )
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            return json.loads(text, parse_float=_of_json)
        return yaml.load(text, _ExactLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise cannot_be_read(path, error.strerror or error) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise CommandError(
            f"{path} is not valid {kind}: {error}", suggested_action="correct it there."
        ) from None


def _of_json(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text} is out of range") from None


class _ExactLoader(yaml.SafeLoader):
    """YAML whose numbers keep their digits."""


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Decimal:
    text: str = loader.construct_scalar(node)
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(loader.construct_yaml_float(node))  # .inf, .nan and minutes, as 1:30.5
    if not value.is_finite():
        raise ValueError(f"line {node.start_mark.line + 1}: {text} is not a number to reckon with")
    return value


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _decimal)


def _tenant_of(spec: PolicySpec) -> str | None:
    """Whose policy it is alone; None: every tenant's."""
    if spec.tenant_id is None and spec.scope_type is PolicyScope.TENANT and spec.scope_id != EVERY:
        return spec.scope_id
    return spec.tenant_id


def _wrong(path: Path, number: int, message: str, todo: str | None) -> CommandError:
    return CommandError(
        f"{path}, policy {number}: {message}",
        suggested_action=(todo or "Correct it.").replace(" and send it again", ""),
    )
