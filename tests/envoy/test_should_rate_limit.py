"""What an Envoy is answered."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceStub

from fiscus import match_limits
from fiscus.access.keys import CachedCredential, good_key, known_key
from fiscus.access.model import Principal, Role, hash_key
from fiscus.errors import ServiceUnavailable
from fiscus.paging import PageRequest
from fiscus.priorities import Priority
from tests.envoy.conftest import MAPPING, TENANT
from tests.envoy.descriptors import asking
from tests.log_lines import told
from tests.ports import free_port

if TYPE_CHECKING:
    from datetime import datetime

    from tests.envoy.conftest import Envoy
    from tests.valkey import Servers, Valkey

OK = RateLimitResponse.OK
OVER = RateLimitResponse.OVER_LIMIT
SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


def headers(response: RateLimitResponse) -> dict[str, str]:
    return {one.key: one.value for one in response.response_headers_to_add}


def left(response: RateLimitResponse) -> list[int]:
    return [status.limit_remaining for status in response.statuses]


def test_requests_are_admitted_up_to_the_limit(envoy: Envoy) -> None:
    policy_id = envoy.policy()
    for remaining in (4, 3, 2, 1, 0):
        response = envoy.ask({"path": "/search"})
        assert response.overall_code == OK
        assert left(response) == [remaining]
    response = envoy.ask({"path": "/search"})
    assert response.overall_code == OVER
    (status,) = response.statuses
    assert status.code == OVER
    assert status.current_limit.name == policy_id
    assert status.current_limit.requests_per_unit == 5
    assert status.current_limit.unit == RateLimitResponse.RateLimit.MINUTE
    assert status.duration_until_reset.seconds == 60
    envoy.clock.advance(seconds=60)
    assert envoy.ask({"path": "/search"}).overall_code == OK


def test_headers_are_those_of_http(envoy: Envoy) -> None:
    policy_id = envoy.policy()
    told = headers(envoy.ask({"path": "/"}, hits=5))
    assert told["RateLimit-Policy"] == f'"{policy_id}";q=5;w=60'
    assert told["RateLimit"] == f'"{policy_id}";r=0;t=60'
    assert (told["X-RateLimit-Limit"], told["X-RateLimit-Remaining"]) == ("5", "0")
    assert "Retry-After" not in told
    assert headers(envoy.ask({"path": "/"}))["Retry-After"] == "60"


def test_descriptor_that_nothing_limits_is_ok(envoy: Envoy) -> None:
    for descriptor in ({"method": "GET"}, {"path": "/"}):
        response = envoy.ask(descriptor)
        assert response.overall_code == OK
        assert [status.code for status in response.statuses] == [OK]
        assert not response.statuses[0].HasField("current_limit")
        assert not headers(response)


def test_denied_descriptor_charges_none_of_the_others(envoy: Envoy) -> None:
    envoy.policy()
    envoy.policy(resource_type="api", scope_type="user", scope_id="*", limit_value=2)
    both = ({"path": "/"}, {"user": "ann"})
    assert left(envoy.ask(*both)) == [4, 1]
    assert left(envoy.ask(*both)) == [3, 0]
    for _ in range(3):
        response = envoy.ask(*both)
        assert response.overall_code == OVER
        assert [status.code for status in response.statuses] == [OK, OVER]
        assert left(response) == [3, 0]
    assert left(envoy.ask({"path": "/"})) == [2]
    assert left(envoy.ask({"path": "/"}, {"user": "bob"})) == [1, 1]


def test_headers_tell_of_the_descriptor_that_denies(envoy: Envoy) -> None:
    roomy = envoy.policy(limit_value=100)
    tight = envoy.policy(
        resource_type="api",
        scope_type="user",
        scope_id="*",
        limit_value=1,
        time_window_seconds=3600,
    )
    both = ({"path": "/"}, {"user": "ann"})
    envoy.ask(*both)
    told = headers(envoy.ask(*both))
    assert told["X-RateLimit-Limit"] == "1"
    assert told["Retry-After"] == "3600"
    assert told["RateLimit-Policy"] == f'"{tight}";q=1;w=3600, "{roomy}";q=100;w=60'
    assert told["RateLimit"] == f'"{tight}";r=0;t=3600, "{roomy}";r=99;t=60'


def test_headers_tell_of_the_counter_of_a_policy_that_waits_longest(envoy: Envoy) -> None:
    policy_id = envoy.policy(limit_value=60, algorithm="token_bucket")
    envoy.ask({"path": "/x"}, hits=58)
    envoy.ask({"path": "/y"}, hits=60)
    request = asking({"path": "/x"}, {"path": "/y"})
    for descriptor, hits in zip(request.descriptors, (20, 1), strict=True):
        descriptor.hits_addend.value = hits
    told = headers(
        RateLimitServiceStub(envoy.channel).ShouldRateLimit(
            request, metadata=(("x-api-key", envoy.key),), timeout=30
        )
    )
    assert told["Retry-After"] == "18"
    assert told["RateLimit"] == f'"{policy_id}";r=2;t=18'
    assert told["X-RateLimit-Remaining"] == "0"


def test_headers_tell_what_all_descriptors_leave(envoy: Envoy) -> None:
    slow = envoy.policy(
        resource_type="api",
        scope_type="user",
        scope_id="*",
        limit_value=10,
        time_window_seconds=3600,
    )
    fast = envoy.policy(limit_value=5)
    envoy.ask({"user": "ann"}, hits=7)
    envoy.ask({"path": "/"}, hits=5)
    told = headers(envoy.ask({"user": "ann"}, {"path": "/"}, hits=5))
    assert told["RateLimit"] == f'"{slow}";r=3;t=3600, "{fast}";r=0;t=60'
    assert (told["X-RateLimit-Limit"], told["X-RateLimit-Remaining"]) == ("10", "0")


class TestWithoutHeaders:
    @pytest.fixture
    def mapping(self) -> dict[str, Any]:
        return {**MAPPING, "response_headers": False}

    def test_mapping_file_can_leave_headers_to_envoy(self, envoy: Envoy) -> None:
        envoy.policy()
        response = envoy.ask({"path": "/"})
        assert left(response) == [4]
        assert not headers(response)


def test_hits_are_taken_at_once_and_0_only_looks(envoy: Envoy) -> None:
    envoy.policy()
    assert left(envoy.ask({"path": "/"}, own_hits=0)) == [5]
    assert left(envoy.ask({"path": "/"}, hits=3)) == [2]
    assert left(envoy.ask({"path": "/"}, hits=7, own_hits=2)) == [0]
    response = envoy.ask({"path": "/"}, own_hits=0)
    assert response.overall_code == OK
    assert envoy.ask({"path": "/other"}, own_hits=2**64 - 1).overall_code == OVER


def give_back(envoy: Envoy, hits: int, *descriptors: dict[str, str]) -> RateLimitResponse:
    body = b"\x0a\x04edge"
    for one in asking(*(descriptors or ({"path": "/"},)), own_hits=hits).descriptors:
        negative = one.SerializeToString() + b"\x20\x01"
        body += b"\x12" + bytes([len(negative)]) + negative
    call = envoy.channel.unary_unary(
        SHOULD_RATE_LIMIT, response_deserializer=RateLimitResponse.FromString
    )
    return call(body, metadata=(("x-api-key", envoy.key),), timeout=30)


def test_negative_hits_give_back(envoy: Envoy) -> None:
    envoy.policy()
    envoy.ask({"path": "/"}, hits=5)
    response = give_back(envoy, 2)
    assert response.overall_code == OK
    assert left(response) == [2]
    assert left(envoy.ask({"path": "/"})) == [1]


def test_what_was_taken_once_from_a_shared_counter_is_given_back_once(envoy: Envoy) -> None:
    envoy.policy(resource_type="api", limit_value=100)
    envoy.policy(resource_type="api", scope_type="user", scope_id="*", limit_value=100)
    assert left(envoy.ask({"user": "carl"}, hits=40)) == [60]
    both = ({"user": "ann"}, {"user": "bob"})
    for _ in range(3):
        assert left(envoy.ask(*both, hits=10)) == [50, 50]
        assert left(give_back(envoy, 10, *both)) == [60, 60]
    assert left(envoy.ask({"user": "dora"}, own_hits=0)) == [60]


def test_what_was_given_back_before_a_failure_is_no_answer_that_is_repeated(
    envoy: Envoy, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(envoy.engine.policies)
    live = kind.live

    def without_globex(store: Any, tenant_id: str, now: datetime) -> Any:
        if tenant_id == "globex":
            raise ServiceUnavailable("The database cannot be reached")
        return live(store, tenant_id, now)

    monkeypatch.setattr(kind, "live", without_globex)
    envoy.policy()
    envoy.ask({"path": "/"}, hits=5)
    acme, globex = ({"path": "/", "tenant": tenant} for tenant in (TENANT, "globex"))
    key = envoy.make_key(Role.PLATFORM_ADMIN, tenant_id="operators")
    assert envoy.refused(globex, key=key).code() is grpc.StatusCode.UNAVAILABLE
    assert envoy.refused(acme, globex, own_hits=0, key=key).code() is (
        grpc.StatusCode.DEADLINE_EXCEEDED
    )


def test_header_that_is_not_utf_8_has_its_limit(envoy: Envoy) -> None:
    envoy.policy(limit_value=1)
    body = asking({"path": "/caf_"}).SerializeToString().replace(b"_", b"\xe9")
    call = envoy.channel.unary_unary(
        SHOULD_RATE_LIMIT, response_deserializer=RateLimitResponse.FromString
    )
    codes = [
        call(body, metadata=(("x-api-key", envoy.key),), timeout=30).overall_code for _ in range(2)
    ]
    assert codes == [OK, OVER]


@pytest.mark.parametrize("user", ["ann@example.com", "x" * 4000, "Ünïcode \0 \n"])
def test_strange_user_has_a_counter_of_its_own(envoy: Envoy, user: str) -> None:
    envoy.policy(resource_type="api", scope_type="user", scope_id="*", limit_value=1)
    assert envoy.ask({"user": user}).overall_code == OK
    assert envoy.ask({"user": user}).overall_code == OVER
    assert envoy.ask({"user": "ann"}).overall_code == OK


def test_shadow_policy_never_denies(envoy: Envoy) -> None:
    envoy.policy(limit_value=1, shadow=True)
    assert [envoy.ask({"path": "/"}).overall_code for _ in range(3)] == [OK] * 3


UNITS = {
    1: "SECOND",
    60: "MINUTE",
    3600: "HOUR",
    86_400: "DAY",
    7 * 86_400: "WEEK",
    30 * 86_400: "MONTH",
    365 * 86_400: "YEAR",
    90: "UNKNOWN",
}


def test_unit_is_told_when_the_window_is_one(envoy: Envoy) -> None:
    for window in UNITS:
        envoy.policy(
            scope_type="user",
            scope_id=f"u{window}",
            resource_type="api",
            time_window_seconds=window,
        )
    response = envoy.ask(*({"user": f"u{window}"} for window in UNITS))
    told = [status.current_limit.unit for status in response.statuses]
    assert [RateLimitResponse.RateLimit.Unit.Name(unit) for unit in told] == list(UNITS.values())


def test_calendar_month_is_a_month(envoy: Envoy) -> None:
    envoy.policy(time_window_seconds=None, calendar="month")
    (status,) = envoy.ask({"path": "/"}).statuses
    assert status.current_limit.unit == RateLimitResponse.RateLimit.MONTH


def test_enormous_limit_fits_into_the_answer(envoy: Envoy) -> None:
    envoy.policy(limit_value=10**11)
    (status,) = envoy.ask({"path": "/"}).statuses
    assert status.current_limit.requests_per_unit == status.limit_remaining == 2**32 - 1


def test_priority_is_at_most_the_keys(envoy: Envoy) -> None:
    envoy.policy(resource_type="api", scope_type="user", scope_id="*", limit_value=2)
    high = envoy.make_key(Role.SERVICE, highest=Priority.HIGH)
    ann = {"user": "ann", "urgency": "critical"}
    assert [envoy.ask(ann).overall_code for _ in range(3)] == [OK, OK, OVER]
    assert [envoy.ask(ann, key=high).overall_code for _ in range(2)] == [OK, OVER]
    bob = {"user": "bob", "urgency": "low"}
    assert [envoy.ask(bob, key=high).overall_code for _ in range(2)] == [OK, OVER]


def test_each_descriptor_takes_its_own_number_of_hits(envoy: Envoy) -> None:
    """A request and its tokens, in one question: what one asks for is not taken from the other."""
    envoy.policy(limit_value=100)
    envoy.policy(resource_type="api", scope_type="user", scope_id="*", limit_value=100)
    request = asking({"path": "/"}, {"user": "ann"}, own_hits=1)
    request.descriptors[1].hits_addend.value = 60
    ask = RateLimitServiceStub(envoy.channel).ShouldRateLimit
    metadata = (("x-api-key", envoy.key),)
    assert left(ask(request, metadata=metadata, timeout=30)) == [99, 40]
    denied = ask(request, metadata=metadata, timeout=30)
    assert [one.code for one in denied.statuses] == [OK, OVER]
    assert left(denied) == [99, 40]


def test_200_calls_at_once_on_5_per_minute_admit_5(envoy: Envoy) -> None:
    envoy.policy()
    with ThreadPoolExecutor(32) as threads:
        codes = list(threads.map(lambda _: envoy.ask({"path": "/"}).overall_code, range(200)))
    assert codes.count(OK) == 5
    assert codes.count(OVER) == 195


class TestOnValkey:
    @pytest.fixture
    def redis_url(self, valkey_url: str) -> str:
        return valkey_url

    def test_200_calls_at_once_on_5_take_all_or_nothing(self, envoy: Envoy) -> None:
        # a tenant of its own, as the server is shared, and no window that ends meanwhile
        key = envoy.make_key(Role.SERVICE, tenant_id="initech")
        slow = {"algorithm": "sliding_window_log", "time_window_seconds": 86_400}
        envoy.policy(tenant_id="initech", limit_value=8, **slow)
        envoy.policy(
            tenant_id="initech",
            resource_type="api",
            scope_type="user",
            scope_id="*",
            limit_value=5,
            **slow,
        )

        def ask(_: int) -> RateLimitResponse:
            return envoy.ask({"path": "/"}, {"user": "ann"}, key=key)

        with ThreadPoolExecutor(32) as threads:
            responses = list(threads.map(ask, range(200)))
        assert [one.overall_code for one in responses].count(OK) == 5
        assert not any(one.dynamic_metadata.fields for one in responses)
        assert left(ask(0)) == [3, 0]


class TestWithoutCounters:
    @pytest.fixture
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{free_port()}"

    def test_answer_says_that_it_is_degraded(self, envoy: Envoy) -> None:
        envoy.policy(limit_value=1)
        response = envoy.ask({"path": "/"})
        assert response.overall_code == OK
        assert response.dynamic_metadata.fields["degraded"].bool_value
        assert envoy.ask({"path": "/"}).overall_code == OVER

    def test_policy_that_denies_without_its_counters_denies(self, envoy: Envoy) -> None:
        envoy.policy(on_store_failure="deny")
        assert envoy.ask({"path": "/"}).overall_code == OVER


def test_call_in_hand_is_answered_before_the_server_stops(
    envoy: Envoy, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    kind = type(envoy.engine.api_keys)
    find = kind.find

    def slow(store: Any, key_hash: str) -> Any:
        begun.set()
        assert go.wait(20)
        return find(store, key_hash)

    monkeypatch.setattr(kind, "find", slow)
    with ThreadPoolExecutor(2) as threads:
        asked = threads.submit(envoy.ask, {"path": "/"})
        assert begun.wait(20)
        stopped = threads.submit(envoy.server.stop, 20)
        assert not asked.done()
        go.set()
        assert asked.result().overall_code == OK
        stopped.result()
    assert envoy.refused({"path": "/"}).code() is grpc.StatusCode.UNAVAILABLE


def test_calls_are_in_the_metrics(envoy: Envoy) -> None:
    envoy.policy(limit_value=1)
    for _ in range(3):
        envoy.ask({"path": "/"})
    envoy.refused({"path": "/"}, key=None)
    envoy.refused({"path": "/"}, key=envoy.make_key(Role.AUDITOR))
    envoy.refused({"path": "/", "tenant": "globex"})
    shown = b"".join(envoy.metrics.render()).decode().splitlines()
    timed = 'fiscus_rate_limit_duration_seconds_count{operation="envoy_check",outcome='
    assert f'{timed}"allowed"}} 1.0' in shown
    assert f'{timed}"denied"}} 2.0' in shown
    assert f'{timed}"error"}} 3.0' in shown
    assert 'fiscus_rate_limit_violations_total{algorithm="fixed_window"} 2.0' in shown
    for reason in ("credential", "role", "tenant"):
        assert f'fiscus_access_denied_total{{reason="{reason}"}} 1.0' in shown


def test_calls_that_are_refused_for_who_made_them_are_in_the_log(
    envoy: Envoy, caplog: pytest.LogCaptureFixture
) -> None:
    envoy.refused({"path": "/"}, key="fsk_wrong")
    envoy.refused({"path": "/"}, key=envoy.make_key(Role.AUDITOR))
    envoy.refused({"path": "/", "tenant": "globex"})
    denied = [line.fields for line in told(caplog) if line.event == "access_denied"]
    assert [line["reason"] for line in denied] == ["credential", "role", "tenant"]
    assert [line["tenant_id"] for line in denied] == [None, None, TENANT]
    assert "fsk_wrong" not in str(denied)


def test_call_without_a_key_is_unauthenticated(envoy: Envoy) -> None:
    error = envoy.refused({"path": "/"}, key=None)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "x-api-key" in error.details()


def test_unknown_key_is_unauthenticated(envoy: Envoy) -> None:
    error = envoy.refused({"path": "/"}, key="fsk_wrong")
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_token_is_told_to_be_no_key(envoy: Envoy) -> None:
    token = "e30.e30.signed"
    now = envoy.clock.now()
    later = now + timedelta(minutes=5)
    known = CachedCredential(Principal("ada", "acme", frozenset(Role)), now, later, later)
    envoy.engine.credential_cache.keep(hash_key(token), known, 0)
    error = envoy.refused({"path": "/"}, key=token)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "API key" in str(error.details())


def test_key_that_http_let_in_may_check_only_by_its_roles(envoy: Envoy) -> None:
    auditor = envoy.make_key(Role.AUDITOR)
    engine, now = envoy.engine, envoy.clock.now()
    engine.credential_cache.keep(
        hash_key(auditor), known_key(good_key(engine.api_keys, auditor, now), now), 0
    )
    assert envoy.refused({"path": "/"}, key=auditor).code() is grpc.StatusCode.PERMISSION_DENIED


def test_key_that_http_let_in_may_no_more_while_it_is_looked_up_again(
    envoy: Envoy, monkeypatch: pytest.MonkeyPatch
) -> None:
    auditor, begun, go = envoy.make_key(Role.AUDITOR), threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        begun.set()
        assert go.wait(20)
        raise ServiceUnavailable("The database cannot be reached")

    assert envoy.refused({"path": "/"}, key=auditor).code() is grpc.StatusCode.PERMISSION_DENIED
    envoy.clock.advance(seconds=10)
    monkeypatch.setattr(type(envoy.engine.api_keys), "find", hang)
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(envoy.refused, {"path": "/"}, key=auditor)
        assert begun.wait(20)
        beside = envoy.refused({"path": "/"}, key=auditor)
        go.set()
        assert beside.code() is waits.result().code() is grpc.StatusCode.PERMISSION_DENIED


def test_revoked_key_is_refused_within_ten_seconds(envoy: Envoy) -> None:
    envoy.ask({"path": "/"})
    (key,) = envoy.engine.api_keys.list("acme", PageRequest()).items
    envoy.engine.api_keys.revoke("acme", key.key_id, envoy.clock.now())
    envoy.clock.advance(seconds=10)
    error = envoy.refused({"path": "/"})
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "revoked" in error.details()


def test_key_is_taken_on_for_ten_minutes_while_the_store_is_gone(
    envoy: Envoy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ServiceUnavailable("The database cannot be reached")

    envoy.ask({"path": "/"})
    monkeypatch.setattr(type(envoy.engine.api_keys), "find", fail)
    for _ in range(9):
        envoy.clock.advance(minutes=1)
        envoy.ask({"path": "/"})
    envoy.clock.advance(minutes=1)
    assert envoy.refused({"path": "/"}).code() is grpc.StatusCode.UNAVAILABLE


def test_store_that_hangs_holds_up_one_call_with_a_key_and_not_the_others(
    envoy: Envoy, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        begun.set()
        assert go.wait(20)
        raise ServiceUnavailable("The database cannot be reached")

    envoy.ask({"path": "/"})
    envoy.clock.advance(seconds=10)
    monkeypatch.setattr(type(envoy.engine.api_keys), "find", hang)
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(envoy.ask, {"path": "/"})
        assert begun.wait(20)
        assert envoy.ask({"path": "/"}).overall_code == OK
        assert not waits.done()
        go.set()
        assert waits.result().overall_code == OK


def test_key_that_may_not_check_is_denied(envoy: Envoy) -> None:
    error = envoy.refused({"path": "/"}, key=envoy.make_key(Role.AUDITOR))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


def test_other_tenant_is_denied_and_charges_nothing(envoy: Envoy) -> None:
    envoy.policy(limit_value=1)
    error = envoy.refused({"path": "/"}, {"path": "/", "tenant": "globex"})
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert envoy.ask({"path": "/", "tenant": "acme"}).overall_code == OK


def test_descriptors_to_which_too_many_policies_apply_are_an_invalid_argument(
    envoy: Envoy, monkeypatch: pytest.MonkeyPatch
) -> None:
    envoy.policy(limit_value=1)
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_CHECKS", 1)
    error = envoy.refused({"path": "/"}, {"path": "/"})
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert envoy.ask({"path": "/"}).overall_code == OK


def test_platform_admin_may_ask_for_every_tenant(envoy: Envoy) -> None:
    envoy.policy(limit_value=1)
    envoy.policy(tenant_id="globex", limit_value=1)
    key = envoy.make_key(Role.PLATFORM_ADMIN, tenant_id="operators")
    acme, globex = ({"path": "/", "tenant": tenant} for tenant in ("acme", "globex"))
    assert envoy.ask(acme, key=key).overall_code == OK
    # acme is denied first, so globex is only looked at
    response = envoy.ask(acme, globex, key=key)
    assert [status.code for status in response.statuses] == [OVER, OK]
    assert left(response) == [0, 1]
    assert envoy.ask(globex, key=key).overall_code == OK


@pytest.mark.parametrize(
    ("body", "field"), [(b"", "domain"), (b"\x0a\x04edge", "descriptors"), (b"\x12\x7f", "body")]
)
def test_wrong_request_is_an_invalid_argument(envoy: Envoy, body: bytes, field: str) -> None:
    call = envoy.channel.unary_unary(SHOULD_RATE_LIMIT)
    with pytest.raises(grpc.RpcError) as caught:
        call(body, metadata=(("x-api-key", envoy.key),), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in caught.value.details()


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ServiceUnavailable("the store is away"), grpc.StatusCode.UNAVAILABLE),
        (RuntimeError("SELECT secret"), grpc.StatusCode.INTERNAL),
    ],
)
def test_failure_is_a_status_without_a_trace(
    envoy: Envoy, monkeypatch: pytest.MonkeyPatch, failure: Exception, status: grpc.StatusCode
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(type(envoy.engine.api_keys), "find", fail)
    error = envoy.refused({"path": "/"})
    assert error.code() is status
    assert "SELECT" not in error.details()
    assert "Traceback" not in error.details()


NAME = b"envoy.service.ratelimit.v3.RateLimitService"


@pytest.mark.parametrize("named", [b"", b"\x0a" + bytes([len(NAME)]) + NAME])
def test_health_needs_no_key(envoy: Envoy, named: bytes) -> None:
    check = envoy.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(named, timeout=30) == b"\x08\x01"


class TestOnIpv6:
    @pytest.fixture
    def host(self) -> str:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this system has no IPv6")
        return "::1"

    def test_an_address_with_colons_is_listened_on(self, envoy: Envoy) -> None:
        assert envoy.ask({"path": "/"}).overall_code == OK


def test_health_of_another_service_is_not_found(envoy: Envoy) -> None:
    check = envoy.channel.unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(grpc.RpcError) as caught:
        check(b"\x0a\x01x", timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


class TestOnAValkeyThatHangs:
    @pytest.fixture
    def valkey(self, valkey_servers: Servers) -> Valkey:
        return valkey_servers.start()

    @pytest.fixture
    def redis_url(self, valkey: Valkey) -> str:
        return valkey.url

    def test_what_may_have_been_given_back_is_no_answer_that_is_repeated(
        self, envoy: Envoy, valkey: Valkey
    ) -> None:
        envoy.policy()
        valkey.pause()
        with pytest.raises(grpc.RpcError) as caught:
            give_back(envoy, 2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        valkey.stop()
        with pytest.raises(grpc.RpcError) as caught:
            give_back(envoy, 2)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
