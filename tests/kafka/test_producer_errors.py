"""An error of a send reaches exactly the messages that it concerns."""

from __future__ import annotations

import contextlib

import pytest
import trio
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from tests.drivers.kafka.test_driver import LOGINS
from tests.kafka import cluster
from tests.kafka.cluster import Broker
from tests.kafka.test_producing_items import an_app, records_of
from transport import (
    App,
    AuthorizationFailed,
    BrokerUnavailable,
    Delivery,
    DeliveryTimeout,
    MessageTooLarge,
    RecordMetadata,
    UnknownTopic,
)
from transport.drivers.base import Outcome

pytestmark = pytest.mark.kafka


def values_of(bootstrap: str, topic: str) -> dict[int, bytes]:
    """Return the values of partition 0, by their offsets."""
    return {record.offset: record.value for record in records_of(bootstrap, topic, 1)[0]}


async def outcome_of(delivery: Delivery) -> Outcome:
    with contextlib.suppress(Exception):
        await delivery
    assert delivery.outcome is not None
    return delivery.outcome


def may_only_see(bootstrap: str, topic: str) -> None:
    """Allow the user `guest` to describe a topic, and not to write to it."""
    admin = KafkaAdminClient(
        bootstrap_servers=bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="admin",
        sasl_plain_password="admin-pw",
    )
    try:
        acl = ACL(
            principal="User:guest",
            host="*",
            operation=ACLOperation.DESCRIBE,
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(ResourceType.TOPIC, topic),
        )
        admin.create_acls([acl])
    finally:
        admin.close()


async def test_bad_messages_in_a_batch_fail_and_good_ones_are_written(
    kafka_java: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bad ones are too large, lack the right to write, or are for a topic that is missing."""
    properties = cluster.PROPERTIES.replace("listeners=PLAINTEXT", "listeners=SASL_PLAINTEXT")
    properties = properties.replace("create.topics.enable=true", "create.topics.enable=false")
    everyone = "allow.everyone.if.no.acl.found=true\n"
    monkeypatch.setattr(cluster, "PROPERTIES", properties + LOGINS + everyone)
    with Broker() as broker:

        def app_of(login: str) -> App:
            url = f"kafka+sasl://{login}@{broker.bootstrap}"
            return App("mixed", url, connect_timeout=3.0, linger=0.1)

        async with app_of("admin:admin-pw") as app:
            await app.producer.create_topic("good", 1)
            await app.producer.create_topic("small", 1, config={"max.message.bytes": 2000})
            await app.producer.create_topic("secret", 1)
        await trio.to_thread.run_sync(may_only_see, broker.bootstrap, "secret")

        async with app_of("guest:guest-pw") as app:
            send = app.producer.send
            missing = app.topic("missing").send_soon(value=b"v")
            sent = [
                (number, kind, await send(topic, None, value))
                for number in range(10)
                for kind, topic, value in (
                    ("good", "good", b"%d" % number),
                    ("good", "small", b"%d" % number),
                    ("large", "small", b"." * 5000),
                    ("secret", "secret", b"%d" % number),
                )
            ]
            expected = {
                "good": RecordMetadata,
                "large": MessageTooLarge,
                "secret": AuthorizationFailed,
            }
            for number, kind, delivery in sent:
                assert type(await outcome_of(delivery)) is expected[kind], (number, kind)
            with pytest.raises(UnknownTopic, match="missing"):
                await missing
            with pytest.raises(UnknownTopic, match="missing"):
                await send("missing", None, b"v")
            for topic in ("good", "small"):
                assert (await app.producer.send_and_wait(topic, None, b"later")).offset == 10


async def test_messages_to_a_frozen_broker_time_out_and_a_flush_ends(
    kafka_broker: Broker,
) -> None:
    bootstrap = kafka_broker.bootstrap
    async with an_app(bootstrap, delivery_timeout=3.0) as app:
        await app.producer.create_topic("t", 1)
        before = await app.producer.send("t", None, b"before")
        await before
        kafka_broker.freeze()
        sent = [await app.producer.send("t", None, b"frozen-%d" % n) for n in range(20)]
        soon = app.topic("t").send_soon(value=b"frozen-soon")
        with trio.fail_after(5.0):
            await app.producer.flush()
        assert [type(delivery.outcome) for delivery in sent] == [DeliveryTimeout] * 20
        with pytest.raises(DeliveryTimeout):
            await soon
        kafka_broker.thaw()
        with trio.fail_after(20.0):
            after = [await app.producer.send_and_wait("t", None, b"after") for _ in range(3)]
        for delivery in sent:
            await outcome_of(delivery)
    found = values_of(bootstrap, "t")
    assert [found[each.offset] for each in after] == [b"after"] * 3
    # A message that timed out may have been written, but never twice.
    assert len(found) == len(set(found.values())) + 2


async def test_each_message_has_one_outcome_when_the_broker_is_killed(kafka_broker: Broker) -> None:
    """Each message has one outcome, and each written message is at the offset of its outcome."""
    bootstrap = kafka_broker.bootstrap
    sent: dict[bytes, Delivery] = {}
    async with an_app(bootstrap, delivery_timeout=5.0, connect_timeout=20.0) as app:
        await app.producer.create_topic("t", 1)

        under_way = trio.Event()

        async def go_on_sending() -> None:
            while True:
                value = b"%d" % len(sent)
                sent[value] = await app.producer.send("t", None, value)
                await trio.sleep(0.002)
                if len(sent) == 200:
                    under_way.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on_sending)
            await under_way.wait()
            await trio.to_thread.run_sync(kafka_broker.kill)
            in_flight = len(sent)
            with trio.fail_after(15.0):
                await app.producer.flush()  # while other messages are sent
            await trio.to_thread.run_sync(kafka_broker.start)
            last = len(sent)
            with trio.fail_after(30.0):
                *_, latest = sent.values()
                while not isinstance(await outcome_of(latest), RecordMetadata):
                    *_, latest = sent.values()
            nursery.cancel_scope.cancel()
        with trio.fail_after(15.0):
            outcomes = {value: await outcome_of(delivery) for value, delivery in sent.items()}
    assert {type(each) for each in outcomes.values()} == {RecordMetadata, DeliveryTimeout}
    found = values_of(bootstrap, "t")
    written = {v: o for v, o in outcomes.items() if isinstance(o, RecordMetadata)}
    assert {value: found.get(each.offset) for value, each in written.items()} == {
        value: value for value in written
    }
    # Messages from well before the kill and from after the restart are written.
    assert in_flight < last < len(sent)
    assert isinstance(outcomes[b"0"], RecordMetadata)
    # A message that timed out may have been written, but never twice.
    assert len(found) == len(set(found.values())) >= len(written)


async def test_creating_a_topic_ends_in_time_under_a_frozen_broker(kafka_broker: Broker) -> None:
    async with an_app(kafka_broker.bootstrap, grace=5.0) as app:
        await app.producer.create_topic("before", 1)
        kafka_broker.freeze()
        start = trio.current_time()
        with pytest.raises(BrokerUnavailable):
            await app.producer.create_topic("frozen", 1, timeout=1.0)
        assert trio.current_time() - start < 2.0
        with trio.move_on_after(0.5) as scope:
            await app.producer.create_topic("cancelled", 1)
        assert scope.cancelled_caught
        kafka_broker.thaw()
        await app.producer.create_topic("after", 1, timeout=10.0)
        kafka_broker.freeze()
        with trio.move_on_after(0.5):  # under way at the end; no thread waits for it
            await app.producer.create_topic("end", 1)
        start = trio.current_time()
    assert trio.current_time() - start < 3.0
    kafka_broker.thaw()
