"""Drivers for URLs. No test needs a broker."""

import re
from typing import Any

import pytest

from transport import App
from transport.drivers import SCHEMES, driver_for
from transport.drivers.kafka import KafkaDriver
from transport.drivers.kafka.options import admin_options, consumer_options, producer_options
from transport.drivers.memory import MemoryDriver
from transport.drivers.settings import ClientSettings


def kafka(*urls: str) -> KafkaDriver:
    driver = driver_for(urls)
    assert isinstance(driver, KafkaDriver)
    return driver


def test_kafka_urls_name_hosts() -> None:
    assert kafka("kafka://a:1,b:2").servers == ("a:1", "b:2")
    assert kafka("kafka://a:1", "kafka://b").servers == ("a:1", "b:9092")
    assert kafka("kafka://[::1]:9093/").servers == ("[::1]:9093",)


def test_memory_urls_name_one_broker() -> None:
    assert isinstance(driver_for(["memory://"]), MemoryDriver)
    assert isinstance(driver_for(["memory://name"]), MemoryDriver)
    with pytest.raises(ValueError, match="name the same broker"):
        driver_for(["memory://a", "memory://b"])


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("kafka://h:1", "PLAINTEXT"),
        ("kafka+ssl://h:1", "SSL"),
        ("kafka+sasl://me:pw@h:1", "SASL_PLAINTEXT"),
        ("kafka+sasl+ssl://me:pw@h:1", "SASL_SSL"),
    ],
)
def test_scheme_sets_security_protocol(url: str, protocol: str) -> None:
    driver = kafka(url)
    consumer = driver.consumer(ClientSettings(group_id="g"))
    assert consumer._options["security_protocol"] == protocol
    assert driver.producer(ClientSettings())._options["security_protocol"] == protocol
    assert ("sasl" in url) == ("sasl_plain_password" in consumer._options)


def test_login_is_decoded_and_not_shown() -> None:
    driver = kafka("kafka+sasl://me%40there:p%3Aq%2Fs@t@h:1")
    options = driver.consumer(ClientSettings(group_id="g"))._options
    assert options["sasl_plain_username"] == "me@there"
    assert options["sasl_plain_password"] == "p:q/s@t"
    assert options["sasl_mechanism"] == "PLAIN"
    assert repr(driver) == "KafkaDriver(['h:1'])"


@pytest.mark.parametrize(
    ("urls", "reason"),
    [
        ([], "no URL"),
        (["h:1"], "no scheme, such as kafka:// before the host: 'h:1'"),
        (["redis://h:1"], "unknown scheme: 'redis://h:1'"),
        (["kafka://h:1", "memory://"], "all URLs must have the same scheme"),
        (["kafka://"], "no host: 'kafka://'"),
        (["kafka://:9092"], "no host"),
        (["kafka://a:1,"], "no host"),
        (["kafka://a b:1"], "bad host"),
        (["kafka://a:1/b"], "bad port"),
        (["kafka://a:0"], "bad port"),
        (["kafka://a:65536"], "bad port"),
        (["kafka://a:http"], "bad port"),
        (["kafka://a:"], "bad port"),
        (["kafka://me:secret@a:1"], "a login needs"),
        (["kafka+sasl://me:secret@a:1", "kafka+sasl://me:other@b:1"], "the same login"),
        (["kafka+sasl://me:sec@ret@a:http"], "bad port: 'kafka+sasl://me:***@a:http'"),
        (["kafak+sasl://me:secret@a:1"], "unknown scheme: 'kafak+sasl://me:***@a:1'"),
        (["me:secret@a:1"], "no scheme, such as kafka:// before the host: 'me:***@a:1'"),
        (
            ["kafka+sasl://me:secret@a:1,me:secret@b:2"],
            "give one login for all hosts, before the first host",
        ),
    ],
)
def test_error_of_invalid_url_names_problem_without_password(urls: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        driver_for(urls)
    text = str(caught.value)
    for scheme in SCHEMES:
        assert f"{scheme}://" in text
    assert "sec" not in text.replace("security", "")


@pytest.mark.parametrize(
    ("url", "options", "missing"),
    [
        ("kafka+sasl://a:1", {}, "sasl_plain_username"),
        ("kafka+sasl://me@a:1", {}, "sasl_plain_password"),
        ("kafka+sasl://me:@a:1", {}, "sasl_plain_password"),
        ("kafka+sasl://:secret@a:1", {}, "sasl_plain_username"),
        ("kafka+sasl+ssl://me@a:1", {"sasl_mechanism": "SCRAM-SHA-256"}, "sasl_plain_password"),
        ("kafka+sasl://a:1", {"sasl_plain_password": "secret"}, "sasl_plain_username"),
    ],
)
def test_app_without_user_or_password_is_refused(
    url: str, options: dict[str, Any], missing: str
) -> None:
    with pytest.raises(ValueError, match=f"no {missing}: a login is USER:PASSWORD@") as caught:
        App("orders", url, client_options=options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["kafka+sasl://h:1", "kafka+sasl://me@h:1", "kafka+sasl://other:old@h:1"]
)
def test_login_may_be_among_the_client_options(url: str) -> None:
    login = {"sasl_plain_username": "me", "sasl_plain_password": "secret"}
    options = kafka(url).consumer(ClientSettings(group_id="g", client_options=login))._options
    assert options.items() >= {"sasl_mechanism": "PLAIN", **login}.items()


def test_client_options_reach_their_clients() -> None:
    settings = ClientSettings(
        group_id="g",
        client_options={
            "reconnect_backoff_max_ms": 7000,
            "fetch_min_bytes": 7,
            "enable_idempotence": False,
            "sasl_mechanism": "SCRAM-SHA-256",
        },
    )
    login = {"sasl_plain_username": "me", "sasl_plain_password": "secret"}
    security = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", **login}
    consumer = consumer_options(["h:1"], security, settings)
    producer = producer_options(["h:1"], security, settings)
    admin = admin_options(["h:1"], security, settings)
    for options in (consumer, producer, admin):
        assert options["reconnect_backoff_max_ms"] == 7000, (
            "the driver's own value won over the option"
        )
        assert options["sasl_mechanism"] == "SCRAM-SHA-256"
    assert [options.get("fetch_min_bytes") for options in (consumer, producer, admin)] == [
        7,
        None,
        None,
    ]
    assert "enable_idempotence" not in consumer
    assert producer["enable_idempotence"] is False


def test_consumer_needs_group() -> None:
    with pytest.raises(ValueError, match="group_id"):
        kafka("kafka://h:1").consumer(ClientSettings())


def test_url_of_app_works_for_another_app_and_hides_password() -> None:
    url = "kafka+sasl://me:s@cret@h:1"
    first = App("a", url)
    second = App("b", first.transport.url)
    assert second.transport.url == first.transport.url == [url]
    assert kafka(*second.transport.url).servers == ("h:1",)
    shown = second.transport.url[0]
    for text in (f"{shown}", str(shown), repr(shown), f"{[shown]}", repr({"url": shown})):
        assert "cret" not in text
        assert "me:***@h:1" in text


@pytest.mark.parametrize(
    "broker",
    [
        b"kafka+sasl://me:secret@a:1",
        [b"kafka+sasl://me:secret@a:1"],
        {"kafka+sasl://me:secret@a:1"},
    ],
    ids=["bytes", "list of bytes", "set"],
)
def test_error_of_broker_of_wrong_type_shows_no_password(broker: Any) -> None:
    with pytest.raises(TypeError, match="not one of type") as e:
        App("group", broker)
    assert "secret" not in str(e.value)
