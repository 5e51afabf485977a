"""Listening to all topics whose names match a pattern."""

from __future__ import annotations

import re
from collections.abc import Collection

import pytest
import trio

from tests.apps import A_WHILE, app_on, broker_with, nothing_comes, take, write
from tests.lanes import Place
from tests.nurseries.clock import jumping
from tests.scripted import Function, fails, is_not_called, replace
from transport import (
    TP,
    App,
    AuthorizationFailed,
    BrokerUnavailable,
    ClientClosed,
    Fenced,
    Message,
    TransportError,
    UnknownTopic,
)

ORDERS, BILLS = TP("shop.orders", 0), TP("shop.bills", 0)
SHOP = re.compile(r"shop\..*")


async def test_pattern_reads_matching_topics_and_later_ones(place: Place) -> None:
    names = [f"{place.name}.{kind}" for kind in ("orders", "bills", "later")]
    async with App(place.name, place.url, pattern_interval=0.2, heartbeat_interval=0.5) as app:
        for name in names[:2]:
            await app.producer.create_topic(name, 1)
            await app.topic(name).send(value=name.encode())
        messages = app.topic(re.compile(re.escape(place.name) + r"\..*")).noack()
        seen = [message.topic for message in await take(messages, 2)]
        assert sorted(seen) == sorted(names[:2])
        await app.producer.create_topic(names[2], 1)
        await app.topic(names[2]).send(value=b"v")
        assert (await anext(messages)).topic == names[2]
        assert app.conductor.subscribed == set(names)


@jumping
async def test_pattern_must_match_the_whole_name() -> None:
    broker = broker_with(ORDERS, TP("a.shop.orders", 0), records=1)
    async with app_on(broker) as app:
        messages = app.topic(SHOP).noack()
        assert (await anext(messages)).tp == ORDERS
        assert await nothing_comes(messages)


@jumping
async def test_pattern_without_match_finds_later_topic() -> None:
    broker = broker_with(TP("another", 0), records=1)
    async with app_on(broker, pattern_interval=1.0) as app, trio.open_nursery() as nursery:
        messages = app.topic(SHOP).noack()

        async def create_later() -> None:
            await trio.sleep(5.0)
            broker.create_topic("shop.orders", 1)
            write(broker, ORDERS)

        nursery.start_soon(create_later)
        assert (await anext(messages)).tp == ORDERS
        assert 5.0 <= trio.current_time() <= 6.5


@jumping
async def test_topics_are_not_requested_without_a_pattern() -> None:
    async with app_on(broker_with(ORDERS, records=1), pattern_interval=1.0) as app:
        replace(app, "topics", is_not_called("a large cluster has many topics"))
        await anext(app.topic("shop.orders").noack())
        await trio.sleep(A_WHILE)


@jumping
@pytest.mark.parametrize(
    "error",
    [
        BrokerUnavailable("nobody is there"),
        TransportError("nobody is there"),
        UnknownTopic("nobody is there"),
        RuntimeError("nobody is there"),
        KeyError("nobody is there"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_failed_topic_search_is_repeated_after_any_error(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async with app_on(broker_with(ORDERS, records=1), pattern_interval=1.0) as app:
        began = trio.current_time()

        async def fail_at_first(topics: Function) -> Collection[str]:
            if trio.current_time() - began < 5.0:
                raise error
            return await topics()

        replace(app, "topics", fail_at_first)
        assert (await anext(app.topic(SHOP).noack())).tp == ORDERS
        assert "group: the search for topics that match a pattern failed" in caplog.text
        assert "nobody is there" in caplog.text


@jumping
@pytest.mark.parametrize("error", [AuthorizationFailed, ClientClosed, Fenced])
async def test_permanent_error_of_topic_search_ends_the_app(error: type[Exception]) -> None:
    with pytest.RaisesGroup(error, flatten_subgroups=True):
        async with app_on(broker_with(ORDERS, records=1), pattern_interval=1.0) as app:
            replace(app, "topics", fails(error("for good")))
            await anext(app.topic(SHOP).noack())


@jumping
async def test_pattern_and_named_topic_each_get_all_messages() -> None:
    broker = broker_with(ORDERS, BILLS, records=1)
    async with app_on(broker) as app:
        by_pattern, by_name = app.topic(SHOP), app.topic("shop.orders")
        app.conductor.add(by_name)
        both: list[Message] = await take(by_pattern.noack(), 2)
        (one,) = await take(by_name.noack(), 1)
        assert {message.tp for message in both} == {ORDERS, BILLS}
        assert one.tp == ORDERS
        assert set(app.conductor) == {by_pattern, by_name}
        assert len(app.conductor) == 2
        assert by_pattern in app.conductor
        app.conductor.discard(by_pattern)
        await app.conductor.wait_for_subscriptions()
        assert app.conductor.subscribed == {"shop.orders"}
        assert by_pattern not in app.conductor


@jumping
async def test_send_to_a_pattern_is_refused() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        with pytest.raises(ValueError, match="pattern"):
            await app.topic(SHOP).send(value=b"v")
        with pytest.raises(ValueError, match="pattern"):
            app.topic(SHOP).send_soon(value=b"v")


@jumping
async def test_unknown_topic_beside_a_pattern_is_an_error() -> None:
    with pytest.RaisesGroup(UnknownTopic, flatten_subgroups=True):
        async with app_on(broker_with(ORDERS, auto_create=False)) as app:
            app.conductor.add(app.topic("nowhere"))
            await take(app.topic(SHOP).noack(), 1)
