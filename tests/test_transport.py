"""The transport: which parts an app is made of."""

from __future__ import annotations

import re
from typing import Any

import trio

from tests.nurseries.clock import jumping
from transport import (
    App,
    ClientClosed,
    Conductor,
    Consumer,
    Fetcher,
    Producer,
    RoundRobin,
    Transport,
)


class Mine(Transport):
    class Consumer(Consumer):
        pass

    class Fetcher(Fetcher):
        pass

    class Producer(Producer):
        pass

    class Conductor(Conductor):
        pass


class MyApp(App):
    Transport = Mine


@jumping
async def test_a_part_that_a_subclass_names_is_used() -> None:
    async with MyApp("orders") as app:
        assert type(app.transport) is Mine
        assert type(app.consumer) is Mine.Consumer
        assert type(app.consumer.fetcher) is Mine.Fetcher
        assert type(app.producer) is Mine.Producer
        assert type(app.conductor) is Mine.Conductor


@jumping
async def test_keyword_arguments_go_to_the_part() -> None:
    async def hook(_: object) -> None: ...

    app = App("orders", commit_interval=7.0)
    options: dict[str, Any] = {"on_partitions_revoked": hook, "on_partitions_assigned": hook}
    callback = app.conductor.on_records
    assert app.transport.create_consumer(callback, **options).commit_interval == 7.0
    consumer = app.transport.create_consumer(
        callback, **options, commit_interval=0.5, commit_livelock_soft_timeout=9.0
    )
    assert consumer.commit_interval == 0.5
    assert consumer.commit_livelock_soft_timeout == 9.0
    assert consumer.transport is app.transport
    assert consumer.app is app


def test_it_names_the_driver_and_its_version() -> None:
    assert re.fullmatch(r"memory=[\d.]+", App("orders").transport.driver_version)
    kafka = App("orders", broker="kafka://127.0.0.1:1")
    assert re.fullmatch(r"kafka-python=3\.0\.\d+", kafka.transport.driver_version)


def test_errors_that_mean_that_the_client_is_closing() -> None:
    assert Consumer.consumer_stopped_errors == (ClientClosed,)


@jumping
async def test_a_scheduler_of_the_users_decides_whose_turn_it_is() -> None:
    class OneByOne(RoundRobin[Any]):
        def __init__(self) -> None:
            super().__init__(quantum=1)

    async with App("orders", scheduler=OneByOne) as app:
        orders = app.topic("orders")
        await app.producer.create_topic("orders", 2)
        for number in range(6):
            await orders.send(value=b"v", partition=number % 2)
        await app.producer.flush()
        messages = orders.noack()
        got = [(await anext(messages)).partition for _ in range(6)]
        assert sorted(got[:2]) == [0, 1]
        assert got[:2] == got[2:4] == got[4:]
        await trio.lowlevel.checkpoint()
