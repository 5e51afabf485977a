"""Tests of asyncio tasks that send, take and ack messages without a turn of the guest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import pytest
import trio
import trio.testing

from tests.lanes import NEVER
from tests.producing.held_back import HeldBack, app_with
from transport import (
    App,
    AppClosed,
    DeliveryFailed,
    MessageTooLarge,
    NotInTransaction,
    RecordMetadata,
)
from transport.anyio import AioApp, AioDelivery, AioTopic, open_app
from transport.drivers.memory import MemoryBroker

pytestmark = pytest.mark.anyio

T = TypeVar("T")
PATIENCE = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def without_a_turn(call: Coroutine[Any, Any, T]) -> T:
    """Run a call to its end without a turn of the loop, and so without a turn of the guest."""
    try:
        for _ in range(2):
            assert call.send(None) is None, "the call waits"  # None: it gives way
    except StopIteration as end:
        return end.value
    call.close()
    pytest.fail("the call gave way twice")


async def all_wait(app: AioApp) -> None:
    """Wait until all tasks of asyncio and of trio are blocked."""
    for _ in range(3):
        await app._guest.call(trio.testing.wait_all_tasks_blocked)
        await anyio.wait_all_tasks_blocked()


@asynccontextmanager
async def held_app(
    client: HeldBack, topic: str = "orders", **settings: Any
) -> AsyncIterator[tuple[AioApp, AioTopic]]:
    """Open an app whose client is `client`; the topic's partitions are known."""
    async with open_app(app_with(client, **settings)) as app:
        await app._guest.call(app.native.producer.ask_partitions, topic)
        with anyio.fail_after(PATIENCE):
            yield app, app.topic(topic)


async def outcome_of(call: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a call, or the error that it raises."""
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - the test checks it
        return error


# Without a turn of the guest


async def test_a_message_is_accepted_without_a_turn_of_the_guest() -> None:
    async with held_app(client := HeldBack()) as (app, orders):
        one = without_a_turn(orders.send(value=b"1"))
        two = without_a_turn(orders.send(key=b"k", value=b"2"))
        many = without_a_turn(orders.send_many([(None, b"3"), (None, b"4")]))
        assert app.native.producer.in_flight == 4
        assert client.taken == [], "the guest had no turn"
        await all_wait(app)
        assert client.values == [b"1", b"2", b"3", b"4"]
        client.end(4)
        assert without_a_turn(one.wait()).offset == 7
        assert without_a_turn(two.wait()).offset == 7
        assert [each.offset for each in without_a_turn(many.wait())] == [7, 7]


async def test_the_guest_is_woken_once_for_many_messages() -> None:
    handed_over: list[int] = []

    class Counting(HeldBack):
        async def send(self, batch: Sequence[Any]) -> None:
            handed_over.append(len(batch))
            await super().send(batch)

    async with held_app(client := Counting()) as (app, orders):
        for _ in range(100):
            without_a_turn(orders.send(value=b"v"))
        without_a_turn(orders.send_many([(None, b"v")] * 100))
        await all_wait(app)
        assert handed_over == [200]
        client.end(200)


async def test_fetched_messages_are_taken_and_acked_without_a_turn_of_the_guest() -> None:
    broker = MemoryBroker()
    broker.create_topic("orders", 1)
    async with open_app(App("app", broker)) as app:
        orders = app.topic("orders")
        await (await orders.send_many([(None, b"%d" % number) for number in range(10)]))
        messages = orders.noack()
        with anyio.fail_after(PATIENCE):
            first = await anext(messages)
        await all_wait(app)
        taken = [first, *(without_a_turn(messages.__anext__()) for _ in range(9))]
        assert [message.value for message in taken] == [b"%d" % number for number in range(10)]
        assert all(message.ack() for message in taken)
        assert await app.consumer.commit()
        assert set(broker.committed("app").values()) == {10}


async def test_the_guest_asks_for_the_partitions_of_an_unknown_topic() -> None:
    async with open_app(app_with(client := HeldBack())) as app:
        orders = app.topic("orders")
        with pytest.raises(ValueError, match=r"'orders' has 4 partitions, .* no partition 7"):
            await orders.send(value=b"v", partition=7)
        assert client.asked == 1
        await (app.topic("others")).send_many([(None, b"v")] * 3)
        assert client.asked == 2
        with pytest.raises(ValueError, match="message 1 of send_many: 'more' has 4 partitions"):
            await app.topic("more").send_many([{"value": b"v"}, {"value": b"v", "partition": 4}])
        await all_wait(app)
        assert client.values == [b"v"] * 3
        client.end(3)


async def test_a_wrong_message_raises_at_once_and_is_not_accepted() -> None:
    async with held_app(HeldBack(), max_request_size=100) as (app, orders):
        with pytest.raises(TypeError):
            without_a_turn(orders.send(value="a str"))
        with pytest.raises(ValueError, match="no partition 9"):
            without_a_turn(orders.send(value=b"v", partition=9))
        with pytest.raises(MessageTooLarge):
            without_a_turn(orders.send(value=b"v" * 200))
        with pytest.raises(MessageTooLarge, match="message 1 of send_many"):
            without_a_turn(orders.send_many([(None, b"v"), (None, b"v" * 200)]))
        assert len(without_a_turn(orders.send_many([]))) == 0
        assert app.native.producer.in_flight == 0


async def test_a_send_in_another_thread_raises_runtime_error() -> None:
    errors: list[Exception] = []
    async with held_app(HeldBack()) as (app, orders):

        def send() -> None:
            try:
                asyncio.run(orders.send(value=b"v"))
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert app.native.producer.in_flight == 0
    assert "another thread" in str(errors)


# Giving way


async def test_a_task_that_sends_in_a_loop_gives_way_and_can_be_cancelled() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with open_app(App("app", MemoryBroker())) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        with anyio.move_on_after(0.2) as scope:
            while True:
                await app.topic("orders").send(value=b"v")
        assert scope.cancelled_caught
        assert turns > 5
        tasks.cancel_scope.cancel()


def gives_way(call: Coroutine[Any, Any, object]) -> bool:
    """Run a call to its end, and return whether it let other tasks run."""
    try:
        call.send(None)
    except StopIteration:
        return False
    with pytest.raises(StopIteration):
        call.send(None)
    return True


@pytest.mark.parametrize(
    ("seconds", "messages", "expected"),
    [
        pytest.param(60.0, 600, [256, 512], id="every_nth"),
        pytest.param(0.0, 5, [3, 4], id="a_message_has_waited"),
    ],
)
async def test_a_loop_of_sends_gives_way_as_on_trio(
    seconds: float, messages: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every Nth message, or once the oldest queued message has waited for so many seconds."""
    monkeypatch.setattr("transport.producing.producer._TURN_TIME", seconds)
    async with open_app(App("app", MemoryBroker())) as app:
        orders = app.topic("orders")
        await orders.send_and_wait(value=b"0")
        ways = [gives_way(orders.send(value=b"v")) for _ in range(1, messages)]
        assert [number for number, way in enumerate(ways, 1) if way] == expected


async def test_a_send_that_is_cancelled_while_it_gives_way_accepts_nothing() -> None:
    async with open_app(App("app", MemoryBroker())) as app:
        orders = app.topic("orders")
        await orders.send_and_wait(value=b"0")
        app._guest.gives_way = True
        call = orders.send(value=b"v")
        call.send(None)
        with pytest.raises(asyncio.CancelledError):
            call.throw(asyncio.CancelledError())
        assert app.native.producer.in_flight == 0


async def test_a_loop_of_refused_sends_gives_way() -> None:
    async with open_app(App("app", MemoryBroker())) as app:
        orders = app.topic("orders")
        await orders.send_and_wait(value=b"0")
        with pytest.raises(ValueError, match="no partition 99"):
            await orders.send(value=b"v", partition=99)
        assert gives_way(orders.send(value=b"v"))


# Room


async def test_messages_are_accepted_in_the_order_of_their_sends() -> None:
    async with held_app(client := HeldBack(), send_buffer_messages=5) as (app, orders):
        messages = [b"%d" % number for number in range(20)]
        async with anyio.create_task_group() as tasks:
            for value in messages:
                tasks.start_soon(lambda v: orders.send(value=v), value)
                await all_wait(app)
            assert client.values == messages[:5]
            seen: list[bytes | None] = []
            for freed in (1, 3, 5, 2, 5, 4):
                seen += client.values[:freed]
                client.end(freed)
                await all_wait(app)
        assert seen == messages


async def test_a_sender_does_not_overtake_waiting_senders_of_trio_or_asyncio() -> None:
    """A task of trio waits, then a task of asyncio, then a task whose message would fit."""
    async with held_app(client := HeldBack(), send_buffer_bytes=1000) as (app, orders):
        native = orders.native
        await orders.send(value=b"L" * 600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: app._guest.call(lambda: native.send(value=b"T" * 600)))
            await all_wait(app)
            for value in (b"A" * 600, b"a"):
                tasks.start_soon(lambda v: orders.send(value=v), value)
                await all_wait(app)
            assert [value[:1] for value in client.values if value] == [b"L"]
            for first in (b"T", b"A"):
                client.end()
                await all_wait(app)
                assert [value[:1] for value in client.values if value][:1] == [first]
            assert client.values[1:] == [b"a"]
            client.end(2)


@pytest.mark.parametrize("when", ["before its turn", "just before its turn", "in its turn"])
async def test_a_cancelled_sender_keeps_no_room(when: str) -> None:
    async with held_app(client := HeldBack(), send_buffer_bytes=1000) as (app, orders):
        await orders.send(value=b"1" * 600)
        large = asyncio.create_task(orders.send(value=b"2" * 600))
        await all_wait(app)
        small = asyncio.create_task(orders.send(value=b"3"))
        await all_wait(app)
        assert not large.done()
        assert not small.done()
        match when:
            case "before its turn":
                large.cancel()
                await all_wait(app)
                assert small.done(), "its message fits"
                client.end()
            case "just before its turn":
                large.cancel()
                client.end()
            case "in its turn":
                client.end()
                large.cancel()
        await all_wait(app)
        assert large.cancelled()
        assert small.done()
        accepted = when == "in its turn"
        assert client.values == [b"2" * 600] * accepted + [b"3"]
        client.end(2)
        assert app.native.producer.in_flight == 0


async def test_messages_of_one_send_many_wait_together_and_accepted_ones_are_sent() -> None:
    async with held_app(client := HeldBack(), send_buffer_messages=3) as (app, orders):
        many = asyncio.create_task(orders.send_many([(None, b"%d" % n) for n in range(5)]))
        await all_wait(app)
        one = asyncio.create_task(orders.send(value=b"one"))
        await all_wait(app)
        assert client.values == [b"0", b"1", b"2"]
        client.end(2)
        await all_wait(app)
        assert client.values == [b"2", b"3", b"4"]
        assert len(many.result()) == 5
        assert not one.done()
        cut = asyncio.create_task(orders.send_many([(None, b"a"), (None, b"b"), (None, b"c")]))
        await all_wait(app)
        client.end(2)
        await all_wait(app)
        assert client.values == [b"4", b"one", b"a"]
        cut.cancel()
        await all_wait(app)
        client.end(3)
        await all_wait(app)
        assert client.taken == []
        assert app.native.producer.in_flight == 0


@pytest.mark.parametrize("kill", [False, True])
async def test_all_waiting_senders_get_app_closed_at_the_end(kill: bool) -> None:
    ends: list[Any] = []
    async with (
        anyio.create_task_group() as tasks,
        held_app(HeldBack(), send_buffer_messages=1, grace=1.0) as (app, orders),
    ):
        accepted = await orders.send(value=b"v")

        async def send() -> None:
            ends.append(await outcome_of(orders.send(value=b"v")))

        async def wait() -> None:
            ends.append(await outcome_of(accepted.wait()))

        for call in (wait, *[send] * 50):
            tasks.start_soon(call)
        await all_wait(app)
        assert ends == []
        if kill:
            await app.kill()
    assert sorted(type(each).__name__ for each in ends) == ["AppClosed"] * 50 + ["DeliveryFailed"]
    with pytest.raises(AppClosed):
        await orders.send(value=b"v")
    with pytest.raises(AppClosed):
        await orders.send_many([(None, b"v")])
    with pytest.raises(DeliveryFailed):
        await accepted


async def test_a_source_acked_while_its_sender_waits_sends_nothing() -> None:
    broker = MemoryBroker()
    settings: dict[str, Any] = {"transactions": "member", "commit_interval": NEVER}
    async with open_app(App("app", broker, send_buffer_messages=1, **settings)) as app:
        await app.topic("in").send_and_wait(value=b"v", source=None)
        messages = app.topic("in").noack()
        with anyio.fail_after(PATIENCE):
            message = await anext(messages)
        results = app.topic("out")
        await results.send_and_wait(value=b"0", source=message)
        first = without_a_turn(results.send(value=b"1", source=message))
        waiting = results.send(value=b"2", source=message)
        while (future := waiting.send(None)) is None:
            pass  # None: it gives way. A future: it waits for room.
        message.ack()
        await asyncio.wait([future])
        with pytest.raises(NotInTransaction):
            waiting.send(None)
        await first
        with pytest.raises(NotInTransaction):
            await results.send_many([(None, b"3")], source=message)
        await app.consumer.commit()


# Outcomes


async def test_any_number_of_tasks_await_a_delivery() -> None:
    async with held_app(client := HeldBack()) as (app, orders):
        delivery = await orders.send(value=b"v")
        tasks = [asyncio.create_task(delivery.wait()) for _ in range(50)]
        again = AioDelivery(delivery.native, app._guest)
        tasks += [asyncio.create_task(again.wait())]
        await all_wait(app)
        tasks[0].cancel()
        await all_wait(app)
        assert not tasks[1].done()
        client.end()
        assert [type(each) for each in await asyncio.gather(*tasks[1:])] == [RecordMetadata] * 50
        assert tasks[0].cancelled()
        assert await delivery == delivery.native.outcome


async def test_a_failure_of_send_soon_counts_as_seen_only_if_awaited() -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(DeliveryFailed, match="1 messages"), flatten_subgroups=True
    ):
        async with held_app(client := HeldBack()) as (app, orders):
            seen, unseen = (orders.send_soon(value=value) for value in (b"1", b"2"))
            waiting = [asyncio.create_task(outcome_of(each.wait())) for each in (seen, unseen)]
            await all_wait(app)
            waiting[1].cancel()
            await all_wait(app)
            client.end(2, DeliveryFailed("no"))
            assert isinstance(await waiting[0], DeliveryFailed)
            assert seen.native._waiting == []
            assert unseen.native._calls == []
            assert unseen.is_done


async def test_outcomes_of_many_deliveries_are_returned_once_all_are_known() -> None:
    async with held_app(client := HeldBack()) as (app, orders):
        many = await orders.send_many([(None, b"%d" % number) for number in range(4)])
        await all_wait(app)
        client.end(1)
        waiting = asyncio.create_task(many.outcomes())
        await all_wait(app)
        client.end(1, DeliveryFailed("no"))
        await all_wait(app)
        assert not waiting.done()
        client.end(2)
        kinds = [type(each) for each in await waiting]
        assert kinds == [RecordMetadata, DeliveryFailed, RecordMetadata, RecordMetadata]
        with pytest.raises(DeliveryFailed, match="no"):
            await many
        assert (await many[0]).offset == 7
        assert [each.native for each in many] == list(many.native)
        assert [each.native for each in many[1:3]] == many.native[1:3]
        assert len(many) == 4


@pytest.mark.parametrize("seen", ["awaited before", "awaited after", "all at once", "cancelled"])
async def test_a_failure_that_an_asyncio_task_has_seen_is_not_raised_at_the_end(
    seen: str,
) -> None:
    async def program() -> None:
        async with held_app(client := HeldBack()) as (app, orders):
            many = await orders.send_many([(None, b"v")])
            waiting = asyncio.create_task(outcome_of(many[0].wait()))
            await all_wait(app)
            if seen != "awaited before":
                waiting.cancel()
            await all_wait(app)
            client.end(1, DeliveryFailed("no"))
            if seen == "awaited before":
                assert isinstance(await waiting, DeliveryFailed)
            elif seen == "awaited after":
                assert isinstance(await outcome_of(many[0].wait()), DeliveryFailed)
            elif seen == "all at once":
                await many.outcomes()

    if seen == "cancelled":
        with pytest.RaisesGroup(DeliveryFailed, flatten_subgroups=True):
            await program()
    else:
        await program()


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    async with held_app(client := HeldBack()) as (app, orders):
        delivery = await orders.send(value=b"v")
        many = await orders.send_many([(None, b"v")] * 2)
        messages = app.topic("in").noack()
        for call in (delivery.wait, many.wait, messages.__anext__):
            with anyio.move_on_after(0.01) as scope:
                await call()
            assert scope.cancelled_caught
        assert app._guest._waits == set()
        assert not any(each._waiting or each._calls for each in [delivery.native, *many.native])
        assert app.native.conductor.channels()
        assert not any(channel._calls for channel in app.native.conductor.channels())
        await all_wait(app)
        client.end(3)


async def test_a_waiting_task_gets_app_closed_when_trio_crashes() -> None:
    """The closing app fails most waits before. The end of the trio run fails all others."""

    def crash() -> None:
        raise ZeroDivisionError

    told = asyncio.Event()

    async def wait(app: AioApp) -> None:
        with anyio.fail_after(PATIENCE, shield=True):
            error = await outcome_of(app._guest.wait(lambda answer: lambda: None))
        assert isinstance(error, AppClosed)
        told.set()

    with pytest.RaisesGroup(trio.TrioInternalError, flatten_subgroups=True, allow_unwrapped=True):
        async with held_app(HeldBack()) as (app, _), anyio.create_task_group() as tasks:
            tasks.start_soon(wait, app)
            await all_wait(app)
            app._guest.soon(crash)
            await asyncio.Event().wait()
    assert told.is_set()
