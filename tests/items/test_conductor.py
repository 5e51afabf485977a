"""The conductor, item by item: the set of topic objects, and how a message reaches each channel."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import take
from tests.items.codecs import Counting
from tests.lanes import Place
from tests.records import read
from tests.scripted import Function, replace, scripted
from transport import (
    JSON,
    TP,
    App,
    AppClosed,
    Conductor,
    DecodeError,
    Fetched,
    Message,
    Topic,
    Transport,
)
from transport.delivering.ledger import Ledger

# Seconds. Nothing else ends an idle poll within this time.
PROMPTLY = 10.0


def subscriptions_of(app: App) -> list[Collection[str]]:
    """Return a list that gets the topics of each later subscription of the client."""
    asked: list[Collection[str]] = []

    async def noted(subscribe: Function, topics: Collection[str], **options: object) -> None:
        asked.append(topics)
        await subscribe(topics, **options)

    replace(app, "subscribe", noted)
    return asked


async def names(app: App, place: Place, count: int) -> list[str]:
    """Create topics with one record each, and return their names."""
    found = [f"{place.name}.{letter}" for letter in "abcd"[:count]]
    for name in found:
        await app.producer.create_topic(name, 1)
        await app.producer.send_and_wait(name, None, b"value")
    return found


async def came(topic: Topic) -> str:
    """Ack the next message, and return its topic."""
    async with await anext(topic.noack()) as message:
        return message.topic


async def test_add_discard_clear(place: Place) -> None:
    """A mutable set of topics; a burst of changes is one change of the subscription."""
    async with place.opened(1, kind=scripted(App)) as app:
        conductor = app.conductor
        asked = subscriptions_of(app)
        a, b, c, d = [app.topic(name) for name in await names(app, place, 4)]
        assert len(conductor) == 0
        conductor |= {a, b}
        conductor.add(c)
        conductor.add(a)
        assert (len(conductor), set(conductor)) == (3, {a, b, c})
        assert a in conductor
        assert app.topic(a.name) not in conductor, "two topic objects of one name are equal"
        assert {conductor: "can be a key"}[conductor]
        await conductor.wait_for_subscriptions()
        for topic in (a, b, c):
            assert await came(topic) == topic.name
        with trio.fail_after(PROMPTLY):
            conductor.discard(b)
            conductor.discard(b)
            conductor.discard(c)
            conductor.add(d)
            await conductor.wait_for_subscriptions()
            assert await came(d) == d.name
        conductor.clear()
        assert not conductor
        await app.consumer.polling.positions([])  # the polling task has cleared the subscription
        conductor.add(a)
        await conductor.wait_for_subscriptions()
    assert asked == [[a.name, b.name, c.name], [a.name, d.name], [], [a.name]]


async def test_acking_topics_acks_enabled_for(place: Place) -> None:
    async with place.opened(1) as app:
        orders, bills = (app.topic(name) for name in await names(app, place, 2))
        app.conductor.add(orders)
        app.conductor.add(bills)
        assert app.conductor.acking_topics == {orders.name, bills.name}
        app.conductor.discard(bills)
        assert app.conductor.acking_topics == {orders.name}
        assert app.conductor.acks_enabled_for(orders.name)
        assert not app.conductor.acks_enabled_for(bills.name)


async def test_label_shortlabel(place: Place) -> None:
    async with place.opened(1) as app:
        orders, bills = (app.topic(name) for name in await names(app, place, 2))
        app.conductor.add(bills)
        app.conductor.add(orders)
        assert app.conductor.label == f"Conductor({orders.name}, {bills.name})"
        assert app.conductor.shortlabel == "Conductor"
        assert "Conductor" in [node.name for node in app.tree().children]


async def test_wait_for_subscriptions_maybe_wait_for_subscriptions(place: Place) -> None:
    async def wait() -> None:
        await conductor.wait_for_subscriptions()
        woken.append(conductor.subscribed)

    async def wait_to_the_end() -> None:
        with pytest.raises(AppClosed):
            await conductor.wait_for_subscriptions()

    woken: list[frozenset[str]] = []
    async with trio.open_nursery() as nursery:  # noqa: SIM117 - the app ends first
        async with place.opened(1) as app:
            conductor = app.conductor
            orders, bills = await names(app, place, 2)
            with trio.move_on_after(place.a_while) as cut:
                await conductor.wait_for_subscriptions()
            assert cut.cancelled_caught, "the wait ended without a subscription"
            await conductor.maybe_wait_for_subscriptions()  # nothing to wait for
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            conductor.add(app.topic(orders))
            await conductor.maybe_wait_for_subscriptions()
            assert conductor.subscribed == {orders}
            conductor.add(app.topic(bills))
            await conductor.wait_for_subscriptions()
            assert conductor.subscribed == {orders, bills}
            await wait_all_tasks_blocked()
            conductor.clear()
            nursery.start_soon(wait_to_the_end)
            await wait_all_tasks_blocked()
    assert woken[0] >= {orders}


async def test_on_message(place: Place) -> None:
    """Each channel gets the message, decoded once for each pair of types; the last ack counts."""
    counting = Counting()
    codec = counting.codec()
    tp = TP(place.name, 0)
    async with place.opened(1, *[b"1"] * 20) as app:
        topics = [app.topic(place.name, value_type=kind) for kind in (codec, codec, codec, str)]
        for topic in topics:
            app.conductor.add(topic)
        wanted = [1, 1, 1, "1"]
        for topic, value in zip(topics, wanted, strict=True):
            messages = await take(topic.noack(), 20)
            assert [message.value for message in messages] == [value] * 20
            await app.conductor.commit({tp})  # commits the start offset, once
            for message in messages:
                assert message.ack()
            assert await app.conductor.commit({tp}) == (topic is topics[-1])
        assert counting.count == 20
        assert len(topics[0].channel.decoded[place.name]) == 0, "decoded values are kept for no one"
    assert await place.committed() == {tp: 20}


async def test_on_message_enters_a_single_record(place: Place) -> None:
    """A callback of the consumer may enter the records of a fetch one by one."""
    tp = TP(place.name, 0)
    async with place.opened(1, *[b"%d" % number for number in range(20)]) as app:
        told: list[int] = []

        def one_by_one(ledger: Ledger, fetched: Fetched) -> None:
            for record in read([fetched]):
                told.append(record.offset)
                app.conductor.on_message(ledger, record)

        app.consumer.callback = one_by_one
        first, second = app.topic(place.name), app.topic(place.name, value_type=str)
        for topic in (first, second):
            app.conductor.add(topic)
        for topic in (first, second):
            messages = await take(topic.noack(), 20)
            assert [message.offset for message in messages] == list(range(20)) == told
            for message in messages:
                message.ack()
        assert await app.conductor.commit({tp})
    assert await place.committed() == {tp: 20}


async def test_on_key_decode_error_on_value_decode_error(place: Place) -> None:
    """An error reaches only the hook of its own topic object; without a hook it is raised."""
    told: list[tuple[str, object]] = []

    def telling(part: str) -> object:
        async def tell(error: DecodeError, message: Message) -> None:
            assert error.message is message
            told.append((part, message.offset))

        return tell

    async with place.opened(1) as app:
        plain, text = app.topic(place.name), app.topic(place.name, key_type=str, value_type=str)
        json_key = app.topic(place.name, key_type=JSON)
        json_value, twin = (app.topic(place.name, value_type=JSON) for _ in range(2))
        json_key.on_key_decode_error = telling("key")
        json_value.on_value_decode_error = telling("value")
        for key, value in ((b"1", b"no JSON"), (b"no JSON", b"1"), (b"1", b"1")):
            await plain.send(key=key, value=value, partition=0)
        topics: list[Topic] = [plain, text, json_key, json_value, twin]
        for topic in topics:
            app.conductor.add(topic)
        for topic, values in ((plain, [b"no JSON", b"1", b"1"]), (text, ["no JSON", "1", "1"])):
            assert [message.value for message in await take(topic.noack(), 3)] == values
        assert [message.offset for message in await take(json_key.noack(), 2)] == [0, 2]
        assert [message.offset for message in await take(json_value.noack(), 2)] == [1, 2]
        assert told == [("key", 1), ("value", 0)]
        with pytest.raises(DecodeError, match=f"the value of {place.name}-0 offset 0") as caught:
            await anext(twin.noack())
        assert not caught.value.message.acked
        assert [message.offset for message in await take(twin.noack(), 2)] == [1, 2]


async def test_commit(place: Place) -> None:
    async with place.opened(1) as app:
        orders, bills = await names(app, place, 2)
        for name in (orders, bills):
            (await anext(app.topic(name).noack())).ack()
        assert await app.conductor.commit({orders})
        tps = [TP(orders, 0), TP(bills, 0)]
        assert await app.consumer.client.committed(tps) == {tps[0]: 1}
        assert await app.conductor.commit({TP(bills, 0)})
        assert await app.consumer.client.committed(tps) == dict.fromkeys(tps, 1)


class Telling(Conductor):
    """A conductor that records the calls of its hooks."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self.told: list[tuple[str, frozenset[TP]]] = []

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        await super().on_partitions_assigned(assigned)
        self.told.append(("assigned", assigned))
        for tp in assigned:
            if tp.partition == 1:
                await self.app.consumer.seek(tp, 2)

    async def on_client_only_start(self) -> None:
        await super().on_client_only_start()
        self.told.append(("client only", self.subscribed))


class TellingTransport(Transport):
    Conductor = Telling


class TellingApp(App):
    Transport = TellingTransport


async def test_on_partitions_assigned(place: Place) -> None:
    """The hook of a subclass runs before the first fetch, and may seek to another start."""
    tps = place.tps(2)
    async with place.opened(2, b"0", kind=TellingApp) as app:
        for _ in range(3):
            await app.producer.send(place.name, None, b"1", 1)
        await app.producer.flush()
        messages = await take(app.topic(place.name).noack(), 2)
        assert {(message.tp, message.offset) for message in messages} == {(tps[0], 0), (tps[1], 2)}
        told = app.conductor.told
        assert [kind for kind, _ in told] == ["assigned"] * len(told)
        assert frozenset().union(*(assigned for _, assigned in told)) == set(tps)


async def test_on_client_only_start(place: Place) -> None:
    """With `client_only` the hook runs after the subscription, and nothing is committed."""
    async with place.opened(1, b"0", kind=TellingApp, client_only=True) as app:
        (await anext(app.topic(place.name).noack())).ack()
        await app.consumer.commit()
        assert ("client only", {place.name}) in app.conductor.told
    assert await place.committed() == {}


async def test_on_client_only_start_ends_with_an_app_that_reads_nothing(place: Place) -> None:
    async with place.opened(1, kind=TellingApp, client_only=True) as app:
        app.conductor.add(topic := app.topic(place.name))
        app.conductor.discard(topic)
    assert ("client only", frozenset()) not in app.conductor.told
