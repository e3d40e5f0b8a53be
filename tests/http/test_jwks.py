"""Keys of an identity provider, fetched from a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from fiscus.access.keys import CredentialCache
from fiscus.access.model import Role
from fiscus.errors import ServiceUnavailable, Unauthorized
from fiscus.http.auth import jwks as jwks_module
from fiscus.http.auth.authenticator import Authenticator
from fiscus.http.auth.tokens import TokenVerifier
from fiscus.http.header_fields import HeaderFields
from fiscus.settings import Settings
from tests.http.app_client import NOON
from tests.http.test_tokens import CLAIMS
from tests.log_lines import told
from tests.valkey import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.app_client import AppClient


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def published(key: rsa.RSAPrivateKey, key_id: str) -> dict[str, Any]:
    made = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
    return {**made, "kid": key_id, "alg": "RS256", "use": "sig"}


class Provider:
    """An identity provider that can change its keys, and fail."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.status = 200
        self.asked = 0
        self.compresses = False
        self.drips = False
        """The head comes byte by byte, and never ends."""
        self.accepted: str | None = None
        """Which encodings were asked for."""
        self.answers = threading.Event()
        """Until it is set, the provider hangs."""
        self.answers.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                assert outer.answers.wait(20)
                outer.accepted = self.headers["Accept-Encoding"]
                if outer.drips:
                    self._drip()
                    return
                body = json.dumps({"keys": outer.keys}).encode()
                self.send_response(outer.status)
                if outer.compresses:
                    body = gzip.compress(body)
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _drip(self) -> None:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                with suppress(OSError):
                    for _ in range(200):
                        self.wfile.write(b"x")
                        threading.Event().wait(0.02)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    thread = threading.Thread(target=provider.server.serve_forever, args=(0.01,))
    thread.start()
    yield provider
    provider.answers.set()
    provider.server.shutdown()
    thread.join()
    provider.server.server_close()


def signed(key: rsa.RSAPrivateKey, key_id: str | None) -> bytes:
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(CLAIMS, key, "RS256", headers=headers).encode()


def test_keys_are_fetched_once_and_kept(provider: Provider) -> None:
    key = new_key()
    provider.keys = [published(key, "a")]
    verifier = TokenVerifier(Settings(jwt_jwks_url=provider.url))
    for key_id in ("a", "a", None):
        assert verifier.verify(signed(key, key_id), NOON).principal.subject == "u-17"
    assert provider.asked == 1


def test_an_unknown_key_id_is_asked_for_but_not_by_every_token(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = new_key(), new_key()
    provider.keys = [published(old, "a")]
    verifier = TokenVerifier(Settings(jwt_jwks_url=provider.url))
    verifier.verify(signed(old, "a"), NOON)
    for _ in range(5):
        with pytest.raises(Unauthorized, match="does not publish"):
            verifier.verify(signed(new, "b"), NOON)
    assert provider.asked == 1
    monkeypatch.setattr(jwks_module, "LEAST_PAUSE_SECONDS", 0.0)
    provider.keys.append(published(new, "b"))
    assert verifier.verify(signed(new, "b"), NOON).principal.subject == "u-17"
    assert provider.asked == 2


def test_a_key_under_a_known_id_must_still_fit(provider: Provider) -> None:
    provider.keys = [published(new_key(), "a")]
    with pytest.raises(Unauthorized, match="signature"):
        TokenVerifier(Settings(jwt_jwks_url=provider.url)).verify(signed(new_key(), "a"), NOON)


def test_fetched_keys_stay_in_use_while_the_provider_fails(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    provider.keys = [published(key, "a")]
    verifier = TokenVerifier(Settings(jwt_jwks_url=provider.url))
    verifier.verify(signed(key, "a"), NOON)
    monkeypatch.setattr(jwks_module, "KEEP_SECONDS", 0.0)
    provider.status = 500
    assert verifier.verify(signed(key, "a"), NOON).principal.subject == "u-17"
    assert provider.asked == 2


def test_without_any_key_yet_a_failing_provider_makes_tokens_unavailable(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks_module, "FAILED_SECONDS", 60.0)
    provider.status = 500
    verifier = TokenVerifier(Settings(jwt_jwks_url=provider.url))
    token = signed(new_key(), "a")
    for _ in range(3):
        with pytest.raises(ServiceUnavailable):
            verifier.verify(token, NOON)
    assert provider.asked == 1


@pytest.mark.parametrize("status", [200, 302, 401])
def test_the_log_tells_no_password_that_is_in_the_url(
    provider: Provider, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    provider.status = status  # with 200 there are no keys
    url = provider.url.replace("http://", "http://fiscus:hunter2@") + "?key=hunter2"
    with pytest.raises(ServiceUnavailable):
        TokenVerifier(Settings(jwt_jwks_url=url)).verify(signed(new_key(), "a"), NOON)
    (line,) = told(caplog)
    assert (line.event, line.fields["url"]) == ("jwks_not_fetched", provider.url)
    assert "hunter2" not in str(line)


def test_who_waits_for_a_fetch_that_fails_does_not_ask_again(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks_module, "FAILED_SECONDS", 60.0)
    provider.status = 500
    provider.answers.clear()
    verifier = TokenVerifier(Settings(jwt_jwks_url=provider.url))
    token = signed(new_key(), "a")
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(verifier.verify, token, NOON) for _ in range(8)]
        wait_until(lambda: provider.asked == 1)
        provider.answers.set()
        assert all(isinstance(one.exception(20), ServiceUnavailable) for one in waiting)
    assert provider.asked == 1


def test_an_answer_that_is_compressed_is_not_asked_for_and_not_taken(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key()
    provider.keys = [published(key, "a")]
    provider.compresses = True
    with pytest.raises(ServiceUnavailable):
        TokenVerifier(Settings(jwt_jwks_url=provider.url)).verify(signed(key, "a"), NOON)
    assert provider.accepted == "identity"
    (line,) = told(caplog)
    assert line.fields["reason"] == "the answer is compressed, which was not asked for"


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks_module, "TIMEOUT_SECONDS", 0.2)
    provider.drips = True
    began = monotonic()
    with pytest.raises(ServiceUnavailable):
        TokenVerifier(Settings(jwt_jwks_url=provider.url)).verify(signed(new_key(), "a"), NOON)
    assert monotonic() - began < 3
    (line,) = told(caplog)
    assert line.fields["reason"] == "the answer takes too long"


@pytest.mark.anyio
async def test_a_provider_that_hangs_holds_up_no_api_key(
    provider: Provider, client: AppClient
) -> None:
    provider.answers.clear()
    settings = client.engine.settings.model_copy(update={"jwt_jwks_url": provider.url})
    door = Authenticator(client.engine.api_keys, CredentialCache(), settings)
    key = new_key()
    tokens = [
        HeaderFields({b"authorization": b"Bearer " + signed(key, str(one))}) for one in range(8)
    ]
    waiting = [asyncio.create_task(door.authenticate(token, NOON)) for token in tokens]
    await asyncio.to_thread(wait_until, lambda: provider.asked == 1)
    sent = HeaderFields({b"x-api-key": client.make_key(Role.SERVICE).encode()})
    assert (await door.authenticate(sent, NOON)).tenant_id == "acme"
    assert not any(one.done() for one in waiting)
    provider.answers.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, ServiceUnavailable) for one in answers)


@pytest.mark.parametrize(
    "unfit",
    [
        {"alg": ["RS256"]},
        {"kty": []},
        {"n": 5},
        {"key_ops": 5},
        {"kty": "oct", "alg": "HS256"},
        {"deep": json.loads("[" * 500 + "]" * 500)},
    ],
)
def test_a_key_that_is_none_leaves_the_others_good(
    provider: Provider, unfit: dict[str, Any]
) -> None:
    key = new_key()
    provider.keys = [published(new_key(), "other") | unfit, published(key, "a")]
    verifier = TokenVerifier(Settings(jwt_jwks_url=provider.url))
    assert verifier.verify(signed(key, "a"), NOON).principal.subject == "u-17"


def test_a_private_key_verifies_nothing(provider: Provider) -> None:
    key = new_key()
    private = json.loads(RSAAlgorithm.to_jwk(key)) | {"kid": "a", "key_ops": ["sign", "verify"]}
    provider.keys = [private, published(new_key(), "b")]
    with pytest.raises(Unauthorized, match="does not publish"):
        TokenVerifier(Settings(jwt_jwks_url=provider.url)).verify(signed(key, "a"), NOON)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SSL_CERT_FILE", "/nowhere/ca.pem"), ("HTTP_PROXY", "http://127.0.0.1:1x")],
)
def test_keys_that_the_environment_keeps_from_being_fetched_are_unavailable(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ServiceUnavailable):
        TokenVerifier(Settings(jwt_jwks_url=provider.url)).verify(signed(new_key(), "a"), NOON)
    assert provider.asked == 0


@pytest.mark.parametrize(
    ("bits", "said"),
    [(1024, {}), (2048, {"use": "enc"}), (2048, {"key_ops": ["encrypt"]})],
)
def test_a_key_that_is_weak_or_for_something_else_verifies_nothing(
    provider: Provider, bits: int, said: dict[str, Any]
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    provider.keys = [published(key, "a") | said, published(new_key(), "b")]
    verifier = TokenVerifier(Settings(jwt_jwks_url=provider.url))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weak key signs here
        token = signed(key, "a")
    with pytest.raises(Unauthorized, match="does not publish"):
        verifier.verify(token, NOON)
