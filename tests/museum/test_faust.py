"""Reports of users of Faust, each as a test.

A test name gives the number of the report and the rule that holds here. The docstring says what
happened in Faust.
"""

from __future__ import annotations

import gc
import threading

import pytest
import trio
import trio.testing

from nurseries import tick
from tests.apps import app_on, broker_with, committed, evict_all, nothing_comes, take, write
from tests.lanes import NEVER, Place
from tests.museum.members import Commits, Member, Work, every, leave_a_gap, member, send
from tests.nurseries.clock import jumping
from tests.scripted import hold, scripted
from transport import TP
from transport.drivers.memory import MemoryBroker

ORDERS = TP("orders", 0)
both_ways = pytest.mark.parametrize("assignment", ["cooperative", "eager"])


# robinhood/faust 401


async def test_robinhood_faust_401_commits_pass_gaps_in_the_offsets(place: Place) -> None:
    """A compacted topic, or one with transactions, has offsets without a message. Faust waited for
    their acks, and the lag grew without end."""
    (tp,) = await place.create(1)
    async with member(place, scripted(Member), commit_interval=NEVER) as app:
        await leave_a_gap(place, tp)
        messages = app.topic(place.name).noack()
        taken = []
        for _ in range(3):
            await send(app, [tp], 2)
            taken += await take(messages, 2)
            await leave_a_gap(place, tp)
        *others, last = taken
        for message in others:
            assert message.ack()
        await app.consumer.commit()
        assert await app.consumer.client.committed([tp]) == {tp: last.offset}
        last.ack()
        end = (await app.consumer.client.end_offsets([tp]))[tp]
        assert end == 6 + 4 * 4
        # The client passes the last gap in a fetch of its own, so commits are repeated until then.
        commits = Commits(app)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick, 0.05, app.consumer.commit)
            await commits.reach(tp, end)
            nursery.cancel_scope.cancel()
    assert await place.committed() == {tp: end}


# robinhood/faust 559 and 625


@jumping
async def test_robinhood_faust_559_stale_acks_do_not_block_commits() -> None:
    """A member was evicted after a missed heartbeat, and read again from an earlier offset. Its
    acks were then twice in the list of acks, and the offset to commit stood still."""
    broker = broker_with(ORDERS, records=10)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        before = await take(messages, 10)
        for message in before[:3]:
            message.ack()
        await app.consumer.commit()
        for message in before[3:6]:
            message.ack()
        evict_all(broker)
        again = await take(messages, 7)
        assert [message.offset for message in again] == [3, 4, 5, 6, 7, 8, 9]
        for old in before:
            assert not old.ack()
        for message in again:
            assert message.ack()
            assert not message.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 10}
        write(broker, ORDERS)
        (await anext(messages)).ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 11}


@jumping
async def test_robinhood_faust_625_second_ack_does_not_block_commits() -> None:
    """A message that a filter left out was acked twice. From then on nothing was committed, though
    all messages were handled. A restart handled all of them again."""
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        for message in await take(messages, 5):
            assert message.ack()
            assert not message.ack()
            await app.consumer.commit()
            assert committed(broker) == {ORDERS: message.offset + 1}
        assert app.consumer.assignment.tally.doubled == 5
        assert not app.consumer.unacked


# robinhood/faust 681, faust-streaming 318


@both_ways
async def test_robinhood_faust_681_faust_streaming_318_partition_that_returns_is_committed_again(
    place: Place, assignment: str
) -> None:
    """A partition was assigned to another member, and then to the first one again. The first
    member kept its old state of the partition, so it committed nothing more of it."""
    tps = set(await place.create(2))
    settings = {"commit_interval": NEVER, "assignment": assignment}
    async with (one := member(place, **settings)):
        ones = one.topic(place.name).noack()
        await send(one, tps, 3)
        for message in await take(ones, 6):
            message.ack()
        async with (two := member(place, **settings)):
            twos = two.topic(place.name).noack()
            (moved,) = await two.owns(1)
            await one.owns(1)
            await send(two, tps, 3)
            for message in [*await take(ones, 3), *await take(twos, 3)]:
                assert message.offset >= 3
                message.ack()
        assert await one.owns(2) == tps
        await send(one, tps, 3)
        for message in await take(ones, 6):
            assert message.offset >= 6
            assert message.ack()
        assert await one.consumer.commit()
        assert await one.consumer.client.committed([moved]) == {moved: 9}
    assert await place.committed() == dict.fromkeys(tps, 9)


# faust-streaming 312 and 606


@jumping
async def test_faust_streaming_312_commits_never_pass_an_unacked_message() -> None:
    """A slow handler had one message out of five, and the others were acked. After a few commits
    the offset passed the unacked message. After a crash the message was not redelivered."""
    broker = broker_with(ORDERS, records=20)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = await take(app.topic("orders").noack(), 20)
        slow = messages[5::5]
        for message in messages:
            if message not in slow:
                message.ack()
            await app.consumer.commit()
            assert committed(broker)[ORDERS] <= 5
        for message, offset in zip(slow, (10, 15, 20), strict=True):
            message.ack()
            await app.consumer.commit()
            assert committed(broker) == {ORDERS: offset}


async def test_faust_streaming_606_commit_stops_at_a_single_unacked_message(
    place: Place,
) -> None:
    """The message at the committed offset was still being handled. Faust treated this single gap
    as a compacted offset, and committed past it."""
    (tp,) = await place.create(1, *[b"value"] * 10)
    async with member(place, commit_interval=NEVER) as app:
        messages = await take(app.topic(place.name).noack(), 10)
        for message in messages[:5]:
            message.ack()
        await app.consumer.commit()
        for message in messages[6:]:
            assert message.ack()
            assert not await app.consumer.commit()
    assert await place.committed() == {tp: 5}
    async with member(place, commit_interval=NEVER) as app:
        assert (await anext(app.topic(place.name).noack())).offset == 5


# faust-streaming 596


@pytest.mark.parametrize("order", ["stop seek resume", "stop resume seek", "seek"])
@jumping
async def test_faust_streaming_596_seek_during_flow_changes_loses_no_message(
    order: str,
) -> None:
    """After recovery Faust cleared the buffers and sought backwards. A message that was taken in
    between was neither delivered nor fetched again, and the commits stopped at it."""
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker, commit_interval=NEVER) as app:
        consumer = app.consumer
        messages = app.topic("orders").noack()
        for message in await take(messages, 2):
            message.ack()
        await consumer.commit()
        assert (await anext(messages)).offset == 2  # unacked; 3 and 4 are waiting
        async with trio.open_nursery() as nursery:
            for step in order.split():
                write(broker, ORDERS)
                match step:
                    case "stop":
                        consumer.stop_flow()
                    case "seek":
                        nursery.start_soon(consumer.perform_seek)
                    case "resume":
                        consumer.resume_flow()
        end = broker.log(ORDERS).end
        offsets = []
        for message in await take(messages, end - 2):
            offsets.append(message.offset)
            assert message.ack()
        assert offsets == list(range(2, end))
        await consumer.commit()
        assert committed(broker) == {ORDERS: end}


# robinhood/faust 378


@both_ways
async def test_robinhood_faust_378_consumer_continues_after_a_rebalance(
    place: Place, assignment: str
) -> None:
    """After a rebalance a worker was still a member, but read nothing more. The worst moment for
    that is here: the buffer is full, and the partitions are paused at the client. In an eager
    rebalance the client would keep these pauses for revoked partitions."""
    tps = await place.create(2)
    settings = {"buffer_size": 4, "assignment": assignment}
    work = Work(every(tps, range(30)))
    async with (one := member(place, **settings)), trio.open_nursery() as nursery:
        await send(one, tps, 20)
        nursery.start_soon(work.handle, one, one.topic(place.name), 0.05)
        await one.owns(2)
        for _ in range(2):
            async with (two := member(place, **settings)), trio.open_nursery() as guests:
                guests.start_soon(work.handle, two, two.topic(place.name), 0.05)
                await two.owns(1)
                await one.owns(1)
                guests.cancel_scope.cancel()
            await one.owns(2)
        await send(one, tps, 10)
        await work.complete.wait()
        nursery.cancel_scope.cancel()
    assert await place.committed() == dict.fromkeys(tps, 30)


# Faust's source


@jumping
async def test_faust_source_offset_0_is_committed_and_sought() -> None:
    """Faust checked `if offset:` instead of `is not None`, so it ignored a commit or seek of 0."""
    broker = broker_with(ORDERS, records=3)
    async with app_on(broker, commit_interval=NEVER) as app:
        _, *others = await take(app.topic("orders").noack(), 3)
        for message in others:
            message.ack()
        assert await app.consumer.commit()
        assert committed(broker) == {ORDERS: 0}
    async with app_on(broker, commit_interval=NEVER, auto_offset_reset="latest") as app:
        messages = app.topic("orders").noack()
        first, *others = await take(messages, 3)
        assert first.offset == 0
        for message in others:
            message.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 0}
        assert not await app.consumer.commit()
        await app.consumer.seek(ORDERS, 0)
        assert [message.offset for message in await take(messages, 3)] == [0, 1, 2]
        await app.consumer.seek_to_committed()
        assert (await anext(messages)).offset == 0


@jumping
async def test_faust_source_unreferenced_message_stays_unacked() -> None:
    """`unacked` was a set of weak references. A message without a reference to it left the set
    without an ack, and nothing waited for it."""
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        del (await take(messages, 1))[:]
        gc.collect()
        (held,) = app.consumer.unacked
        assert held.offset == 0
        with trio.move_on_after(1000) as wait:
            await app.consumer.wait_empty()
        assert wait.cancelled_caught
        held.ack()
        await app.consumer.wait_empty()
        assert committed(broker) == {ORDERS: 1}


@jumping
async def test_faust_source_waits_end_at_once_and_do_not_poll() -> None:
    """Faust checked for a new topic every 45 s, for a stopped flow every second, and for acks every
    0.1 s. The clock of this test advances only if all tasks sleep."""
    broker = broker_with(ORDERS, TP("parcels", 0), records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        orders = app.topic("orders").noack()
        message = await anext(orders)
        parcels = app.topic("parcels").noack()
        await app.conductor.wait_for_subscriptions()
        (await anext(parcels)).ack()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.consumer.wait_for_stopped_flow)
            await trio.testing.wait_all_tasks_blocked()
            app.consumer.stop_flow()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.consumer.wait_empty)
            await trio.testing.wait_all_tasks_blocked()
            message.ack()
        assert trio.current_time() == 0
        assert await nothing_comes(orders)


@jumping
async def test_faust_source_ack_waits_for_no_commit_app_or_thread() -> None:
    """Every ack of every app in the process took one lock. Here an ack waits for nothing: not for a
    hanging commit, not for another app, and not for another thread."""
    brokers = [broker_with(ORDERS, records=3) for _ in range(2)]

    def in_a_thread(broker: MemoryBroker) -> None:
        async def main() -> None:
            async with app_on(broker) as app:
                for message in await take(app.topic("orders").noack(), 3):
                    assert message.ack()

        trio.run(main)

    async with app_on(brokers[0], commit_interval=NEVER) as one:
        ones = await take(one.topic("orders").noack(), 3)
        assert ones[0].ack()
        may_commit = hold(one, "commit")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.consumer.commit)
            await trio.testing.wait_all_tasks_blocked()
            other = threading.Thread(target=in_a_thread, args=[brokers[1]], daemon=True)
            other.start()
            other.join(10.0)
            assert not other.is_alive()
            assert ones[1].ack()
            assert ones[2].ack()
            may_commit.set()
    assert [committed(broker) for broker in brokers] == [{ORDERS: 3}, {ORDERS: 3}]
