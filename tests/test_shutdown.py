"""The end of an app, by its last line, cancellation or an error: acked messages are committed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nurseries import Node
from tests.apps import A_WHILE, app_on, broker_with, committed, take, write
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.scripted import Function, fails, hangs, is_not_called, late, replace
from transport import (
    TP,
    App,
    AppClosed,
    ClientClosed,
    CommitUnknown,
    RebalanceInProgress,
    TransportError,
)

ORDERS = [TP("orders", number) for number in range(4)]


@jumping
async def test_acked_messages_are_committed_and_unacked_ones_are_redelivered() -> None:
    broker = broker_with(ORDERS[0], records=5)
    async with app_on(broker, commit_interval=NEVER) as app:
        for message in await take(app.topic("orders").noack(), 4):
            if message.offset < 3:
                message.ack()
    assert committed(broker) == {ORDERS[0]: 3}
    assert not broker.group("group").members
    async with app_on(broker) as app:
        left = await take(app.topic("orders").noack(), 2)
        assert [message.offset for message in left] == [3, 4]


@jumping
async def test_a_rebalance_until_the_end_makes_no_unknown_commit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The broker answered each try: nothing is committed, and the acked message is redelivered."""
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        (message,) = await take(app.topic("orders").noack(), 1)
        message.ack()
        replace(app, "commit", fails(RebalanceInProgress("for as long as the app lives")))
    assert committed(broker) == {}
    assert "the last commit was not made within" in caplog.text


@jumping
async def test_a_kill_during_the_last_commit_commits_nothing_and_raises_nothing() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        (message,) = await take(app.topic("orders").noack(), 1)
        message.ack()
        replace(app, "commit", late(1.0))
        app.consumer.close()
        await wait_all_tasks_blocked()
        await app.kill()
    assert committed(broker) == {}


@jumping
async def test_nothing_is_fetched_during_the_last_commit() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        (message,) = await take(app.topic("orders").noack(), 1)
        message.ack()
        await wait_all_tasks_blocked()
        waiting = []

        async def commit_late(commit: Function, *args: object) -> None:
            write(broker, ORDERS[0])
            await trio.sleep(1.0)
            waiting.append(app.consumer.assignment[ORDERS[0]].waiting)
            await commit(*args)

        replace(app, "commit", commit_late)
    assert waiting == [0]
    assert committed(broker) == {ORDERS[0]: 1}


@jumping
async def test_iterators_end_before_the_last_commit() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        (await anext(messages)).ack()
        replace(app, "commit", late(1.0))
        began = trio.current_time()
        app.consumer.close()
        assert [message async for message in messages] == []
        assert trio.current_time() == began
        assert not app.consumer.ended.is_set()
    assert committed(broker) == {ORDERS[0]: 1}


@jumping
async def test_a_break_leaves_the_current_message_unacked() -> None:
    broker = broker_with(ORDERS[0], records=5)
    async with app_on(broker) as app:
        async for message in app.topic("orders"):
            if message.offset == 2:
                break
    assert committed(broker) == {ORDERS[0]: 2}


@jumping
async def test_a_cancelled_app_commits_acked_messages() -> None:
    broker = broker_with(ORDERS[0], records=5)
    with trio.move_on_after(A_WHILE):
        async with app_on(broker, commit_interval=NEVER) as app:
            async for message in app.topic("orders"):
                if message.offset == 2:
                    await trio.sleep_forever()
    assert committed(broker) == {ORDERS[0]: 2}
    assert not broker.group("group").members


@jumping
async def test_an_iterator_that_is_cancelled_while_it_waits_has_acked_the_last_message() -> None:
    broker = broker_with(ORDERS[0], records=5)
    with trio.move_on_after(A_WHILE):
        async with app_on(broker, commit_interval=NEVER) as app:
            async for _ in app.topic("orders"):
                pass
    assert committed(broker) == {ORDERS[0]: 5}


@pytest.mark.parametrize("steps", range(0, 60, 3))
@jumping
async def test_an_app_that_is_cancelled_at_any_step_commits_acked_messages(steps: int) -> None:
    broker = broker_with(*ORDERS, records=5)
    done: dict[TP, int] = {}
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            async with app_on(broker, commit_interval=NEVER) as app:
                async for message in app.topic("orders"):
                    await trio.lowlevel.checkpoint()
                    done[message.tp] = message.offset + 1

        nursery.start_soon(work)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    for tp, offset in done.items():
        # The last message may not be acked yet. All before it are.
        assert offset - 1 <= committed(broker).get(tp, 0) <= offset
    assert not broker.group("group").members


@jumping
async def test_an_ack_after_the_end_does_nothing() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker) as app:
        message = await anext(app.topic("orders").noack())
    assert not message.ack()
    assert not message.acked
    assert app.consumer.assignment.tally.stale == 1
    assert not app.consumer.unacked


@jumping
async def test_stop_ends_the_iterators_after_their_current_messages() -> None:
    broker = broker_with(*ORDERS, records=5)
    handled = 0
    async with app_on(broker) as app, trio.open_nursery() as nursery:

        async def work() -> None:
            nonlocal handled
            async for _ in app.topic("orders"):
                await trio.sleep(1)
                handled += 1

        nursery.start_soon(work)
        nursery.start_soon(work)
        await trio.sleep(2.5)
        app.stop()
        start = trio.current_time()
    assert trio.current_time() - start <= 1
    assert handled == 6


@jumping
async def test_an_iterator_that_begins_after_the_stop_ends_at_once() -> None:
    broker = broker_with(ORDERS[0], records=5)
    async with app_on(broker) as app:
        app.stop()
        assert [message async for message in app.topic("orders")] == []


@jumping
async def test_the_end_does_not_wait_for_a_client_that_is_being_opened() -> None:
    closed = trio.Event()

    async def open(_: object) -> None:
        await closed.wait()
        raise ClientClosed("the client was closed")

    async def close(_: object, timeout: float) -> None:
        await trio.lowlevel.checkpoint()
        closed.set()

    app = app_on(broker_with(ORDERS[0]))
    replace(app, "open", open)
    replace(app, "close", close)
    async with app:
        app.topic("orders").noack()
        await wait_all_tasks_blocked()


@jumping
async def test_the_end_does_not_wait_for_the_drain_of_a_rebalance() -> None:
    broker = broker_with(*ORDERS, records=1)
    one, other = app_on(broker), app_on(broker)
    async with other:
        async with one:
            for message in await take(one.topic("orders").noack(), 4):
                if message.tp == ORDERS[0]:
                    message.ack()
            other.topic("orders").noack()
            await wait_all_tasks_blocked()
            assert one.consumer.rebalances.is_under_way
            start = trio.current_time()
        assert trio.current_time() - start < 1
        assert committed(broker)[ORDERS[0]] == 1
        await trio.sleep(1)
        assert set(other.consumer.assignment) == set(ORDERS)


class SlowOnRevoked(App):
    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        await trio.sleep(100.0)


@jumping
async def test_the_end_does_not_wait_for_a_hook_of_a_rebalance() -> None:
    broker = broker_with(*ORDERS, records=1)
    one, other = app_on(broker, kind=SlowOnRevoked), app_on(broker)
    async with other:
        async with one:
            for message in await take(one.topic("orders").noack(), 4):
                message.ack()
            other.topic("orders").noack()
            await trio.sleep(5.0)
            assert one.consumer.rebalances.is_under_way
            start = trio.current_time()
        assert trio.current_time() - start < 1


@pytest.mark.parametrize("is_killed", [True, False])
@jumping
async def test_a_client_that_was_killed_or_never_opened_is_not_closed(is_killed: bool) -> None:
    async with app_on(broker_with(ORDERS[0], records=1)) as app:
        replace(app, "close", is_not_called("it may leave the group, and wait for the answer"))
        if is_killed:
            await anext(app.topic("orders").noack())
            await app.kill()


@jumping
async def test_a_producer_that_does_not_close_in_time_is_an_error_of_the_app() -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(TransportError, match="abandoned: a thread"), flatten_subgroups=True
    ):
        async with app_on(broker_with(ORDERS[0])) as app:
            replace(app, "producer.close", fails(TransportError("abandoned: a thread")))


@jumping
async def test_after_a_kill_nothing_is_delivered_or_acked_no_hook_runs_and_no_group_is_joined() -> (
    None
):
    told: list[frozenset[TP]] = []

    class Told(App):
        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            told.append(revoked)

    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker, kind=Told) as one, app_on(broker) as other, app_on(broker) as idle:
        held = await take(one.topic("orders").noack(), 4)
        other.topic("orders").noack()
        await wait_all_tasks_blocked()
        assert one.consumer.rebalances.is_under_way
        told.clear()
        replace(idle, "open", is_not_called("the app was killed before"))
        replace(one, "kill", late(1.0))  # as a client does that joins threads
        for app in (one, idle):
            await app.kill()
            assert not app.consumer.flow_active
            assert [message async for message in app.topic("orders").noack()] == []
        assert one.consumer.unacked == set()
        assert not any(message.ack() for message in held)
        await wait_all_tasks_blocked()
    assert told == []


@jumping
async def test_calls_after_the_end_raise_app_closed() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker) as app:
        await anext(app.topic("orders").noack())
    orders = app.topic("orders")
    with pytest.raises(AppClosed):
        await orders.send(value=b"late")
    with pytest.raises(AppClosed):
        orders.noack()
    with pytest.raises(AppClosed):
        await app.consumer.seek(ORDERS[0], 0)
    assert not await app.consumer.commit()


@jumping
async def test_an_app_with_a_stuck_handler_ends_within_its_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(ORDERS[0], records=3)
    start = trio.current_time()
    with trio.move_on_after(5):
        async with app_on(broker, grace=10.0) as app:
            messages = await take(app.topic("orders").noack(), 2)
            messages[0].ack()
            await trio.sleep_forever()  # messages[1] is never acked
    assert trio.current_time() - start < 5 + 10
    assert committed(broker) == {ORDERS[0]: 1}
    assert caplog.messages == [
        "group: 1 delivered message was not acked at shutdown and will be redelivered: orders-0"
        " from offset 1"
    ]


@jumping
async def test_each_step_of_the_end_has_its_share_of_the_grace() -> None:
    """A step that gets no answer takes no time from the steps after it."""
    steps: dict[str, float] = {}
    with pytest.RaisesGroup(CommitUnknown, flatten_subgroups=True):
        broker = broker_with(ORDERS[0], records=1)
        async with app_on(broker, grace=10.0, commit_timeout=30.0, commit_interval=NEVER) as app:
            (await anext(app.topic("orders").noack())).ack()

            async def stop_for_ever() -> None:
                steps["the fetcher stops"] = trio.current_time() - began
                await trio.sleep_forever()

            async def close_in_time(close: Function, timeout: float) -> None:
                steps["the client closes"] = trio.current_time() - began
                steps["its timeout"] = timeout
                await close(timeout)

            replace(app, "commit", hangs)
            replace(app, "close", close_in_time)
            app.consumer.fetcher.stop = stop_for_ever  # type: ignore[method-assign]
            began = trio.current_time()
    assert steps == pytest.approx(
        {"the fetcher stops": 4.0, "the client closes": 5.0, "its timeout": 2.0}
    )


# The tree


def all_nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from all_nodes(child)


def names(tree: Node) -> list[str]:
    return [node.name for node in all_nodes(tree)]


@jumping
async def test_the_tree_shows_the_tasks_of_a_running_app() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker, "shop") as app:
        assert names(app.tree()) == [
            "App(shop)",
            "Producer",
            "sender",
            "buffer",
            "deadlines",
            "Conductor",
            "Consumer",
            "subscription",
        ]
        await anext(app.topic("orders").noack())
        await wait_all_tasks_blocked()
        assert set(names(app.tree())) == {
            "App(shop)",
            "Producer",
            "sender",
            "buffer",
            "deadlines",
            "Conductor",
            "Consumer",
            "rebalance",
            "committer",
            "starts",
            "commit ticker",
            "stall detector",
            "slow handlers",
            "patterns",
            "Fetcher",
            "poll",
        }
        (poll,) = [node for node in all_nodes(app.tree()) if node.name == "poll"]
        assert "MemoryConsumer.poll" in poll.waits_in  # the call that the task waits in
    assert app.tree().state.value == "ended"
    assert app.tree().children == ()


@jumping
async def test_the_exception_group_is_named_after_the_app() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with App("orders"):
            raise ValueError("a bug")
    assert raised.value.message == "App(orders)"


@jumping
async def test_the_exception_group_of_a_part_is_named_after_the_part() -> None:
    class Failing(App):
        async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
            raise ValueError("a bug")

    with pytest.raises(ExceptionGroup) as raised:
        async with app_on(broker_with(ORDERS[0]), kind=Failing) as app:
            await anext(app.topic("orders").noack())
    names: list[str] = []
    error: BaseException = raised.value
    while isinstance(error, ExceptionGroup):
        names.append(error.message)
        error = error.exceptions[0]
    assert names[0] == "App(group)"
    assert "Consumer" in names
    assert not any("nursery" in name for name in names[:3])
