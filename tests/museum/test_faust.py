"""Where Faust failed its users: each test is a report, by its number.

The name says what was seen there, the test that it does not come about here.
"""

from __future__ import annotations

import gc
import threading

import pytest
import trio
import trio.testing

from nurseries import tick
from tests.apps import app_on, broker_with, committed, nothing_comes, take, write
from tests.lanes import NEVER, Place
from tests.museum.members import Commits, Work, every, leave_a_gap, member, send
from tests.nurseries.clock import jumping
from transport import TP
from transport.drivers.memory import MemoryBroker

ORDERS = TP("orders", 0)
both_ways = pytest.mark.parametrize("assignment", ["cooperative", "eager"])


def throw_out(broker: MemoryBroker) -> None:
    """Let the group lose its members, as if their sessions had run out."""
    group = broker.group("group")
    for name in list(group.members):
        group.leave(name, trio.current_time())


# robinhood/faust 401


async def test_robinhood_faust_401_a_gap_in_the_offsets_stops_commits(place: Place) -> None:
    """A compacted topic, or one of a transactional producer, has offsets without a message; Faust
    waited for them to be acked, and the lag grew for ever."""
    (tp,) = await place.create(1)
    async with member(place, commit_interval=NEVER) as app:
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
        # The client passes the last gap in a fetch of its own; until then there is a new commit.
        commits = Commits(app)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick, 0.05, app.consumer.commit)
            await commits.reach(tp, end)
            nursery.cancel_scope.cancel()
    assert await place.committed() == {tp: end}


# robinhood/faust 559 and 625


@jumping
async def test_robinhood_faust_559_a_duplicate_ack_blocks_commits_for_ever() -> None:
    """A member was thrown out by a missed heartbeat and read on from an earlier offset: what it
    acked then stood twice in the list of acks, and the offset to commit stayed there."""
    broker = broker_with(ORDERS, records=10)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        before = await take(messages, 10)
        for message in before[:3]:
            message.ack()
        await app.consumer.commit()
        for message in before[3:6]:
            message.ack()
        throw_out(broker)
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
async def test_robinhood_faust_625_a_duplicate_ack_blocks_commits_for_ever() -> None:
    """A message that a filter left out was acked twice; from then on nothing was committed, though
    all was handled, until a restart handled all of it again."""
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
async def test_robinhood_faust_681_faust_streaming_318_a_partition_that_comes_back_after_two_rebalances_is_never_committed_again(  # noqa: E501
    place: Place, assignment: str
) -> None:
    """A partition went to another member and came back; what the first one knew of it from
    before stood in the way, and nothing of it was committed any more."""
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
async def test_faust_streaming_312_a_gap_in_acks_is_committed_over_and_a_message_is_lost() -> None:
    """One message out of five was held by a slow handler while the others were acked; after a few
    rounds of commits the offset passed it, and after a crash it never came again."""
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


async def test_faust_streaming_606_a_gap_a_wrong_offset_committed_a_message_lost(
    place: Place,
) -> None:
    """The message just at the committed offset was still being handled; the one gap that this
    left was taken for a compacted one, and the commit went over it."""
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
async def test_faust_streaming_596_a_race_at_recovery_leaves_a_gap_that_is_never_filled(
    order: str,
) -> None:
    """When recovery was over the buffers were cleared and the consumer sought back; a message that
    was taken in between was neither delivered nor fetched again, and commits stood still at it."""
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker, commit_interval=NEVER) as app:
        consumer = app.consumer
        messages = app.topic("orders").noack()
        for message in await take(messages, 2):
            message.ack()
        await consumer.commit()
        assert (await anext(messages)).offset == 2  # taken, not acked; 3 and 4 are in the buffer
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
async def test_robinhood_faust_378_the_consumer_stalls_after_a_rebalance(
    place: Place, assignment: str
) -> None:
    """After a rebalance a worker went on being a member, and read nothing any more. The worst
    moment for it here: the buffer is full, and the partitions are paused at the client, which in
    an eager rebalance would keep the pause of what it gives back."""
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
async def test_faust_its_source_offset_0_is_taken_for_none() -> None:
    """`if offset:` stood where `is not None` was meant: a commit or a seek of 0 was none."""
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
async def test_faust_its_source_a_dropped_message_vanishes_from_unacked() -> None:
    """`unacked` was a set of weak references: a message that nobody held any more was waited for
    by no one, and yet it was not acked."""
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
async def test_faust_its_source_sleeps_of_45_s_1_s_and_0_1_s_in_place_of_waiting() -> None:
    """A new topic was subscribed to within 45 s, a stopped flow was looked for each second and an
    acked message each tenth. On this clock nothing passes while somebody can go on."""
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
async def test_faust_its_source_a_process_wide_lock_around_acks() -> None:
    """Every ack of every app in the process took one lock. Here an ack waits for nothing: neither
    for a commit that hangs, nor for another app, nor for another thread's."""
    brokers = [broker_with(ORDERS, records=3) for _ in range(2)]
    hung = trio.Event()

    async def hang(*_: object) -> None:
        await hung.wait()

    def in_a_thread(broker: MemoryBroker) -> None:
        async def main() -> None:
            async with app_on(broker) as app:
                for message in await take(app.topic("orders").noack(), 3):
                    assert message.ack()

        trio.run(main)

    async with app_on(brokers[0], commit_interval=NEVER) as one:
        ones = await take(one.topic("orders").noack(), 3)
        commit, one.consumer.client.commit = one.consumer.client.commit, hang
        assert ones[0].ack()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.consumer.commit)
            await trio.testing.wait_all_tasks_blocked()
            other = threading.Thread(target=in_a_thread, args=[brokers[1]], daemon=True)
            other.start()
            other.join(10.0)
            assert not other.is_alive()
            assert ones[1].ack()
            assert ones[2].ack()
            one.consumer.client.commit = commit
            hung.set()
    assert [committed(broker) for broker in brokers] == [{ORDERS: 3}, {ORDERS: 3}]
