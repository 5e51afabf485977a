"""Tests of anyio programs that use the transport with the same lines on either backend."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from tests.apps import app_on
from tests.lanes import NEVER, Place
from tests.scripted import replace
from transport import (
    JSON,
    TP,
    App,
    AppClosed,
    BrokerUnavailable,
    NotInTransaction,
    RecordMetadata,
    UnknownTopic,
)
from transport.anyio import AnyPartitions, AnyPartitionStream, open_app
from transport.drivers.memory import MemoryBroker

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


def app_of(there: Place, **settings: Any) -> App:
    options: dict[str, Any] = {"heartbeat_interval": 0.5, "commit_interval": NEVER, **settings}
    return App(there.name, there.url, **options)


async def take(messages: Any, count: int) -> list[Any]:
    with anyio.fail_after(PATIENCE):
        return [await anext(messages) for _ in range(count)]


async def test_open_send_iterate_ack_and_commit(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        orders = app.topic(there.name, value_type=JSON)
        delivery = await orders.send(key=b"k", value={"n": 1})
        assert isinstance(await delivery, RecordMetadata)
        assert (await orders.send_and_wait(value={"n": 2})).offset == 1
        assert app.producer.key_partition(there.name, b"k") == TP(there.name, 0)
        seen = []
        with anyio.fail_after(PATIENCE):
            async for message in orders:
                seen.append(message.value)
                if len(seen) == 2:
                    break
        assert seen == [{"n": 1}, {"n": 2}]
        assert [message.offset for message in app.consumer.unacked] == [1]
        assert await app.consumer.commit()
        await app.consumer.seek(TP(there.name, 0), 0)
        (again,) = await take(orders.noack(), 1)
        assert again.offset == 0
        assert await app.consumer.seek_to_committed() == {TP(there.name, 0): 1}
        (again,) = await take(orders.noack(), 1)
        assert again.offset == 1


async def test_questions_about_offsets_and_topics(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        consumer, tp = app.consumer, TP(there.name, 0)
        await app.producer.create_topic(there.name, 1)
        assert there.name in await consumer.topics()
        assert await consumer.partitions(there.name) == {tp}
        orders = app.topic(there.name)
        for n in range(4):
            await orders.send_and_wait(value=b"%d" % n, timestamp=1000.0 + n)
        assert await consumer.beginning_offsets([tp]) == {tp: 0}
        assert await consumer.end_offsets([tp]) == {tp: 4}
        assert await consumer.offsets_for_times({tp: 1001.5}) == {tp: (2, 1002.0)}
        with pytest.raises(UnknownTopic):
            await consumer.end_offsets([TP(there.name, 1)])
        messages = orders.noack()
        (first,) = await take(messages, 1)
        first.ack()
        assert await consumer.position(tp) == 1
        assert await consumer.commit(there.name, TP("other", 0), metadata="a text")
        assert await consumer.committed(tp) == 1
        assert await consumer.committed([tp]) == {tp: 1}
        assert await consumer.committed_metadata(tp) == "a text"
        assert await consumer.committed_metadata([tp]) == {tp: "a text"}
        assert await consumer.seek_to_time(1003.0) == {tp: 3}
        assert await consumer.seek_to_end(tp) == {tp: 4}
        assert await consumer.seek_to_beginning() == {tp: 0}
        assert [message.offset for message in await take(messages, 2)] == [0, 1]
        with pytest.raises(TypeError, match="tps must be partitions"):
            await consumer.end_offsets(there.name)  # type: ignore[arg-type]


async def test_a_header_may_have_no_value(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        orders = app.topic(there.name)
        await orders.send_and_wait(value=b"1", headers={"trace": None})
        orders.send_soon(value=b"2", headers=[("trace", None), ("trace", b"")])
        one, two = await take(orders.noack(), 2)
        assert list(one.headers) == [("trace", None)]
        assert list(two.headers) == [("trace", None), ("trace", b"")]


async def test_messages_of_send_soon_can_be_awaited(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        orders = app.topic(there.name)
        soon = [orders.send_soon(value=b"%d" % number) for number in range(3)]
        assert not soon[0].is_done
        with anyio.fail_after(PATIENCE):
            assert [(await each).offset for each in soon] == [0, 1, 2]
        assert soon[0].is_done
        assert (await soon[0]).offset == 0
        many = await orders.send_many([(b"k", b"3"), {"value": b"4", "partition": 0}])
        with anyio.fail_after(PATIENCE):
            assert [each.offset for each in await many] == [3, 4]


async def test_batches_and_messages_of_noack_are_acked_by_the_handler(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        orders = app.topic(there.name)
        for number in range(10):
            await orders.send(value=b"%d" % number)
        await app.producer.flush()
        (batch,) = await take(orders.batches(4, noack=True), 1)
        assert [message.value for message in batch] == [b"0", b"1", b"2", b"3"]
        async with batch:
            pass
        (message,) = await take(orders.noack(), 1)
        assert message.ack()
        await app.consumer.commit()
    async with open_app(app_of(there)) as app:
        (message,) = await take(app.topic(there.name).noack(), 1)
        assert message.offset == 5


async def test_a_task_for_each_partition(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 2)
        orders = app.topic(there.name)
        for number in range(6):
            await orders.send_and_wait(value=b"%d" % number, partition=number % 2)
        seen: dict[TP, list[int]] = {}
        done = anyio.Event()

        async def work(partition: AnyPartitionStream[bytes, bytes]) -> None:
            async for message in partition:
                seen.setdefault(partition.tp, []).append(message.offset)
                if sum(map(len, seen.values())) == 6:
                    done.set()
            assert partition.has_ended

        async def work_on_each() -> None:
            partitions: AnyPartitions[bytes, bytes] = orders.partitions()
            async for partition in partitions:
                tasks.start_soon(work, partition)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work_on_each)
                await done.wait()
                with pytest.raises(RuntimeError, match="is read by partitions"):
                    orders.noack()
                app.stop()
        assert seen == {TP(there.name, number): [0, 1, 2] for number in range(2)}
    async with open_app(app_of(there)) as app:
        orders = app.topic(there.name)
        for _ in range(4):
            await orders.send_and_wait(value=b"more", partition=1)
        streams = await take(orders.partitions(), 2)
        (stream,) = [stream for stream in streams if stream.tp.partition == 1]
        (message,) = await take(stream.noack(), 1)
        (batch,) = await take(stream.batches(2, noack=True), 1)
        assert [message.offset, batch.first] == [message.offset, message.offset + 1]
        assert message.ack()
        assert batch.ack()
        with pytest.raises(ValueError, match="max_size"):
            stream.batches(0)


async def test_cancelling_a_wait_for_a_message_loses_no_message(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        orders = app.topic(there.name)
        messages = orders.noack()
        for number in range(5):
            with anyio.move_on_after(0.05):
                await anext(messages)
                pytest.fail("there is no message yet")
            await orders.send(value=b"%d" % number)
            (message,) = await take(messages, 1)
            async with message:
                assert message.value == b"%d" % number


async def test_readers_end_with_the_app_also_those_of_a_discarded_topic(there: Place) -> None:
    async def read(messages: Any) -> None:
        async for _ in messages:
            pass

    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        orders, discarded = app.topic(there.name), app.topic(there.name)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for messages in (orders.noack(), discarded.noack(), discarded.batches()):
                    tasks.start_soon(read, messages)
                await anyio.wait_all_tasks_blocked()
                native = app if isinstance(app, App) else app.native
                native.conductor.discard(getattr(discarded, "native", discarded))
                await anyio.wait_all_tasks_blocked()
                app.stop()
            await read(discarded)


async def test_an_ack_in_another_thread_is_refused(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        orders = app.topic(there.name)
        await orders.send_and_wait(value=b"1")
        (message,) = await take(orders.noack(), 1)
        with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
            await anyio.to_thread.run_sync(message.ack)

        def work() -> bool:
            return anyio.from_thread.run_sync(message.ack)

        assert await anyio.to_thread.run_sync(work)


async def test_a_cancelled_handler_leaves_its_message_unacked_and_the_app_closes_in_order(
    there: Place,
) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        for number in range(3):
            await app.topic(there.name).send(value=b"%d" % number)
    with anyio.move_on_after(PATIENCE) as scope:
        async with open_app(app_of(there)) as app:
            async for message in app.topic(there.name):
                if message.offset == 1:
                    scope.cancel()
                    await anyio.sleep_forever()
    assert scope.cancelled_caught
    async with open_app(app_of(there)) as app:
        (message,) = await take(app.topic(there.name).noack(), 1)
        assert message.offset == 1, "only the acked message was committed"


async def test_the_block_raises_the_error_of_a_handler_and_the_app_is_closed(there: Place) -> None:
    native = app_of(there)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True, allow_unwrapped=True):
        async with open_app(native):
            raise ZeroDivisionError
    assert not native.is_open


async def test_a_crash_in_the_tree_cancels_the_block_which_raises_its_error() -> None:
    broker = MemoryBroker(auto_create=False)
    with pytest.RaisesGroup(UnknownTopic, flatten_subgroups=True):
        async with open_app(App("app", broker, connect_timeout=0.1)) as app:
            async for _ in app.topic("nowhere"):
                pytest.fail("the topic has no message")
            await anyio.sleep_forever()


async def test_a_cancelled_block_raises_an_error_of_closing_the_app() -> None:
    async def fail(_: object, timeout: float) -> None:
        raise ZeroDivisionError

    app = app_on(MemoryBroker())
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        with anyio.CancelScope() as scope:
            async with open_app(app):
                replace(app, "producer.close", fail)
                scope.cancel()
                await anyio.sleep_forever()


async def test_each_call_raises_its_own_error() -> None:
    broker = MemoryBroker(auto_create=False)
    async with open_app(App("app", broker)) as app:
        with pytest.raises(UnknownTopic):
            await app.topic("nowhere").send(value=b"v")
        with pytest.raises(AppClosed):
            await app.consumer.seek(TP("nowhere", 0), 0)
    with pytest.raises(AppClosed):
        await app.topic("nowhere").send(value=b"v")


async def test_opening_without_a_broker_raises_broker_unavailable() -> None:
    with pytest.RaisesGroup(BrokerUnavailable, flatten_subgroups=True):
        async with open_app(App("app", "kafka://127.0.0.1:9", connect_timeout=0.3)):
            pytest.fail("there is no broker")


async def test_an_opening_can_be_cancelled() -> None:
    with anyio.move_on_after(0.3) as scope:
        async with open_app(App("app", "kafka://127.0.0.1:9", connect_timeout=30.0)):
            pytest.fail("there is no broker")
    assert scope.cancelled_caught


async def test_several_apps_in_several_tasks_share_the_partitions_of_a_group() -> None:
    broker = MemoryBroker()
    broker.create_topic("orders", 4)
    seen: list[int] = []

    async def work(name: str) -> None:
        async with open_app(App("group", broker)) as app:
            async for message in app.topic("orders"):
                seen.append(int(message.value))
                if len(seen) == 400:
                    done.set()

    done = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for name in ("a", "b"):
            tasks.start_soon(work, name)
        async with open_app(App("sender", broker)) as app:
            for number in range(400):
                await app.topic("orders").send(value=b"%d" % number)
            with anyio.fail_after(PATIENCE):
                await done.wait()
        tasks.cancel_scope.cancel()
    assert sorted(set(seen)) == list(range(400))


async def test_no_thread_is_left_behind_and_an_app_can_be_opened_again() -> None:
    before = set(threading.enumerate())
    broker = MemoryBroker()
    for _ in range(3):
        async with open_app(App("app", broker)) as app:
            await app.topic("orders").send_and_wait(value=b"v")
            assert "Producer" in {child.name for child in app.tree().children}
    for thread in set(threading.enumerate()) - before:
        # Worker threads of a backend may wait for more work. None belongs to the transport.
        assert "kafka" not in thread.name.lower()


async def test_stop_ends_the_iterators_and_kill_ends_the_app(there: Place) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        await app.topic(there.name).send_and_wait(value=b"v")
        with anyio.fail_after(PATIENCE):
            async for _ in app.topic(there.name):
                app.stop()
    async with open_app(app_of(there, session_timeout=6.0)) as app:
        await app.topic(there.name).send_and_wait(value=b"w")
        (message,) = await take(app.topic(there.name).noack(), 1)
        assert message.value == b"w"
        await app.kill()


@pytest.mark.parametrize("mode", ["member", "partition"])
async def test_messages_are_sent_in_the_transaction_of_their_source(
    there: Place, mode: str
) -> None:
    async with open_app(app_of(there, transactions=mode)) as app:
        for name in (there.name, f"{there.name}-out"):
            await app.producer.create_topic(name, 1)
        orders, results = app.topic(there.name), app.topic(f"{there.name}-out")
        await orders.send_and_wait(value=b"v", source=None)
        (message,) = await take(orders.noack(), 1)
        async with message:
            await results.send(value=b"result")
        await app.consumer.commit()
        (result,) = await take(results.noack(), 1)
        assert result.value == b"result"


async def test_commit_and_seek_raise_while_the_task_handles_a_message() -> None:
    """Such a call would wait for its own task, on either backend."""
    broker = MemoryBroker()
    async with open_app(App("app", broker, transactions="member", commit_interval=NEVER)) as app:
        await app.topic("in").send_and_wait(value=b"v", source=None)
        with anyio.fail_after(PATIENCE):
            async for message in app.topic("in"):
                with pytest.raises(NotInTransaction):
                    await app.consumer.commit()
                with pytest.raises(NotInTransaction):
                    await app.consumer.seek(message.tp, 0)
                app.stop()
