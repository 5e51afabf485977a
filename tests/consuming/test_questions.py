"""Questions about offsets and topics: who may ask, when, and what an answer waits for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, nothing_comes, take, write
from tests.lanes import BOTH, NEVER, Place
from tests.nurseries.clock import jumping
from tests.scripted import fails, hangs, hold, replace, restore
from transport import (
    TP,
    App,
    AppClosed,
    BrokerUnavailable,
    MemoryBroker,
    NotAssigned,
    OffsetAndTimestamp,
    RebalanceInProgress,
    UnknownTopic,
)

ORDERS = [TP("orders", number) for number in range(3)]
ONE = TP("orders", 0)
NOON = 1_700_000_000.0  # seconds since 1970

QUESTIONS: dict[str, Callable[[App], Awaitable[object]]] = {
    "committed": lambda app: app.consumer.committed(ONE),
    "committed_metadata": lambda app: app.consumer.committed_metadata(ONE),
    "beginning_offsets": lambda app: app.consumer.beginning_offsets([ONE]),
    "end_offsets": lambda app: app.consumer.end_offsets([ONE]),
    "offsets_for_times": lambda app: app.consumer.offsets_for_times({ONE: NOON}),
    "topics": lambda app: app.consumer.topics(),
    "partitions": lambda app: app.consumer.partitions("orders"),
}
# The calls of the client that the questions make.
CALL_OF = {name: "committed_texts" if name == "committed_metadata" else name for name in QUESTIONS}
each_question = pytest.mark.parametrize("name", QUESTIONS)


# Answers, on both brokers


@pytest.mark.parametrize("lane", BOTH)
async def test_a_program_that_only_asks_is_no_member_of_its_group(lane: str, place: Place) -> None:
    async with place.opened(2, b"1", b"2", b"3") as app:
        first, second = place.tps(2)
        assert place.name in await app.consumer.topics()
        assert await app.consumer.partitions(place.name) == {first, second}
        assert await app.consumer.beginning_offsets([first, second]) == {first: 0, second: 0}
        assert await app.consumer.end_offsets([first, second]) == {first: 3, second: 0}
        assert await app.consumer.committed(first) is None
        assert await app.consumer.committed([second, first]) == {second: None, first: None}
        assert await app.consumer.committed_metadata(first) is None
        record = (await app.consumer.offsets_for_times({first: 0.0, second: 0.0}))[first]
        assert record is not None
        assert record.offset == 0
        with pytest.raises(UnknownTopic, match=f"{place.name}-2"):
            await app.consumer.end_offsets([TP(place.name, 2)])
        assert app.consumer.client.group_metadata().generation_id < 0
        assert not app.consumer.assignment


@pytest.mark.parametrize("lane", BOTH)
async def test_a_program_can_read_after_it_has_asked(lane: str, place: Place) -> None:
    async with place.opened(1, b"1", b"2") as app:
        (tp,) = place.tps(1)
        assert await app.consumer.end_offsets([tp]) == {tp: 2}
        for message in await take(app.topic(place.name).noack(), 2):
            message.ack()
        assert await app.consumer.commit()
        assert await app.consumer.committed(tp) == 2
        assert await app.consumer.position(tp) == 2


@pytest.mark.parametrize("lane", BOTH)
async def test_hooks_may_ask_and_seek(lane: str, place: Place) -> None:
    """The questions are made while the rebalance waits for the hook."""
    asked: list[dict[TP, int]] = []
    revoked_all = trio.Event()

    class Asking(App):
        async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
            if not assigned:
                return
            consumer = self.consumer
            with pytest.raises(RebalanceInProgress):
                await consumer.position(min(assigned))
            await consumer.committed(assigned)
            await consumer.beginning_offsets(assigned)
            await consumer.offsets_for_times(dict.fromkeys(assigned, 0.0))
            await consumer.topics()
            await consumer.partitions(place.name)
            asked.append(await consumer.seek_to_end(*assigned))
            assert await consumer.position(min(assigned)) == 3

        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            if revoked:
                asked.append(await self.consumer.end_offsets(revoked))
                assert await self.consumer.position(min(revoked)) == 4
                revoked_all.set()

    (tp,) = await place.create(1, b"1", b"2", b"3")
    async with place.app(Asking, commit_interval=NEVER) as app:
        orders = app.topic(place.name).noack()
        with trio.move_on_after(place.a_while):
            await anext(orders)
        await app.producer.send(place.name, None, b"4", 0)
        message = await anext(orders)
        assert (message.value, message.ack()) == (b"4", True)
        app.conductor.clear()
        await revoked_all.wait()
    assert asked == [{tp: 3}, {tp: 4}]


@pytest.mark.parametrize("lane", BOTH)
async def test_metadata_is_committed_with_its_offset(lane: str, place: Place) -> None:
    async with place.opened(2, b"1", b"2", b"3") as app:
        first, second = place.tps(2)
        orders = app.topic(place.name).noack()
        (await anext(orders)).ack()
        assert await app.consumer.commit(first, metadata="one")
        assert await app.consumer.committed_metadata([first, second]) == {
            first: "one",
            second: None,
        }
        assert not await app.consumer.commit(first, metadata="again"), "no offset moved"
        assert await app.consumer.committed_metadata(first) == "again"
        (await anext(orders)).ack()
        assert await app.consumer.commit()
        assert await app.consumer.committed_metadata(first) is None
        assert await app.consumer.committed(first) == 2


@pytest.mark.parametrize("transactions", ["partition", "member"])
@pytest.mark.parametrize("lane", BOTH)
async def test_metadata_is_committed_in_transactions(
    lane: str, place: Place, transactions: str
) -> None:
    async with place.opened(1, b"1", b"2", transactions=transactions) as app:
        (tp,) = place.tps(1)
        orders = app.topic(place.name)
        async for message in orders.noack():
            message.ack()
            assert await app.consumer.commit(tp, metadata=f"after {message.offset}")
            assert await app.consumer.committed(tp) == message.offset + 1
            assert await app.consumer.committed_metadata(tp) == f"after {message.offset}"
            if message.offset == 1:
                break
        assert not await app.consumer.commit(metadata="at the end")
        assert await app.consumer.committed_metadata(tp) == "at the end"


# When a question may be made


@each_question
@jumping
async def test_a_question_is_a_checkpoint_and_may_be_cancelled(name: str) -> None:
    async with app_on(broker_with(*ORDERS)) as app:
        for _ in range(2):  # the first question opens the client
            with assert_checkpoints():
                await QUESTIONS[name](app)
        with trio.CancelScope() as scope:
            scope.cancel()
            await QUESTIONS[name](app)
        assert scope.cancelled_caught
        await QUESTIONS[name](app)


@each_question
@jumping
async def test_a_question_outside_of_the_apps_block_is_refused(name: str) -> None:
    app = app_on(broker_with(*ORDERS))
    with pytest.raises(AppClosed):
        await QUESTIONS[name](app)
    async with app:
        pass
    with pytest.raises(AppClosed):
        await QUESTIONS[name](app)


@each_question
@jumping
async def test_a_question_after_the_end_of_the_consumer_is_refused(name: str) -> None:
    async with app_on(broker_with(*ORDERS)) as app:
        app.consumer.close()
        await app.consumer.ended.wait()
        with pytest.raises(AppClosed):
            await QUESTIONS[name](app)
    async with app_on(broker_with(*ORDERS)) as app:
        await app.kill()
        with pytest.raises(AppClosed):
            await QUESTIONS[name](app)


@jumping
async def test_a_question_after_a_restart_is_answered_by_the_new_client() -> None:
    async with app_on(broker_with(*ORDERS, records=2)) as app:
        for _ in range(2):
            assert await app.consumer.end_offsets([ONE]) == {ONE: 2}
            await app.consumer.restart()
            assert (await anext(app.topic("orders").noack())).offset == 0
            await app.consumer.restart()


# Brokers that do not answer


@each_question
@jumping
async def test_a_question_without_an_answer_ends_at_the_request_timeout(name: str) -> None:
    async with app_on(broker_with(*ORDERS), request_timeout=4.0) as app:
        await QUESTIONS[name](app)
        replace(app, CALL_OF[name], hangs)
        began = trio.current_time()
        with pytest.raises(BrokerUnavailable, match="within 4 s"):
            await QUESTIONS[name](app)
        assert trio.current_time() == pytest.approx(began + 6.0)  # 2 s for the client's own error
        restore(app, CALL_OF[name])
        await QUESTIONS[name](app)


@jumping
async def test_a_client_that_cannot_connect_fails_the_question_and_not_the_app() -> None:
    async with app_on(broker_with(*ORDERS, records=1)) as app:
        replace(app, "open", fails(BrokerUnavailable("127.0.0.1:1")))
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for name in "topics", "committed":
                    nursery.start_soon(cannot_ask, app, name)
        restore(app, "open")
        assert await app.consumer.end_offsets([ONE]) == {ONE: 1}
        assert (await anext(app.topic("orders").noack())).offset == 0


async def cannot_ask(app: App, name: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        await QUESTIONS[name](app)


@jumping
async def test_a_client_that_cannot_connect_ends_an_app_that_reads() -> None:
    with pytest.RaisesGroup(BrokerUnavailable, flatten_subgroups=True):
        async with app_on(broker_with(*ORDERS)) as app, trio.open_nursery() as nursery:
            may_open = hold(app, "open")
            replace(app, "open", fails_after(may_open))
            nursery.start_soon(cannot_ask, app, "topics")
            await wait_all_tasks_blocked()
            app.topic("orders").listen()
            await wait_all_tasks_blocked()
            may_open.set()


def fails_after(event: trio.Event) -> Callable[..., Awaitable[None]]:
    async def fail(*_: object) -> None:
        await event.wait()
        raise BrokerUnavailable("127.0.0.1:1")

    return fail


@pytest.mark.parametrize("call", ["open", "end_offsets"])
@pytest.mark.parametrize("end", ["block", "close", "kill", "restart"])
@jumping
async def test_a_waiting_question_ends_with_the_consumer(call: str, end: str) -> None:
    ended = trio.Event()

    async def ask() -> None:
        with pytest.raises(AppClosed):
            await app.consumer.end_offsets([ONE])
        ended.set()

    async with trio.open_nursery() as outside:
        async with app_on(broker_with(*ORDERS)) as app:
            replace(app, call, hangs)
            outside.start_soon(ask)
            await wait_all_tasks_blocked()
            began = trio.current_time()
            match end:
                case "close":
                    app.consumer.close()
                    await app.consumer.ended.wait()
                case "kill":
                    await app.kill()
                case "restart":
                    restore(app, call)
                    await app.consumer.restart()
            if end != "block":
                await ended.wait()
        assert trio.current_time() == began


@jumping
async def test_a_cancelled_first_question_leaves_the_client_to_the_next_one() -> None:
    async with app_on(broker_with(*ORDERS, records=1)) as app:
        may_open = hold(app, "open")
        with trio.move_on_after(1.0):
            await app.consumer.topics()
        may_open.set()
        assert await app.consumer.end_offsets([ONE]) == {ONE: 1}


# Positions


@contextlib.asynccontextmanager
async def reading(broker: MemoryBroker, **settings: object) -> AsyncIterator[App]:
    async with app_on(broker, commit_interval=NEVER, **settings) as app:
        app.topic("orders").listen()
        await wait_all_tasks_blocked()
        yield app


@jumping
async def test_position_is_the_offset_of_the_next_message() -> None:
    async with app_on(broker_with(ONE, records=5), commit_interval=NEVER) as app:
        orders = app.topic("orders").noack()
        messages = [await anext(orders)]
        assert await app.consumer.position(ONE) == 1
        messages += await take(orders, 3)
        assert await app.consumer.position(ONE) == 4
        messages[0].ack()
        assert await app.consumer.position(ONE) == 4
        (await anext(orders)).ack()
        assert await app.consumer.position(ONE) == 5
        await app.consumer.seek(ONE, 2)
        assert await app.consumer.position(ONE) == 2
        with assert_checkpoints():
            await app.consumer.position(ONE)


@jumping
async def test_position_is_that_of_the_topic_object_that_is_behind() -> None:
    async with app_on(broker_with(ONE, records=5)) as app:
        one, other = app.topic("orders").noack(), app.topic("orders").noack()
        await take(one, 4)
        await take(other, 2)
        assert await app.consumer.position(ONE) == 2


@jumping
async def test_position_of_a_partition_without_messages_is_its_start() -> None:
    broker = broker_with(*ORDERS)
    write(broker, ORDERS[0], 7)
    broker.group("group").take({ORDERS[0]: 7, ORDERS[1]: 0})
    async with reading(broker) as app:
        assert [await app.consumer.position(tp) for tp in ORDERS] == [7, 0, 0]


@jumping
async def test_position_of_a_partition_that_is_not_assigned_is_refused() -> None:
    async with app_on(broker_with(*ORDERS)) as app:
        with pytest.raises(NotAssigned, match="orders-0"):
            await app.consumer.position(ONE)
    with pytest.raises(AppClosed):
        await app.consumer.position(ONE)


@jumping
async def test_position_waits_for_the_start_of_a_partition() -> None:
    broker = broker_with(ONE)
    async with app_on(broker, request_timeout=5.0, commit_interval=NEVER) as app:
        app.topic("orders").listen()
        await wait_all_tasks_blocked()
        await forget_position(app)
        with pytest.raises(BrokerUnavailable, match="the position of orders-0 within 5 s"):
            await app.consumer.position(ONE)
        found: list[int] = []

        async def ask() -> None:
            found.append(await app.consumer.position(ONE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            assert found == []
            write(broker, ONE)
        assert found == [0]


async def forget_position(app: App) -> None:
    """Begin an epoch whose position only the broker knows, as after an assignment."""

    async def unknown(*_: object) -> dict[TP, int]:
        await trio.lowlevel.checkpoint()
        return {}

    replace(app, "positions", unknown)
    app.consumer.assignment[ONE].position = None


@jumping
async def test_position_of_a_named_start_is_that_offset() -> None:
    broker = broker_with(ONE)
    write(broker, ONE, 7)
    broker.group("group").take({ONE: 2})
    async with app_on(broker, partitions={ONE: 5}) as app:
        app.topic("orders").listen()
        app.consumer.stop_flow()
        app.consumer.pause_partitions([ONE])
        await wait_all_tasks_blocked()
        assert await app.consumer.position(ONE) == 5


# Seeks


@jumping
async def test_seek_to_the_beginning_begins_a_new_epoch_at_the_first_offset() -> None:
    broker = broker_with(*ORDERS, records=4)
    broker.delete_records(ORDERS[0], 2)
    async with app_on(broker, commit_interval=NEVER) as app:
        orders = app.topic("orders").noack()
        messages = await take(orders, 10)
        assert await app.consumer.seek_to_beginning(ORDERS[0]) == {ORDERS[0]: 2}
        stale = {message.tp for message in messages if not message.ack()}
        assert stale == {ORDERS[0]}
        assert [message.offset for message in await take(orders, 2)] == [2, 3]
        assert await app.consumer.seek_to_beginning() == {
            ORDERS[0]: 2,
            ORDERS[1]: 0,
            ORDERS[2]: 0,
        }


@jumping
async def test_seek_to_the_end_delivers_only_later_messages() -> None:
    broker = broker_with(*ORDERS, records=4)
    async with app_on(broker, commit_interval=NEVER) as app:
        orders = app.topic("orders").noack()
        await anext(orders)
        assert await app.consumer.seek_to_end() == dict.fromkeys(ORDERS, 4)
        assert await nothing_comes(orders)
        write(broker, ORDERS[1])
        assert (await anext(orders)).offset == 4
        await app.consumer.commit()
    assert committed(broker) == {ORDERS[0]: 4, ORDERS[1]: 4, ORDERS[2]: 4}


@jumping
async def test_seek_to_a_time_goes_to_the_first_message_since_then() -> None:
    broker = broker_with(*ORDERS)
    for tp, times in zip(ORDERS, ([0, 10, 20], [5, 15], []), strict=True):
        for seconds in times:
            broker.log(tp).append(None, b"", (), round((NOON + seconds) * 1000))
    async with reading(broker) as app:
        consumer = app.consumer
        assert await consumer.offsets_for_times(dict.fromkeys(ORDERS, NOON + 6)) == {
            ORDERS[0]: OffsetAndTimestamp(1, NOON + 10),
            ORDERS[1]: OffsetAndTimestamp(1, NOON + 15),
            ORDERS[2]: None,
        }
        assert await consumer.seek_to_time(NOON + 6) == dict(zip(ORDERS, [1, 1, 0], strict=True))
        assert await consumer.seek_to_time(NOON + 20) == dict(zip(ORDERS, [2, 2, 0], strict=True))
        assert await consumer.seek_to_time({ORDERS[0]: 0.0}) == {ORDERS[0]: 0}
        assert [await consumer.position(tp) for tp in ORDERS] == [0, 2, 0]


@pytest.mark.parametrize(
    "seek",
    [
        lambda app: app.consumer.seek_to_beginning(ONE, TP("other", 0)),
        lambda app: app.consumer.seek_to_end(ONE, TP("other", 0)),
        lambda app: app.consumer.seek_to_time({ONE: NOON, TP("other", 0): NOON}),
    ],
)
@jumping
async def test_no_partition_is_sought_if_one_is_not_assigned(
    seek: Callable[[App], Awaitable[object]],
) -> None:
    async with app_on(broker_with(*ORDERS, records=4)) as app:
        with pytest.raises(AppClosed, match="has not begun to read"):
            await seek(app)
        messages = await take(app.topic("orders").noack(), 12)
        with pytest.raises(NotAssigned, match="other-0"):
            await seek(app)
        assert all(message.ack() for message in messages)
    with pytest.raises(AppClosed):
        await seek(app)


@jumping
async def test_an_empty_assignment_seeks_nothing() -> None:
    broker = broker_with(ONE)
    async with app_on(broker) as app, app_on(broker) as other:
        app.topic("orders").listen()
        await wait_all_tasks_blocked()
        other.topic("orders").listen()
        await trio.sleep(1.0)
        idle = other if not other.consumer.assignment else app
        assert await idle.consumer.seek_to_beginning() == {}
        assert await idle.consumer.seek_to_time(NOON) == {}
