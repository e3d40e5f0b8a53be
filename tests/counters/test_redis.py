"""Counters in Valkey: where they are, how long they stay, and that processes share them."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from time import time_ns

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis

from fiscus.errors import ValidationError
from fiscus.ratelimits.port import CountersUnavailable, Take, Taken
from fiscus.ratelimits.rules import Algorithm, Rule
from fiscus.stores.counters.redis import RedisCounters
from fiscus.stores.counters.redis_takes import name_of
from tests.counters.histories import NORMAL, SECOND_US, new_tenant, rule
from tests.counters.on_loop import OpenStore
from tests.valkey import Servers

EVERY_ALGORITHM = pytest.mark.parametrize("algorithm", list(Algorithm))


@pytest.fixture
def store(valkey_url: str) -> Iterator[RedisCounters]:
    opened = RedisCounters(valkey_url, timeout_seconds=20)
    yield opened
    opened.close()


@pytest.fixture
def server(valkey_url: str) -> Iterator[Redis]:
    client = Redis.from_url(valkey_url, protocol=2)
    yield client
    client.close()


def take(tenant_id: str, one: Rule, count: int = 1, key: str = "key") -> Take:
    return Take(tenant_id, (key,), (one,), count, NORMAL)


def admitted(results: list[Taken | None]) -> list[bool | None]:
    return [None if one is None else one.admitted for one in results]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "127.0.0.1:6379",
        "",
        "redis://127.0.0.1:1/?no_such_option=1",
        "redis://127.0.0.1:1/?socket_read_size=many",
        "redis://127.0.0.1:port",
        "redis+sentinel://127.0.0.1:1",
        "redis+sentinel://127.0.0.1:1/service/2",
        "redis+sentinel://127.0.0.1/service",
        "redis+sentinel://127.0.0.1:1/service?db=one",
        "redis+sentinel://127.0.0.1:1/service?other=1",
        "redis+sentinel://127.0.0.1:1/service?sentinel_ssl=maybe",
        "redis+cluster://",
        "redis+cluster://127.0.0.1:1,",
        "redis+cluster://127.0.0.1:1/0",
    ],
)
def test_url_that_names_no_server_is_refused_without_connecting(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RedisCounters(url)
    assert refused.value.field == "FISCUS_REDIS_URL"


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:secret/word@host:1",
        "redis+cluster://user:secret/word@host:1",
        "redis+sentinel://user:secret?@host:1/service",
        "redis+sentinel://host:1/service?sentinel_password=secret&other=1",
    ],
)
def test_refused_url_shows_no_part_of_its_password(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RedisCounters(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1/3",
        "redis://127.0.0.1:1/?db=3",
        "redis://user:pass%40word@[::1]:1",
        "rediss://127.0.0.1:1/?ssl_cert_reqs=none",
        "unix:///nowhere?db=1",
        "redis+sentinel://user:password@127.0.0.1:1,127.0.0.1:2/service?db=1",
        "rediss+sentinel://127.0.0.1:1/service",
        "redis+sentinel://127.0.0.1:1/service?sentinel_username=a&sentinel_password=b&sentinel_ssl=true",
        "redis+cluster://user:password@127.0.0.1:1,[::1]:2",
        "rediss+cluster://127.0.0.1:1",
    ],
)
def test_url_that_names_a_server_connects_only_when_asked(url: str) -> None:
    RedisCounters(url).close()


def test_password_and_database_of_the_url_are_used(
    open_store: OpenStore, valkey_servers: Servers
) -> None:
    server = valkey_servers.start()
    with closing(server.client()) as client:
        client.config_set("requirepass", "p@ss")
    url = f"redis://:p%40ss@127.0.0.1:{server.port}/5"
    with closing(open_store(url, 20)) as store:
        taken = store.decide_all([take("t", rule("token_bucket", 1, 60))], None)
        assert admitted(taken) == [True]
        assert store.ping_ms() > 0
    with closing(Redis(port=server.port, password="p@ss", db=5, protocol=2)) as client:
        assert client.keys() == [b"fiscus:{t}:key"]
    with (
        closing(open_store(server.url, 20)) as store,
        pytest.raises(CountersUnavailable, match="Authentication"),
    ):
        store.decide_all([take("t", rule("token_bucket", 1, 60))], None)


@pytest.mark.parametrize("user", ["", "sentinel_username=asks&"])
def test_sentinels_have_a_user_and_a_password_of_their_own(
    open_store: OpenStore, valkey_servers: Servers, user: str
) -> None:
    sentinel = valkey_servers.sentinel_of(valkey_servers.start(), "counters")
    with closing(sentinel.client()) as client:
        client.execute_command("ACL", "SETUSER", "asks", "on", "+@all", ">p@s&s/+=")
        # what requirepass in a Sentinel's file does
        client.execute_command("ACL", "SETUSER", "default", ">p@s&s/+=")
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/counters"
    with closing(open_store(f"{url}?{user}sentinel_password=p%40s%26s/+=", 20)) as store:
        assert store.ping_ms() > 0
    for query in ("", f"?{user}sentinel_password=secret"):
        with (
            closing(open_store(url + query, 20)) as store,
            pytest.raises(CountersUnavailable, match="Authentication") as caught,
        ):
            store.ping_ms()
        assert "secret" not in repr(caught.value)


def many(tenant_id: str) -> list[Take]:
    """More than a socket takes at once."""
    one = rule("token_bucket", 1, 60)
    return [take(tenant_id, one, key=f"{number}{'k' * 10_000}") for number in range(500)]


def test_a_group_larger_than_what_a_socket_takes(open_store: OpenStore, valkey_url: str) -> None:
    with closing(open_store(valkey_url, 20)) as store:
        tenant_id = new_tenant()
        for expected in (True, False):
            assert admitted(store.decide_all(many(tenant_id), None)) == [expected] * 500


def test_rediss_speaks_tls_and_trusts_only_whom_it_is_told_to(
    open_store: OpenStore, valkey_servers: Servers, tmp_path: Path
) -> None:
    server = valkey_servers.start()
    certificate, key = self_signed(tmp_path)
    with tls_in_front_of(server.port, certificate, key) as port:
        for query, trusted in ((f"?ssl_ca_certs={certificate}", True), ("", False)):
            url = f"rediss://127.0.0.1:{port}/0{query}"
            with closing(open_store(url, 5)) as store:
                if trusted:
                    assert store.ping_ms() > 0
                    for expected in (True, False):
                        assert admitted(store.decide_all(many("t"), None)) == [expected] * 500
                else:
                    with pytest.raises(CountersUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                        store.decide_all([take("t", rule("token_bucket", 1, 60))], None)


def test_sentinels_are_asked_with_tls_where_that_is_said(
    open_store: OpenStore,
    valkey_servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentinel = valkey_servers.sentinel_of(valkey_servers.start(), "counters")
    certificate, key = self_signed(tmp_path)
    with tls_in_front_of(sentinel.port, certificate, key) as port:
        url = f"redis+sentinel://127.0.0.1:{port}/counters"
        with (
            closing(open_store(f"{url}?sentinel_ssl=true", 5)) as store,
            pytest.raises(CountersUnavailable),  # whose certificate nobody vouches for
        ):
            store.ping_ms()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with closing(open_store(f"{url}?sentinel_ssl=true", 5)) as store:
            for expected in (True, False):
                assert admitted(store.decide_all(many("t"), None)) == [expected] * 500
        with closing(open_store(url, 5)) as store, pytest.raises(CountersUnavailable):
            store.ping_ms()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)  # TLS goes by the real clock
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@contextmanager
def tls_in_front_of(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """A loopback port that speaks TLS for a server that does not."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, to_server[1]), pump(to_server[0], writer))

    async def serve(ports: Queue[int], stop: asyncio.Event) -> None:
        front = await asyncio.start_server(join, "127.0.0.1", ssl=context)
        async with front:
            ports.put(front.sockets[0].getsockname()[1])
            await stop.wait()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        ports: Queue[int] = Queue()
        stop = asyncio.Event()
        serving = threading.Thread(target=runner.run, args=(serve(ports, stop),))
        serving.start()
        try:
            yield ports.get(timeout=30)
        finally:
            loop.call_soon_threadsafe(stop.set)
            serving.join()


@EVERY_ALGORITHM
def test_counter_goes_by_itself_a_minute_after_it_is_unused(
    store: RedisCounters, server: Redis, algorithm: Algorithm
) -> None:
    tenant_id = new_tenant()
    (taken,) = store.decide_all([take(tenant_id, rule(algorithm, 5, 100))], None)
    assert taken is not None
    seconds, microseconds = server.time()
    left_ms = (taken.verdicts[0].reset_us - seconds * SECOND_US - microseconds) / 1000
    ttl_ms = server.pttl(f"fiscus:{{{tenant_id}}}:key")
    assert left_ms + 60_000 - 1000 < ttl_ms <= left_ms + 60_000 + 1000


def test_times_that_are_given_leave_an_hour_for_those_that_come_late(
    store: RedisCounters, server: Redis
) -> None:
    tenant_id = new_tenant()
    store.decide_all([take(tenant_id, rule("token_bucket", 1, 10))], 1_000_000)
    assert 3_600_000 < server.pttl(f"fiscus:{{{tenant_id}}}:key") <= 3_610_000


def test_server_tells_the_time_when_none_is_given(store: RedisCounters, server: Redis) -> None:
    seconds, _ = server.time()
    (taken,) = store.decide_all([take(new_tenant(), rule("fixed_window", 5, 60))], None)
    assert taken is not None
    window = (taken.verdicts[0].reset_us // SECOND_US) - 60
    assert window <= seconds + 60
    assert window % 60 == 0


def test_tenants_with_the_same_key_have_counters_of_their_own(store: RedisCounters) -> None:
    one = rule("fixed_window", 1, 3600)
    group = [take(tenant, one) for tenant in (new_tenant(), new_tenant())]
    assert admitted(store.decide_all(group * 2, None)) == [True, True, False, False]


ASK = """
import sys
from fiscus.ratelimits.port import Take
from fiscus.ratelimits.rules import Algorithm, make_rule
from fiscus.stores.counters.redis import RedisCounters

store = RedisCounters(sys.argv[1], timeout_seconds=20)
day_us = 86_400_000_000
rules = tuple(make_rule(one, limit, day_us) for one, limit in zip(Algorithm, (90, 80, 70, 60)))
take = Take(sys.argv[2], tuple(Algorithm), rules, 1, 2)
sys.stdin.read(1)
print(sum(store.decide_all([take], None)[0].admitted for _ in range(50)))
"""


def test_four_processes_admit_exactly_the_limit(store: RedisCounters, valkey_url: str) -> None:
    tenant_id = new_tenant()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, valkey_url, tenant_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b".")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert sum(int(output) for output in outputs) == 60
    look = take(tenant_id, rule("token_bucket", 90, 86_400), 0, key="token_bucket")
    (left,) = store.decide_all([look], None)
    assert left is not None
    assert 30 <= left.verdicts[0].remaining <= 31


def test_500_denials_by_a_full_log_are_decided_in_a_moment(
    store: RedisCounters, valkey_url: str
) -> None:
    tenant_id = new_tenant()
    log = rule(Algorithm.SLIDING_WINDOW_LOG, 10_000, 86_400)
    for _ in range(20):
        store.decide_all([take(tenant_id, log)] * 500, None)
    with closing(RedisCounters(valkey_url, timeout_seconds=1)) as hasty:
        for count in (1, 9_999):
            denied = hasty.decide_all([take(tenant_id, log, count)] * 500, None)
            assert admitted(denied) == [False] * 500


def test_a_log_of_another_form_begins_again(store: RedisCounters, server: Redis) -> None:
    tenant_id = new_tenant()
    log = rule(Algorithm.SLIDING_WINDOW_LOG, 5, 60)
    now_us = time_ns() // 1000
    name = name_of(tenant_id, "key")
    server.rpush(name, struct.pack("<ddd", now_us, 60 * SECOND_US, 4))
    server.rpush(name, struct.pack("<dd", now_us, 4))
    (first, second) = store.decide_all([take(tenant_id, log, 3)] * 2, None)
    assert admitted([first, second]) == [True, False]
    assert second is not None
    assert second.verdicts[0].remaining == 2
    assert server.llen(name) == 2
