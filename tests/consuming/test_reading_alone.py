"""Reading without a membership: all partitions (`client_only`), or named partitions."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, nothing_comes, take, write
from tests.lanes import Place
from tests.nurseries.clock import jumping
from transport import TP, App, UnknownTopic

ORDERS = [TP("orders", number) for number in range(2)]


def alone(place: Place, **settings: object) -> App:
    return App(place.name, place.url, commit_interval=0.1, **settings)


async def located(app: App, tp: TP) -> None:
    """Wait until the client knows its position in a partition without new records."""
    while tp not in await app.consumer.client.positions([tp]):
        app.consumer.client.interrupt()


async def test_client_only_reads_all_partitions_and_commits_nothing(place: Place) -> None:
    tps = await place.create(2, b"1", b"2")
    async with alone(place, client_only=True) as one, alone(place, client_only=True) as other:
        for app in (one, other):
            messages = app.topic(place.name).noack()
            for message, value in zip(await take(messages, 2), (b"1", b"2"), strict=True):
                async with message:
                    assert message.value == value
            await app.conductor.on_client_only_start()
            assert set(app.consumer.assignment) == set(tps)
            assert await app.consumer.commit(), "the app itself keeps its offsets"
            await app.topic(place.name).send(value=b"3", partition=1)
            assert (await anext(messages)).tp == tps[1]
    assert await place.committed() == {}


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_client_only_starts_by_the_reset_policy(place: Place, start: str) -> None:
    tps = await place.create(1, b"old")
    async with alone(place, client_only=True, auto_offset_reset=start) as app:
        topic = app.topic(place.name)
        messages = topic.noack()
        await app.conductor.wait_for_subscriptions()
        if start == "latest":
            await located(app, tps[0])
        await topic.send(value=b"new")
        assert (await anext(messages)).value == (b"old" if start == "earliest" else b"new")


async def test_named_partitions_start_at_given_offsets_and_commit(place: Place) -> None:
    tps = await place.create(3, b"0", b"1", b"2")
    async with place.app() as app:
        await app.topic(place.name).send_and_wait(value=b"of 1", partition=1)
        await app.topic(place.name).send_and_wait(value=b"of 2", partition=2)
    named = {tps[0]: 1, tps[1]: None}
    async with alone(place, partitions=named) as app:
        seen = []
        for message in await take(app.topic(place.name).noack(), 3):
            async with message:
                seen.append(message.value)
        assert sorted(seen) == [b"1", b"2", b"of 1"]
        assert set(app.consumer.assignment) == set(named)
    assert await place.committed() == {tps[0]: 3, tps[1]: 1}
    async with alone(place, partitions={tps[0]: None}) as app:
        await app.topic(place.name).send(value=b"3", partition=0)
        assert (await anext(app.topic(place.name).noack())).value == b"3"


async def test_client_only_can_seek(place: Place) -> None:
    tps = await place.create(1, b"0", b"1")
    async with alone(place, client_only=True) as app:
        messages = app.topic(place.name).noack()
        await take(messages, 2)
        await app.consumer.seek(tps[0], 1)
        assert (await anext(messages)).value == b"1"


@jumping
async def test_client_only_follows_changes_of_its_topics() -> None:
    bills = TP("bills", 0)
    broker = broker_with(ORDERS[0], bills, records=1)
    async with app_on(broker, client_only=True) as app:
        orders = app.topic("orders")
        await take(orders.noack(), 1)
        messages = app.topic("bills").noack()
        assert (await anext(messages)).tp == bills
        app.conductor.discard(orders)
        await app.conductor.wait_for_subscriptions()
        write(broker, bills)
        assert (await anext(messages)).offset == 1
        assert set(app.consumer.assignment) == {bills}


@jumping
async def test_client_only_finds_added_partitions() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker, client_only=True) as app:
        messages = app.topic("orders").noack()
        await take(messages, 1)
        broker.add_partitions("orders", 1)
        write(broker, ORDERS[1])
        assert (await anext(messages)).tp == ORDERS[1]


@jumping
async def test_reader_of_named_partitions_joins_no_group() -> None:
    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker, partitions={ORDERS[0]: None}) as app:
        messages = app.topic("orders").noack()
        (message,) = await take(messages, 1)
        message.ack()
        assert await nothing_comes(messages)
        assert not broker.group("group").members
        await app.consumer.commit()
    assert committed(broker) == {ORDERS[0]: 1}


@jumping
async def test_unknown_topic_ends_the_app() -> None:
    with pytest.RaisesGroup(UnknownTopic, flatten_subgroups=True):
        async with app_on(broker_with(*ORDERS, auto_create=False), client_only=True) as app:
            await anext(app.topic("nowhere").noack())


async def test_unknown_partition_ends_the_app_with_its_name(place: Place) -> None:
    tps = await place.create(2, b"1")
    gone = TP(place.name, 99)
    named = pytest.RaisesExc(UnknownTopic, match=rf"{gone}.*'{place.name}' has 2 partitions")
    with pytest.RaisesGroup(named, flatten_subgroups=True):
        async with alone(place, partitions={tps[0]: None, gone: 5}) as app:
            async for _ in app.topic(place.name):
                pass


async def test_partition_of_unknown_topic_ends_the_app(place: Place) -> None:
    options = {"client_options": {"allow_auto_create_topics": False}, "connect_timeout": 0.5}
    named = pytest.RaisesExc(UnknownTopic, match=place.name)
    with pytest.RaisesGroup(named, flatten_subgroups=True):
        async with alone(place, partitions={TP(place.name, 0): None}, **options) as app:
            await anext(app.topic(place.name).noack())


@jumping
async def test_topic_without_named_partition_is_refused() -> None:
    broker = broker_with(*ORDERS, TP("bills", 0), records=1)
    async with app_on(broker, partitions={ORDERS[0]: None}) as app:
        bills = app.topic("bills")
        for listen in (bills.__aiter__, bills.noack, lambda: app.conductor.add(bills)):
            with pytest.raises(ValueError, match="names no partition of 'bills'"):
                listen()
        assert bills not in app.conductor
        (message,) = await take(app.topic("orders").noack(), 1)
        assert message.tp == ORDERS[0]


@jumping
async def test_client_only_app_can_be_killed() -> None:
    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker, client_only=True) as app:
        await take(app.topic("orders").noack(), 2)
        await wait_all_tasks_blocked()
        await app.kill()


def test_conflicting_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="client_only"):
        App("app", client_only=True, partitions={ORDERS[0]: 0})
    with pytest.raises(ValueError, match="offset of orders-0 in partitions"):
        App("app", partitions={ORDERS[0]: -1})
    with pytest.raises(ValueError, match="transactions need a group"):
        App("app", client_only=True, transactions="member")
    with pytest.raises(ValueError, match="partitions must be at least one partition"):
        App("app", partitions={})
    with pytest.raises(ValueError, match="group_instance_id names a member"):
        App("app", partitions={ORDERS[0]: None}, group_instance_id="one")
    for wrong in ([ORDERS[0]], {"orders": None}, {ORDERS[0]: "0"}, {("orders", "0"): None}):
        with pytest.raises(TypeError, match="partitions"):
            App("app", partitions=wrong)
