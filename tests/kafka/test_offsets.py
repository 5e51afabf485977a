"""Answers about offsets, compared with those of Kafka's own tools and of aiokafka."""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import trio
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as TheirTP
from kafka import KafkaAdminClient, TopicPartition

from tests.apps import take
from tests.kafka.cluster import Broker, describe_group, tool
from tests.lanes import NEVER, Place
from transport import TP, App, BrokerUnavailable

T = TypeVar("T")
pytestmark = pytest.mark.kafka

# Seconds since 1970. A broker soon deletes records that are older than a week.
BEGAN = float(round(time.time() - 3600.0))
TIMES = [0.0, BEGAN, BEGAN + 2.0, BEGAN + 2.001, BEGAN + 7200.0]
BOUND = 120.0  # seconds, on a busy machine


async def in_thread(fn: Callable[..., T], *args: Any) -> T:
    return await trio.to_thread.run_sync(functools.partial(fn, *args), abandon_on_cancel=True)


@asynccontextmanager
async def bounded() -> AsyncIterator[None]:
    with trio.fail_after(BOUND):
        yield


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:12]}"


async def fill(app: App, topic: str, admin: KafkaAdminClient) -> list[TP]:
    """Fill three partitions: with deleted records, with an aborted transaction, and with none."""
    await app.producer.create_topic(topic, 3)
    orders, tps = app.topic(topic), [TP(topic, number) for number in range(3)]
    for second in range(6):
        await orders.send_and_wait(value=b"v", partition=0, timestamp=BEGAN + second)
    await in_thread(lambda: admin.delete_records({TopicPartition(topic, 0): 2}))
    producer = app.producer
    for end in producer.commit_transaction, producer.abort_transaction:
        await producer.begin_transaction(f"{topic}-id")
        await producer.send(topic, None, b"v", 1, BEGAN + 2.0, transactional_id=f"{topic}-id")
        await end(f"{topic}-id")
    return tps


def asked(bootstrap: str, topic: str, at: str) -> dict[TP, int]:
    """Return what Kafka's tool shows for a time in milliseconds, or "earliest" or "latest"."""
    text = tool(
        "org.apache.kafka.tools.GetOffsetShell",
        *("--topic", topic, "--time", at),
        bootstrap=bootstrap,
    )
    rows = [line.rsplit(":", 2) for line in text.splitlines()]
    return {TP(name, int(number)): int(offset) for name, number, offset in rows if offset}


def in_aiokafka(
    bootstrap: str, group: str, ask: Callable[[AIOKafkaConsumer], Awaitable[Any]]
) -> Any:
    async def run() -> Any:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=group,
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            return await ask(consumer)
        finally:
            await consumer.stop()

    return asyncio.run(run())


async def test_answers_are_those_of_kafkas_tools(
    kafka_bootstrap: str, kafka_admin: KafkaAdminClient
) -> None:
    place = Place(f"kafka://{kafka_bootstrap}", unique("tools"))
    app = place.app(commit_interval=NEVER, isolation="read_uncommitted")
    async with app, bounded():
        tps = await fill(app, place.name, kafka_admin)
        consumer, shell = app.consumer, asked
        for ours, place_in_log in (
            (await consumer.beginning_offsets(tps), "earliest"),
            (await consumer.end_offsets(tps), "latest"),
        ):
            theirs = await in_thread(shell, kafka_bootstrap, place.name, place_in_log)
            assert ours == theirs, place_in_log
        for since in TIMES[1:]:
            found = await consumer.offsets_for_times(dict.fromkeys(tps, since))
            theirs = await in_thread(shell, kafka_bootstrap, place.name, str(round(since * 1000)))
            ends = await consumer.end_offsets(tps)
            ours = {tp: ends[tp] if at is None else at.offset for tp, at in found.items()}
            # The tool shows the end of the log for a time without a record, or leaves it out.
            assert {tp: ours[tp] for tp in theirs} == theirs, since
        for message in await take(app.topic(place.name).noack(), 3):
            message.ack()
        await consumer.commit(metadata="a text")
        committed = await consumer.committed(tps)
        shown = await in_thread(describe_group, kafka_bootstrap, place.name)
        assert {TP(*tp): offsets.committed for tp, offsets in shown.items()} == committed
        assert await consumer.seek_to_beginning(tps[0]) == {tps[0]: 2}
        assert (await anext(app.topic(place.name).noack())).tp in tps


async def test_answers_are_those_of_aiokafka(
    kafka_bootstrap: str, kafka_admin: KafkaAdminClient
) -> None:
    place = Place(f"kafka://{kafka_bootstrap}", unique("aiokafka"))
    app = place.app(commit_interval=NEVER)
    async with app, bounded():
        tps = await fill(app, place.name, kafka_admin)
        consumer = app.consumer
        messages = await take(app.topic(place.name).noack(), 5)
        for message in messages:
            message.ack()
        await consumer.commit()

        async def ask(theirs: AIOKafkaConsumer) -> Any:
            their_tps = [TheirTP(*tp) for tp in tps]
            return (
                await theirs.beginning_offsets(their_tps),
                await theirs.end_offsets(their_tps),
                [
                    await theirs.offsets_for_times(dict.fromkeys(their_tps, round(since * 1000)))
                    for since in TIMES
                ],
                {tp: await theirs.committed(tp) for tp in their_tps},
                place.name in await theirs.topics(),
            )

        begins, ends, by_time, committed, has_topic = await in_thread(
            in_aiokafka, kafka_bootstrap, place.name, ask
        )
        assert await consumer.beginning_offsets(tps) == begins
        assert await consumer.end_offsets(tps) == ends
        for since, theirs in zip(TIMES, by_time, strict=True):
            ours = await consumer.offsets_for_times(dict.fromkeys(tps, since))
            assert {
                tp: at and (at.offset, round(at.timestamp * 1000)) for tp, at in ours.items()
            } == {tp: at and (at.offset, at.timestamp) for tp, at in theirs.items()}, since
        assert await consumer.committed(tps) == committed
        assert has_topic


async def test_aiokafka_reads_the_text_of_a_commit_and_commits_one(
    kafka_bootstrap: str, kafka_admin: KafkaAdminClient
) -> None:
    place = Place(f"kafka://{kafka_bootstrap}", unique("texts"))
    tp = TP(place.name, 0)
    async with place.opened(1, b"1", b"2") as app, bounded():
        (await anext(app.topic(place.name).noack())).ack()
        await app.consumer.commit(metadata="of ours")
        groups = await in_thread(lambda: kafka_admin.list_group_offsets([place.name]))
        metadata = groups[place.name][TopicPartition(*tp)].metadata
        assert metadata.startswith("of ours\n")

    async def commit(theirs: AIOKafkaConsumer) -> None:
        theirs.assign([TheirTP(*tp)])
        await theirs.commit({TheirTP(*tp): (2, "of theirs")})

    await in_thread(in_aiokafka, kafka_bootstrap, place.name, commit)
    async with place.app() as app:
        assert await app.consumer.committed(tp) == 2
        assert await app.consumer.committed_metadata(tp) == "of theirs"


async def test_a_frozen_broker_costs_a_question_its_timeout_and_not_the_app(
    kafka_broker: Broker,
) -> None:
    place = Place(f"kafka://{kafka_broker.bootstrap}", unique("frozen"))
    tp = TP(place.name, 0)
    async with place.opened(1, b"1", request_timeout=1.0) as app, bounded():
        questions: list[Callable[[], Awaitable[object]]] = [
            lambda: app.consumer.end_offsets([tp]),
            lambda: app.consumer.offsets_for_times({tp: 0.0}),
            lambda: app.consumer.committed(tp),
            lambda: app.consumer.topics(),
            lambda: app.consumer.partitions(place.name),
            lambda: app.consumer.seek_to_end(tp),
        ]
        assert (await anext(app.topic(place.name).noack())).offset == 0
        kafka_broker.freeze()
        for ask in questions:
            began = trio.current_time()
            with pytest.raises(BrokerUnavailable):
                await ask()
            assert trio.current_time() - began < 3.5
        kafka_broker.thaw()
        with trio.fail_after(30.0):
            while True:
                try:
                    assert await app.consumer.end_offsets([tp]) == {tp: 1}
                    break
                except BrokerUnavailable:
                    await trio.sleep(0.1)
        assert await app.consumer.seek_to_end(tp) == {tp: 1}
