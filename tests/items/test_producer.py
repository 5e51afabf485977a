"""The producer, item by item, checked by reading the topic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
import trio

from tests.apps import take
from tests.lanes import Place, wait_for_threads
from tests.records import soon
from tests.scripted import Function, replace, scripted
from transport import (
    TP,
    App,
    AppClosed,
    BufferFull,
    Delivery,
    Fenced,
    Message,
    MessageTooLarge,
    RecordMetadata,
    TransactionAborted,
)


async def values(app: App, topic: str, count: int) -> list[object]:
    """Return the values of the topic's first messages, read with a new topic object."""
    return [message.value for message in await take(app.topic(topic).noack(), count)]


async def test_transport_app(place: Place) -> None:
    async with place.opened(1) as app:
        assert app.producer.transport is app.transport
        assert app.producer.app is app


async def test_on_start(place: Place) -> None:
    """It connects when the app opens, and accepts messages from then on."""
    app = place.app()
    with pytest.raises(AppClosed):
        await app.producer.send(place.name, None, b"too early")
    async with app:
        await app.producer.send_and_wait(place.name, None, b"0", 0)
        assert await values(app, place.name, 1) == [b"0"]


async def test_send(place: Place) -> None:
    """It waits for room, and returns a delivery that any task may await."""
    async with place.opened(2, send_buffer_messages=1) as app, trio.open_nursery() as nursery:
        written: list[RecordMetadata] = []
        send = app.producer.send
        first: Delivery = await send(place.name, b"key", b"value", 1, 1.5, [("a", b"1")])

        async def wait() -> None:
            written.append(await first)

        for _ in range(3):
            nursery.start_soon(wait)
        second = await send(place.name, None, b"of a size")
        assert first.outcome is not None, "two messages were accepted, with room for one"
        assert (await first, (await second).topic) == (first.outcome, place.name)
        (message,) = [
            message
            for message in await take(app.topic(place.name).noack(), 2)
            if message.key is not None
        ]
        assert (message.key, message.value, message.tp) == (b"key", b"value", TP(place.name, 1))
        assert (message.timestamp, message.timestamp_type) == (1.5, 0)
        assert list(message.headers) == [("a", b"1")]
        with pytest.raises(ValueError, match="2 partitions"):
            await send(place.name, None, b"v", 2)
    assert written == [first.outcome] * 3
    assert written[0].tp == TP(place.name, 1)
    assert (written[0].offset, written[0].timestamp) == (0, 1.5)


async def test_send_soon_buffer(place: Place) -> None:
    """Sync code may call it. The buffer is bounded, and each future gets its outcome."""
    async with place.opened(1, send_buffer_messages=2) as app:
        futures = [soon(place.name, b"%d" % number) for number in range(3)]
        for fut in futures[:2]:
            app.producer.send_soon(fut)
        assert len(app.producer.buffer) == 2
        with pytest.raises(BufferFull):
            app.producer.send_soon(futures[2])
        assert [(await fut).offset for fut in futures[:2]] == [0, 1]
        assert len(app.producer.buffer) == 0
        app.producer.send_soon(futures[2])
        assert (await futures[2]).tp == TP(place.name, 0)
        assert await values(app, place.name, 3) == [b"0", b"1", b"2"]


async def test_send_and_wait(place: Place) -> None:
    async with place.opened(1) as app:
        for offset in range(2):
            written = await app.producer.send_and_wait(place.name, b"k", b"%d" % offset, 0, 2.5)
            assert (written.tp, written.offset) == (TP(place.name, 0), offset)
            assert written.timestamp == 2.5
        assert await values(app, place.name, 2) == [b"0", b"1"]


async def test_flush(place: Place) -> None:
    """After it, all accepted messages and those of `send_soon` have their outcomes."""
    async with place.opened(1, linger=0.05) as app:
        deliveries = [await app.producer.send(place.name, None, b"v", 0) for _ in range(20)]
        futures = [soon(place.name, b"v") for _ in range(20)]
        for fut in futures:
            app.producer.send_soon(fut)
        assert not all(delivery.outcome for delivery in deliveries)
        await app.producer.flush()
        assert all(isinstance(delivery.outcome, RecordMetadata) for delivery in deliveries)
        assert all(fut.is_done for fut in futures)
        await app.producer.flush()  # nothing to wait for


async def test_create_topic(place: Place) -> None:
    """It takes all options, durations in seconds or as timedelta, and an existing topic."""
    told: list[tuple[Any, ...]] = []
    async with place.opened(1, kind=scripted(App)) as app:
        topic = f"{place.name}.new"
        under_way = 0

        async def noted(create: Function, *args: Any, wait: bool) -> None:
            nonlocal under_way
            told.append((*args, wait))
            under_way += 1
            assert under_way == 1, "two calls for one topic overlap"
            await create(*args, wait=wait)
            under_way -= 1

        replace(app, "producer.create_topic", noted)
        options: dict[str, Any] = {
            "config": {"max.message.bytes": 5000},
            "compacting": True,
            "deleting": True,
            "ensure_created": True,
        }
        as_floats = {"timeout": 20.0, "retention": 3600.0}
        as_deltas = {"timeout": timedelta(seconds=20), "retention": timedelta(hours=1)}
        async with trio.open_nursery() as nursery:
            for durations in (as_floats, as_deltas):
                nursery.start_soon(
                    lambda given: app.producer.create_topic(topic, 3, 1, **options, **given),
                    durations,
                )
        config = {
            "max.message.bytes": "5000",
            "retention.ms": "3600000",
            "cleanup.policy": "compact,delete",
        }
        assert told == [(topic, 3, 1, config, 20.0, True)], "identical calls made two requests"
        assert (await app.producer.send_and_wait(topic, b"k", b"v", 2)).offset == 0
        await app.producer.create_topic(
            topic, 5, 1, ensure_created=False
        )  # the topic stays as it is
        assert told[1:] == [(topic, 5, 1, {}, 30.0, False)]
        with pytest.raises(ValueError, match="3 partitions"):
            await app.producer.send(topic, b"k", b"v", 3)
        with pytest.raises(ValueError, match="compact or delete"):
            await app.producer.create_topic(f"{topic}.er", 1, compacting=False, deleting=False)


# Hashes of the Java client, from org.apache.kafka.common.utils.UtilsTest.testMurmur2.
JAVA = {b"21": -973932308, b"foobar": -790332482, b"abc": 479470107}


async def test_key_partition(place: Place) -> None:
    """A key always goes to the partition that the Java client chooses."""
    async with place.opened(7) as app:
        with pytest.raises(LookupError):
            app.producer.key_partition(f"{place.name}.unknown", b"abc")
        for key, of_java in JAVA.items():
            written = await app.producer.send_and_wait(place.name, key, b"v")
            assert written.partition == (of_java & 0x7FFFFFFF) % 7
            assert app.producer.key_partition(place.name, key) == written.tp


async def test_partitioner(place: Place) -> None:
    """A user's partitioner replaces the default one."""

    def by_length(key: bytes, count: int) -> int:
        return len(key) % count

    async with place.opened(4, partitioner=by_length) as app:
        assert app.producer.partitioner is by_length
        for key in (b"", b"1", b"22", b"333", b"4444"):
            written = await app.producer.send_and_wait(place.name, key, b"v")
            assert written.tp == app.producer.key_partition(place.name, key)
            assert written.partition == len(key) % 4


PAIRS = [("a", b"1"), ("a", b"2"), ("b", b"")]


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [(PAIRS, PAIRS), ({"a": b"1", "b": b""}, [("a", b"1"), ("b", b"")]), (None, []), ({}, [])],
    ids=["list", "mapping", "none", "empty"],
)
async def test_supports_headers(
    place: Place,
    headers: Sequence[tuple[str, bytes]] | Mapping[str, bytes] | None,
    wanted: list[tuple[str, bytes]],
) -> None:
    """Headers are a list of pairs, in which a name may occur twice, or a mapping."""
    async with place.opened(1) as app:
        assert app.producer.supports_headers() is True
        await app.producer.send(place.name, None, b"v", headers=headers)
        message: Message = await anext(app.topic(place.name).noack())
        assert list(message.headers) == wanted
        with pytest.raises(TypeError, match="headers"):
            await app.producer.send(place.name, None, b"v", headers=[("a", "text")])  # type: ignore[list-item]


async def test_client_id_linger_ms_max_batch_size_acks_max_request_size_compression_type_request_timeout(  # noqa: E501
    place: Place,
) -> None:
    settings: dict[str, Any] = {
        "client_id": "the-one",
        "max_batch_size": 1 << 10,
        "acks": 1,
        "max_request_size": 20_000,
        "compression_type": "gzip",
        "request_timeout": 9.0,
    }
    async with place.opened(1, linger=0.02, **settings) as app:
        producer = app.producer
        assert {name: getattr(producer, name) for name in settings} == settings
        assert producer.linger_ms == 20
        value = b"." * 10_000
        assert (await producer.send_and_wait(place.name, None, value, 0)).offset == 0
        with pytest.raises(MessageTooLarge, match="20000"):
            await producer.send(place.name, None, value * 2)
        assert await values(app, place.name, 1) == [value]


async def test_threaded_producer(place: Place) -> None:
    """Other threads send with it, and block until the outcome."""
    wait_for_threads()
    async with place.opened(1) as app:
        threaded = app.producer.threaded_producer
        written: list[RecordMetadata] = []

        def work(number: int) -> None:
            value = b"%d" % number
            written.append(threaded.send_and_wait(place.name, None, value, 0, 1.5, {"a": b"1"}))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(trio.to_thread.run_sync, work, number)
        assert sorted(metadata.offset for metadata in written) == [0, 1, 2]
        assert set(await values(app, place.name, 3)) == {b"0", b"1", b"2"}
    with pytest.raises(AppClosed):
        await trio.to_thread.run_sync(work, 3)


# Transactions


async def outside(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(TransactionAborted):
        await call()


async def test_begin_transaction_commit_transaction_abort_transaction_maybe_begin_transaction(
    place: Place,
) -> None:
    """Committed messages are read, aborted ones are not. Outside of a transaction a send fails."""
    async with place.opened(1) as app:
        producer = app.producer
        tid = f"{place.name}-mine"
        await outside(
            lambda: producer.send(place.name, None, b"none is open", transactional_id=tid)
        )
        await producer.begin_transaction(tid)
        with pytest.raises(RuntimeError):
            await producer.begin_transaction(tid)
        await producer.maybe_begin_transaction(tid)
        await producer.send_and_wait(place.name, None, b"undone", 0, transactional_id=tid)
        await producer.abort_transaction(tid)
        await outside(lambda: producer.send(place.name, None, b"it is over", transactional_id=tid))
        await producer.maybe_begin_transaction(tid)
        await producer.send(place.name, None, b"kept", 0, transactional_id=tid)
        await producer.commit_transaction(tid)
        assert await values(app, place.name, 1) == [b"kept"]


async def test_begin_transaction_fences(place: Place) -> None:
    """A producer whose id another one has taken over cannot commit, and raises Fenced."""
    tid = f"{place.name}-mine"
    async with place.opened(1) as app, place.app() as other:
        await app.producer.begin_transaction(tid)
        await app.producer.send_and_wait(place.name, None, b"fenced", 0, transactional_id=tid)
        await other.producer.begin_transaction(tid)
        await other.producer.send(place.name, None, b"kept", 0, transactional_id=tid)
        with pytest.raises(Fenced):
            await app.producer.commit_transaction(tid)
        await other.producer.commit_transaction(tid)
        assert await values(other, place.name, 1) == [b"kept"]


async def test_stop_transaction(place: Place) -> None:
    """It aborts the open transaction, and ends the producer of the id."""
    async with place.opened(1) as app:
        tid = f"{place.name}-mine"
        await app.producer.begin_transaction(tid)
        await app.producer.send_and_wait(place.name, None, b"undone", 0, transactional_id=tid)
        assert [writer.name for writer in writers(app)] == [f"Producer of {tid}"]
        await app.producer.stop_transaction(tid)
        assert writers(app) == []
        await app.producer.stop_transaction("never begun")
        await app.producer.send_and_wait(place.name, None, b"kept", 0)
        assert await values(app, place.name, 1) == [b"kept"]


def writers(app: App) -> list[Any]:
    """Return the nodes of the producers with a transactional id."""
    (producer,) = [node for node in app.tree().children if node.name == "Producer"]
    return [node for node in producer.children if node.name.startswith("Producer of ")]


@pytest.mark.parametrize("goes_on", [True, False])
async def test_commit_transactions(place: Place, goes_on: bool) -> None:
    """It commits several transactions with their offsets, and begins the next ones or none."""
    tps = place.tps(2)
    tids = [f"{place.name}-{number}" for number in range(2)]
    async with place.opened(2) as app:
        producer = app.producer
        for tid, tp in zip(tids, tps, strict=True):
            await producer.begin_transaction(tid)
            await producer.send(place.name, None, b"v", tp.partition, transactional_id=tid)
        offsets = {tids[0]: {tps[0]: 7}, tids[1]: {tps[1]: 5}}
        if goes_on:
            await producer.commit_transactions(offsets, place.name)
        else:
            await producer.commit_transactions(offsets, place.name, False)
        assert await place.committed() == {tps[0]: 7, tps[1]: 5}
        if goes_on:
            with pytest.raises(RuntimeError):
                await producer.begin_transaction(tids[0])
        else:
            await producer.begin_transaction(tids[0])
