"""The set of topics that are listened to, and the subscription that follows it."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, take
from tests.nurseries.clock import jumping
from transport import TP, AppClosed

ORDERS, BILLS = TP("orders", 0), TP("bills", 0)


@jumping
async def test_it_is_a_set_of_topics() -> None:
    async with app_on(broker_with(ORDERS, BILLS)) as app:
        conductor = app.conductor
        orders, bills = app.topic("orders"), app.topic("bills")
        assert len(conductor) == 0
        conductor.add(orders)
        conductor |= {bills, orders}
        assert set(conductor) == {orders, bills}
        assert orders in conductor
        assert app.topic("orders") not in conductor  # each topic object is one of its own
        conductor.discard(bills)
        conductor.discard(bills)
        assert list(conductor) == [orders]
        conductor.clear()
        assert not conductor
        assert {conductor: "can be a key"}[conductor]


@jumping
async def test_it_tells_which_topics_are_acked_and_what_it_is_called() -> None:
    async with app_on(broker_with(ORDERS, BILLS)) as app:
        conductor = app.conductor
        conductor.add(app.topic("orders"))
        conductor.add(app.topic("bills"))
        assert conductor.acking_topics == {"orders", "bills"}
        assert conductor.acks_enabled_for("orders")
        assert not conductor.acks_enabled_for("others")
        assert conductor.label == "Conductor(bills, orders)"
        assert conductor.shortlabel == "Conductor"


@jumping
async def test_a_burst_of_changes_is_one_change_of_the_subscription() -> None:
    app = app_on(broker_with(ORDERS))
    subscribe = app.consumer.client.subscribe
    asked: list[Collection[str]] = []

    async def count(topics: Collection[str]) -> None:
        asked.append(topics)
        await subscribe(topics)

    app.consumer.client.subscribe = count
    async with app:
        for name in ("a", "b", "c"):
            app.conductor.add(app.topic(name))
        await app.conductor.wait_for_subscriptions()
        topics = list(app.conductor)
        for topic in topics[1:]:
            app.conductor.discard(topic)
        app.conductor.add(app.topic("d"))
        await app.conductor.wait_for_subscriptions()
    assert asked == [["a", "b", "c"], ["a", "d"]]


@jumping
async def test_waiting_for_subscriptions_waits_for_the_first_topic_and_for_each_change() -> None:
    async with app_on(broker_with(ORDERS, BILLS)) as app, trio.open_nursery() as nursery:
        conductor = app.conductor
        woken: list[frozenset[str]] = []

        async def wait() -> None:
            await conductor.wait_for_subscriptions()
            woken.append(conductor.subscribed)

        nursery.start_soon(wait)
        await conductor.maybe_wait_for_subscriptions()  # nothing to wait for
        await wait_all_tasks_blocked()
        assert woken == []
        conductor.add(app.topic("orders"))
        await conductor.maybe_wait_for_subscriptions()
        assert conductor.subscribed == {"orders"}
        conductor.add(app.topic("bills"))
        await conductor.wait_for_subscriptions()
        assert conductor.subscribed == {"orders", "bills"}
    assert woken[0] >= {"orders"}


@jumping
async def test_waiting_for_subscriptions_ends_with_the_app() -> None:
    async def wait() -> None:
        with pytest.raises(AppClosed):
            await app.conductor.wait_for_subscriptions()

    async with trio.open_nursery() as nursery:
        async with app_on(broker_with(ORDERS)) as app:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
        await wait()


@jumping
async def test_it_commits_through_the_consumer() -> None:
    broker = broker_with(ORDERS, BILLS, records=1)
    async with app_on(broker, commit_interval=1e6) as app:
        for topic in ("orders", "bills"):
            (message,) = await take(app.topic(topic).noack(), 1)
            message.ack()
        assert await app.conductor.commit(["orders"])
        assert committed(broker)[ORDERS] == 1
        assert committed(broker).get(BILLS, 0) == 0
