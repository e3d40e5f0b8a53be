"""JSON Web Tokens: verified by the one kind of key that is configured, never by what they claim.

A token's algorithm decides between the keys Fiscus was given, and each key verifies only its own
algorithm: `none`, and an HS256 token "signed" with a public key, find no key at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Meta, Struct

from fiscus.access.model import Principal, Role
from fiscus.errors import Unauthorized, ValidationError
from fiscus.http.auth.jwks import MIN_RSA_BITS, Jwks
from fiscus.priorities import Priority
from fiscus.settings import Settings
from fiscus.wire.hooks import worked_out
from fiscus.wire.texts import NO_NUL, Id

MIN_SECRET_BYTES: Final = 32
MAX_TOKEN_BYTES: Final = 8192
NOT_BEFORE_LEEWAY: Final = timedelta(seconds=30)
"""How far the issuer's clock may be ahead of ours."""

_KNOWN_ROLES: Final = {str(role): role for role in Role}


class Verified(NamedTuple):
    """Who a token speaks for, and until when."""

    principal: Principal
    expires_at: datetime


class TokenVerifier:
    """Verifies tokens by the configured secret, public key or JWKS URL; with none, refuses all.

    Raises `ValidationError` naming the setting when a key is unfit, so that Fiscus does not start.
    """

    def __init__(self, settings: Settings) -> None:
        self._secret = _secret(settings)
        self._public_key = _public_key(settings)
        self._jwks = None if settings.jwt_jwks_url is None else Jwks(settings.jwt_jwks_url)
        if self._public_key is not None and self._jwks is not None:
            raise ValidationError(
                "jwt_public_key and jwt_jwks_url are both set",
                field="jwt_public_key",
                suggested_action="Set one of FISCUS_JWT_PUBLIC_KEY and FISCUS_JWT_JWKS_URL.",
            )
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience

    def verify(self, token: bytes, now: datetime) -> Verified:
        """May block to fetch keys. Raises `Unauthorized`, and `ServiceUnavailable` when the keys of
        a JWKS URL were never fetched and cannot be."""
        if len(token) > MAX_TOKEN_BYTES:
            raise refused(f"The token is longer than {MAX_TOKEN_BYTES} bytes")
        try:
            algorithm, key = self._key_for(token)
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": ["exp", "sub"]
                    + (["iss"] if self._issuer else [])
                    + (["aud"] if self._audience else []),
                    "verify_aud": self._audience is not None,
                    "verify_iss": self._issuer is not None,
                    # against the time that is passed in, below
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidIssuerError:
            raise refused("The token is from another issuer") from None
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError) as error:
            raise refused(f"The token is not for this service: {error}") from None
        except jwt.InvalidSignatureError:
            raise refused("The token's signature does not fit") from None
        except (jwt.PyJWTError, ValueError):
            raise refused("The token is not a valid JSON Web Token") from None
        expires_at = _time(claims, "exp")
        assert expires_at is not None
        if now >= expires_at:
            raise refused("The token has expired", action="Get a new token and send it.")
        not_before = _time(claims, "nbf")
        if not_before is not None and now + NOT_BEFORE_LEEWAY < not_before:
            raise refused("The token is not valid yet")
        return Verified(_principal(claims), expires_at)

    def _key_for(self, token: bytes) -> tuple[str, Any]:
        header: Mapping[str, Any] = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secret is not None:
            return "HS256", self._secret
        if algorithm in ("RS256", "ES256", "EdDSA"):  # it may be anything, also unhashable
            if self._public_key is not None and self._public_key[0] == algorithm:
                return self._public_key
            if self._jwks is not None:
                key_id = header.get("kid")
                return algorithm, self._jwks.key(
                    key_id if isinstance(key_id, str) else None, algorithm
                )
        raise refused(
            "The token is signed with an algorithm that is not accepted here",
            action="Sign it with the algorithm of the configured key.",
        )


def refused(message: str, action: str = "Send a valid token or API key.") -> Unauthorized:
    return Unauthorized(message, suggested_action=action)


def _secret(settings: Settings) -> bytes | None:
    if settings.jwt_secret is None:
        return None
    try:
        secret = settings.jwt_secret.get_secret_value().encode()
    except UnicodeEncodeError:
        raise _unfit_secret("is not UTF-8") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise _unfit_secret(f"is shorter than {MIN_SECRET_BYTES} bytes")
    if secret.lstrip().startswith(b"-----BEGIN"):
        raise _unfit_secret("is a PEM key, which others may know: FISCUS_JWT_PUBLIC_KEY is for it")
    return secret


def _unfit_secret(what: str) -> ValidationError:
    return ValidationError(
        f"jwt_secret {what}",
        field="jwt_secret",
        suggested_action="Set FISCUS_JWT_SECRET to a random value, such as the output of "
        "`openssl rand -hex 32`.",
    )


def _public_key(settings: Settings) -> tuple[str, Any] | None:
    """The algorithm a PEM public key is for, with the key."""
    given = settings.jwt_public_key
    if given is None:
        return None
    try:
        pem = given.encode() if "-----BEGIN" in given else Path(given).read_bytes()
        key = load_pem_public_key(pem)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _unfit_key(f"cannot be read: {error}") from None
    if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return "RS256", key
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return "ES256", key
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return "EdDSA", key
    raise _unfit_key("is of a kind that is not accepted")


def _unfit_key(what: str) -> ValidationError:
    return ValidationError(
        f"jwt_public_key {what}",
        field="jwt_public_key",
        suggested_action="Set FISCUS_JWT_PUBLIC_KEY to a PEM public key or its path: RSA of at "
        f"least {MIN_RSA_BITS} bits, EC P-256 or Ed25519.",
    )


def _time(claims: Mapping[str, Any], name: str) -> datetime | None:
    value = claims.get(name)
    if value is None and name != "exp":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused(f"The token's claim {name} is not a time")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        raise refused(f"The token's claim {name} is not a time") from None


class _Claims(Struct, frozen=True):
    """What a token must say; it may say more."""

    sub: Annotated[str, Meta(min_length=1, max_length=256, pattern=NO_NUL)]
    tenant_id: Id
    roles: list[str]
    highest_priority: Priority = Priority.NORMAL


def _principal(claims: Mapping[str, Any]) -> Principal:
    """Roles that Fiscus does not know are another service's, and count for nothing."""
    try:
        said = msgspec.convert(claims, worked_out(_Claims))
        said.sub.encode()
    except UnicodeEncodeError:  # JSON can write the half of a character
        raise refused("A claim of the token is no text") from None
    except msgspec.ValidationError as error:
        raise refused(f"The token's claims are not as they must be: {error}") from None
    roles = frozenset(_KNOWN_ROLES[name] for name in said.roles if name in _KNOWN_ROLES)
    return Principal(said.sub, said.tenant_id, roles, said.highest_priority)


__all__ = ["MIN_SECRET_BYTES", "TokenVerifier", "Verified", "refused"]
