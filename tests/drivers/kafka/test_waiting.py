"""Log lines and errors about brokers and topics that an app waits for, once for each change."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator

import pytest
import trio

from tests.kafka.cluster import Broker, free_ports
from transport import App, BrokerUnavailable, UnknownTopic
from transport.drivers.kafka.waiting import Waiting, reason_of

REFUSED = "KafkaConnectionError: 111 ECONNREFUSED"
SERVER = "127.0.0.1:9092"


@pytest.fixture
def waiting(caplog: pytest.LogCaptureFixture) -> Waiting:
    caplog.set_level(logging.INFO, "transport")
    return Waiting("orders", [SERVER])


def test_outage_and_return_of_broker_are_logged_once(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):  # for three clients
        waiting.connecting(SERVER)
        waiting.connected(SERVER)
    for _ in range(20):
        waiting.connecting(SERVER)
        waiting.failed(SERVER, REFUSED)
    for _ in range(3):
        waiting.connected(SERVER)
    away, back = caplog.records
    assert away.levelname == "WARNING"
    assert away.getMessage() == (
        "orders: the broker at 127.0.0.1:9092 does not answer: connection refused (ECONNREFUSED)."
        " The client keeps trying"
    )
    assert back.levelname == "INFO"
    assert back.getMessage().startswith("orders: the broker at 127.0.0.1:9092 answers again")


def test_unreachable_advertised_address_is_logged_with_both_addresses(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    waiting.connecting(SERVER)
    waiting.connected(SERVER)
    waiting.connecting("kafka:9092")
    waiting.failed("kafka:9092", "KafkaConnectionError: DNS Resolution failure")
    text = (
        "the broker at the bootstrap address 127.0.0.1:9092 answers, but the address kafka:9092"
        " that it advertises cannot be reached: the host name cannot be resolved."
        " Set `advertised.listeners` of the broker to an address that this program can reach"
    )
    assert caplog.messages == [f"orders: {text}"]
    assert waiting.why() == text


def test_advertised_address_reached_before_is_logged_as_outage(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    waiting.connected(SERVER)
    waiting.connected("kafka:9092")
    waiting.failed("kafka:9092", REFUSED)
    (line,) = caplog.messages
    assert "the broker at kafka:9092 does not answer" in line
    assert "advertise" not in line


def test_advertised_address_without_answer_is_named(waiting: Waiting) -> None:
    waiting.connected(SERVER)
    waiting.connecting("10.0.0.1:9092")
    assert "10.0.0.1:9092 that it advertises has not answered yet" in waiting.why()


def test_brokers_that_were_never_reached_are_cut_off(waiting: Waiting) -> None:
    addresses = ["kafka:9092", "kafka:9093"]
    assert not waiting.is_cut_off([])
    assert not waiting.is_cut_off(addresses), "no address was tried yet"
    waiting.failed(addresses[0], REFUSED)
    assert not waiting.is_cut_off(addresses)
    waiting.failed(addresses[1], REFUSED)
    assert waiting.is_cut_off(addresses)
    waiting.connected(addresses[1])
    waiting.failed(addresses[1], REFUSED)
    assert not waiting.is_cut_off(addresses), "one address was reached before"


def test_missing_topic_is_logged_once_until_it_exists(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    waiting.absent(["late"], 10.0)
    waiting.absent(["late"], 10.0)
    waiting.present(["late", "other"])
    waiting.present(["late"])
    assert caplog.messages == [
        "orders: the topic 'late' does not exist on the broker. The app waits up to 10 s for it",
        "orders: the topic 'late' exists now",
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (REFUSED, "connection refused (ECONNREFUSED)"),
        ("KafkaConnectionError: 113 EHOSTUNREACH", "no route to host (EHOSTUNREACH)"),
        ("KafkaConnectionError: Connection timed out", "Connection timed out"),
        ("something else", "something else"),
    ],
)
def test_a_reason_is_in_plain_words(error: str, reason: str) -> None:
    assert reason_of(error) == reason


async def failure_of(broker: str, topic: str) -> BaseException:
    """Read a topic with an app that fails, and return its one error."""
    try:
        with trio.fail_after(30.0):
            async with App("o", broker=f"kafka://{broker}", connect_timeout=3.0) as app:
                async for _ in app.topic(topic):
                    raise AssertionError
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        return error
    raise AssertionError("it did not fail")


async def test_unreachable_address_is_logged_at_once_and_raised_at_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (port,) = free_ports(1)
    began = time.time()
    error = await failure_of(f"127.0.0.1:{port}", "orders")
    (told,) = [record for record in caplog.records if record.name.startswith("transport")]
    assert (
        f"the broker at 127.0.0.1:{port} does not answer: connection refused" in told.getMessage()
    )
    assert told.created - began < 2.0 < time.time() - began
    assert isinstance(error, BrokerUnavailable)
    assert str(error) == (
        f"no broker answered at 127.0.0.1:{port}: connection refused (ECONNREFUSED)"
    )
    assert error.__suppress_context__, "the client's own errors would fill a screen"


@contextlib.asynccontextmanager
async def broker_with(properties: str) -> AsyncIterator[Broker]:
    broker = Broker(properties=properties)
    await trio.to_thread.run_sync(broker.__enter__)
    try:
        yield broker
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(broker.__exit__, None, None, None)


@pytest.mark.kafka
async def test_the_error_names_the_address_that_the_broker_advertises(
    kafka_java: None, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    advertised = f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n"
    async with broker_with(advertised) as broker:
        error = await failure_of(broker.bootstrap, "orders")
    assert isinstance(error, BrokerUnavailable)
    for part in (broker.bootstrap, f"127.0.0.1:{port}", "refused", "advertised.listeners"):
        assert part in str(error)
    assert len([line for line in caplog.messages if "advertised.listeners" in line]) == 1


@pytest.mark.kafka
async def test_missing_topic_is_logged_during_the_wait(
    kafka_java: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with broker_with("auto.create.topics.enable=false\n") as broker:
        error = await failure_of(broker.bootstrap, "absent")
    assert isinstance(error, UnknownTopic)
    assert len([line for line in caplog.messages if "topic 'absent' does not exist" in line]) == 1
