"""Every call that waits returns or raises when the app ends, even after its topic was discarded.

Each call waits in a task outside of the app's block, so that the block does not cancel it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, take
from tests.nurseries.clock import jumping
from tests.scripted import fails, hangs, replace
from transport import TP, App, AppClosed, BrokerUnavailable, DeliveryFailed, Fetched, Topic
from transport.drivers.base import Outgoing
from transport.drivers.memory import MemoryDriver
from transport.drivers.memory.consumer import MemoryConsumer
from transport.drivers.settings import ClientSettings

ORDERS = TP("orders", 0)

Wait = Callable[[App, Topic], Awaitable[object]]


async def iterate(app: App, topic: Topic) -> None:
    async for _ in topic:
        pass


async def iterate_noack(app: App, topic: Topic) -> None:
    async for _ in topic.noack():
        pass


async def iterate_batches(app: App, topic: Topic) -> None:
    async for _ in topic.batches():
        pass


async def iterate_partitions(app: App, topic: Topic) -> None:
    async for partition in app.topic("orders").partitions():
        async for _ in partition:
            pass


async def get_many(app: App, topic: Topic) -> None:
    async for _ in app.consumer.getmany(math.inf):
        pass


async def wait_for_subscriptions(app: App, topic: Topic) -> None:
    app.conductor.clear()
    with pytest.raises(AppClosed):
        await app.conductor.wait_for_subscriptions()


async def wait_for_stopped_flow(app: App, topic: Topic) -> None:
    await app.consumer.wait_for_stopped_flow()


async def wait_stopped(app: App, topic: Topic) -> None:
    await app.wait_stopped()


WAITS: list[Wait] = [
    iterate,
    iterate_noack,
    iterate_batches,
    iterate_partitions,
    get_many,
    wait_for_subscriptions,
    wait_for_stopped_flow,
    wait_stopped,
]

# Ways to end an app. Each is called within the app's block, which ends after the call.


async def stop(app: App) -> None:
    app.stop()


async def nothing(app: App) -> None:
    pass


async def close_the_consumer(app: App) -> None:
    app.consumer.close()
    await app.consumer.ended.wait()


async def kill(app: App) -> None:
    await app.kill()


async def stop_within_a_restart(app: App) -> None:
    """Stop the consumer after the old member has ended and before the new one has begun."""
    restart = app.consumer.on_restart

    async def stop_first() -> None:
        app.consumer.stop_soon()
        await restart()

    app.consumer.on_restart = stop_first  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="ended instead of restarting"):
        await app.consumer.restart()


ENDINGS = [stop, nothing, close_the_consumer, kill, stop_within_a_restart]


@pytest.mark.parametrize("discarded", ["never", "before", "while it waits"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("wait", WAITS)
@jumping
async def test_a_waiting_call_ends_with_the_app(
    wait: Wait, ending: Callable[[App], Awaitable[None]], discarded: str
) -> None:
    ended = False

    async def waiting(app: App, topic: Topic) -> None:
        nonlocal ended
        await wait(app, topic)
        ended = True

    async with trio.open_nursery() as outside:
        async with app_on(broker_with(ORDERS)) as app:
            topic = app.topic("orders")
            await take_none(topic)
            if discarded == "before":
                app.conductor.discard(topic)
            outside.start_soon(waiting, app, topic)
            await wait_all_tasks_blocked()
            if discarded == "while it waits":
                app.conductor.discard(topic)
                await wait_all_tasks_blocked()
            assert not ended
            await ending(app)
            if ending is not nothing:
                await wait_all_tasks_blocked()
                assert ended
        await wait_all_tasks_blocked()
        assert ended
        outside.cancel_scope.cancel()


@jumping
async def test_wait_stopped_returns_if_the_app_could_not_be_opened() -> None:
    app = app_on(broker_with(ORDERS))
    replace(app, "producer.open", fails(BrokerUnavailable("refused")))
    async with trio.open_nursery() as outside:
        outside.start_soon(app.wait_stopped)
        with pytest.raises(ExceptionGroup):
            await app.__aenter__()


async def take_none(topic: Topic) -> None:
    """Join the group, and take no message."""
    with trio.move_on_after(1.0):
        await anext(topic.noack())


@pytest.mark.parametrize("ending", [stop, close_the_consumer, kill, stop_within_a_restart])
@pytest.mark.parametrize("wait", [iterate, iterate_noack, iterate_batches, get_many])
@jumping
async def test_a_call_between_the_stop_and_the_end_ends_at_once(
    wait: Wait, ending: Callable[[App], Awaitable[None]]
) -> None:
    async with app_on(broker_with(ORDERS, records=1)) as app:
        discarded, topic, other = (app.topic("orders") for _ in range(3))
        await take_none(discarded)
        await take_none(topic)
        app.conductor.discard(discarded)
        reader = discarded.noack()
        app.conductor.discard(discarded)
        await ending(app)
        with trio.fail_after(1.0):
            assert [message async for message in reader] == []
            for each in (discarded, topic, other):
                await wait(app, each)


@jumping
async def test_an_iterator_ends_when_a_restart_fails() -> None:
    class OneClient(MemoryDriver):
        made = False

        def consumer(self, settings: ClientSettings) -> MemoryConsumer:
            if self.made:
                raise OSError("no other client can be made")
            self.made = True
            return super().consumer(settings)

    async def restart(outside: trio.Nursery) -> None:
        async with App("group", OneClient(broker=broker_with(ORDERS))) as app:
            topic = app.topic("orders")
            await take_none(topic)
            outside.start_soon(iterate, app, topic)
            await app.consumer.restart()

    async with trio.open_nursery() as outside:
        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            await restart(outside)


@jumping
async def test_iterators_go_on_through_a_restart_even_those_of_a_discarded_topic() -> None:
    async with app_on(broker_with(ORDERS, records=1)) as app, trio.open_nursery() as nursery:
        topic = app.topic("orders")
        await take(topic.noack(), 1)
        nursery.start_soon(iterate, app, topic)
        app.conductor.discard(topic)
        await app.consumer.restart()
        assert not topic.channel.ended
        app.conductor.add(topic)
        await app.consumer.commit()
        app.stop()


@pytest.mark.parametrize("was_active", [True, False])
@jumping
async def test_a_flow_call_during_a_restart_holds_after_it(was_active: bool) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        await take_none(app.topic("orders"))
        restart = app.consumer.on_restart

        async def turn() -> None:
            (app.consumer.stop_flow if was_active else app.consumer.resume_flow)()
            await restart()

        app.consumer.on_restart = turn  # type: ignore[method-assign]
        if not was_active:
            app.consumer.stop_flow()
        await app.consumer.restart()
        assert app.consumer.flow_active is not was_active


@pytest.mark.parametrize("has_joined", [True, False])
@pytest.mark.parametrize("ending", [kill, close_the_consumer])
@jumping
async def test_flow_is_not_resumed_after_the_end_of_the_consumer(
    ending: Callable[[App], Awaitable[None]], has_joined: bool
) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        if has_joined:
            await take_none(app.topic("orders"))
        await ending(app)
        app.consumer.resume_flow()
        assert not app.consumer.flow_active


@jumping
async def test_flow_is_not_resumed_after_the_end() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        await take_none(app.topic("orders"))
    app.consumer.resume_flow()
    await app.consumer.wait_for_stopped_flow()


# Calls that wait for the broker


async def slow(*_: object) -> dict[TP, Sequence[Fetched]]:
    await trio.sleep(1.0)
    return {}


@pytest.mark.parametrize("transactions", [None, "partition", "member"])
@jumping
async def test_a_commit_and_the_end_do_not_wait_for_a_connecting_client(
    transactions: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as outside:
        async with app_on(broker_with(ORDERS), transactions=transactions) as app:
            replace(app, "open", hangs)
            app.conductor.add(app.topic("orders"))
            await wait_all_tasks_blocked()
            assert not await app.consumer.commit()
            outside.start_soon(app.consumer.wait_empty)
            began = trio.current_time()
        assert trio.current_time() == began
    assert not caplog.records


@pytest.mark.parametrize("ending", [nothing, kill, close_the_consumer])
@jumping
async def test_a_call_that_waits_for_a_hanging_client_ends_with_the_app(
    ending: Callable[[App], Awaitable[None]],
) -> None:
    """The calls: a seek that was not begun, and a `wait_empty` for messages that are not acked."""
    ended: list[str] = []

    async def waiting(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with contextlib.suppress(AppClosed):
            await call()
        ended.append(name)

    async with trio.open_nursery() as outside:
        async with app_on(broker_with(ORDERS, records=2), commit_timeout=5.0) as app:
            messages = await take(app.topic("orders").noack(), 2)
            replace(app, "poll", slow)
            app.consumer.requests.note_change()
            await wait_all_tasks_blocked()
            outside.start_soon(waiting, "empty", app.consumer.wait_empty)
            outside.start_soon(waiting, "seek", lambda: app.consumer.seek(ORDERS, 1))
            await wait_all_tasks_blocked()
            await ending(app)
            del messages
        await trio.sleep(2.0)
        assert sorted(ended) == ["empty", "seek"]


@pytest.mark.parametrize("ending", [nothing, kill])
@jumping
async def test_a_call_that_waits_for_a_send_or_an_outcome_ends_with_the_app(
    ending: Callable[[App], Awaitable[None]],
) -> None:
    ended: list[str] = []

    async def send_on(_: object, messages: Sequence[Outgoing]) -> None:
        """Accept the messages, and never report an outcome."""

    async def waiting(
        name: str, call: Callable[[], Awaitable[object]], why: type[Exception] | None
    ) -> None:
        if why is None:
            await call()
        else:
            with pytest.raises(why):
                await call()
        ended.append(name)

    async with trio.open_nursery() as outside:
        async with app_on(broker_with(ORDERS), send_buffer_messages=2) as app:
            topic = app.topic("orders")
            await topic.send_and_wait(value=b"1")
            replace(app, "producer.send", send_on)
            outside.start_soon(
                waiting, "wait", lambda: topic.send_and_wait(value=b"2"), DeliveryFailed
            )
            delivery = await topic.send(value=b"3")
            outside.start_soon(waiting, "delivery", delivery.wait, DeliveryFailed)
            await wait_all_tasks_blocked()
            outside.start_soon(waiting, "room", lambda: topic.send(value=b"4"), AppClosed)
            soon = topic.send_soon(value=b"5")
            outside.start_soon(waiting, "soon", soon.wait, AppClosed)
            outside.start_soon(waiting, "flush", app.producer.flush, None)
            await wait_all_tasks_blocked()
            assert ended == []
            await ending(app)
        await wait_all_tasks_blocked()
        assert sorted(ended) == ["delivery", "flush", "room", "soon", "wait"]
