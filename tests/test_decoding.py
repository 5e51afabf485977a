"""Several channels on one topic: each record is decoded once for each pair of types."""

from __future__ import annotations

import json

import attrs
import pytest

from tests.apps import app_on, broker_with, committed, take, write
from tests.nurseries.clock import jumping
from transport import JSON, TP, Codec, DecodeError, Message

ORDERS = [TP("orders", number) for number in range(2)]


@attrs.define
class Counting:
    """A codec that counts what it decodes."""

    count: int = 0

    def codec(self) -> Codec:
        return Codec(str.encode, self.decode)

    def decode(self, data: bytes) -> object:
        self.count += 1
        return json.loads(data)


@jumping
async def test_a_record_is_decoded_once_for_all_channels_of_the_same_types() -> None:
    broker = broker_with(ORDERS[0])
    write(broker, ORDERS[0], 50, b"[1]")
    counting = Counting()
    codec = counting.codec()
    async with app_on(broker) as app:
        topics = [app.topic("orders", value_type=codec) for _ in range(3)]
        for topic in topics:
            app.conductor.add(topic)
        for topic in topics:
            messages = await take(topic.noack(), 50)
            assert [message.value for message in messages] == [[1]] * 50
            for message in messages:
                message.ack()
        assert counting.count == 50
        assert len(topics[0].channel.decoded["orders"]) == 0, "nothing is kept for nobody"
        await app.consumer.commit()
    assert committed(broker) == {ORDERS[0]: 50}


@jumping
async def test_several_types_on_one_topic() -> None:
    broker = broker_with(ORDERS[0])
    write(broker, ORDERS[0], 1, b"[1]")
    async with app_on(broker) as app:
        topics = [app.topic("orders", value_type=kind) for kind in (None, str, JSON)]
        for topic in topics:
            app.conductor.add(topic)
        values = [(await anext(topic.noack())).value for topic in topics]
        assert values == [b"[1]", "[1]", [1]]
        assert all(not topic.channel.decoded for topic in topics)


@jumping
async def test_a_decode_error_goes_to_its_own_channel() -> None:
    broker = broker_with(ORDERS[0])
    write(broker, ORDERS[0], 1, b"no JSON")
    told: list[tuple[str, Message]] = []
    async with app_on(broker, commit_interval=1e6) as app:
        text, bad = app.topic("orders", value_type=str), app.topic("orders", value_type=JSON)
        twin = app.topic("orders", value_type=JSON)

        async def tell(error: DecodeError, message: Message) -> None:
            told.append((str(error), message))

        bad.on_value_decode_error = tell
        for topic in (text, bad, twin):
            app.conductor.add(topic)
        (message,) = await take(text.noack(), 1)
        assert message.value == "no JSON"
        message.ack()
        with pytest.raises(DecodeError) as caught:
            await anext(twin.noack())
        caught.value.message.ack()
        write(broker, ORDERS[0], 1, b"1")
        assert (await anext(bad.noack())).value == 1
        assert len(told) == 1
        await app.consumer.commit()
        assert committed(broker) == {ORDERS[0]: 1}


@jumping
async def test_after_a_seek_and_a_discard_nothing_old_is_shared() -> None:
    broker = broker_with(ORDERS[0])
    write(broker, ORDERS[0], 5, b"1")
    counting = Counting()
    codec = counting.codec()
    async with app_on(broker) as app:
        first, second = (app.topic("orders", value_type=codec) for _ in range(2))
        app.conductor.add(first)
        app.conductor.add(second)
        await take(first.noack(), 5)
        assert len(first.channel.decoded["orders"]) == 5
        await app.consumer.seek(ORDERS[0], 0)
        assert len(first.channel.decoded["orders"]) == 0
        await take(first.noack(), 5)
        app.conductor.discard(second)
        assert not first.channel.decoded
        assert not second.channel.decoded
