"""A codec that must load a schema first: no message is lost, skipped or taken for undecodable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.apps import app_on, broker_with, committed, take, write
from tests.codecs.loadable import Loadable
from tests.nurseries.clock import jumping
from tests.records import offsets
from transport import (
    TP,
    App,
    DecodeError,
    MemoryBroker,
    Message,
    NotLoaded,
    RegistryUnavailable,
    Topic,
    TransportError,
)

ORDERS = TP("orders", 0)


def broker_of(*values: bytes) -> MemoryBroker:
    broker = broker_with(ORDERS)
    for value in values:
        write(broker, ORDERS, 1, value)
    return broker


async def all_messages(app: App, topic: Topic, had: list[Message]) -> None:
    async for message in topic.noack():
        had.append(message)


async def all_batches(app: App, topic: Topic, had: list[Message]) -> None:
    async for batch in topic.batches(noack=True):
        had += batch


async def many(app: App, topic: Topic, had: list[Message]) -> None:
    async for _, message in app.consumer.getmany(1e6):
        had.append(message)


Read = Callable[[App, Topic, list[Message]], Awaitable[None]]
reading = pytest.mark.parametrize("read", [all_messages, all_batches, many])


@reading
@jumping
async def test_reader_waits_for_the_load_and_gets_all_messages_in_order(read: Read) -> None:
    schemas = Loadable()
    async with app_on(broker_of(b"a1", b"a2", b"b3", b"a4")) as app:
        topic = app.topic("orders", value_type=schemas.codec())
        app.conductor.add(topic)
        had: list[Message] = []
        with trio.move_on_after(10.0):
            await read(app, topic, had)
    assert [message.value for message in had] == ["a1", "a2", "b3", "a4"]
    assert schemas.loads == ["a", "b"]


@reading
@jumping
async def test_cancelled_load_gives_the_messages_back(read: Read) -> None:
    schemas = Loadable(on_load=trio.sleep_forever, loaded={"a"})
    broker = broker_of(b"a1", b"b2", b"a3")
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=schemas.codec())
        app.conductor.add(topic)
        had: list[Message] = []
        with trio.move_on_after(10.0):
            await read(app, topic, had)
        assert app.consumer.unacked == set(had)
        assert topic.channel.usage.begun == len(had)
        schemas.loaded.add("b")
        had += await take(topic.noack(), 3 - len(had))
        assert offsets(had) == [0, 1, 2]
        assert [message.value for message in had] == ["a1", "b2", "a3"]
        for message in had:
            message.ack()
    assert committed(broker) == {ORDERS: 3}


@reading
@jumping
async def test_outage_ends_the_reader_and_gives_the_messages_back(read: Read) -> None:
    async def fail() -> None:
        await trio.sleep(1.0)
        raise RegistryUnavailable("the registry did not answer")

    schemas = Loadable(on_load=fail, loaded={"a"})
    broker = broker_of(b"a1", b"b2", b"a3")
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=schemas.codec())
        app.conductor.add(topic)
        had: list[Message] = []
        for _ in range(3):
            with pytest.raises(RegistryUnavailable):
                await read(app, topic, had)
        assert app.consumer.unacked == set(had)
        schemas.loaded.add("b")
        had += await take(topic.noack(), 3 - len(had))
        assert sorted(offsets(had)) == [0, 1, 2]
        for message in had:
            message.ack()
    assert committed(broker) == {ORDERS: 3}


@jumping
async def test_load_that_is_refused_is_a_decode_error() -> None:
    async def refuse() -> None:
        await trio.sleep(1.0)
        raise ValueError("there is no such schema")

    seen: list[str] = []

    async def skip(error: DecodeError, message: Message) -> None:
        seen.append(str(error))

    async with app_on(broker_of(b"a1", b"b2", b"a3")) as app:
        schemas = Loadable(on_load=refuse, loaded={"a"})
        topic = app.topic("orders", value_type=schemas.codec())
        topic.on_value_decode_error = skip
        assert offsets(await take(topic.noack(), 2)) == [0, 2]
    assert seen == [
        "cannot decode the value of orders-0 offset 1 as a text:"
        " ValueError('there is no such schema'); the value is b'b2'"
    ]


@pytest.mark.parametrize("then", ["sought", "evicted"])
@jumping
async def test_message_whose_epoch_ends_during_the_load_is_not_delivered(then: str) -> None:
    begun = trio.Event()

    async def load() -> None:
        begun.set()
        await trio.sleep(1.0)

    schemas = Loadable(on_load=load, loaded={"a"})
    async with app_on(broker_of(b"b1", b"a2")) as app, trio.open_nursery() as nursery:
        topic = app.topic("orders", value_type=schemas.codec())
        messages, had = topic.noack(), []

        async def read() -> None:
            had.extend(await take(messages, 2))

        nursery.start_soon(read)
        await begun.wait()
        if then == "sought":
            await app.consumer.seek(ORDERS, 0)
        else:
            await app.consumer.restart()
    assert [message.value for message in had] == ["b1", "a2"]
    assert all(message.epoch > 1 for message in had)


@jumping
async def test_batch_leaves_out_messages_whose_epoch_ended_during_a_load() -> None:
    """The first message was decoded before the load for the second one."""
    begun = trio.Event()

    async def load() -> None:
        begun.set()
        await trio.sleep(1.0)

    schemas = Loadable(on_load=load, loaded={"a"})
    async with app_on(broker_of(b"a1", b"b2")) as app, trio.open_nursery() as nursery:
        topic = app.topic("orders", value_type=schemas.codec())
        batches, had = topic.batches(noack=True), []

        async def read() -> None:
            while len(had) < 2:
                had.extend(await anext(batches))

        nursery.start_soon(read)
        await begun.wait()
        await app.consumer.seek(ORDERS, 0)
    assert [message.value for message in had] == ["a1", "b2"]
    assert all(message.epoch > 1 for message in had)


@jumping
async def test_key_is_decoded_once_more_from_its_bytes_after_a_load_for_the_value() -> None:
    keys, values = Loadable(), Loadable()
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        await app.topic("orders").send_and_wait(key=b"k", value=b"v")
        topic = app.topic("orders", key_type=keys.codec(), value_type=values.codec())
        (message,) = await take(topic.noack(), 1)
        assert (message.key, message.value) == ("k", "v")
    assert (keys.loads, values.loads) == (["k"], ["v"])


@jumping
async def test_topic_objects_of_one_codec_each_get_a_message_after_a_load() -> None:
    codec = Loadable().codec()
    async with app_on(broker_of(b"a1", b"b2")) as app:
        topics = [app.topic("orders", value_type=codec) for _ in range(3)]
        for topic in topics:
            app.conductor.add(topic)
        for topic in topics:
            values = [message.value for message in await take(topic.noack(), 2)]
            assert values == ["a1", "b2"]


async def send_one(topic: Topic, value: Any) -> None:
    await topic.send(value=value)


async def send_and_wait(topic: Topic, value: Any) -> None:
    await topic.send_and_wait(value=value)


async def send_many(topic: Topic, value: Any) -> None:
    await topic.send_many((None, each) for each in [value])


@pytest.mark.parametrize("send", [send_one, send_and_wait, send_many])
@jumping
async def test_sender_waits_for_the_load(send: Callable[[Topic, Any], Awaitable[None]]) -> None:
    broker = broker_with(ORDERS)
    schemas = Loadable()
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=schemas.codec())
        with trio.move_on_after(0.5):
            await send(topic, "a0")
        assert app.producer.in_flight == 0
        await send(topic, "a1")
        await send(topic, "a2")
    assert [record.value for record in broker.records("orders")] == [b"a1", b"a2"]
    assert schemas.loads == ["a", "a"]


@jumping
async def test_sender_gets_the_error_of_an_outage() -> None:
    async def fail() -> None:
        raise RegistryUnavailable("the registry did not answer")

    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=Loadable(on_load=fail).codec())
        for send in (send_one, send_and_wait, send_many):
            with pytest.raises(RegistryUnavailable):
                await send(topic, "a0")
        assert app.producer.in_flight == 0
    assert broker.records("orders") == []


@jumping
async def test_send_soon_cannot_wait_for_a_load() -> None:
    schemas = Loadable()
    async with app_on(broker_with(ORDERS)) as app:
        topic = app.topic("orders", value_type=schemas.codec())
        with pytest.raises(NotLoaded, match="the schema 'a' is not loaded"):
            topic.send_soon(value="a0")
        await topic.send_and_wait(value="a1")
        await topic.send_soon(value="a2")


@jumping
async def test_load_that_loads_nothing_is_an_error_and_does_not_repeat_forever() -> None:
    schemas = Loadable(on_load=trio.lowlevel.checkpoint, keeps=False)
    async with app_on(broker_of(b"a1")) as app:
        topic = app.topic("orders", value_type=schemas.codec())
        for _ in range(2):
            with pytest.raises(TransportError, match="loaded 1000 times and is still missing"):
                await anext(topic.noack())
        assert app.consumer.unacked == set()
        with pytest.raises(TransportError, match="loaded 1000 times and is still missing"):
            await topic.send(value="a2")
