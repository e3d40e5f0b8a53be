"""JSON Web Tokens: what is taken, and what is refused and why."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import SecretStr

from fiscus.access.keys import CredentialCache
from fiscus.errors import Unauthorized, ValidationError
from fiscus.http.auth.authenticator import Authenticator
from fiscus.http.auth.tokens import TokenVerifier
from fiscus.http.header_fields import HeaderFields
from fiscus.settings import Settings
from tests.http.app_client import API, NOON, open_app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.http.app_client import AppClient

SECRET = "0123456789abcdef0123456789abcdef"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OF_AN_OLD_CURVE = """-----BEGIN PUBLIC KEY-----
MDIwEAYHKoZIzj0CAQYFK4EEAAYDHgAExGxTRlwzOFZoc9M7faeo5AOxCh2LlpL5dyvzEQ==
-----END PUBLIC KEY-----"""
"""secp112r1, which no library of ours knows any more."""
CLAIMS: dict[str, Any] = {
    "sub": "u-17",
    "tenant_id": "acme",
    "roles": ["auditor", "somebody_elses_role"],
    "exp": int((NOON + timedelta(hours=1)).timestamp()),
}


def pem(key: Any) -> str:
    public = key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: Any) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def by_secret(**more: Any) -> TokenVerifier:
    return TokenVerifier(Settings(jwt_secret=SecretStr(SECRET), **more))


def token(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256") -> bytes:
    return jwt.encode(claims, key, algorithm).encode()


def part(value: dict[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


def test_a_good_token_speaks_for_its_subject_tenant_and_known_roles() -> None:
    principal, expires_at = by_secret().verify(token(CLAIMS), NOON)
    assert (principal.subject, principal.tenant_id) == ("u-17", "acme")
    assert principal.roles == {"auditor"}
    assert expires_at == NOON + timedelta(hours=1)


def test_a_token_says_the_highest_priority_it_may_claim() -> None:
    assert by_secret().verify(token(CLAIMS), NOON).principal.highest_priority == "normal"
    claims = CLAIMS | {"highest_priority": "critical"}
    assert by_secret().verify(token(claims), NOON).principal.highest_priority == "critical"


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: RSA_KEY, "RS256"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate, "EdDSA"),
    ],
)
def test_a_public_key_verifies_its_own_algorithm(make: Callable[[], Any], algorithm: str) -> None:
    key = make()
    verifier = TokenVerifier(Settings(jwt_public_key=pem(key)))
    assert verifier.verify(token(CLAIMS, key, algorithm), NOON).principal.subject == "u-17"


def test_a_public_key_is_read_from_its_path_too(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pem(RSA_KEY))
    verifier = TokenVerifier(Settings(jwt_public_key=str(tmp_path / "key.pem")))
    assert verifier.verify(token(CLAIMS, RSA_KEY, "RS256"), NOON).principal.subject == "u-17"


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        (CLAIMS | {"exp": int(NOON.timestamp())}, "expired"),
        (CLAIMS | {"exp": int(NOON.timestamp()) - 1}, "expired"),
        (CLAIMS | {"exp": True}, "not a valid|exp"),
        (CLAIMS | {"exp": 1e300}, "not a valid|exp"),
        (CLAIMS | {"nbf": int(NOON.timestamp()) + 60}, "not valid yet"),
        (without("exp"), "exp"),
        (without("sub"), "sub"),
        (without("tenant_id"), "tenant_id"),
        (without("roles"), "roles"),
        (CLAIMS | {"sub": ""}, "sub"),
        (CLAIMS | {"sub": 17}, "not a valid|sub"),
        (CLAIMS | {"sub": "u\0"}, "sub"),
        (CLAIMS | {"sub": "u\ud800"}, "is no text"),
        (CLAIMS | {"highest_priority": "\ud800"}, "is no text"),
        (CLAIMS | {"tenant_id": "a b"}, "tenant_id"),
        (CLAIMS | {"tenant_id": None}, "tenant_id"),
        (CLAIMS | {"roles": "auditor"}, "roles"),
        (CLAIMS | {"roles": [1]}, "roles"),
        (CLAIMS | {"highest_priority": "urgent"}, "highest_priority"),
        (CLAIMS | {"highest_priority": None}, "highest_priority"),
        (CLAIMS | {"highest_priority": 1}, "highest_priority"),
    ],
)
def test_wrong_claims_are_refused(claims: dict[str, Any], says: str) -> None:
    with pytest.raises(Unauthorized, match=says):
        by_secret().verify(token(claims), NOON)


def test_a_token_of_an_issuers_clock_slightly_ahead_is_taken() -> None:
    claims = CLAIMS | {"nbf": int(NOON.timestamp()) + 20, "iat": int(NOON.timestamp()) + 20}
    assert by_secret().verify(token(claims), NOON).principal.subject == "u-17"


def test_issuer_and_audience_must_fit_when_they_are_set() -> None:
    verifier = by_secret(jwt_issuer="https://id.example", jwt_audience="fiscus")
    good = CLAIMS | {"iss": "https://id.example", "aud": ["fiscus", "other"]}
    assert verifier.verify(token(good), NOON).principal.subject == "u-17"
    for wrong in ({"iss": "https://evil.example"}, {"aud": "other"}):
        with pytest.raises(Unauthorized):
            verifier.verify(token(good | wrong), NOON)
    for missing in ("iss", "aud"):
        claims = {name: value for name, value in good.items() if name != missing}
        with pytest.raises(Unauthorized):
            verifier.verify(token(claims), NOON)
    assert by_secret().verify(token(good), NOON).principal.subject == "u-17"


def test_a_token_with_another_key_is_refused() -> None:
    with pytest.raises(Unauthorized, match="signature"):
        by_secret().verify(token(CLAIMS, "another secret of at least 32 bytes"), NOON)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    verifier = TokenVerifier(Settings(jwt_public_key=pem(RSA_KEY)))
    with pytest.raises(Unauthorized, match="signature"):
        verifier.verify(token(CLAIMS, stranger, "RS256"), NOON)


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "HS512", "RS256", "", None, 7, ["RS256"], {}]
)
def test_a_token_that_names_another_algorithm_is_refused(algorithm: object) -> None:
    head = part({"alg": algorithm, "typ": "JWT"})
    for signature in (b"", b"AAAA"):
        forged = b".".join((head, part(CLAIMS), signature))
        for verifier in (by_secret(), TokenVerifier(Settings(jwt_public_key=pem(RSA_KEY)))):
            with pytest.raises(Unauthorized):
                verifier.verify(forged, NOON)


def test_a_public_key_is_never_taken_for_a_secret() -> None:
    public = pem(RSA_KEY)
    signed = b".".join((part({"alg": "HS256", "typ": "JWT"}), part(CLAIMS)))
    digest = hmac.new(public.encode(), signed, hashlib.sha256).digest()
    forged = signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")
    for settings in (
        Settings(jwt_public_key=public),
        Settings(jwt_public_key=public, jwt_secret=SecretStr(SECRET)),
    ):
        with pytest.raises(Unauthorized):
            TokenVerifier(settings).verify(forged, NOON)


def test_without_any_key_every_token_is_refused() -> None:
    with pytest.raises(Unauthorized):
        TokenVerifier(Settings()).verify(token(CLAIMS), NOON)


@pytest.mark.parametrize("junk", [b"", b"a.b.c", b"..", b"\xff.\xff.\xff", b"x" * 9000])
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(Unauthorized):
        by_secret().verify(junk, NOON)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"jwt_secret": SecretStr("too short")}, "jwt_secret"),
        ({"jwt_secret": SecretStr(pem(RSA_KEY))}, "jwt_secret"),
        ({"jwt_secret": SecretStr(SECRET + "\udcff")}, "jwt_secret"),
        ({"jwt_public_key": "/nowhere/key.pem"}, "jwt_public_key"),
        ({"jwt_public_key": "-----BEGIN PUBLIC KEY-----\nAAAA"}, "jwt_public_key"),
        ({"jwt_public_key": private_pem(RSA_KEY).decode()}, "jwt_public_key"),
        (
            {"jwt_public_key": pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))},
            "jwt_public_key",
        ),
        ({"jwt_public_key": pem(ec.generate_private_key(ec.SECP521R1()))}, "jwt_public_key"),
        ({"jwt_public_key": OF_AN_OLD_CURVE}, "jwt_public_key"),
        ({"jwt_jwks_url": "http://id.example/keys"}, "jwt_jwks_url"),
        ({"jwt_jwks_url": "file:///etc/passwd"}, "jwt_jwks_url"),
        ({"jwt_jwks_url": "https://"}, "jwt_jwks_url"),
        ({"jwt_jwks_url": "https://[::1"}, "jwt_jwks_url"),
        ({"jwt_jwks_url": "https://id.example:1x/keys"}, "jwt_jwks_url"),
        (
            {"jwt_jwks_url": "https://id.example/keys", "jwt_public_key": pem(RSA_KEY)},
            "jwt_public_key",
        ),
    ],
)
def test_fiscus_does_not_start_with_an_unfit_key(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        TokenVerifier(Settings(**settings))
    assert error.value.field == field


@pytest.mark.anyio
async def test_a_token_works_over_http_until_it_expires(data_dir: Path) -> None:
    async with open_app(data_dir, jwt_secret=SecretStr(SECRET)) as client:
        headers = {"Authorization": f"Bearer {token(CLAIMS).decode()}"}

        async def status(method: str, path: str) -> int:
            return (await client.http.request(method, API + path, headers=headers)).status_code

        assert await status("GET", "/budgets") == 200
        assert await status("GET", "/budgets") == 200
        assert await status("POST", "/budgets") == 403
        client.clock.advance(seconds=3599)
        assert await status("GET", "/budgets") == 200
        client.clock.advance(seconds=1)
        assert await status("GET", "/budgets") == 401
        assert await status("POST", "/budgets/check") == 401


@pytest.mark.anyio
async def test_a_known_token_is_verified_again_after_five_minutes(client: AppClient) -> None:
    settings = Settings(jwt_secret=SecretStr(SECRET))
    door = Authenticator(client.engine.api_keys, CredentialCache(), settings)
    sent = HeaderFields({b"authorization": b"Bearer " + token(CLAIMS)})
    principal = await door.authenticate(sent, NOON)
    assert door.cached(sent, NOON + timedelta(seconds=299)) == principal
    assert door.cached(sent, NOON + timedelta(seconds=300)) is None


@pytest.mark.anyio
async def test_a_token_without_known_roles_may_do_nothing(data_dir: Path) -> None:
    async with open_app(data_dir, jwt_secret=SecretStr(SECRET)) as client:
        bearer = token(CLAIMS | {"roles": ["somebody_elses_role"]}).decode()
        headers = {"Authorization": f"Bearer {bearer}"}
        for path in ("/budgets", "/cost-tracking/records", "/api-keys", "/tenants/acme"):
            reply = await client.http.get(API + path, headers=headers)
            assert reply.status_code == 403, path
