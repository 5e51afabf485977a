"""The transport, item by item: it decides the classes of an app's parts."""

from __future__ import annotations

import re
from typing import Any

from tests.lanes import Place
from tests.museum.members import Commits
from tests.scripted import scripted
from transport import (
    TP,
    App,
    Conductor,
    Consumer,
    Fetcher,
    Message,
    Producer,
    Topic,
    TransactionManager,
    Transport,
)

told: list[str] = []


class Mine(Transport):
    """A transport whose parts record that they are used."""

    class Consumer(Consumer):
        def ack(self, message: Message) -> bool:
            told.append("Consumer")
            return super().ack(message)

    class Producer(Producer):
        async def on_start(self) -> None:
            told.append("Producer")
            await super().on_start()

    class TransactionManager(TransactionManager):
        async def on_rebalance(self, assigned: Any, revoked: Any, newly_assigned: Any) -> None:
            told.append("TransactionManager")
            await super().on_rebalance(assigned, revoked, newly_assigned)

    class Conductor(Conductor):
        def add(self, topic: Topic) -> None:
            told.append("Conductor")
            super().add(topic)

    class Fetcher(Fetcher):
        async def on_stop(self) -> None:
            told.append("Fetcher")
            await super().on_stop()


class MyApp(App):
    Transport = Mine


async def test_consumer_producer_transaction_manager_conductor_fetcher(place: Place) -> None:
    told.clear()
    async with place.opened(1, b"0", kind=MyApp, transactions="partition") as app:
        assert app.consumer.ack(await anext(app.topic(place.name).noack()))
    # The first Producer is the app's, the second one writes in the partition's transaction.
    order = ["Producer", "Conductor", "TransactionManager", "Producer", "Consumer", "Fetcher"]
    assert told == order
    assert await place.committed() == {TP(place.name, 0): 1}


async def test_url_app(place: Place) -> None:
    """Several URLs name one cluster. One of its hosts may be down."""
    down = place.url if place.url.startswith("memory://") else "kafka://127.0.0.1:1"
    urls = [down, place.url]
    async with App(place.name, broker=urls) as app:
        assert app.transport.url == urls
        assert app.transport.app is app
        assert (await app.producer.send_and_wait(place.name, None, b"v")).offset == 0


async def test_driver_version(place: Place) -> None:
    version = place.app().transport.driver_version
    assert re.fullmatch(r"memory=[\d.]+|kafka-python=3\.0\.\d+ \(records: .+\)", version)
    assert version.startswith("memory") == place.url.startswith("memory")


class Quick(Mine):
    def create_consumer(self, callback: Any, **kwargs: Any) -> Consumer:
        times = {"commit_interval": 0.05, "commit_livelock_soft_timeout": 9.0}
        return super().create_consumer(callback, **kwargs, **times)


class QuickApp(App):
    Transport = Quick


async def test_create_consumer_create_producer_create_transaction_manager_create_conductor(
    place: Place,
) -> None:
    """They make instances of the nested classes, and pass keyword arguments on."""
    async with place.opened(1, b"0", kind=scripted(QuickApp)) as app:
        consumer, producer, transport = app.consumer, app.producer, app.transport
        assert type(consumer) is Mine.Consumer
        assert consumer.commit_livelock_soft_timeout == 9.0
        commits = Commits(app)
        (await anext(app.topic(place.name).noack())).ack()
        await commits.reach(TP(place.name, 0), 1)  # after the interval of `Quick`
        writer = transport.create_producer(transactional_id="mine")
        assert type(writer) is Mine.Producer
        assert writer.transaction is not None
        assert writer.transaction.transactional_id == "mine"
        manager = transport.create_transaction_manager(consumer, producer)
        assert type(manager) is Mine.TransactionManager
        assert (manager.consumer, manager.producer) == (consumer, producer)
        conductor = transport.create_conductor()
        assert type(conductor) is Mine.Conductor
        assert conductor.app is app
