"""The polling side: what is not delivered while it seeks, and what it does not fetch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.apps import A_WHILE, app_on, broker_with, committed, nothing_comes, take, write
from tests.nurseries.clock import jumping
from transport import TP, App, AppClosed, NotAssigned
from transport.drivers.memory import MemoryBroker

ORDERS = [TP("orders", number) for number in range(2)]
BUFFER = 10
FETCH = 5  # records in one fetch of a partition


@jumping
async def test_nothing_fetched_before_is_delivered_while_a_seek_is_under_way() -> None:
    """However long the client takes, and whatever has become of the seek by then."""
    async with app_on(broker_with(ORDERS[0], records=5), commit_interval=1e6) as app:
        messages = app.topic("orders").noack()
        assert [message.offset for message in await take(messages, 2)] == [0, 1]
        assert app.consumer.assignment[ORDERS[0]].position == 5
        seek, asked, may_seek = app.consumer.client.seek, trio.Event(), trio.Event()

        async def seek_late(tp: TP, offset: int) -> None:
            asked.set()
            await may_seek.wait()
            await seek(tp, offset)

        app.consumer.client.seek = seek_late
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.consumer.seek, ORDERS[0], 1)
            await asked.wait()
            assert await nothing_comes(messages)
            may_seek.set()
        assert [message.offset for message in await take(messages, 4)] == [1, 2, 3, 4]


@jumping
async def test_a_partition_that_was_paused_and_is_given_back_is_paused_again() -> None:
    """In an eager rebalance the client forgets its pauses. With a full buffer the partition that
    comes back is fetched from until the buffer is full again, and no further (I8)."""
    broker = broker_with(*ORDERS, records=500)
    settings = {
        "assignment": "eager",
        "buffer_size": BUFFER,
        "max_partition_fetch_bytes": FETCH * 21,
        "commit_interval": 1e6,
    }

    async with app_on(broker, **settings) as one:
        topic = one.topic("orders")
        topic.noack()

        async def held_of(partitions: int) -> int:
            await trio.sleep(A_WHILE)
            ledgers = one.consumer.assignment.values()
            assert len(ledgers) == partitions
            assert topic.channel.load.held == sum(ledger.position or 0 for ledger in ledgers)
            return topic.channel.load.held

        assert BUFFER <= await held_of(2) < BUFFER + 2 * FETCH
        async with app_on(broker, **settings) as two:
            two.topic("orders").noack()
            assert BUFFER <= await held_of(1) < BUFFER + 2 * FETCH
        assert BUFFER <= await held_of(2) < BUFFER + 2 * FETCH


# What is done with what was fetched


def reader(broker: MemoryBroker | None = None, *, records: int = 0) -> App:
    return app_on(broker or broker_with(*ORDERS, records=records), commit_interval=1e6)


@jumping
async def test_of_what_is_being_let_go_nothing_more_is_delivered() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with reader(broker) as app:
        messages = app.topic("orders").noack()
        await take(messages, 1)
        app.consumer.assignment[ORDERS[0]].drain()
        write(broker, ORDERS[0])
        assert await nothing_comes(messages)


@jumping
async def test_a_client_that_was_reset_to_a_place_before_begins_a_new_epoch_there() -> None:
    """Also where what it brings then goes on past the place where we were."""
    broker = broker_with(ORDERS[0], records=3)
    async with reader(broker) as app:
        messages = app.topic("orders").noack()
        before = await take(messages, 3)
        await app.consumer.client.seek(ORDERS[0], 1)
        write(broker, ORDERS[0], 2)
        assert [message.offset for message in await take(messages, 4)] == [1, 2, 3, 4]
        assert app.consumer.assignment[ORDERS[0]].start == 1
        assert not before[0].ack()


# What is asked of it


def hold(app: App, call: str) -> trio.Event:
    """From now on such calls to the client wait for the event, as where it takes its time."""
    make, may_go_on = getattr(app.consumer.client, call), trio.Event()

    async def make_late(*args: Any, **options: Any) -> Any:
        await may_go_on.wait()
        return await make(*args, **options)

    setattr(app.consumer.client, call, make_late)
    return may_go_on


async def hold_the_next_poll(app: App) -> trio.Event:
    may_poll = hold(app, "poll")
    app.consumer.requests.note_change()
    await wait_all_tasks_blocked()
    return may_poll


async def is_closed_to(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(AppClosed):
        await call()


@jumping
async def test_it_tells_how_far_the_client_has_read() -> None:
    async with reader(records=3) as app:
        await take(app.topic("orders").noack(), 6)
        assert await app.consumer.polling.positions(ORDERS) == dict.fromkeys(ORDERS, 3)
        assert await app.consumer.polling.positions(ORDERS[:1]) == {ORDERS[0]: 3}


@jumping
async def test_what_is_asked_before_the_first_poll_is_answered_with_it() -> None:
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
async def test_it_is_not_late_for_what_was_wanted_of_it_before_it_began() -> None:
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
async def test_what_the_client_refuses_is_raised_to_who_asked_for_it() -> None:
    """And where the client stands after a seek that failed nobody knows: it is not ours."""
    async with reader(records=3) as app:
        await take(app.topic("orders").noack(), 6)

        async def refuse(tp: TP, offset: int) -> None:
            raise NotAssigned("not any more")

        app.consumer.client.seek = refuse
        with pytest.raises(NotAssigned, match="not any more"):
            await app.consumer.seek(ORDERS[0], 1)
        assert set(app.consumer.assignment) == {ORDERS[1]}


@jumping
async def test_a_seek_whose_partition_goes_before_the_poll_has_ended_says_so() -> None:
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
async def test_what_goes_while_another_is_sought_back_is_not_sought() -> None:
    async with reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        client, ownership = app.consumer.client, app.consumer.ownership
        seek, sought = client.seek, []

        async def seek_and_lose(tp: TP, offset: int) -> None:
            sought.append(tp)
            ownership.drop(set(ORDERS) - {tp})
            await seek(tp, offset)

        client.seek = seek_and_lose
        for tp in ORDERS:
            ownership.rewind(tp, 0)
        await trio.sleep(A_WHILE)
        assert sought == ORDERS[:1]


@jumping
async def test_an_error_that_is_none_of_ours_ends_the_app_and_who_asked_is_told() -> None:
    told = []

    async def ask(app: App) -> None:
        await is_closed_to(lambda: app.consumer.seek(ORDERS[0], 0))
        told.append(True)

    async def fail(tp: TP, offset: int) -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery, reader(records=1) as app:
            await take(app.topic("orders").noack(), 2)
            app.consumer.client.seek = fail
            nursery.start_soon(ask, app)
            await trio.sleep(A_WHILE)
    assert told == [True]


@jumping
async def test_what_is_cancelled_before_the_poll_under_way_has_ended_is_not_done() -> None:
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
async def test_after_a_kill_nobody_waits_for_an_answer() -> None:
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
async def test_who_asks_while_it_stops_need_not_wait_for_the_last_poll() -> None:
    async with trio.open_nursery() as nursery, reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        may_poll = await hold_the_next_poll(app)
        nursery.start_soon(app.consumer.fetcher.on_stop)
        await wait_all_tasks_blocked()
        with trio.fail_after(1):
            await is_closed_to(lambda: app.consumer.polling.positions(ORDERS))
        may_poll.set()


@jumping
async def test_the_client_is_asked_how_far_it_is_only_for_what_is_all_done() -> None:
    """It looks at each partition to find one position."""
    broker = broker_with(ORDERS[0], records=2)
    broker.gap(ORDERS[0], 3)
    async with reader(broker) as app:
        first, second = await take(app.topic("orders").noack(), 2)
        positions, asked = app.consumer.client.positions, []

        async def noted(tps: Collection[TP]) -> dict[TP, int]:
            asked.append(list(tps))
            return await positions(tps)

        app.consumer.client.positions = noted
        first.ack()
        await app.consumer.commit()
        assert asked == []
        second.ack()
        await app.consumer.commit()
        assert asked == [ORDERS[:1]]
        assert committed(broker) == {ORDERS[0]: 5}


@jumping
async def test_to_have_nothing_to_catch_up_with_is_a_checkpoint() -> None:
    async with reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        with assert_checkpoints():
            await app.consumer.polling.catch_up()


# Its end


@jumping
async def test_who_waits_for_stopped_flow_is_let_go_by_a_kill() -> None:
    async with trio.open_nursery() as nursery, reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        nursery.start_soon(app.consumer.wait_for_stopped_flow)
        await wait_all_tasks_blocked()
        await app.kill()


@jumping
async def test_restarted_by_itself_it_goes_on_where_it_was() -> None:
    broker = broker_with(ORDERS[0], records=3)
    async with app_on(broker, commit_interval=1e6) as app:
        messages = app.topic("orders").noack()
        await take(messages, 3)
        await app.consumer.fetcher.restart()
        write(broker, ORDERS[0], 2)
        assert [message.offset for message in await take(messages, 2)] == [3, 4]
        await app.consumer.seek(ORDERS[0], 1)
        assert [message.offset for message in await take(messages, 3)] == [1, 2, 3]
        await app.consumer.fetcher.restart()
        assert app.consumer.fetcher.tree().children  # it lives until it is stopped again
