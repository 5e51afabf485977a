"""Argument checks of all public calls: each error is raised at once and names the argument."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

from nurseries import Gate, Service, Worker, running, tick
from tests.apps import app_on, broker_with, committed, take, write
from tests.nurseries.clock import jumping
from transport import (
    JSON,
    TP,
    App,
    Codec,
    Consumer,
    FutureMessage,
    MemoryBroker,
    PendingMessage,
    RoundRobin,
    TransactionManager,
    Transport,
)
from transport.anyio import open_app
from transport.drivers.memory import MemoryDriver
from transport.drivers.settings import ClientSettings
from transport.settings import Settings
from transport.testing import (
    Break,
    Chance,
    Fault,
    FaultyDriver,
    Gap,
    History,
    Script,
    Start,
    Stop,
    Write,
    cancel_everywhere,
    run,
    simulate,
    slow,
    unanswered,
)

ORDERS = TP("orders", 0)
NAN, INF = math.nan, math.inf
# Texts that only the errors of attrs' own validators contain.
INTERNALS = ("Attribute(", "NOTHING", "<class", "validator")


def id_of(value: object) -> str:
    """Return a test id that is the same in each process: it contains no address."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def refuses(call: Callable[[], object], *named: str) -> None:
    """Check that the call raises an error with these texts, and with no text of attrs."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    is_told(caught.value, *named)


async def refuses_soon(call: Callable[[], Awaitable[object]], *named: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        await call()
    is_told(caught.value, *named)


def is_told(error: Exception, *named: str) -> None:
    text = str(error)
    for each in named:
        assert each in text
    for internal in INTERNALS:
        assert internal not in text
    assert len(text) < 400


# Settings

NUMBERS = [NAN, INF, -INF, -1.0, "1", True, None, [1]]
SECONDS = [
    field.name
    for kind in (Settings, ClientSettings)
    for field in attrs.fields(kind)
    if field.type == "float" and field.name not in ("linger", "transaction_linger")
]
SIZES = [
    field.name
    for kind in (Settings, ClientSettings)
    for field in attrs.fields(kind)
    if field.type == "int" and field.name != "max_batch_size"
]
TEXTS = ["client_id", "group_instance_id", "status_socket"]
CHOICES = [
    "acks",
    "assignment",
    "auto_offset_reset",
    "client_log_level",
    "compression_type",
    "isolation",
    "on_task_error",
    "record_codec",
    "client_log_level",
    "transactions",
    "web_page",
]


def test_no_setting_is_left_out() -> None:
    others = {
        "linger",
        "transaction_linger",
        "max_batch_size",
        "drain_timeout",
        "client_only",
        "partitions",
        "client",
        "ready_lag",
        "web",
    }
    others |= {"client_options", "ssl_context", "partitioner", "scheduler", "monitor"}
    others |= {"tracing"}
    others |= {"group_id", "transactional_id"}  # the app's id, and one that `App` does not take
    fields = {field.name for kind in (Settings, ClientSettings) for field in attrs.fields(kind)}
    assert fields == {*SECONDS, *SIZES, *TEXTS, *CHOICES, *others}


@pytest.mark.parametrize("wrong", [*NUMBERS, 0, 10**10], ids=str)
@pytest.mark.parametrize("name", SECONDS)
def test_seconds_are_a_finite_number_above_0(name: str, wrong: Any) -> None:
    refuses(lambda: App("group", **{name: wrong}), f"{name} must be", "seconds")


@pytest.mark.parametrize("wrong", [*NUMBERS, 0, 1.5], ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_a_whole_number_above_0(name: str, wrong: Any) -> None:
    refuses(lambda: App("group", **{name: wrong}), f"{name} must be a whole number")


@pytest.mark.parametrize("wrong", [5, "", "8080", ":8080", "h:", "h:x", "h:65536"], ids=str)
def test_the_address_of_the_web_server_is_a_host_and_a_port(wrong: Any) -> None:
    refuses(lambda: App("group", web=wrong), "web must be")


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "1", INF], ids=str)
def test_the_ready_lag_is_a_whole_number_or_none(wrong: Any) -> None:
    refuses(lambda: App("group", ready_lag=wrong), "ready_lag must be a whole number")
    App("group", ready_lag=None)


@pytest.mark.parametrize("wrong", [NAN, INF, -1.0, 0, "1", True, [1]], ids=str)
@pytest.mark.parametrize("name", ["commit_interval", "commit_livelock_soft_timeout"])
def test_times_that_a_transport_gives_its_consumer_are_checked(name: str, wrong: Any) -> None:
    class Mine(Transport):
        def create_consumer(self, callback: Any, **options: Any) -> Consumer:
            return super().create_consumer(callback, **options, **{name: wrong})

    class MyApp(App):
        class Transport(Mine):
            pass

    refuses(lambda: MyApp("group"), f"{name} must be", "seconds")


@pytest.mark.parametrize("wrong", [5, "", b"one", True], ids=str)
@pytest.mark.parametrize("name", TEXTS)
def test_a_name_is_a_str_that_is_not_empty(name: str, wrong: Any) -> None:
    refuses(lambda: App("group", **{name: wrong}), f"{name} must be a str")


@pytest.mark.parametrize("wrong", ["other", 5, True, b"all"], ids=str)
@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_the_known_values(name: str, wrong: Any) -> None:
    refuses(lambda: App("group", **{name: wrong}), f"{name} must be one of", repr(wrong))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"linger": -1}, "linger must be"),
        ({"linger": NAN}, "linger must be"),
        ({"linger": True}, "linger must be"),
        ({"transaction_linger": -1}, "transaction_linger must be"),
        ({"max_batch_size": -1}, "max_batch_size must be"),
        ({"max_batch_size": 1.0}, "max_batch_size must be"),
        ({"drain_timeout": INF}, "drain_timeout must be"),
        ({"drain_timeout": "1"}, "drain_timeout must be"),
        ({"drain_timeout": 10**400}, "drain_timeout must be"),  # larger than any float
        ({"grace": 10**400}, "grace must be"),
        ({"client_only": 1}, "client_only must be True or False"),
        ({"partitions": {ORDERS: -1}}, "offset of orders-0 in partitions"),
        ({"partitions": {ORDERS: True}}, "offset of orders-0 in partitions"),
        ({"partitions": {("orders", True): 0}}, "partition in each key of partitions"),
        ({"partitions": {("orders", -1): 0}}, "partition in each key of partitions"),
        ({"partitions": ORDERS}, "partitions must be a mapping"),
        ({"client_options": 5}, "client_options must be a mapping"),
        ({"ssl_context": "ca.pem"}, "ssl_context must be an ssl.SSLContext"),
        ({"partitioner": 5}, "partitioner must be a function"),
        ({"scheduler": RoundRobin()}, "scheduler must be a function"),
        ({"monitor": 5}, "monitor must be a Sensor"),
        ({"tracing": True}, "tracing must be a Tracing"),
        ({"group_instance_id": "two words"}, "group_instance_id must be"),
        ({"session_timeout": 1.0}, "heartbeat_interval must be less than session_timeout"),
        ({"fetch_max_bytes": 2**31}, "fetch_max_bytes must be a whole number, 2147483647 or less"),
    ],
    ids=id_of,
)
def test_a_setting_with_a_bad_value_is_refused(settings: dict[str, Any], named: str) -> None:
    refuses(lambda: App("group", **settings), named)


# App and Topic


@pytest.mark.parametrize("wrong", [5, "", None, b"group", ["group"]], ids=str)
def test_the_id_of_an_app_is_a_str(wrong: Any) -> None:
    refuses(lambda: App(wrong), "id must be")


@pytest.mark.parametrize("wrong", [5, b"kafka://h:1", ["kafka://h:1", 5], object()], ids=id_of)
def test_a_broker_is_a_url_or_a_driver(wrong: Any) -> None:
    refuses(lambda: App("group", wrong), "broker must be")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda app: app.topic(5), "name must be a topic's name"),
        (lambda app: app.topic(b"orders"), "name must be a topic's name"),
        (lambda app: app.topic(ORDERS), "name must be a topic's name"),
        (lambda app: app.topic(re.compile(b"orders")), "pattern of str"),
        (lambda app: app.topic("or/ders"), "'or/ders' is not a topic name"),
        (
            lambda app: app.topic("orders", key_type="str"),
            "key_type must be bytes, str or another type, a Codec",
        ),
        (lambda app: app.topic("orders", value_type=5), "value_type must be"),
        (lambda app: app.topic("orders").batches(0), "max_size must be a whole number, 1 or more"),
        (lambda app: app.topic("orders").batches(True), "max_size must be"),
        (lambda app: app.topic("orders").batches(1.5), "max_size must be"),
        (lambda app: app.topic("orders").batches(noack="yes"), "noack must be True or False"),
        (lambda app: setattr(app.topic("orders"), "on_key_decode_error", 5), "on_key_decode_error"),
        (lambda app: setattr(app.topic("o"), "on_value_decode_error", 5), "on_value_decode_error"),
        (lambda app: app.conductor.add("orders"), "topic must be a Topic"),
        (lambda app: app.conductor.discard("orders"), "topic must be a Topic"),
        (lambda app: app.conductor.acks_enabled_for(5), "topic must be a topic's name"),
        (lambda app: app.consumer.pause_partitions(ORDERS), "tps must be partitions"),
        (lambda app: app.consumer.pause_partitions("orders"), "tps must be partitions"),
        (lambda app: app.consumer.pause_partitions(["orders"]), "each of tps must be a TP"),
        (lambda app: app.consumer.resume_partitions([("orders", "0")]), "each of tps must be"),
        (lambda app: app.consumer.resume_partitions(5), "tps must be partitions"),
        (lambda app: app.consumer.getmany(-1), "timeout must be"),
        (lambda app: app.consumer.getmany(NAN), "timeout must be"),
        (lambda app: app.consumer.getmany("1"), "timeout must be"),
        (lambda app: app.stop_on_signals(timeout=0), "timeout must be"),
        (lambda app: app.stop_on_signals(timeout=NAN), "timeout must be"),
        (lambda app: app.stop_on_signals(timeout="8"), "timeout must be"),
        (lambda app: app.consumer.ack(5), "message must be a Message"),
        (lambda app: app.consumer.track_message(5), "message must be a Message"),
        (lambda app: app.consumer.verify_event_path("now", ORDERS), "now must be"),
        (lambda app: app.consumer.verify_recovery_event_path(0.0, "orders"), "tp must be a TP"),
        (lambda app: app.producer.send_soon(PendingMessage(topic="t")), "fut must be"),
        (lambda app: app.producer.key_partition("orders", "key"), "key must be bytes"),
        (lambda app: app.producer.key_partition(5, b"key"), "topic must be"),
        (lambda app: app.producer.writer(5), "transactional_id must be"),
        (lambda app: app.consumer.transactions.transactional_id("orders"), "tp must be a TP"),
        (lambda app: app.consumer.transactions.send_soon(5), "fut must be a FutureMessage"),
        (
            lambda app: app.consumer.transactions.send_soon(
                FutureMessage(PendingMessage(topic="orders")), source="m"
            ),
            "source must be a Message",
        ),
    ],
)
@jumping
async def test_a_sync_call_refuses_a_bad_argument(
    call: Callable[[App], object], named: str
) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        refuses(lambda: call(app), named)
        assert not app.conductor.wanted


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda app: app.consumer.commit("orders", None), "each of topics must be a topic's name"),
        (lambda app: app.consumer.commit("orders", ["a"]), "each of topics must be a topic's name"),
        (lambda app: app.consumer.commit(["a"], "orders"), "start_new_transaction must be"),
        (lambda app: app.consumer.commit(["a"], True, "b"), "or one collection of them"),
        (lambda app: app.consumer.commit(metadata=5), "metadata must be a str or None"),
        (lambda app: app.consumer.commit(("orders", 0)), "each of topics must be"),
        (lambda app: app.consumer.commit([5]), "each of topics must be"),
        (lambda app: app.consumer.commit([("orders", "0")]), "each of topics must be a TP"),
        (lambda app: app.consumer.commit([("orders", -1)]), "partition in each of topics"),
        (lambda app: app.consumer.commit(5), "topics must be a set"),
        (lambda app: app.consumer.commit(b"orders"), "topics must be a set"),
        (lambda app: app.consumer.commit({TP("orders", 0): 5}), "names and TPs without offsets"),
        (lambda app: app.consumer.commit(None, "no"), "start_new_transaction must be"),
        (lambda app: app.consumer.seek("orders", 0), "partition must be a TP"),
        (lambda app: app.consumer.seek(("orders", "0"), 0), "partition must be a TP"),
        (lambda app: app.consumer.seek(ORDERS, -1), "offset must be"),
        (lambda app: app.consumer.seek(ORDERS, True), "offset must be"),
        (lambda app: app.consumer.seek(ORDERS, 0.0), "offset must be"),
        (lambda app: app.consumer.seek(ORDERS, "earliest"), "offset must be"),
        (lambda app: app.consumer.seek(ORDERS, 2**63), "offset must be"),
        (lambda app: app.consumer.commit(metadata="." * 3801), "at most 3,800 bytes in UTF-8"),
        (lambda app: app.consumer.commit(metadata="\ud800"), "text that UTF-8 can encode"),
        (lambda app: app.consumer.position("orders"), "tp must be a TP"),
        (lambda app: app.consumer.committed("orders"), "tps must be partitions"),
        (lambda app: app.consumer.committed(TP("orders", "0")), "tps must be a TP"),
        (lambda app: app.consumer.committed(["orders"]), "each of tps must be a TP"),
        (lambda app: app.consumer.committed_metadata(5), "tps must be partitions"),
        (lambda app: app.consumer.beginning_offsets(ORDERS), "tps must be partitions"),
        (lambda app: app.consumer.end_offsets([("orders", -1)]), "partition in each of tps"),
        (lambda app: app.consumer.offsets_for_times([ORDERS]), "times must be a mapping"),
        (lambda app: app.consumer.offsets_for_times({"orders": 1.0}), "each key of times"),
        (
            lambda app: app.consumer.offsets_for_times({ORDERS: 1_764_000_000_000}),
            "if it is in milliseconds, divide it by 1,000",
        ),
        (lambda app: app.consumer.partitions(5), "topic must be a topic's name"),
        (lambda app: app.consumer.seek_to_beginning("orders"), "each of tps must be a TP"),
        (lambda app: app.consumer.seek_to_end([ORDERS]), "each of tps must be a TP"),
        (lambda app: app.consumer.seek_to_time("yesterday"), "times must be a number of seconds"),
        (lambda app: app.consumer.seek_to_time({ORDERS: -1}), "the time of orders-0 in times"),
        (lambda app: app.consumer.on_task_error("failed"), "exc must be an exception"),
        (lambda app: app.producer.create_topic(5, 1), "topic must be"),
        (lambda app: app.producer.create_topic("new", 0), "partitions of 'new' must be"),
        (lambda app: app.producer.create_topic("new", True), "partitions of 'new' must be"),
        (lambda app: app.producer.create_topic("new", 1.0), "partitions of 'new' must be"),
        (lambda app: app.producer.create_topic("new", 1, 0), "replication of 'new' must be"),
        (lambda app: app.producer.create_topic("new", 1, 40_000), "replication of 'new' must be"),
        (lambda app: app.producer.create_topic("new", 1, timeout=0), "timeout must be"),
        (lambda app: app.producer.create_topic("new", 1, timeout=INF), "timeout must be"),
        (lambda app: app.producer.create_topic("new", 1, timeout=2**31), "timeout must be"),
        (lambda app: app.producer.create_topic("new", 1, retention=2**60), "retention must be"),
        (lambda app: app.producer.create_topic("new", 1, retention=-1), "retention must be"),
        (lambda app: app.producer.create_topic("new", 1, retention=NAN), "retention must be"),
        (lambda app: app.producer.create_topic("new", 1, retention="1 d"), "retention must be"),
        (lambda app: app.producer.create_topic("new", 1, config=[]), "config must be a mapping"),
        (lambda app: app.producer.create_topic("new", 1, config={5: 1}), "each key of config"),
        (lambda app: app.producer.create_topic("new", 1, config={"a": []}), "'a' in config"),
        (lambda app: app.producer.create_topic("new", 1, compacting="yes"), "compacting must be"),
        (lambda app: app.producer.create_topic("new", 1, deleting=1), "deleting must be"),
        (lambda app: app.producer.create_topic("new", 1, ensure_created=1), "ensure_created"),
        (lambda app: app.producer.begin_transaction(5), "transactional_id must be"),
        (lambda app: app.producer.begin_transaction(""), "transactional_id must be"),
        (lambda app: app.producer.maybe_begin_transaction(None), "transactional_id must be"),
        (lambda app: app.producer.commit_transaction(5), "transactional_id must be"),
        (lambda app: app.producer.abort_transaction(5), "transactional_id must be"),
        (lambda app: app.producer.stop_transaction(5), "transactional_id must be"),
        (lambda app: app.producer.commit_transactions([], "group"), "tid_to_offset_map must be"),
        (lambda app: app.producer.commit_transactions({5: {}}, "g"), "each key of tid_to_offset"),
        (lambda app: app.producer.commit_transactions({"t": {ORDERS: -1}}, "g"), "orders-0"),
        (lambda app: app.producer.commit_transactions({"t": {}}, 5), "group_id must be"),
        (lambda app: app.consumer.transactions.commit({ORDERS: "5"}), "offset of orders-0"),
        (lambda app: app.consumer.transactions.commit([ORDERS]), "offsets must be a mapping"),
        (lambda app: app.consumer.transactions.commit({}, "no"), "start_new_transaction must be"),
        (
            lambda app: app.consumer.transactions.send("orders", None, b"v", source="m"),
            "source must be a Message",
        ),
    ],
)
@jumping
async def test_an_async_call_refuses_a_bad_argument_before_any_change(
    call: Callable[[App], Awaitable[object]], named: str
) -> None:
    broker = broker_with(ORDERS, records=2)
    async with app_on(broker, commit_interval=1e6) as app:
        for message in await take(app.topic("orders").noack(), 2):
            message.ack()
        await refuses_soon(lambda: call(app), named)
        assert committed(broker) == {}, "the refused call committed offsets"
        assert "new" not in broker.topics
        assert await app.consumer.commit({ORDERS})


# Messages

WRONG_PARTS = [
    ({"partition": -1}, "the partition of a message for 'orders' must be"),
    ({"partition": True}, "the partition of a message for 'orders' must be"),
    ({"partition": "0"}, "the partition of a message for 'orders' must be"),
    ({"partition": 0.0}, "the partition of a message for 'orders' must be"),
    ({"partition": 2**31}, "the partition of a message for 'orders' must be"),
    ({"timestamp": -0.001}, "the timestamp of a message for 'orders' must be"),
    ({"timestamp": NAN}, "must be a number of seconds since 1970"),
    ({"timestamp": INF}, "must be a number of seconds since 1970"),
    ({"timestamp": -INF}, "must be a number of seconds since 1970"),
    ({"timestamp": True}, "must be a number of seconds since 1970"),
    ({"timestamp": "now"}, "must be a number of seconds since 1970"),
    ({"timestamp": 1_764_000_000_000}, "if it is in milliseconds, divide it by 1,000"),
    ({"timestamp": 1_764_000_000_000_000}, "in microseconds, divide it by 1,000,000"),
    ({"timestamp": 1_764_000_000_000_000_000}, "in nanoseconds, divide it by 1,000,000,000"),
    ({"timestamp": 10**30}, "must be a number of seconds since 1970"),
    ({"headers": "ab"}, "the headers of a message for 'orders' must be pairs"),
    ({"headers": 5}, "the headers of a message for 'orders' must be pairs"),
    ({"headers": 0}, "the headers of a message for 'orders' must be pairs"),
    ({"headers": {"name": "text"}}, "one is ('name', 'text')"),
    ({"headers": {5: b"1"}}, "one is (5, b'1')"),
    ({"headers": [("name",)]}, "one is ('name',)"),
    ({"headers": [("\ud800", b"1")]}, "must be text that UTF-8 can encode, not '\\ud800'"),
]
WRONG_DATA = [
    ({"key": 5}, "the key of a message for 'orders' must be bytes or None"),
    ({"key": "k"}, "the key of a message for 'orders' must be bytes or None"),
    ({"value": "v"}, "the value of a message for 'orders' must be bytes or None"),
    ({"value": [b"v"]}, "the value of a message for 'orders' must be bytes or None"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG_PARTS + WRONG_DATA, ids=str)
@jumping
async def test_each_way_of_sending_refuses_a_bad_message(wrong: dict[str, Any], named: str) -> None:
    broker = broker_with(ORDERS)
    parts = {"key": None, "value": b"v", **wrong}
    for transactions in (None, "member"):
        async with app_on(broker, transactions=transactions) as app:
            topic = app.topic("orders")
            await refuses_soon(lambda topic=topic: topic.send(**wrong), named)
            await refuses_soon(lambda topic=topic: topic.send_and_wait(**wrong), named)
            refuses(lambda topic=topic: topic.send_soon(**wrong), named)
            refuses(lambda: PendingMessage(topic="orders", **wrong), named)
            for sender in (app.producer, app.consumer.transactions):
                await refuses_soon(lambda sender=sender: sender.send("orders", **parts), named)
                await refuses_soon(
                    lambda sender=sender: sender.send_and_wait("orders", **parts), named
                )
            threaded = app.producer.threaded_producer
            refuses(lambda threaded=threaded: threaded.send_and_wait("orders", **parts), named)
            assert app.producer.in_flight == 0
            assert len(app.producer.buffer) == 0
    assert broker.records("orders") == []


@pytest.mark.parametrize(
    ("types", "wrong", "named"),
    [
        ({"key_type": str}, {"key": 5}, "the key of a message for 'orders' must be a str"),
        ({"value_type": str}, {"value": b"v"}, "the value of a message for 'orders' must be a str"),
        (
            {"key_type": str},
            {"key": "\ud800"},
            "the key of a message for 'orders' cannot be encoded",
        ),
        (
            {"value_type": JSON},
            {"value": 2j},
            "the value of a message for 'orders' cannot be encoded: 2j",
        ),
        (
            {"value_type": Codec(lambda value: "text", bytes.decode)},
            {"value": 5},
            "the value that the codec of 'orders' returns must be bytes",
        ),
    ],
)
@jumping
async def test_an_encoding_error_names_topic_and_part(
    types: dict[str, Any], wrong: dict[str, Any], named: str
) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        topic = app.topic("orders", **types)
        await refuses_soon(lambda: topic.send(**wrong), named)
        refuses(lambda: topic.send_soon(**wrong), named)


@jumping
async def test_a_source_must_be_a_message_even_without_transactions() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        topic = app.topic("orders")
        await refuses_soon(lambda: topic.send(source="m"), "source must be a Message")
        refuses(lambda: topic.send_soon(source=5), "source must be a Message")


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "1"], ids=str)
@jumping
async def test_a_number_of_holders_is_1_or_more(wrong: Any) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker) as app:
        (message,) = await take(app.topic("orders").noack(), 1)
        refuses(lambda: message.incref(wrong), "n must be a whole number, 1 or more")
        refuses(lambda: message.decref(wrong), "n must be a whole number, 1 or more")
        assert message.refcount == 1
        assert message.ack()


@jumping
async def test_a_partition_from_the_partitioner_must_be_a_number() -> None:
    async with app_on(broker_with(ORDERS), partitioner=lambda key, count: "0") as app:
        await refuses_soon(
            lambda: app.topic("orders").send(key=b"k"),
            "the partition that the partitioner chooses for 'orders'",
        )


@jumping
async def test_a_transaction_group_must_be_a_str() -> None:
    class Mine(App):
        def transaction_group(self, tp: TP) -> str:
            return None  # type: ignore[return-value]

    async with app_on(broker_with(ORDERS), kind=Mine) as app:
        manager: TransactionManager = app.consumer.transactions
        refuses(lambda: manager.transactional_id(ORDERS), "that transaction_group returns")


def test_futures_codecs_and_schedulers_refuse_bad_arguments() -> None:
    refuses(lambda: FutureMessage("orders"), "message must be a PendingMessage")
    for wrong in (-1, NAN, "1"):
        fut = FutureMessage(PendingMessage(topic="orders"))
        refuses(lambda fut=fut, wrong=wrong: fut.result(wrong), "timeout must be")
    refuses(lambda: Codec(5, bytes.decode), "encode must be a function")
    refuses(lambda: Codec(str.encode, None), "decode must be a function")
    refuses(lambda: RoundRobin(0), "quantum must be")


# The memory broker


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda broker: MemoryBroker(default_partitions=0), "default_partitions must be"),
        (lambda broker: MemoryBroker(default_partitions=True), "default_partitions must be"),
        (lambda broker: MemoryBroker(auto_create="no"), "auto_create must be"),
        (lambda broker: MemoryDriver(5), "name must be"),
        (lambda broker: MemoryDriver(broker="orders"), "broker must be a MemoryBroker"),
        (lambda broker: MemoryBroker(clock=5), "clock must be"),
        (lambda broker: MemoryBroker(on_commit=None), "on_commit must be"),
        (lambda broker: broker.create_topic(5, 1), "topic must be"),
        (lambda broker: broker.create_topic("new", 0), "partitions of 'new' must be"),
        (lambda broker: broker.create_topic("new", True), "partitions of 'new' must be"),
        (lambda broker: broker.create_topic("new", 1, ["a"]), "config must be"),
        (lambda broker: broker.add_partitions("orders", 0), "count must be"),
        (lambda broker: broker.add_partitions("orders", -1), "count must be"),
        (lambda broker: broker.gap(ORDERS, 0), "count must be"),
        (lambda broker: broker.gap("orders"), "tp must be a TP"),
        (lambda broker: broker.log("orders"), "tp must be a TP"),
        (lambda broker: broker.delete_records(ORDERS, -1), "before must be"),
        (lambda broker: broker.cut_off(ORDERS, -1), "end must be"),
        (lambda broker: broker.partitions(5), "topic must be"),
        (lambda broker: broker.records(b"orders"), "topic must be"),
        (lambda broker: broker.has_topic(None), "topic must be"),
    ],
)
def test_the_memory_broker_refuses_bad_arguments(
    call: Callable[[MemoryBroker], object], named: str
) -> None:
    broker = broker_with(ORDERS)
    refuses(lambda: call(broker), named)
    assert broker.topics == {"orders"}
    assert len(broker.partitions("orders")) == 1


# The testing kit


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Fault(delay=-1), "delay must be"),
        (lambda: Fault(delay=NAN), "delay must be"),
        (lambda: Fault(error=ValueError()), "error must be a TransportError"),
        (lambda: Fault(is_made=1), "is_made must be"),
        (lambda: slow(INF), "delay must be"),
        (lambda: unanswered("1", made=True), "delay must be"),
        (lambda: Script({("comit", 0): slow(1)}), "the call in each key of faults must be"),
        (lambda: Script({("producer.poll", 0): slow(1)}), "the call in each key of faults"),
        (lambda: Script({("commit", -1): slow(1)}), "the number in each key of faults"),
        (lambda: Script({"commit": slow(1)}), "each key of faults must be"),
        (lambda: Script({("commit", 0): 5}), "each value of faults must be a Fault"),
        (lambda: Chance(random.Random(0), rate=1.5), "rate must be a share"),
        (lambda: Chance(random.Random(0), rate=NAN), "rate must be a share"),
        (lambda: Chance(random.Random(0), longest=-1), "longest must be"),
        (lambda: Chance(5), "draw must be a random.Random"),
        (lambda: FaultyDriver(5), "driver must be a Driver"),
        (lambda: FaultyDriver(MemoryDriver(), {}), "faults must be"),
        (lambda: FaultyDriver(MemoryDriver(), order=5), "order must be"),
        (lambda: Start(after=-1), "after must be"),
        (lambda: Stop("first"), "member must be"),
        (lambda: Write("orders"), "tp must be a TP"),
        (lambda: Write(ORDERS, 0), "count must be"),
        (lambda: Gap(ORDERS, -1), "count must be"),
        (lambda: Break("comit", slow(1)), "call must be"),
        (lambda: Break("commit", 5), "fault must be a Fault"),
        (lambda: History({"orders": 0}, []), "number of partitions of 'orders' in topics"),
        (lambda: History(["orders"], []), "topics must be a mapping"),
        (lambda: History({"orders": 1}, [5]), "each of events must be"),
        (lambda: History.drawn(0, {"orders": 1}, length=-1), "length must be"),
        (lambda: simulate(5, topics={"orders": 1}), "app_factory must be"),
        (lambda: simulate(never, topics={"orders": 0}), "partitions of 'orders' in topics"),
        (lambda: simulate(never, topics={"orders": 1}, patience=NAN), "patience must be"),
        (lambda: simulate(never, topics={"orders": 1}, history=5), "history must be"),
        (lambda: run(5), "main must be"),
        (lambda: run(never, seed="x"), "seed must be"),
        (lambda: cancel_everywhere(5), "make must be"),
        (lambda: cancel_everywhere(never, every=0), "every must be"),
    ],
)
def test_the_testing_kit_refuses_bad_arguments(call: Callable[[], object], named: str) -> None:
    refuses(call, named)


async def never(*_: object) -> None:
    raise AssertionError("the function was called")


# nurseries and anyio


@pytest.mark.parametrize("wrong", [-1, NAN, "1", True], ids=str)
async def test_nurseries_refuse_a_bad_duration(wrong: Any) -> None:
    refuses(lambda: Service(grace=wrong), "grace must be")
    worker = Worker("w")
    await refuses_soon(lambda: worker.stop(wrong), "timeout must be")
    await refuses_soon(lambda: tick(wrong, never), "interval must be")


async def test_nurseries_refuse_other_bad_arguments() -> None:
    refuses(lambda: Service(5), "name must be")
    refuses(lambda: Worker(5), "name must be")
    refuses(lambda: Gate(is_open="no"), "is_open must be")
    await refuses_soon(lambda: tick(INF, never), "interval must be")
    await refuses_soon(lambda: tick(1.0, 5), "beat must be")
    async with running(Service("s")) as service:
        refuses(lambda: service.spawn("name", 5), "fn must be")
        refuses(lambda: service.spawn(5, never), "name must be")
        await refuses_soon(lambda: service.start("name", None), "fn must be")
        await refuses_soon(lambda: service.add_service("s"), "service must be a Service")
    async with Worker("w") as worker:
        refuses(lambda: worker.submit("call", 5), "fn must be")
        await refuses_soon(lambda: worker.call("call", 5), "fn must be")


async def test_open_app_needs_an_app() -> None:
    async def opened() -> None:
        async with open_app("orders"):
            raise AssertionError("the block was entered")

    await refuses_soon(opened, "app must be an App")


def test_an_error_shows_a_large_value_cut_short() -> None:
    refuses(lambda: App("group", grace="x" * 10_000), "grace must be", "...")
    refuses(lambda: PendingMessage(topic="t", headers=[b"x" * 10_000]), "headers of a message")


# Valid arguments are accepted


@jumping
async def test_a_single_partition_is_committed_alone() -> None:
    """A set is required: iterating over `TP("orders", 0)` would name the whole topic."""
    other = TP("orders", 1)
    broker = broker_with(ORDERS, other)
    write(broker, ORDERS)
    write(broker, other)
    async with app_on(broker, commit_interval=1e6) as app:
        for message in await take(app.topic("orders").noack(), 2):
            message.ack()
        assert await app.consumer.commit({ORDERS})
        assert committed(broker) == {ORDERS: 1}
        assert await app.consumer.commit(["orders"])
        assert committed(broker) == {ORDERS: 1, other: 1}


@pytest.mark.parametrize("timestamp", [0, 0.0, 1_764_000_000, 1_764_000_000.5, 253_402_300_799])
@jumping
async def test_a_timestamp_in_seconds_is_accepted(timestamp: float) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        assert (await app.topic("orders").send_and_wait(timestamp=timestamp)).timestamp == timestamp
