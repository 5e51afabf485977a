"""Tests of the producer: acceptance, deliveries, flush, bounds, closing and topics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with
from tests.nurseries.clock import jumping
from tests.nurseries.errors import leaves
from tests.producing.held_back import HeldBack, app_with
from tests.scripted import replace
from transport import (
    JSON,
    TP,
    App,
    AppClosed,
    BrokerUnavailable,
    DeliveryFailed,
    MessageTooLarge,
    RecordMetadata,
    UnknownTopic,
)
from transport.drivers.memory import MemoryBroker

ORDERS = TP("orders", 0)


# Arguments and partitions


@pytest.mark.parametrize(
    "headers",
    [
        {"h": "text"},
        {"h": bytearray(b"1")},
        {b"h": b"1"},
        {5: b"1"},
        [("h",)],
        ["ab"],
        "ab",
        5,
    ],
)
@jumping
async def test_headers_of_a_wrong_type_fail_only_their_message(headers: Any) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        orders = app.topic("orders")
        await orders.send(value=b"before")
        with pytest.raises(TypeError):
            await orders.send(value=b"bad", headers=headers)
        assert (await orders.send_and_wait(value=b"after")).offset == 1


@pytest.mark.parametrize("chosen", [4, -1])
@jumping
async def test_a_partitioner_that_chooses_a_missing_partition_raises_value_error(
    chosen: int,
) -> None:
    broker = broker_with(TP("orders", 3))
    error = f"the partitioner chose partition {chosen} for a key, but 'orders' has 4 partitions"
    async with app_on(broker, partitioner=lambda key, count: chosen if key == b"bad" else 2) as app:
        orders = app.topic("orders")
        first = await orders.send(key=b"good", value=b"v")
        with pytest.raises(ValueError, match=error):
            await orders.send(key=b"bad", value=b"v")
        fut = orders.send_soon(key=b"bad", value=b"v")
        with pytest.raises(ValueError, match=error):
            await fut
        with pytest.raises(ValueError, match=error):
            app.producer.key_partition("orders", b"bad")
        last = await orders.send_and_wait(key=b"good", value=b"v")
        assert ((await first).offset, last.offset) == (0, 1)


@jumping
async def test_a_partitioner_that_returns_no_int_raises_type_error() -> None:
    async with app_on(broker_with(ORDERS), partitioner=lambda key, count: "0") as app:
        with pytest.raises(TypeError):
            await app.topic("orders").send(key=b"k", value=b"v")


@jumping
async def test_ctrl_c_may_interrupt_a_partitioner() -> None:
    protected: list[bool] = []

    def partitioner(key: bytes, count: int) -> int:
        protected.append(trio.lowlevel.currently_ki_protected())
        return 0

    async with app_on(broker_with(ORDERS), partitioner=partitioner) as app:
        await app.topic("orders").send_soon(key=b"k", value=b"v")
        await app.topic("orders").send_soon(
            key=b"k", value=b"v"
        )  # the topic's partitions are known now
    assert protected == [False, False]


@jumping
async def test_a_given_partition_takes_precedence_over_the_key() -> None:
    broker = broker_with(TP("orders", 3))
    async with app_on(broker) as app:
        for partition in range(4):
            metadata = await app.topic("orders").send_and_wait(
                key=b"k", value=b"v", partition=partition
            )
            assert metadata.partition == partition


@jumping
async def test_sending_to_a_missing_partition_raises_value_error() -> None:
    async with app_on(broker_with(TP("orders", 3))) as app:
        with pytest.raises(ValueError, match=r"'orders' has 4 partitions, .* no partition 4"):
            await app.topic("orders").send(value=b"v", partition=4)


@jumping
async def test_the_number_of_partitions_is_asked_for_again_when_it_is_old() -> None:
    client = HeldBack()
    async with app_with(client, metadata_max_age=60.0) as app:
        orders = app.topic("orders")
        for _ in range(1000):
            await orders.send(key=b"k", value=b"v")
        assert client.asked == 1
        await trio.sleep(61)
        assert app.producer.key_partition("orders", b"k").topic == "orders"
        for asked in range(2, 5):
            await orders.send(key=b"k", value=b"v")
            assert client.asked == asked
            await trio.sleep(61)
        await wait_all_tasks_blocked()
        client.end(1003)


@jumping
async def test_messages_of_a_partition_are_written_in_the_order_of_their_sends() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        orders = app.topic("orders", value_type=JSON)
        for number in range(1000):
            await orders.send(value=number)
        await app.producer.flush()
        values = [int(r.value or b"") for r in broker.log(ORDERS).read(0, 10**6).records]
        assert values == list(range(1000))


@jumping
async def test_create_topic_makes_its_options_the_topics_configuration() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        create = app.producer.create_topic
        await create("plain", 1)
        await create(
            "options",
            2,
            1,
            config={"max.message.bytes": 5000, "message.timestamp.type": "LogAppendTime"},
            timeout=timedelta(seconds=5),
            retention=timedelta(hours=1),
            compacting=True,
            deleting=True,
        )
        await create("compacting", 1, compacting=True, retention=1.5, ensure_created=False)
        await create("deleting", 1, deleting=True, compacting=False)
        with pytest.raises(ValueError, match="compact or delete"):
            await create("neither", 1, deleting=False)
    assert broker.config("plain") == {}
    assert broker.config("options") == {
        "max.message.bytes": "5000",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": "3600000",
        "cleanup.policy": "compact,delete",
    }
    assert broker.config("compacting") == {"retention.ms": "1500", "cleanup.policy": "compact"}
    assert broker.config("deleting") == {"cleanup.policy": "delete"}
    assert len(broker.partitions("options")) == 2


@jumping
async def test_creations_of_one_topic_run_one_at_a_time() -> None:
    under_way: list[str] = []
    most: dict[str, int] = {}

    async def create_topic(_: object, topic: str, *args: Any, **options: Any) -> None:
        under_way.append(topic)
        most[topic] = max(most.get(topic, 0), under_way.count(topic))
        most["all"] = max(most.get("all", 0), len(under_way))
        await trio.sleep(1)
        under_way.remove(topic)

    async with app_with(HeldBack()) as app, trio.open_nursery() as nursery:
        replace(app, "producer.create_topic", create_topic)
        for topic in ("a", "b", "a", "b", "a"):
            nursery.start_soon(app.producer.create_topic, topic, 1)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.5):  # a cancelled call delays no other
            await app.producer.create_topic("a", 1)
    assert most == {"a": 1, "b": 1, "all": 2}


@jumping
async def test_identical_create_topic_calls_share_one_request() -> None:
    asked: list[int] = []

    async def create_topic(
        _: object, topic: str, partitions: int, *args: Any, **options: Any
    ) -> None:
        asked.append(partitions)
        await trio.sleep(1)
        if partitions == 7:
            raise BrokerUnavailable("no")

    async with app_with(HeldBack()) as app:
        replace(app, "producer.create_topic", create_topic)
        create = app.producer.create_topic

        async def fail() -> None:
            with pytest.raises(BrokerUnavailable):
                await create("a", 7)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(create, "a", 1)
        assert asked == [1]
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fail)
        assert asked == [1, 7]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, "a", 1)
            await wait_all_tasks_blocked()
            nursery.start_soon(create, "a", 2)  # another request
        assert asked == [1, 7, 1, 2]


@jumping
async def test_after_a_cancelled_create_topic_waiting_calls_make_a_new_request() -> None:
    asked: list[float] = []

    async def create_topic(*args: Any, **options: Any) -> None:
        asked.append(trio.current_time())
        await trio.sleep(1)

    async with app_with(HeldBack()) as app, trio.open_nursery() as nursery:
        replace(app, "producer.create_topic", create_topic)
        with trio.move_on_after(0.5) as scope:
            for _ in range(2):
                nursery.start_soon(_after_a_moment, app.producer.create_topic, "a", 1)
            await app.producer.create_topic("a", 1)
        assert scope.cancelled_caught
    assert len(asked) == 2  # one of the cancelled call, one shared by the two others
    assert asked[1] - asked[0] == pytest.approx(0.5)


async def _after_a_moment(call: Callable[..., Awaitable[object]], *args: object) -> None:
    await trio.sleep(0.1)
    await call(*args)


@pytest.mark.parametrize("partitions", [0, -1])
@jumping
async def test_create_topic_refuses_less_than_one_partition(partitions: int) -> None:
    async with app_with(HeldBack()) as app:
        with pytest.raises(ValueError, match="partitions of 'new' must be"):
            await app.producer.create_topic("new", partitions)


# Deliveries


@jumping
async def test_any_number_of_tasks_await_a_delivery_before_and_after_its_outcome() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        delivery = await app.topic("orders").send(key=b"k", value=b"v")
        got: list[RecordMetadata] = []

        async def wait() -> None:
            got.append(await delivery)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert got == []
            client.end()
        await wait()
        assert len(got) == 4
        assert len(set(map(id, got))) == 1


@jumping
async def test_cancelling_a_wait_for_a_delivery_ends_only_the_wait() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        delivery = await app.topic("orders").send(value=b"v")
        with trio.move_on_after(1) as scope:
            await delivery
        assert scope.cancelled_caught
        client.end()
        assert (await delivery).offset == 7


@pytest.mark.parametrize("cancelled", range(3))
@jumping
async def test_cancelling_one_waiting_task_leaves_the_others_waiting(cancelled: int) -> None:
    client = HeldBack()
    got: list[int] = []
    async with app_with(client) as app:
        delivery = await app.topic("orders").send(value=b"v")

        async def wait(number: int, scope: trio.CancelScope) -> None:
            with scope:
                assert (await delivery).offset == 7
                got.append(number)

        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(3)]
            for number, scope in enumerate(scopes):
                nursery.start_soon(wait, number, scope)
                await wait_all_tasks_blocked()
            scopes[cancelled].cancel()
            await wait_all_tasks_blocked()
            nursery.start_soon(wait, cancelled, trio.CancelScope())
            await wait_all_tasks_blocked()
            client.end()
    assert sorted(got) == [0, 1, 2]


@pytest.mark.parametrize("first", ["cancel", "outcome"])
@jumping
async def test_of_an_outcome_and_a_cancellation_in_one_turn_the_first_counts(first: str) -> None:
    client = HeldBack()
    async with app_with(client) as app:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await app.topic("orders").send_and_wait(value=b"v")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            if first == "cancel":
                scope.cancel()
                client.end()
            else:
                client.end()
                scope.cancel()
    assert scope.cancelled_caught == (first == "cancel")


@jumping
async def test_each_await_of_a_failed_delivery_raises_its_error() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        delivery = await app.topic("orders").send(value=b"v")
        await wait_all_tasks_blocked()
        client.end(error=DeliveryFailed("no"))
        for _ in range(2):
            with pytest.raises(DeliveryFailed, match="no"):
                await delivery


@jumping
async def test_loop_over_one_known_outcome_lets_other_tasks_run() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        delivery = await app.topic("orders").send(value=b"v")
        await wait_all_tasks_blocked()
        client.end(error=DeliveryFailed("no"))
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            for _ in range(100):
                with pytest.raises(DeliveryFailed):
                    await delivery
        assert nursery.cancel_scope.cancelled_caught


@jumping
async def test_messages_reach_the_client_during_a_loop_of_many_sends() -> None:
    client = HeldBack(takes_now=True)
    async with app_with(client) as app:
        for _ in range(600):
            await app.topic("orders").send(value=b"v")
        assert client.taken
        await wait_all_tasks_blocked()
        client.end(600)


@jumping
async def test_messages_that_have_waited_for_2_ms_reach_the_client_during_the_next_sends() -> None:
    client = HeldBack(takes_now=True)
    async with app_with(client) as app:
        orders = app.topic("orders")
        await orders.send(value=b"first")  # waits, because the partitions are not known yet
        await wait_all_tasks_blocked()
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        await orders.send(value=b"second")
        await orders.send(value=b"third")
        assert client.values == [b"first"]
        for value in (b"fourth", b"fifth"):  # in trio's random order, two sends let all tasks run
            clock.jump(0.002)  # as work of the program between two sends
            await orders.send(value=value)
        assert client.values[:3] == [b"first", b"second", b"third"]
        await wait_all_tasks_blocked()
        client.end(5)


@jumping
async def test_an_unseen_failure_is_raised_when_the_app_closes() -> None:
    client = HeldBack()
    with pytest.RaisesGroup(
        pytest.RaisesExc(DeliveryFailed, match=r"1 messages .* 'orders'"), flatten_subgroups=True
    ) as caught:
        async with app_with(client) as app:
            seen = await app.topic("bills").send(value=b"v")
            await app.topic("orders").send(value=b"v")
            await wait_all_tasks_blocked()
            client.end(2, DeliveryFailed("no"))
            with pytest.raises(DeliveryFailed):
                await seen
    (error,) = leaves(caught.value)
    assert isinstance(error.__cause__, DeliveryFailed)


@jumping
async def test_a_seen_failure_is_not_kept() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        orders = app.topic("orders")
        for _ in range(10):
            delivery = await orders.send(value=b"v")
            await wait_all_tasks_blocked()
            client.end(error=DeliveryFailed("no"))
            with pytest.raises(DeliveryFailed):
                await delivery
        assert not app.producer.failures


@jumping
async def test_a_failure_after_a_cancelled_wait_counts_as_unseen() -> None:
    client = HeldBack()
    with pytest.RaisesGroup(DeliveryFailed, flatten_subgroups=True):
        async with app_with(client) as app:
            delivery = await app.topic("orders").send(value=b"v")
            with trio.move_on_after(1):
                await delivery
            client.end(error=DeliveryFailed("no"))


# Flush


@jumping
async def test_flush_waits_only_for_messages_accepted_before_it() -> None:
    client = HeldBack()
    async with app_with(client) as app, trio.open_nursery() as nursery:
        orders = app.topic("orders")
        for _ in range(3):
            await orders.send(value=b"v")
        flushed: list[float] = []

        async def flush() -> None:
            await app.producer.flush()
            flushed.append(trio.current_time())

        nursery.start_soon(flush)
        await wait_all_tasks_blocked()
        await orders.send(value=b"later")
        await wait_all_tasks_blocked()
        client.end(2)
        await wait_all_tasks_blocked()
        assert flushed == []
        client.end(1)
        await wait_all_tasks_blocked()
        assert flushed == [trio.current_time()]
        client.end(1)


@jumping
async def test_flush_that_waits_for_queued_messages_does_not_wait_for_later_sends() -> None:
    client = HeldBack()
    answered = trio.Event()

    async def partition_count(_: object, topic: str, timeout: float) -> int:
        if topic == "slow":
            await answered.wait()
        return 1

    async with app_with(client) as app, trio.open_nursery() as nursery:
        replace(app, "producer.partition_count", partition_count)
        slow = app.topic("slow").send_soon(value=b"soon")
        await wait_all_tasks_blocked()
        flushed = trio.Event()

        async def flush() -> None:
            await app.producer.flush()
            flushed.set()

        nursery.start_soon(flush)
        await wait_all_tasks_blocked()
        await app.topic("orders").send(value=b"later")
        await wait_all_tasks_blocked()
        answered.set()
        await wait_all_tasks_blocked()
        assert client.values == [b"later", b"soon"]
        assert not flushed.is_set()
        client.taken.reverse()
        client.end(1)
        await wait_all_tasks_blocked()
        assert flushed.is_set()
        await slow
        client.end(1)


@jumping
async def test_flush_waits_for_failing_messages_and_does_not_raise() -> None:
    client = HeldBack()
    async with app_with(client) as app, trio.open_nursery() as nursery:
        delivery = await app.topic("orders").send(value=b"v")
        nursery.start_soon(app.producer.flush)
        await wait_all_tasks_blocked()
        client.end(error=DeliveryFailed("no"))
        with pytest.raises(DeliveryFailed):
            await delivery


@jumping
async def test_no_batch_lingers_during_a_flush() -> None:
    client = HeldBack()
    async with app_with(client) as app, trio.open_nursery() as nursery:
        await app.topic("orders").send(value=b"v")
        nursery.start_soon(app.producer.flush)
        await wait_all_tasks_blocked()
        assert not client.lingers
        client.end()
        await wait_all_tasks_blocked()
        assert client.lingers


@jumping
async def test_flush_with_no_messages_in_flight_returns() -> None:
    async with app_with(HeldBack()) as app:
        await app.producer.flush()


@jumping
async def test_closing_the_app_delivers_accepted_messages() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        for _ in range(100):
            await app.topic("orders").send(value=b"v")
    assert broker.log(ORDERS).end == 100


@jumping
async def test_messages_not_delivered_within_the_grace_fail() -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(DeliveryFailed, match="1 messages"), flatten_subgroups=True
    ):
        async with app_with(HeldBack(), grace=5.0) as app:
            delivery = await app.topic("orders").send(value=b"v")
    assert isinstance(delivery.outcome, DeliveryFailed)


# Bounds


@pytest.mark.parametrize(
    "bound", [{"send_buffer_messages": 3}, {"send_buffer_bytes": 3 * (1000 + 70)}]
)
@jumping
async def test_a_full_buffer_makes_send_wait_for_room(bound: dict[str, int]) -> None:
    client = HeldBack()
    async with app_with(client, **bound) as app, trio.open_nursery() as nursery:
        sent: list[int] = []

        async def send() -> None:
            for number in range(5):
                await app.topic("orders").send(value=bytes(1000))
                sent.append(number)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert sent == [0, 1, 2]
        client.end()
        await wait_all_tasks_blocked()
        assert sent == [0, 1, 2, 3]
        client.end(3)
        await wait_all_tasks_blocked()
        assert sent == [0, 1, 2, 3, 4]
        client.end(9)


@pytest.mark.parametrize("end", ["room", "cancelled"])
@jumping
async def test_no_batch_lingers_while_a_sender_waits_for_room(end: str) -> None:
    client = HeldBack()
    async with app_with(client, send_buffer_messages=1) as app:
        orders = app.topic("orders")
        await orders.send(value=b"first")
        assert client.lingers
        async with trio.open_nursery() as senders:
            senders.start_soon(partial(orders.send, value=b"waits"))
            senders.start_soon(partial(orders.send, value=b"waits as well"))
            await wait_all_tasks_blocked()
            assert not client.lingers
            if end == "cancelled":
                senders.cancel_scope.cancel()
            else:
                client.end()
                await wait_all_tasks_blocked()
                assert not client.lingers
                client.end()
        assert client.lingers
        await wait_all_tasks_blocked()
        client.end()


@jumping
async def test_send_cancelled_while_it_waits_for_room_accepts_nothing() -> None:
    client = HeldBack()
    async with app_with(client, send_buffer_messages=1) as app:
        orders = app.topic("orders")
        first = await orders.send(value=b"v")
        with trio.move_on_after(1) as scope:
            await orders.send(value=b"cancelled")
        assert scope.cancelled_caught
        client.end()
        await first
        await orders.send(value=b"next")
        await wait_all_tasks_blocked()
        assert client.values == [b"next"]
        client.end()


@jumping
async def test_send_in_a_cancelled_scope_accepts_nothing() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        (await app.topic("orders").send(value=b"v")).was_seen = True
        with trio.CancelScope() as scope:
            scope.cancel()
            await app.topic("orders").send(value=b"v")
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert len(client.taken) == 1
        client.end()


@pytest.mark.parametrize("bound", [{"max_request_size": 500}, {"send_buffer_bytes": 500}])
@jumping
async def test_a_message_that_never_fits_is_refused_at_once(bound: dict[str, int]) -> None:
    async with app_with(HeldBack(), **bound) as app:
        with pytest.raises(MessageTooLarge, match=r"orders.*allow 500"):
            await app.topic("orders").send(value=bytes(500))


@jumping
async def test_a_message_may_be_empty() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        orders = app.topic("orders")
        await orders.send_and_wait()
        message = await anext(orders.noack())
        assert (message.key, message.value) == (None, None)


@jumping
async def test_a_topic_without_a_value_type_refuses_a_str() -> None:
    async with app_with(HeldBack()) as app:
        with pytest.raises(TypeError, match="str"):
            await app.topic("orders").send(value="text")


@jumping
async def test_sending_to_a_missing_topic_raises_unknown_topic() -> None:
    async with app_on(broker_with(auto_create=False)) as app:
        with pytest.raises(UnknownTopic, match="orders"):
            await app.topic("orders").send(value=b"v")


# Closing and killing the app, and changes of a topic


@jumping
async def test_send_raises_app_closed_before_opening_and_after_closing() -> None:
    app = app_on(broker_with(ORDERS))
    with pytest.raises(AppClosed):
        await app.topic("orders").send(value=b"v")
    async with app:
        await app.topic("orders").send(value=b"v")
    with pytest.raises(AppClosed):
        await app.topic("orders").send(value=b"v")


@pytest.mark.parametrize("crashes", [True, False])
@jumping
async def test_a_sender_that_waits_for_room_gets_app_closed_at_the_end(crashes: bool) -> None:
    client = HeldBack()
    told: list[bool] = []

    async def send(app: App) -> None:
        with pytest.raises(AppClosed):
            await app.topic("orders").send(value=b"v")
        told.append(True)

    async with trio.open_nursery() as nursery:
        async with app_with(client, send_buffer_messages=1) as app:
            (await app.topic("orders").send(value=b"v")).was_seen = True
            nursery.start_soon(send, app)
            await wait_all_tasks_blocked()
            if crashes:
                await app.kill()
            start = trio.current_time()
            if not crashes:
                nursery.start_soon(_answer_later, client)
        await wait_all_tasks_blocked()
        assert told == [True]
        assert trio.current_time() - start <= 1


async def _answer_later(client: HeldBack) -> None:
    await trio.sleep(1)
    client.end()


@jumping
async def test_kill_fails_accepted_messages_and_closes_the_app_without_an_error() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        deliveries = [await app.topic("orders").send(value=b"v") for _ in range(3)]
        await app.kill()  # before the sender task runs
        with trio.fail_after(1):
            for delivery in deliveries:
                with pytest.raises(DeliveryFailed):
                    await delivery


@jumping
async def test_sending_to_a_topic_recreated_with_fewer_partitions_continues_and_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = MemoryBroker(default_partitions=8)
    async with app_on(broker) as app:
        orders = app.topic("orders")
        keys = [b"%d" % number for number in range(20)]
        for key in keys:
            await orders.send_and_wait(key=key, value=b"v")
        broker.delete_topic("orders")
        broker.create_topic("orders", 2)
        began = trio.current_time()
        outcomes: list[RecordMetadata] = []
        failed: list[DeliveryFailed] = []
        while len(outcomes) < 20:
            for key in keys:
                try:
                    outcomes.append(await orders.send_and_wait(key=key, value=b"v"))
                except DeliveryFailed as error:
                    failed.append(error)
        assert trio.current_time() - began < 2.0
    assert {metadata.partition for metadata in outcomes} == {0, 1}
    assert all(isinstance(error.__cause__, UnknownTopic) for error in failed)
    (warning,) = [r.getMessage() for r in caplog.records if "created again" in r.getMessage()]
    assert "orders" in warning
    assert "2 partitions" in warning


@jumping
async def test_keys_go_to_added_partitions_a_second_after_the_client_knows_them() -> None:
    broker = MemoryBroker(default_partitions=1)
    async with app_on(broker) as app:
        orders = app.topic("orders")
        await orders.send_and_wait(key=b"0", value=b"v")
        broker.add_partitions("orders", 3)
        await trio.sleep(1.1)
        written = [await orders.send_and_wait(key=b"%d" % n, value=b"v") for n in range(20)]
    assert {metadata.partition for metadata in written} == {0, 1, 2, 3}
