"""The contract: the end of a client."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from tests.drivers.rig import PATIENCE, SETTINGS, Rig, outgoing
from transport.drivers.base import ConsumerClient, ProducerClient, Rebalance
from transport.errors import ClientClosed
from transport.types import TP

ENDS = pytest.mark.parametrize("end", ["close", "kill"])
SOME = TP("some", 0)

CONSUMER_CALLS: dict[str, Callable[[ConsumerClient], Awaitable[object]]] = {
    "subscribe": lambda client: client.subscribe(["some"]),
    "poll": lambda client: client.poll(),
    "next_rebalance": lambda client: client.next_rebalance(),
    "pause": lambda client: client.pause([SOME]),
    "resume": lambda client: client.resume([SOME]),
    "seek": lambda client: client.seek(SOME, 0),
    "positions": lambda client: client.positions([SOME]),
    "commit": lambda client: client.commit({SOME: 1}, 1.0),
    "committed": lambda client: client.committed([SOME]),
    "committed_texts": lambda client: client.committed_texts([SOME]),
    "beginning_offsets": lambda client: client.beginning_offsets([SOME]),
    "offsets_for_times": lambda client: client.offsets_for_times({SOME: 0}),
    "end_offsets": lambda client: client.end_offsets([SOME]),
    "topics": lambda client: client.topics(),
    "partitions": lambda client: client.partitions("some"),
}
PRODUCER_CALLS: dict[str, Callable[[ProducerClient], Awaitable[object]]] = {
    "partition_count": lambda client: client.partition_count("some", 1.0),
    "send": lambda client: client.send([outgoing("some")]),
    "create_topic": lambda client: client.create_topic("some", 1, 1, {}, 1.0),
}


async def finish(client: ConsumerClient | ProducerClient, end: str) -> None:
    await (client.close(PATIENCE) if end == "close" else client.kill())


async def test_calls_before_open_raise_client_closed(rig: Rig) -> None:
    consumer = rig.driver.consumer(attrs.evolve(SETTINGS, group_id=rig.name()))
    for ask in CONSUMER_CALLS.values():
        with pytest.raises(ClientClosed):
            await ask(consumer)
    with pytest.raises(ClientClosed):
        consumer.group_metadata()
    assert consumer.highwater(SOME) is None
    producer = rig.driver.producer(SETTINGS)
    for send in PRODUCER_CALLS.values():
        with pytest.raises(ClientClosed):
            await send(producer)
    for client in (consumer, producer):
        await client.close(PATIENCE)
        await client.kill()


@ENDS
async def test_consumer_closed_during_open_is_closed(rig: Rig, end: str) -> None:
    client = rig.driver.consumer(attrs.evolve(SETTINGS, group_id=rig.name()))

    async def open() -> None:
        with contextlib.suppress(ClientClosed):  # raised if the end comes first
            await client.open()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open)
        nursery.start_soon(finish, client, end)
    with pytest.raises(ClientClosed):
        await client.poll()


@ENDS
async def test_calls_of_ended_consumer_raise_client_closed(rig: Rig, end: str) -> None:
    topic = await rig.topic()
    async with rig.member([topic]) as member:
        await member.located([TP(topic, 0)])
        await finish(member.client, end)
        for call in CONSUMER_CALLS.values():
            with pytest.raises(ClientClosed):
                await call(member.client)
        member.client.interrupt()
        await finish(member.client, end)


@ENDS
async def test_calls_of_ended_producer_raise_client_closed(rig: Rig, end: str) -> None:
    async with rig.sender() as sender:
        await finish(sender.client, end)
        for call in PRODUCER_CALLS.values():
            with pytest.raises(ClientClosed):
                await call(sender.client)
        await finish(sender.client, end)


@ENDS
async def test_next_rebalance_raises_client_closed_at_end(rig: Rig, end: str) -> None:
    client = rig.driver.consumer(attrs.evolve(SETTINGS, group_id=rig.name()))
    await client.open()

    async def wait() -> None:
        with pytest.raises(ClientClosed):
            await client.next_rebalance()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.2)
            await finish(client, end)


@ENDS
async def test_unreleased_rebalance_expires_at_end(rig: Rig, end: str) -> None:
    async def never(rebalance: Rebalance) -> None:
        await trio.sleep_forever()

    topic = await rig.topic()
    async with rig.member([topic], never) as member:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.poll)
            await member.heard.wait()
            nursery.cancel_scope.cancel()
        (rebalance,) = member.told
        with trio.fail_after(PATIENCE):
            await finish(member.client, end)
            await rebalance.expired.wait()
        rebalance.release()


async def test_kill_ends_poll_under_way(rig: Rig) -> None:
    topic = await rig.topic()

    async def poll() -> None:
        with pytest.raises(ClientClosed):
            await member.poll_on()

    async with rig.member([topic]) as member:
        await member.located([TP(topic, 0)])
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await trio.sleep(0.2)
                await member.client.kill()


async def test_unused_clients_close(rig: Rig) -> None:
    async with rig.sender(), rig.member([]):
        pass


async def test_consumer_without_group_id_is_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="group_id"):
        rig.driver.consumer(attrs.evolve(SETTINGS, group_id=None))
