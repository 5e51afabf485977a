"""Decoding for several channels of one topic: once for each pair of key and value types."""

from __future__ import annotations

import datetime
import decimal

import pytest

from tests.apps import app_on, broker_with, take, write
from tests.items.codecs import Counting
from tests.nurseries.clock import jumping
from transport import TP
from transport.delivering.decoding import AGAIN, Decoded, can_be_shared

ORDERS = [TP("orders", number) for number in range(2)]


@jumping
async def test_seek_and_discard_drop_shared_results() -> None:
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


@jumping
async def test_handlers_do_not_share_mutable_values() -> None:
    """Each topic object gets its own dict. An immutable key is decoded once for all of them."""
    broker = broker_with(ORDERS[0])
    keys, values = Counting(), Counting()
    async with app_on(broker) as app:
        kinds = {"key_type": keys.codec(), "value_type": values.codec()}
        topics = [app.topic("orders", **kinds) for _ in range(3)]
        for topic in topics:
            app.conductor.add(topic)
        for number in range(4):
            await app.producer.send("orders", b"%d" % number, b'{"items": []}', headers={"h": b"1"})
        for topic in topics:
            for message in await take(topic.noack(), 4):
                assert message.value == {"items": []}
                assert message.headers == (("h", b"1"),)
                message.value["items"].append(message.key)
                message.ack()
        assert keys.count == 4
        assert values.count == 3 * 4
        assert len(topics[0].channel.decoded["orders"]) == 0, "all channels have taken the results"


@pytest.mark.parametrize(
    ("value", "is_shared"),
    [
        (None, True),
        (True, True),
        (5, True),
        (0.5, True),
        ("text", True),
        (b"bytes", True),
        (decimal.Decimal(1), True),
        (datetime.datetime(2026, 1, 1), True),
        ((1, ("a", frozenset({b"b"}))), True),
        ([1], False),
        ({"a": 1}, False),
        (bytearray(b"1"), False),
        ((1, [2]), False),
        (type("Text", (str,), {})("a subclass may have attributes"), False),
        (object(), False),
    ],
)
def test_only_immutable_values_are_shared(value: object, is_shared: bool) -> None:
    decoded = Decoded(2, limit=10)
    decoded.keep(ORDERS[0], 7, "key", value)
    assert decoded.take(ORDERS[0], 7) == ("key", value if is_shared else AGAIN)
    assert len(decoded) == 0


def test_deeply_nested_value_is_checked_without_recursion() -> None:
    value: object = ()
    for _ in range(100_000):
        value = (value,)
    assert can_be_shared(value)
    while value:  # otherwise its deallocation would recurse as deeply
        (value,) = value  # type: ignore[misc]


def test_decoded_results_are_bounded_if_a_channel_does_not_take_them() -> None:
    decoded = Decoded(2, limit=10)
    for offset in range(100):
        decoded.keep(ORDERS[0], offset, None, offset)
    assert len(decoded) == 10
    assert decoded.take(ORDERS[0], 0) is None
    assert decoded.take(ORDERS[0], 99) == (None, 99)


@jumping
async def test_headers_changed_after_a_send_do_not_change_the_message() -> None:
    broker = broker_with(ORDERS[0])
    async with app_on(broker) as app:
        topic = app.topic("orders")
        headers = {"h": b"1"}
        soon = topic.send_soon(value=b"v", headers=headers, partition=0)
        headers["h"] = b"changed"
        await soon
        sent = await topic.send(value=b"v", headers=(pairs := [("h", b"1")]), partition=0)
        pairs.append(("h", b"changed"))
        await sent
    assert [record.headers for record in broker.log(ORDERS[0]).read(0, 10**6).records] == [
        (("h", b"1"),)
    ] * 2
