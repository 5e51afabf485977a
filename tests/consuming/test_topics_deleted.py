"""Topics that are deleted, and topics that are created again, while an app reads them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, nothing_comes, take, write
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.scripted import Function, is_not_called, replace, replaced
from transport import TP, App, Message, TransactionAborted
from transport.drivers.memory import MemoryBroker

ORDERS, BILLS, PARCELS = TP("orders", 0), TP("bills", 0), TP("parcels", 0)


async def done(messages: AsyncIterator[Message]) -> Message:
    """Take the next message and ack it."""
    message = await anext(messages)
    message.ack()
    return message


# A topic that is deleted.


@jumping
async def test_deleted_topic_does_not_delay_a_new_topic() -> None:
    broker = broker_with(ORDERS, BILLS, records=1, auto_create=False)
    async with app_on(broker) as app:
        await done(app.topic("orders").noack())
        broker.delete_topic("orders")
        before = trio.current_time()
        (message,) = await take(app.topic("bills").noack(), 1)
        assert message.tp == BILLS
        assert trio.current_time() - before < 1.0


@jumping
async def test_deleted_topic_does_not_delay_a_restart() -> None:
    broker = broker_with(ORDERS, BILLS, records=1, auto_create=False)
    async with app_on(broker) as app:
        orders, bills = app.topic("orders").noack(), app.topic("bills").noack()
        await done(orders)
        await done(bills)
        broker.delete_topic("orders")
        write(broker, BILLS)
        before = trio.current_time()
        await app.consumer.restart()
        (message,) = await take(bills, 1)
        assert message.offset == 1
        assert trio.current_time() - before < 1.0


@jumping
async def test_deleted_topic_does_not_delay_topics_of_a_pattern() -> None:
    broker = broker_with(ORDERS, records=1, auto_create=False)
    async with app_on(broker, pattern_interval=1.0) as app:
        await done(app.topic("orders").noack())
        found = app.topic(re.compile("b.*")).noack()
        broker.delete_topic("orders")
        broker.create_topic("bills", 1)
        write(broker, BILLS)
        before = trio.current_time()
        (message,) = await take(found, 1)
        assert message.tp == BILLS
        assert trio.current_time() - before < 3.0


@jumping
async def test_topic_of_a_pattern_may_be_deleted_before_the_subscription() -> None:
    broker = broker_with(ORDERS, BILLS, records=1, auto_create=False)
    async with app_on(broker, pattern_interval=1.0) as app:
        messages = app.topic(re.compile("orders|bills")).noack()
        app.conductor.on_topics(["orders", "bills"])
        broker.delete_topic("bills")
        (message,) = await take(messages, 1)
        assert message.tp == ORDERS


@jumping
async def test_deleted_topic_is_read_once_it_exists_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(ORDERS, BILLS, records=1, auto_create=False)
    async with app_on(broker) as app:
        orders = app.topic("orders").noack()
        await done(orders)
        broker.delete_topic("orders")
        await done(app.topic("bills").noack())
        assert ORDERS not in app.consumer.assignment
        broker.create_topic("orders", 1)
        write(broker, ORDERS, value=b"new")
        (message,) = await take(orders, 1)
        assert (message.tp, message.offset, message.value) == (ORDERS, 0, b"new")
    assert len(warnings_of(caplog)) == 1


# A topic that is created again is another topic: none of its records are skipped.


def create_again(broker: MemoryBroker, partitions: int = 1, records: int = 0) -> None:
    """Delete the topic and create another topic of the same name, without a checkpoint."""
    broker.delete_topic("orders")
    broker.create_topic("orders", partitions)
    for number in range(partitions):
        write(broker, TP("orders", number), records, value=b"new")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for r in caplog.records if "created again" in (text := r.getMessage())]


@pytest.mark.parametrize("policy", ["earliest", "latest", "error"])
@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
@jumping
async def test_idle_reader_reads_the_new_topic_from_its_beginning(
    policy: str, assignment: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ORDERS)
    broker.group("group").take({ORDERS: 0})
    settings = {"auto_offset_reset": policy, "assignment": assignment}
    async with app_on(broker, **settings) as app:
        orders = app.topic("orders").noack()
        write(broker, ORDERS, 5)
        for _ in range(5):
            await done(orders)
        await app.consumer.commit()
        create_again(broker, records=7)
        offsets = [(await done(orders)).offset for _ in range(7)]
    assert offsets == list(range(7))
    assert committed(broker) == {ORDERS: 7}
    assert len(warnings_of(caplog)) == 1
    assert "orders" in warnings_of(caplog)[0]
    assert "lost orders-0" not in caplog.text


@jumping
async def test_each_new_topic_of_the_same_name_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker) as app:
        orders = app.topic("orders").noack()
        await done(orders)
        for _ in range(2):
            create_again(broker, records=1)
            assert (await done(orders)).value == b"new"
    assert len(warnings_of(caplog)) == 2


@jumping
async def test_acks_of_the_old_topic_are_stale_and_commit_nothing_for_the_new_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker) as app:
        orders = app.topic("orders").noack()
        old = await take(orders, 5)
        create_again(broker, records=7)
        (first,) = await take(orders, 1)
        assert (first.offset, first.value) == (0, b"new")
        assert [message.ack() for message in old] == [False] * 5
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 0}
        assert app.consumer.assignment.tally.stale == 5
    assert "5 delivered messages of the old one" in warnings_of(caplog)[0]


@jumping
async def test_ack_of_batch_of_the_old_topic_commits_nothing() -> None:
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker) as app:
        batches = app.topic("orders").batches()
        assert [message.offset for message in await anext(batches)] == [0, 1, 2, 3, 4]
        create_again(broker, records=3)
        batch = await anext(batches)  # this acks the batch before
        assert [(message.offset, message.value) for message in batch] == [
            (offset, b"new") for offset in range(3)
        ]
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 0}


@jumping
async def test_reader_with_a_full_buffer_skips_nothing_of_the_new_topic() -> None:
    broker = broker_with(ORDERS, records=20)
    async with app_on(broker, buffer_size=2) as app:
        orders = app.topic("orders").noack()
        old = await take(orders, 2)
        await wait_all_tasks_blocked()
        create_again(broker, records=30)
        for message in old:
            message.ack()
        offsets = []
        while len(offsets) < 30:  # waiting messages of the old topic may come first
            if (message := await done(orders)).value == b"new":
                offsets.append(message.offset)
        assert offsets == list(range(30))
    assert committed(broker) == {ORDERS: 30}


@jumping
async def test_paused_partition_stays_paused_and_resumes_at_the_new_beginning() -> None:
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker) as app:
        orders = app.topic("orders").noack()
        for _ in range(5):
            await done(orders)
        app.consumer.pause_partitions([ORDERS])
        await wait_all_tasks_blocked()
        create_again(broker, records=7)
        assert await nothing_comes(orders)
        app.consumer.resume_partitions([ORDERS])
        assert [(await done(orders)).offset for _ in range(7)] == list(range(7))


@jumping
async def test_topic_created_again_while_flow_is_stopped_is_read_from_its_beginning() -> None:
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker) as app:
        orders = app.topic("orders").noack()
        await done(orders)
        app.consumer.stop_flow()
        await wait_all_tasks_blocked()
        create_again(broker, records=7)
        await trio.sleep(10)
        app.consumer.resume_flow()
        assert [(await done(orders)).offset for _ in range(7)] == list(range(7))


@pytest.mark.parametrize("settings", [{"client_only": True}, {"partitions": {ORDERS: 3}}])
@jumping
async def test_reader_without_membership_reads_the_new_topic(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker, **settings) as app:
        orders = app.topic("orders").noack()
        while (await done(orders)).offset < 4:
            pass
        create_again(broker, records=7)
        assert [(await done(orders)).offset for _ in range(7)] == list(range(7))
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("partitions", [1, 4])
@jumping
async def test_new_topic_may_have_another_number_of_partitions(
    partitions: int, caplog: pytest.LogCaptureFixture
) -> None:
    tps = [TP("orders", number) for number in range(2)]
    broker = broker_with(*tps, records=2)
    async with app_on(broker) as app:
        orders = app.topic("orders").noack()
        for _ in range(4):
            await done(orders)
        create_again(broker, partitions, records=3)
        got = [await done(orders) for _ in range(3 * partitions)]
        assert await nothing_comes(orders)
        of_new = {TP("orders", number) for number in range(partitions)}
        assert set(app.consumer.assignment) == of_new
    assert {message.tp for message in got} == of_new
    assert committed(broker) == dict.fromkeys(of_new, 3)
    assert len(warnings_of(caplog)) == 1


@jumping
async def test_commit_for_the_old_topic_does_not_reach_the_new_one() -> None:
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker, commit_interval=NEVER) as app:
        orders = app.topic("orders").noack()
        for _ in range(5):
            await done(orders)
        reached, go_on = trio.Event(), trio.Event()

        async def commit_late(commit: Function, *args: object) -> None:
            reached.set()
            with trio.CancelScope(shield=True):
                await go_on.wait()
            await commit(*args)

        replace(app, "commit", commit_late, once=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.consumer.commit)
            await reached.wait()
            create_again(broker)
            go_on.set()
        assert committed(broker).get(ORDERS, 0) == 0
        write(broker, ORDERS, 1, value=b"new")
        assert (await done(orders)).offset == 0
    assert committed(broker) == {ORDERS: 1}


@pytest.mark.parametrize("transactions", ["member", "partition"])
@jumping
async def test_transaction_with_output_of_the_old_topic_is_aborted(
    transactions: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ORDERS, BILLS, records=2)
    broker.create_topic("out", 1)
    async with app_on(broker, transactions=transactions, commit_interval=NEVER) as app:
        orders, out = app.topic("orders").noack(), app.topic("out")
        for message in await take(orders, 2):
            async with message:
                await out.send(value=b"of " + message.value)
        create_again(broker, records=3)
        for message in await take(orders, 3):
            async with message:
                await out.send(value=b"of " + message.value)
        with suppress(TransactionAborted):
            await app.consumer.commit()
        if transactions == "member":  # the abort undoes the new topic's part as well
            for message in await take(orders, 3):
                async with message:
                    await out.send(value=b"of " + message.value)
            await app.consumer.commit()
    assert [record.value for record in broker.records("out")] == [b"of new"] * 3
    assert committed(broker) == {ORDERS: 3}
    assert "evicted" not in caplog.text


@jumping
async def test_hooks_are_called_for_old_and_new_partitions() -> None:
    told: list[tuple[str, frozenset[TP]]] = []

    class Hooked(App):
        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            told.append(("revoked", revoked))

        async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
            told.append(("assigned", assigned))

    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, kind=Hooked) as app:
        orders = app.topic("orders").noack()
        await done(orders)
        told.clear()
        create_again(broker, records=1)
        await done(orders)
        assert told == [("revoked", frozenset({ORDERS})), ("assigned", frozenset({ORDERS}))]


@jumping
async def test_transaction_commits_no_offset_of_a_deleted_topic() -> None:
    broker = broker_with(ORDERS, records=2, auto_create=False)
    async with app_on(broker, transactions="member", commit_interval=NEVER) as app:
        orders = app.topic("orders").noack()
        for _ in range(2):
            await done(orders)
        metadata = app.consumer.client.group_metadata()
        assert metadata.of_gone_topics == frozenset()
        create_again(broker)
        assert app.consumer.client.group_metadata().of_gone_topics == {ORDERS}
        not_sent = is_not_called("the offset is of the old topic")
        with (
            replaced(app, "producer.send_offsets", not_sent),
            pytest.raises(TransactionAborted, match="was deleted"),
        ):
            await app.consumer.transactions.commit({ORDERS: 2})
        assert committed(broker) == {}
