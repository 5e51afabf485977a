"""Flow, pauses, seeks and commits of a whole app, on a broker in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.apps import A_WHILE, app_on, broker_with, committed, take, write
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.scripted import Function, fails, replace, replaced
from transport import TP, App, AppClosed, CommitRefused, Record

ORDERS, ORDERS_1 = TP("orders", 0), TP("orders", 1)
BILLS = TP("bills", 0)


# Flow


@jumping
async def test_stopped_flow_keeps_membership() -> None:
    broker = broker_with(ORDERS, records=1)
    app = app_on(broker, max_poll_interval=30.0)
    orders = app.topic("orders")
    async with app:
        messages = orders.noack()
        app.consumer.stop_flow()
        await trio.sleep(300)
        assert len(broker.group("group").members) == 1
        app.consumer.resume_flow()
        assert (await anext(messages)).offset == 0


@jumping
async def test_flow_stops_and_resumes_at_once() -> None:
    """Waiting messages are delivered without a wait for the next fetch."""
    broker = broker_with(ORDERS, records=2)
    async with app_on(broker) as app, trio.open_nursery() as nursery:
        messages = app.topic("orders").noack()
        await anext(messages)
        await wait_all_tasks_blocked()
        before = trio.current_time()
        app.consumer.stop_flow()
        await app.consumer.wait_for_stopped_flow()
        nursery.start_soon(take, messages, 1)
        await wait_all_tasks_blocked()
        assert len(app.consumer.unacked) == 1
        app.consumer.resume_flow()
        await wait_all_tasks_blocked()
        assert len(app.consumer.unacked) == 2
        assert trio.current_time() == before


@jumping
async def test_wait_for_stopped_flow_waits_for_stop_flow() -> None:
    async with app_on(broker_with(ORDERS)) as app, trio.open_nursery() as nursery:
        consumer, stopped = app.consumer, trio.Event()

        async def wait() -> None:
            await consumer.wait_for_stopped_flow()
            stopped.set()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not stopped.is_set()
        consumer.stop_flow()
        await wait_all_tasks_blocked()
        assert stopped.is_set()
        with assert_checkpoints():
            await consumer.wait_for_stopped_flow()


@jumping
async def test_wait_for_stopped_flow_waits_for_poll_under_way() -> None:
    async with app_on(broker_with(ORDERS)) as app, trio.open_nursery() as nursery:
        consumer, stopped, may_end = app.consumer, trio.Event(), trio.Event()

        async def poll_late(poll: Function) -> Mapping[TP, Sequence[Record]]:
            try:
                return await poll()
            finally:
                with trio.CancelScope(shield=True):
                    await may_end.wait()

        async def wait() -> None:
            await consumer.wait_for_stopped_flow()
            stopped.set()

        replace(app, "poll", poll_late)
        app.topic("orders").noack()
        await wait_all_tasks_blocked()
        consumer.stop_flow()
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not stopped.is_set()
        consumer.resume_flow()
        may_end.set()
        await wait_all_tasks_blocked()
        assert not stopped.is_set(), "flow was resumed, and a new poll is under way"
        consumer.stop_flow()
        await wait_all_tasks_blocked()
        assert stopped.is_set()


# Pauses


@jumping
async def test_pause_and_resume_take_effect_at_once() -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker) as app:
        messages = app.topic("orders").noack()
        await anext(messages)
        before = trio.current_time()
        app.consumer.pause_partitions([ORDERS])
        await wait_all_tasks_blocked()
        write(broker, ORDERS)
        await wait_all_tasks_blocked()
        assert app.consumer.assignment[ORDERS].waiting == 0
        app.consumer.resume_partitions([ORDERS])
        assert (await anext(messages)).offset == 1
        assert trio.current_time() == before


@jumping
async def test_partition_resumes_when_its_buffer_is_half_empty() -> None:
    broker = broker_with(ORDERS, records=4)
    async with app_on(broker, buffer_size=4) as app:
        messages = app.topic("orders").noack()
        held = await take(messages, 4)
        await wait_all_tasks_blocked()
        before = trio.current_time()
        write(broker, ORDERS)
        for message in held[:2]:
            message.ack()
        assert (await anext(messages)).offset == 4
        assert trio.current_time() == before


@jumping
async def test_pause_ends_with_the_assignment() -> None:
    broker = broker_with(ORDERS)
    app, other = app_on(broker), app_on(broker)
    async with app:
        messages = app.topic("orders").noack()
        await wait_all_tasks_blocked()
        app.consumer.pause_partitions([ORDERS])
        app.conductor.clear()
        async with other:
            other.topic("orders").noack()
            await trio.sleep(A_WHILE)
            assert ORDERS in other.consumer.assignment
        messages = app.topic("orders").noack()
        write(broker, ORDERS)
        assert (await anext(messages)).offset == 0


# Topics that are added and discarded while the app runs


@jumping
async def test_second_topic_is_subscribed_at_once() -> None:
    broker = broker_with(ORDERS, BILLS, records=1)
    app = app_on(broker)
    async with app:
        await anext(app.topic("orders").noack())
        await wait_all_tasks_blocked()
        bills = app.topic("bills").noack()
        with trio.fail_after(0.5):
            await app.conductor.wait_for_subscriptions()
            assert (await anext(bills)).tp == BILLS


@jumping
async def test_discarded_topic_is_released() -> None:
    broker = broker_with(ORDERS, BILLS)
    app = app_on(broker)
    orders, bills = app.topic("orders"), app.topic("bills")
    async with app:
        orders.noack()
        bills.noack()
        await wait_all_tasks_blocked()
        assert set(app.consumer.assignment) == {ORDERS, BILLS}
        app.conductor.discard(bills)
        await wait_all_tasks_blocked()
        assert set(app.consumer.assignment) == {ORDERS}


@jumping
async def test_topic_added_again_gets_undelivered_messages() -> None:
    broker = broker_with(ORDERS, records=4)
    app = app_on(broker)
    orders = app.topic("orders")
    async with app:
        messages = orders.noack()
        (await anext(messages)).ack()
        app.conductor.discard(orders)
        messages = orders.noack()
        assert [message.offset for message in await take(messages, 3)] == [1, 2, 3]


# Seeks


@jumping
async def test_ack_of_message_from_before_a_seek_is_stale() -> None:
    broker = broker_with(ORDERS, records=5)
    app = app_on(broker)
    orders = app.topic("orders")
    async with app:
        messages = orders.noack()
        before = await take(messages, 3)
        await app.consumer.seek(ORDERS, 1)
        assert not before[2].ack()
        assert app.consumer.assignment.tally.stale == 1
        after = await anext(messages)
        assert after.epoch > before[0].epoch
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 1}
        assert after.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 2}


@jumping
async def test_seek_back_moves_committed_offset_back() -> None:
    broker = broker_with(ORDERS, records=5)
    app = app_on(broker)
    async with app:
        batch = await anext(app.topic("orders").batches(noack=True))
        batch.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 5}
        await app.consumer.seek(ORDERS, 2)
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 2}


@jumping
async def test_seek_without_transactions_commits_nothing() -> None:
    """Messages that were acked before the seek may have been acked by mistake."""
    broker = broker_with(ORDERS, records=3)
    async with app_on(broker, commit_interval=NEVER) as app:
        for message in await take(app.topic("orders").noack(), 3):
            message.ack()
        await app.consumer.seek(ORDERS, 1)
        assert committed(broker) == {}


@jumping
async def test_seek_accepts_plain_pair_as_partition() -> None:
    broker = broker_with(ORDERS, records=3)
    async with app_on(broker) as app:
        messages = app.topic("orders").noack()
        await anext(messages)
        await app.consumer.seek(("orders", 0), 2)  # type: ignore[arg-type]
        message = await anext(messages)
        assert (message.topic, message.offset) == ("orders", 2)


@jumping
async def test_seek_is_refused_before_the_join_and_after_the_leave() -> None:
    async with app_on(broker_with(ORDERS, records=1)) as app:
        await cannot_seek(app)
        await anext(app.topic("orders").noack())
        app.consumer.close()
        await app.consumer.ended.wait()
        await cannot_seek(app)


async def cannot_seek(app: App) -> None:
    with pytest.raises(AppClosed):
        await app.consumer.seek(ORDERS, 0)
    with pytest.raises(AppClosed):
        await app.consumer.seek_to_committed()


@jumping
async def test_seek_is_refused_while_the_app_ends() -> None:
    broker = broker_with(ORDERS, records=1)
    refused = trio.Event()

    async def seek(app: App) -> None:
        await cannot_seek(app)
        refused.set()

    async with trio.open_nursery() as nursery, app_on(broker, commit_interval=NEVER) as app:
        (await anext(app.topic("orders").noack())).ack()

        async def commit_last(commit: Function, *args: object) -> None:
            nursery.start_soon(seek, app)
            await refused.wait()
            await commit(*args)

        replace(app, "commit", commit_last)
    assert committed(broker) == {ORDERS: 1}


@jumping
async def test_seek_past_the_end_is_reset_by_the_policy() -> None:
    broker = broker_with(ORDERS, records=3)
    app = app_on(broker, auto_offset_reset="earliest")
    async with app:
        messages = app.topic("orders").noack()
        await anext(messages)
        await app.consumer.seek(ORDERS, 50)
        again = await take(messages, 3)
        assert [message.offset for message in again] == [0, 1, 2]
        for message in again:
            message.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 3}


@jumping
async def test_seek_cancelled_before_it_begins_changes_nothing() -> None:
    broker = broker_with(ORDERS, records=5)
    app = app_on(broker)
    async with app:
        messages = app.topic("orders").noack()
        first = await anext(messages)
        epoch = app.consumer.assignment[ORDERS].epoch
        with trio.CancelScope() as scope:
            scope.cancel()
            await app.consumer.seek(ORDERS, 4)
        await wait_all_tasks_blocked()
        assert app.consumer.assignment[ORDERS].epoch == epoch
        assert first.ack()
        assert (await anext(messages)).offset == 1


@pytest.mark.parametrize("steps", range(8))
@jumping
async def test_cancelled_seek_is_made_as_a_whole_or_not_at_all(steps: int) -> None:
    broker = broker_with(ORDERS, records=5)
    app = app_on(broker)
    async with app:
        messages = app.topic("orders").noack()
        await anext(messages)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.consumer.seek, ORDERS, 3)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        ledger = app.consumer.assignment[ORDERS]
        assert not ledger.is_draining
        message = await anext(messages)
        assert message.offset == (3 if message.epoch == 2 else 1)


# Commits


@jumping
async def test_commit_before_the_join_returns_false() -> None:
    app = app_on(broker_with(ORDERS))
    async with app:
        with assert_checkpoints():
            assert await app.consumer.commit() is False


@jumping
async def test_start_offset_of_latest_is_committed() -> None:
    """Otherwise, after a member that left before its first ack, the next member would start at the
    new end of the log."""
    broker = broker_with(ORDERS, records=3)
    app, later = [app_on(broker, auto_offset_reset="latest") for _ in range(2)]
    async with app:
        app.topic("orders").noack()
        await trio.sleep(A_WHILE)
        assert committed(broker) == {ORDERS: 3}
    write(broker, ORDERS)
    async with later:
        assert (await anext(later.topic("orders").noack())).offset == 3


@pytest.mark.parametrize("policy", ["fail", "go_on"])
@jumping
async def test_failed_commit_does_not_hide_the_error_of_the_handler(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ORDERS, records=2)
    async with app_on(broker, commit_interval=NEVER, on_task_error=policy) as app:
        first, _ = await take(app.topic("orders").noack(), 2)
        first.ack()
        raises = pytest.raises(ZeroDivisionError) if policy == "fail" else nullcontext()
        with raises, replaced(app, "commit", fails(CommitRefused("as the broker says"))):
            await app.consumer.on_task_error(ZeroDivisionError())
    assert "after an error of a handler failed: as the broker says" in caplog.text
    assert ("its message stays unacked" in caplog.text) == (policy == "go_on")


@jumping
async def test_acks_are_committed_every_interval() -> None:
    broker = broker_with(ORDERS, records=2)
    app = app_on(broker, commit_interval=5.0)
    async with app:
        messages = app.topic("orders").noack()
        (await anext(messages)).ack()
        await trio.sleep(4.9)
        assert committed(broker) == {}
        await trio.sleep(0.2)
        assert committed(broker) == {ORDERS: 1}


@pytest.mark.parametrize("records", [0, 1])
@jumping
async def test_commit_moves_past_gaps_at_the_end_of_the_log(records: int) -> None:
    broker = broker_with(ORDERS, records=records)
    broker.gap(ORDERS, 3)
    app = app_on(broker)
    async with app:
        messages = app.topic("orders").noack()
        for message in await take(messages, records):
            message.ack()
        await trio.sleep(A_WHILE)
        assert committed(broker) == {ORDERS: records + 3}
        broker.gap(ORDERS, 2)
        await trio.sleep(A_WHILE)
        assert committed(broker) == {ORDERS: records + 5}


@jumping
async def test_commit_does_not_pass_unacked_message_before_a_gap() -> None:
    broker = broker_with(ORDERS, records=2)
    broker.gap(ORDERS, 3)
    app = app_on(broker)
    async with app:
        messages = app.topic("orders").noack()
        first, _ = await take(messages, 2)
        first.ack()
        await trio.sleep(A_WHILE)
        assert committed(broker) == {ORDERS: 1}


@jumping
async def test_wait_empty_waits_only_for_messages_delivered_before_it() -> None:
    """Handlers take a new message before they ack the old one, so some are always unacked."""
    tps = [TP("orders", number) for number in range(3)]
    broker = broker_with(*tps, records=40)
    async with app_on(broker, commit_interval=NEVER) as app, trio.open_nursery() as nursery:
        messages = app.topic("orders").noack()

        async def handle() -> None:
            message = await anext(messages)
            while True:
                following = await anext(messages)
                await trio.sleep(1.0)
                message.ack()
                message = following

        for _ in range(4):
            nursery.start_soon(handle)
        await trio.sleep(2.5)
        begun = {message.tp: message.offset for message in app.consumer.unacked}
        with trio.fail_after(5.0):
            await app.consumer.wait_empty()
        assert app.consumer.unacked
        assert all(committed(broker)[tp] > offset for tp, offset in begun.items())
        nursery.cancel_scope.cancel()


@jumping
async def test_wait_empty_waits_for_all_partitions_at_once() -> None:
    """A message that is delivered from one partition during the wait for another does not count."""
    tps = [TP("orders", number) for number in range(2)]
    broker = broker_with(*tps, records=2)
    async with app_on(broker) as app, trio.open_nursery() as nursery:
        messages = app.topic("orders").noack()
        first = {message.partition: message for message in [await anext(messages)]}
        empty = trio.Event()

        async def wait() -> None:
            await app.consumer.wait_empty()
            empty.set()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        others = await take(messages, 3)
        for message in first.values():
            message.ack()
        with trio.fail_after(1.0):
            await empty.wait()
        assert app.consumer.unacked == set(others)
