"""Principals, roles and what each role may do."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from fiscus.errors import Forbidden, ValidationError
from fiscus.ids import uuid7
from fiscus.paging import Pagination
from fiscus.priorities import Priority
from fiscus.wire.headers import arrives_whole
from fiscus.wire.texts import Id, Name
from fiscus.zones import in_utc


class Role(StrEnum):
    TENANT_USER = "tenant_user"
    TENANT_ADMIN = "tenant_admin"
    FINANCIAL_CONTROLLER = "financial_controller"
    AUDITOR = "auditor"
    SYSTEM_ARCHITECT = "system_architect"
    SERVICE = "service"
    PLATFORM_ADMIN = "platform_admin"


# A member of an enum takes longer to look up than to look for.
_PLATFORM_ADMIN: Final = Role.PLATFORM_ADMIN


class Action(StrEnum):
    """What a call does to which kind of resource; the rows and columns of SPEC section 8."""

    VIEW_BUDGETS = "view budgets"
    CHANGE_BUDGETS = "change budgets"
    OPERATE = "check, consume, settle, release and record"
    VIEW_RESERVATIONS = "view reservations"
    VIEW_COSTS = "view costs"
    EXPORT_COSTS = "export costs"
    VIEW_RATE_LIMITS = "view rate limits"
    CHANGE_RATE_LIMITS = "change rate limits"
    GRANT_EMERGENCIES = "grant emergency capacity"
    VIEW_QUOTAS = "view quotas"
    CHANGE_QUOTAS = "change quotas"
    ASK_FOR_QUOTA = "ask for more of a quota"
    DECIDE_QUOTA_REQUESTS = "decide requests for more of a quota"
    MANAGE_KEYS = "manage API keys"
    VIEW_TENANT = "view tenant settings"
    CHANGE_TENANT = "change tenant settings"


_R = Role
ALLOWED: Final[dict[Action, frozenset[Role]]] = {
    Action.VIEW_BUDGETS: frozenset({_R.TENANT_ADMIN, _R.FINANCIAL_CONTROLLER, _R.AUDITOR}),
    Action.CHANGE_BUDGETS: frozenset({_R.TENANT_ADMIN, _R.FINANCIAL_CONTROLLER}),
    Action.OPERATE: frozenset({_R.SERVICE, _R.TENANT_ADMIN}),
    Action.VIEW_RESERVATIONS: frozenset(
        {_R.SERVICE, _R.TENANT_ADMIN, _R.FINANCIAL_CONTROLLER, _R.AUDITOR}
    ),
    Action.VIEW_COSTS: frozenset(
        {_R.TENANT_USER, _R.TENANT_ADMIN, _R.FINANCIAL_CONTROLLER, _R.AUDITOR}
    ),
    Action.EXPORT_COSTS: frozenset({_R.TENANT_ADMIN, _R.FINANCIAL_CONTROLLER}),
    Action.VIEW_RATE_LIMITS: frozenset({_R.TENANT_ADMIN, _R.SYSTEM_ARCHITECT, _R.AUDITOR}),
    Action.CHANGE_RATE_LIMITS: frozenset({_R.TENANT_ADMIN, _R.SYSTEM_ARCHITECT}),
    Action.GRANT_EMERGENCIES: frozenset({_R.SYSTEM_ARCHITECT}),
    Action.VIEW_QUOTAS: frozenset({_R.TENANT_USER, _R.TENANT_ADMIN, _R.AUDITOR}),
    Action.CHANGE_QUOTAS: frozenset({_R.TENANT_ADMIN}),
    Action.ASK_FOR_QUOTA: frozenset({_R.TENANT_USER, _R.TENANT_ADMIN}),
    Action.DECIDE_QUOTA_REQUESTS: frozenset({_R.TENANT_ADMIN}),
    Action.MANAGE_KEYS: frozenset({_R.TENANT_ADMIN}),
    Action.VIEW_TENANT: frozenset({_R.TENANT_ADMIN}),
    Action.CHANGE_TENANT: frozenset({_R.TENANT_ADMIN}),
}


class Principal(NamedTuple):
    """Who calls: a JWT subject or an API key, of one tenant, with roles."""

    subject: str
    tenant_id: str
    roles: frozenset[Role]
    highest_priority: Priority = Priority.NORMAL
    """The most important that its requests may claim to be."""
    key_id: str | None = None
    """The API key it is; None for a token."""

    @property
    def is_platform_admin(self) -> bool:
        return _PLATFORM_ADMIN in self.roles

    def tenant_for(self, named: str | None) -> str:
        """The tenant a call is for: the credential's own, or the one named.

        Raises `Forbidden` when another tenant is named; a platform_admin may name any.
        """
        if named is None or named == self.tenant_id:
            return self.tenant_id
        if self.is_platform_admin:
            return named
        raise Forbidden(
            "The credential belongs to another tenant",
            details={"field": "tenant_id"},
            suggested_action="Use a credential of that tenant, or leave tenant_id out.",
        )

    def require(self, action: Action) -> None:
        """Raises `Forbidden` unless one of the roles may do it; a platform_admin may do all."""
        if ALLOWED[action].isdisjoint(self.roles) and not self.is_platform_admin:
            wanted = sorted(str(role) for role in ALLOWED[action])
            raise Forbidden(
                f"This credential may not {action}",
                details={"required_roles": wanted},
                suggested_action=f"Use a credential with one of the roles {', '.join(wanted)}.",
            )


HighestPriority = Annotated[
    Priority,
    Meta(description="The most important that its rate-limit checks may claim to be."),
]


class ApiKeySpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that makes an API key."""

    name: Annotated[Name, Meta(description="What it is for.")]
    roles: Annotated[list[Role], Meta(min_length=1, max_length=10)]
    highest_priority: HighestPriority = Priority.NORMAL
    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    expires_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="When it stops working; default never."),
    ] = None


class ApiKey(Struct, frozen=True, kw_only=True):
    """An API key as it is kept: its hash, never itself. `hint` is its beginning."""

    key_id: str
    tenant_id: str
    name: str
    hint: str
    roles: list[Role]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    highest_priority: HighestPriority = Priority.NORMAL


class NewApiKey(ApiKey, frozen=True, kw_only=True):
    """An API key as answered once, when it was made."""

    api_key: Annotated[
        str | None,
        Meta(
            description="The key itself; shown now and never again. Null when the request repeats "
            "an idempotency key: only the first answer carries it."
        ),
    ]
    correlation_id: str | None = None


class ApiKeyView(ApiKey, frozen=True, kw_only=True):
    """An API key as answered over the API, without the key itself."""

    correlation_id: str


class ApiKeyPage(Struct, frozen=True, kw_only=True):
    """A page of API keys, newest first; revoked ones too, the keys themselves never."""

    api_keys: list[ApiKey]
    pagination: Pagination
    correlation_id: str


KEY_PREFIX: Final = "fsk_"
MIN_KEY_LENGTH: Final = 24
MAX_KEY_LENGTH: Final = 512


def new_key() -> str:
    """A new secret: 32 random bytes behind a prefix that scanners know."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def is_token(credential: str) -> bool:
    """Whether a credential is read as a JSON Web Token; else it is an API key."""
    return credential.count(".") == 2 and not credential.startswith(KEY_PREFIX)


def hash_key(key: str) -> str:
    """SHA-256: the key has 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(key.encode()).hexdigest()


def hint_of(key: str) -> str:
    return key[:8]


def made_key(secret: str, spec: ApiKeySpec, tenant_id: str, *, by: str, now: datetime) -> ApiKey:
    """A key as it is kept, from what was asked for and its secret. Raises `ValidationError`."""
    expires_at = None if spec.expires_at is None else in_utc(spec.expires_at, "expires_at")
    if expires_at is not None and expires_at <= now:
        raise ValidationError(
            "expires_at is in the past",
            field="expires_at",
            suggested_action="Send a time to come, or leave expires_at out.",
        )
    return ApiKey(
        key_id=uuid7(),
        tenant_id=tenant_id,
        name=spec.name,
        hint=hint_of(secret),
        roles=sorted(set(spec.roles)),
        created_by=by,
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
        highest_priority=spec.highest_priority,
    )


def check_grantable(principal: Principal, roles: list[Role]) -> None:
    """Nobody grants platform_admin, or takes it from a key, but a platform_admin."""
    if Role.PLATFORM_ADMIN in roles and not principal.is_platform_admin:
        raise Forbidden(
            "Only a platform_admin can make and revoke keys with the role platform_admin",
            details={"field": "roles"},
            suggested_action="Leave platform_admin out of roles, or use a key of a platform_admin.",
        )


def check_given_key(key: str, setting: str) -> str:
    """A key given in the configuration must not be guessable, nor one that no call can bring."""
    if len(key) < MIN_KEY_LENGTH:
        raise ValidationError(
            f"{setting} is shorter than {MIN_KEY_LENGTH} characters",
            field=setting,
            suggested_action="Use a long random value, such as `openssl rand -hex 32` prints.",
        )
    if len(key) > MAX_KEY_LENGTH:
        raise ValidationError(
            f"{setting} is longer than {MAX_KEY_LENGTH} characters",
            field=setting,
            suggested_action="Use a random value such as `openssl rand -hex 32` prints.",
        )
    if not arrives_whole(key):
        raise ValidationError(
            f"{setting} has characters that are no visible ASCII, such as a space or a line end",
            field=setting,
            suggested_action="Use a value that any client sends as it is, such as `openssl rand "
            "-hex 32` prints.",
        )
    if is_token(key):
        raise ValidationError(
            f"{setting} has two dots, and would be taken for a JSON Web Token",
            field=setting,
            suggested_action=f"Begin it with {KEY_PREFIX}, or use a value without dots, such as "
            "`openssl rand -hex 32` prints.",
        )
    return key


__all__ = [
    "ALLOWED",
    "MAX_KEY_LENGTH",
    "Action",
    "ApiKey",
    "ApiKeyPage",
    "ApiKeySpec",
    "ApiKeyView",
    "NewApiKey",
    "Principal",
    "Role",
    "check_given_key",
    "check_grantable",
    "hash_key",
    "hint_of",
    "is_token",
    "made_key",
    "new_key",
]
