"""Several channels on one topic: each record is decoded once for each pair of types."""

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


@jumping
async def test_a_handler_never_sees_what_another_one_changes() -> None:
    """Each topic object gets a dict of its own; a key that cannot be changed is decoded once."""
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
        assert len(topics[0].channel.decoded["orders"]) == 0, "nothing is kept for nobody"


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
def test_only_what_cannot_be_changed_is_shared(value: object, is_shared: bool) -> None:
    decoded = Decoded(2, limit=10)
    decoded.keep(ORDERS[0], 7, "key", value)
    assert decoded.take(ORDERS[0], 7) == ("key", value if is_shared else AGAIN)
    assert len(decoded) == 0


def test_a_value_that_is_nested_deeply_is_looked_at_all_the_same() -> None:
    value: object = ()
    for _ in range(100_000):
        value = (value,)
    assert can_be_shared(value)
    while value:  # or its end is as deep
        (value,) = value  # type: ignore[misc]


def test_no_more_than_the_limit_is_kept_for_a_channel_that_does_not_come() -> None:
    decoded = Decoded(2, limit=10)
    for offset in range(100):
        decoded.keep(ORDERS[0], offset, None, offset)
    assert len(decoded) == 10
    assert decoded.take(ORDERS[0], 0) is None
    assert decoded.take(ORDERS[0], 99) == (None, 99)


@jumping
async def test_headers_that_are_changed_after_the_call_are_sent_as_they_were_given() -> None:
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
