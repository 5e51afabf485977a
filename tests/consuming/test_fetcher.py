"""The polling task: seeks, the entry of fetches, requests, and its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.apps import A_WHILE, app_on, broker_with, committed, nothing_comes, take, write
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.scripted import Function, fails, hold, late, replace, waits_for
from transport import TP, App, AppClosed, NotAssigned
from transport.drivers.memory import MemoryBroker

ORDERS = [TP("orders", number) for number in range(2)]
BUFFER = 10
FETCH = 5  # records in one fetch of a partition


@jumping
async def test_nothing_is_delivered_during_a_seek() -> None:
    """This holds however long the client takes for the seek."""
    async with app_on(broker_with(ORDERS[0], records=5), commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        assert [message.offset for message in await take(messages, 2)] == [0, 1]
        assert app.consumer.assignment[ORDERS[0]].position == 5
        asked, may_seek = trio.Event(), trio.Event()
        replace(app, "seek", waits_for(may_seek, asked=asked))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.consumer.seek, ORDERS[0], 1)
            await asked.wait()
            assert await nothing_comes(messages)
            may_seek.set()
        assert [message.offset for message in await take(messages, 4)] == [1, 2, 3, 4]


@jumping
async def test_paused_partition_is_paused_again_after_eager_rebalance() -> None:
    """In an eager rebalance the client forgets its pauses. A partition that is assigned again is
    fetched from until the buffer is full again, and no further (I8)."""
    broker = broker_with(*ORDERS, records=500)
    settings = {
        "assignment": "eager",
        "buffer_size": BUFFER,
        "max_partition_fetch_bytes": FETCH * 21,
        "commit_interval": NEVER,
    }

    async with app_on(broker, **settings) as one:
        topic = one.topic("orders")
        topic.noack()

        async def held_of(partitions: int) -> int:
            await trio.sleep(A_WHILE)
            ledgers = one.consumer.assignment.values()
            assert len(ledgers) == partitions
            assert topic.channel.usage.held == sum(ledger.position or 0 for ledger in ledgers)
            return topic.channel.usage.held

        assert BUFFER <= await held_of(2) < BUFFER + 2 * FETCH
        async with app_on(broker, **settings) as two:
            two.topic("orders").noack()
            assert BUFFER <= await held_of(1) < BUFFER + 2 * FETCH
        assert BUFFER <= await held_of(2) < BUFFER + 2 * FETCH


# The entry of fetches


def reader(broker: MemoryBroker | None = None, *, records: int = 0) -> App:
    return app_on(broker or broker_with(*ORDERS, records=records), commit_interval=NEVER)


@jumping
async def test_nothing_is_delivered_from_draining_partition() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with reader(broker) as app:
        messages = app.topic("orders").noack()
        await take(messages, 1)
        app.consumer.assignment[ORDERS[0]].drain()
        write(broker, ORDERS[0])
        assert await nothing_comes(messages)


@jumping
async def test_reset_to_earlier_offset_begins_new_epoch() -> None:
    """This holds also if the records after the reset reach past the old position."""
    broker = broker_with(ORDERS[0], records=3)
    async with reader(broker) as app:
        messages = app.topic("orders").noack()
        before = await take(messages, 3)
        await app.consumer.client.seek(ORDERS[0], 1)
        write(broker, ORDERS[0], 2)
        assert [message.offset for message in await take(messages, 4)] == [1, 2, 3, 4]
        assert app.consumer.assignment[ORDERS[0]].start == 1
        assert not before[0].ack()


# Requests


async def hold_the_next_poll(app: App) -> trio.Event:
    may_poll = hold(app, "poll")
    app.consumer.requests.note_change()
    await wait_all_tasks_blocked()
    return may_poll


async def is_closed_to(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(AppClosed):
        await call()


@jumping
async def test_positions_returns_the_client_positions() -> None:
    async with reader(records=3) as app:
        await take(app.topic("orders").noack(), 6)
        assert await app.consumer.polling.positions(ORDERS) == dict.fromkeys(ORDERS, 3)
        assert await app.consumer.polling.positions(ORDERS[:1]) == {ORDERS[0]: 3}


@jumping
async def test_request_before_first_poll_waits_for_it() -> None:
    app, answers = reader(), []
    may_open = hold(app, "open")

    async def ask() -> None:
        answers.append(await app.consumer.polling.positions(ORDERS))

    async with app, trio.open_nursery() as nursery:
        app.topic("orders").listen()
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert answers == []
        may_open.set()
    assert answers == [{}]


@jumping
async def test_start_of_polling_clears_late_at() -> None:
    app = reader()
    may_open, may_subscribe = hold(app, "open"), hold(app, "subscribe")
    async with app:
        app.topic("orders").listen()
        await wait_all_tasks_blocked()
        app.consumer.resume_flow()
        assert app.consumer.requests.late_at == 0.0
        may_open.set()
        await wait_all_tasks_blocked()
        assert app.consumer.requests.late_at is None
        may_subscribe.set()


@jumping
async def test_late_at_is_the_time_of_the_first_request_since_the_last_poll_began() -> None:
    async with reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        requests, may_poll = app.consumer.requests, await hold_the_next_poll(app)
        assert requests.late_at is None
        asked_at = trio.current_time()
        requests.note_change()
        await trio.sleep(1)
        requests.note_change()
        assert requests.late_at == asked_at
        may_poll.set()
        await wait_all_tasks_blocked()
        assert requests.late_at is None


@jumping
async def test_seek_raises_the_error_of_the_client_and_drops_the_partition() -> None:
    """After a failed seek the position of the client is unknown."""
    async with reader(records=3) as app:
        await take(app.topic("orders").noack(), 6)
        replace(app, "seek", fails(NotAssigned("not any more")))
        with pytest.raises(NotAssigned, match="not any more"):
            await app.consumer.seek(ORDERS[0], 1)
        assert set(app.consumer.assignment) == {ORDERS[1]}


@jumping
async def test_seek_raises_if_partition_is_dropped_before_it_begins() -> None:
    async def seek(app: App) -> None:
        with pytest.raises(NotAssigned, match="orders-0"):
            await app.consumer.seek(ORDERS[0], 0)

    async with reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        may_poll = await hold_the_next_poll(app)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(seek, app)
            await wait_all_tasks_blocked()
            app.consumer.ownership.drop({ORDERS[0]})
            may_poll.set()
        assert set(app.consumer.assignment) == {ORDERS[1]}


@jumping
async def test_seek_raises_if_partition_is_dropped_while_the_client_seeks() -> None:
    """The end of the consumer drops partitions while the client still seeks."""
    async with reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)

        async def seek_and_lose(seek: Function, tp: TP, offset: int) -> None:
            await seek(tp, offset)
            app.consumer.ownership.drop({tp})

        replace(app, "seek", seek_and_lose)
        with pytest.raises(NotAssigned, match="orders-0 was revoked during the seek to offset 1"):
            await app.consumer.seek(ORDERS[0], 1)
        assert set(app.consumer.assignment) == {ORDERS[1]}


@jumping
async def test_partition_dropped_during_a_refetch_is_not_sought() -> None:
    async with reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        ownership, sought = app.consumer.ownership, []

        async def seek_and_lose(seek: Function, tp: TP, offset: int) -> None:
            sought.append(tp)
            ownership.drop(set(ORDERS) - {tp})
            await seek(tp, offset)

        replace(app, "seek", seek_and_lose)
        for tp in ORDERS:
            ownership.rewind(tp, 0)
        await trio.sleep(A_WHILE)
        assert sought == ORDERS[:1]


@jumping
async def test_unknown_error_in_a_request_ends_the_app_and_fails_the_caller() -> None:
    told = []

    async def ask(app: App) -> None:
        await is_closed_to(lambda: app.consumer.seek(ORDERS[0], 0))
        told.append(True)

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery, reader(records=1) as app:
            await take(app.topic("orders").noack(), 2)
            replace(app, "seek", fails(ZeroDivisionError))
            nursery.start_soon(ask, app)
            await trio.sleep(A_WHILE)
    assert told == [True]


@jumping
async def test_request_cancelled_during_a_poll_is_withdrawn() -> None:
    async with reader(records=3) as app:
        messages = app.topic("orders").noack()
        before = await take(messages, 6)
        may_poll = await hold_the_next_poll(app)
        with trio.move_on_after(1) as waiting:
            await app.consumer.seek(ORDERS[0], 0)
        assert waiting.cancelled_caught
        may_poll.set()
        assert await nothing_comes(messages)
        assert all(message.ack() for message in before)


@jumping
async def test_kill_fails_waiting_and_later_requests() -> None:
    async with trio.open_nursery() as nursery, reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        may_poll = await hold_the_next_poll(app)
        nursery.start_soon(is_closed_to, lambda: app.consumer.seek(ORDERS[0], 0))
        await wait_all_tasks_blocked()
        await app.kill()
        may_poll.set()
        await wait_all_tasks_blocked()
        await is_closed_to(lambda: app.consumer.polling.positions(ORDERS))


@jumping
async def test_request_during_the_stop_fails_at_once() -> None:
    async with trio.open_nursery() as nursery, reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        may_poll = await hold_the_next_poll(app)
        nursery.start_soon(app.consumer.fetcher.on_stop)
        await wait_all_tasks_blocked()
        with trio.fail_after(1):
            await is_closed_to(lambda: app.consumer.polling.positions(ORDERS))
        may_poll.set()


@jumping
async def test_commit_asks_positions_only_of_idle_partitions() -> None:
    """The client walks over all partitions to find one position."""
    broker = broker_with(ORDERS[0], records=2)
    broker.gap(ORDERS[0], 3)
    async with reader(broker) as app:
        first, second = await take(app.topic("orders").noack(), 2)
        asked = []

        async def noted(positions: Function, tps: Collection[TP]) -> dict[TP, int]:
            asked.append(list(tps))
            return await positions(tps)

        replace(app, "positions", noted)
        first.ack()
        await app.consumer.commit()
        assert asked == []
        second.ack()
        await app.consumer.commit()
        assert asked == [ORDERS[:1]]
        assert committed(broker) == {ORDERS[0]: 5}


@jumping
async def test_catch_up_without_work_is_a_checkpoint() -> None:
    async with reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        with assert_checkpoints():
            await app.consumer.polling.catch_up()


# The end


@pytest.mark.parametrize("seconds", [0.0, 1.0])  # of the last commit
@jumping
async def test_stop_does_not_wait_for_a_missing_topic(seconds: float) -> None:
    """The client waits for the topic once, also if the last commit leaves time to wait again."""
    broker, waits = broker_with(ORDERS[0], records=1), []
    async with reader(broker) as app:
        (await anext(app.topic("orders").noack())).ack()

        async def wait_for_topic(subscribe: Function, *args: object, **options: object) -> None:
            waits.append(args)
            await trio.sleep_forever()

        replace(app, "subscribe", wait_for_topic)
        replace(app, "commit", late(seconds))
        app.topic("missing").listen()
        await trio.sleep(A_WHILE)
        stopped_at = trio.current_time()
    assert trio.current_time() == stopped_at + seconds
    assert waits == [(["missing", "orders"],)]
    assert committed(broker) == {ORDERS[0]: 1}


@jumping
async def test_kill_ends_wait_for_stopped_flow() -> None:
    async with trio.open_nursery() as nursery, reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        nursery.start_soon(app.consumer.wait_for_stopped_flow)
        await wait_all_tasks_blocked()
        await app.kill()


@jumping
async def test_restarted_fetcher_continues_at_its_position() -> None:
    broker = broker_with(ORDERS[0], records=3)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        await take(messages, 3)
        await app.consumer.fetcher.restart()
        write(broker, ORDERS[0], 2)
        assert [message.offset for message in await take(messages, 2)] == [3, 4]
        await app.consumer.seek(ORDERS[0], 1)
        assert [message.offset for message in await take(messages, 3)] == [1, 2, 3]
        await app.consumer.fetcher.restart()
        assert app.consumer.fetcher.tree().children  # its task runs until the next stop
