"""Every option of kafka-python is refused with a reason, or has an effect that a test checks."""

from __future__ import annotations

import importlib
import inspect
import re
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from tests.drivers.rig import Rig, outgoing
from transport import App, UnknownTopic
from transport.drivers.client_options import PASSED, REFUSED
from transport.drivers.kafka.connecting import Attempt
from transport.drivers.kafka.options import consumer_options, producer_options
from transport.drivers.kafka.waiting import Waiting
from transport.drivers.kafka.workarounds.dropped_options import HANDED_ON
from transport.drivers.settings import ClientSettings
from transport.settings import Settings

SETTINGS = {field.name for kind in (Settings, ClientSettings) for field in attrs.fields(kind)}
OPTIONS = {
    *KafkaConsumer.DEFAULT_CONFIG,
    *KafkaProducer.DEFAULT_CONFIG,
    *KafkaAdminClient.DEFAULT_CONFIG,
}


def test_tables_have_every_client_option_once() -> None:
    assert {*PASSED, *REFUSED} == OPTIONS
    assert not PASSED.keys() & REFUSED.keys()


# Refused


@pytest.mark.parametrize("broker", ["memory://", "kafka://127.0.0.1:1"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_option_is_error_with_reason(name: str, broker: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} in client_options: {REFUSED[name]}")):
        App("group", broker, client_options={name: 1})
    if name not in SETTINGS:
        with pytest.raises(TypeError, match=re.escape(f"{name}: {REFUSED[name]}")):
            App("group", broker, **{name: 1})


@pytest.mark.parametrize("name", REFUSED)
def test_reason_of_refusal_names_existing_setting(name: str) -> None:
    (named,) = re.findall(r"^here it is (?:the )?(\w+)", REFUSED[name]) or [None]
    assert named is None or named in SETTINGS | {"broker", "first", "proxy_url"}
    if named in SETTINGS - {"monitor"} and name.endswith("_ms"):
        assert REFUSED[name].endswith(", in seconds")


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("fetch_min_byte", "did you mean fetch_min_bytes?"),
        ("no_such_thing", "kafka-python has no such client option"),
        ("session_timeout", "did you mean session_timeout_ms?"),
    ],
)
def test_error_of_unknown_option_names_it_and_hides_its_value(option: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        App("group", client_options={option: "a-secret"})
    assert option in str(caught.value)
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("allow_auto_create_topics", "no"),
        ("client_dns_lookup", "default"),
        ("client_rack", 5),
        ("fetch_min_bytes", "1"),
        ("fetch_min_bytes", True),
        ("fetch_max_wait_ms", -1),
        ("fetch_max_wait_ms", 2**31),
        ("max_in_flight_requests_per_connection", 6),
        ("metadata_max_age_ms", 1.5),
        ("security_protocol", "TLS"),
        ("selector", "epoll"),
        ("socket_options", "SO_RCVBUF"),
        ("socket_options", [5]),
        ("ssl_cafile", 5),
    ],
)
def test_invalid_option_value_is_refused_at_once(option: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{option} in client_options must be"):
        App("group", client_options={option: value})


@pytest.mark.parametrize("option", ["sasl_plain_password", "ssl_password", "proxy_url"])
def test_invalid_secret_is_not_shown(option: str) -> None:
    with pytest.raises(TypeError, match=option) as caught:
        App("group", client_options={option: b"a-secret"})
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "settings", "told"),
    [
        ("kafka://h:1", {"client_options": {"ssl_cafile": "ca.pem"}}, "ssl_cafile has no effect"),
        ("kafka://h:1", {"ssl_context": True}, "ssl_context has no effect without TLS"),
        (
            "kafka+ssl://h:1",
            {"ssl_context": True, "client_options": {"ssl_cafile": "ca.pem"}},
            "beside ssl_context",
        ),
        (
            "kafka+ssl://h:1",
            {"client_options": {"sasl_mechanism": "PLAIN"}},
            "sasl_mechanism in client_options has no effect without a login",
        ),
        (
            "kafka://h:1",
            {"request_timeout": 0.4},
            "request_timeout must be more than fetch_max_wait_ms (0.5 s)",
        ),
        ("kafka://h:1", {"request_timeout": 600.0}, "less than connections_max_idle_ms (540 s)"),
        (
            "kafka://h:1",
            {"client_options": {"connections_max_idle_ms": 20_000}},
            "less than connections_max_idle_ms (20 s)",
        ),
        (
            "kafka://h:1",
            {"linger": 5.0, "delivery_timeout": 5.55},
            "delivery_timeout must be at least 5.557 s, not 5.55 s: the client gives a message up"
            " after 90% of it, and linger (5 s)",
        ),
        (
            "memory://",
            {"acks": 1, "client_options": {"enable_idempotence": True}},
            "enable_idempotence in client_options needs",
        ),
        (
            "memory://",
            {"transactions": "member", "client_options": {"enable_idempotence": False}},
            "transactions need enable_idempotence",
        ),
        ("memory://", {"transactions": "member", "acks": 1}, 'transactions need acks="all"'),
    ],
)
def test_contradicting_settings_are_refused(url: str, settings: dict[str, Any], told: str) -> None:
    import ssl

    if "ssl_context" in settings:
        settings = {**settings, "ssl_context": ssl.create_default_context()}
    with pytest.raises(ValueError, match=re.escape(told)):
        App("group", url, **settings)


def test_least_delivery_timeout_is_accepted_by_the_client() -> None:
    settings = ClientSettings(linger=5.0, delivery_timeout=5.557)
    options = producer_options(["h:1"], {}, settings)
    assert options["delivery_timeout_ms"] >= options["linger_ms"] + options["request_timeout_ms"]
    assert options["request_timeout_ms"] == 1


# Passed: each value differs from the client's default.

PASSED_VALUES: dict[str, Any] = {
    "allow_auto_create_topics": False,
    "client_dns_lookup": "resolve_canonical_bootstrap_servers_only",
    "client_rack": "r1",
    "connections_max_idle_ms": 77_000,
    "enable_idempotence": False,
    "enable_incremental_fetch_sessions": False,
    "fetch_max_wait_ms": 77,
    "fetch_min_bytes": 7,
    "max_in_flight_requests_per_connection": 3,
    "metadata_max_age_ms": 7777,
    "proxy_url": "socks5://127.0.0.1:1",
    "receive_message_max_bytes": 200_000_000,
    "reconnect_backoff_max_ms": 7777,
    "reconnect_backoff_ms": 77,
    "retry_backoff_ms": 77,
    "sasl_kerberos_domain_name": "d",
    "sasl_kerberos_name": "n",
    "sasl_kerberos_service_name": "s",
    "sasl_mechanism": "SCRAM-SHA-256",
    "sasl_oauth_token_provider": object(),
    "sasl_plain_password": "secret",
    "sasl_plain_username": "me",
    "security_protocol": "SASL_SSL",
    "selector": selectors.SelectSelector,
    "socket_options": [(socket.SOL_SOCKET, socket.SO_RCVBUF, 99_999)],
    "ssl_cafile": "ca.pem",
    "ssl_certfile": "cert.pem",
    "ssl_check_hostname": False,
    "ssl_crlfile": "crl.pem",
    "ssl_keyfile": "key.pem",
    "ssl_password": "secret",
}

# The part of the client that has an option, and the module that reads it.
_MANAGER = "_client._manager"
PLACES: dict[str, tuple[str, str]] = {
    **{name: (_MANAGER, "kafka.net.transport") for name in PASSED if name.startswith("ssl_")},
    "client_dns_lookup": (_MANAGER, "kafka.net.manager"),
    "client_rack": ("_fetcher", "kafka.consumer.fetcher"),
    "connections_max_idle_ms": (_MANAGER, "kafka.net.manager"),
    "enable_incremental_fetch_sessions": ("_fetcher", "kafka.consumer.fetcher"),
    "fetch_max_wait_ms": ("_fetcher", "kafka.consumer.fetcher"),
    "fetch_min_bytes": ("_fetcher", "kafka.consumer.fetcher"),
    "max_in_flight_requests_per_connection": (_MANAGER, "kafka.net.connection"),
    "metadata_max_age_ms": (f"{_MANAGER}.cluster", "kafka.cluster"),
    "allow_auto_create_topics": (f"{_MANAGER}.cluster", "kafka.cluster"),
    "proxy_url": (_MANAGER, "kafka.net.manager"),
    "receive_message_max_bytes": (_MANAGER, "kafka.net.connection"),
    "retry_backoff_ms": (f"{_MANAGER}.cluster", "kafka.cluster"),
    "sasl_kerberos_domain_name": (_MANAGER, "kafka.net.sasl.gssapi"),
    "sasl_kerberos_name": (_MANAGER, "kafka.net.sasl.gssapi"),
    "sasl_kerberos_service_name": (_MANAGER, "kafka.net.sasl.gssapi"),
    "sasl_mechanism": (_MANAGER, "kafka.net.connection"),
    "sasl_oauth_token_provider": (_MANAGER, "kafka.net.sasl.oauth"),
    "sasl_plain_password": (_MANAGER, "kafka.net.sasl.plain"),
    "sasl_plain_username": (_MANAGER, "kafka.net.sasl.plain"),
    "security_protocol": (_MANAGER, "kafka.net.connection"),
    "selector": ("_client._net", "kafka.net.selector"),
    "socket_options": (_MANAGER, "kafka.net.manager"),
}
EFFECTS: dict[str, Callable[[Any], bool]] = {
    "enable_idempotence": lambda producer: producer._transaction_manager is None,
    "reconnect_backoff_ms": lambda client: _backoff(client, 1) < 77 * 1.3,
    "reconnect_backoff_max_ms": lambda client: 7777 * 0.7 < _backoff(client, 20) < 7777 * 1.3,
}


def _backoff(client: Any, failures: int) -> float:
    manager = client._client._manager
    return manager._calculate_exp_timeout("reconnect_backoff_ms", failures)  # type: ignore[no-any-return]


def test_expected_values_cover_every_passed_option() -> None:
    assert PASSED_VALUES.keys() == PASSED.keys() == {*PLACES, *EFFECTS}
    for name, value in PASSED_VALUES.items():
        for kind in (KafkaConsumer, KafkaProducer):
            assert kind.DEFAULT_CONFIG.get(name, object()) != value


@contextmanager
def client_with(kind: Any, options: dict[str, Any]) -> Iterator[Any]:
    """Return a client that was built as in the driver, and has no connection."""
    servers = ["127.0.0.1:1"]
    attempt = Attempt(servers, lambda client: None, Waiting("app", servers))
    # With `api_version` the client sends no request to a broker.
    made = kind(**{**attempt.options(kind), **options, "api_version": (4, 0)})
    made._client = getattr(made, "_client", None) or made._sender._client
    try:
        yield made
    finally:
        if kind is KafkaProducer:
            made.close(timeout=0)
        else:
            made.close(autocommit=False, timeout_ms=0)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("name", PASSED)
@pytest.mark.parametrize("kind", [KafkaConsumer, KafkaProducer])
def test_passed_option_reaches_part_of_client_that_reads_it(
    name: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.drivers.kafka.connecting._check_files", lambda options: None)
    if name not in kind.DEFAULT_CONFIG:
        return
    value = PASSED_VALUES[name]
    login = {"sasl_plain_username": "me", "sasl_plain_password": "secret"}
    chosen = {**(login if name.startswith("sasl_") else {}), name: value}
    settings = ClientSettings(group_id="group", client_options=chosen)
    security = {"security_protocol": "SASL_SSL" if name[:4] in ("sasl", "ssl_") else "PLAINTEXT"}
    make = consumer_options if kind is KafkaConsumer else producer_options
    options = {**make(["127.0.0.1:1"], security, settings)}
    with client_with(kind, options) as client:
        if name in EFFECTS:
            assert EFFECTS[name](client)
            return
        path, module = PLACES[name]
        part = client
        for attribute in path.split("."):
            part = getattr(part, attribute)
        assert part.config[name] == value
        source = inspect.getsource(importlib.import_module(module))
        assert re.search(rf"config(\[|\.get\()['\"]{name}['\"]", source)


def test_client_drops_options_that_workaround_passes_on() -> None:
    """Both options have an effect only in the client's metadata, which does not get them."""
    manager = importlib.import_module("kafka.net.manager")
    (built,) = re.findall(r"ClusterMetadata\((.*?)\n        \)", inspect.getsource(manager), re.S)
    cluster = importlib.import_module("kafka.cluster")
    for name in HANDED_ON:
        assert name not in built
        assert f"self.config['{name}']" in inspect.getsource(cluster)


# Topics that must not be created


async def test_no_request_creates_topic_if_auto_creation_is_off(rig: Rig) -> None:
    """Readers, writers and queries create no topic. By default each of them does."""
    never: dict[str, Any] = {
        "client_options": {"allow_auto_create_topics": False},
        "connect_timeout": 0.5,
    }
    topic = rig.name()
    async with rig.sender(**never) as sender, rig.member([], **never) as member:
        for look_up in (
            lambda: sender.client.partition_count(topic, 0.5),
            lambda: member.client.partitions(topic, 0.5),
            lambda: member.client.subscribe([topic]),
        ):
            with pytest.raises(UnknownTopic, match=topic):
                await look_up()
        await sender.client.send([unsent := outgoing(topic)])
        with trio.fail_after(10.0):
            (outcome,) = await sender.reported([unsent])
        assert isinstance(outcome, Exception)
        assert topic not in await member.client.topics()
    async with rig.member([topic]) as member:
        assert topic in await member.client.topics(), "a reader's request did not create the topic"


def test_docs_name_every_passed_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    assert [name for name in PASSED if f"`{name}`" not in page] == []
