"""How a handler stops and goes on: the end of the app, crashes, stopped flow, and restarts."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio

from tests.apps import A_WHILE, app_on, committed
from tests.handling.calls import (
    DEAD,
    ORDERS,
    Broken,
    Calls,
    broker_with,
    check_order,
    committed_to,
    fails_at,
    handling,
    put,
)
from tests.handling.test_handler_failures import steady
from tests.lanes import NEVER
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.nurseries.errors import leaves
from transport import TP, App, Message
from transport.drivers.memory import MemoryBroker

EACH_ORDER = pytest.mark.parametrize("order", ["partition", "key", "none"])


async def rest(broker: MemoryBroker) -> list[int]:
    """Return the offsets that the next app of the group gets, in their order."""
    calls = Calls()
    async with handling(broker, calls):
        await trio.sleep(A_WHILE)
    return calls.done


# The end of the app


@EACH_ORDER
@jumping
async def test_at_the_end_running_messages_end_and_parked_ones_are_given_back(
    order: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with("abaabb")
    calls = Calls(2.0)
    async with handling(broker, calls, order=order, concurrency=2):
        await trio.sleep(1)
        begun = calls.begun
    assert calls.begun == begun, "nothing begins after the end"
    assert [call.outcome for call in calls.all] == ["done"] * len(begun)
    assert committed_to(broker) == len(begun)
    assert warnings_in(caplog) == []
    assert await rest(broker) == list(range(len(begun), 6))


@jumping
async def test_at_the_end_no_retry_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with("aab")
    calls = Calls(fails=fails_at(0))
    async with handling(broker, calls, order="key", concurrency=2, retry=steady(3, 1000)):
        await trio.sleep(1)
        before = trio.current_time()
    assert trio.current_time() - before < 1
    assert calls.begun == [0, 2]
    assert warnings_in(caplog) == []
    assert await rest(broker) == [0, 1, 2]


@jumping
async def test_a_message_that_fails_after_the_end_is_given_back_without_a_retry() -> None:
    broker = broker_with("ab")
    calls = Calls(2.0, fails=fails_at(0))
    async with handling(broker, calls, retry=steady(3, 1)):
        await trio.sleep(1)
    assert [call.outcome for call in calls.all] == ["failed"]
    assert await rest(broker) == [0, 1]


@jumping
async def test_a_last_attempt_that_fails_after_the_end_becomes_a_dead_letter() -> None:
    broker = broker_with("ab")
    async with handling(broker, Calls(2.0, fails=fails_at(0)), dead_letters="dead"):
        await trio.sleep(1)
    assert broker.log(DEAD).end == 1
    assert await rest(broker) == [1]


@jumping
async def test_a_message_that_runs_longer_than_half_of_the_grace_is_cancelled_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with("aab")
    calls = Calls(1000.0)
    async with handling(broker, calls, order="key", concurrency=2, settings={"grace": 10.0}):
        await trio.sleep(1)
        before = trio.current_time()
    assert 5 <= trio.current_time() - before < 10
    assert [call.outcome for call in calls.all] == ["cancelled", "cancelled"]
    assert warnings_in(caplog) == [
        "group: 2 delivered messages were not acked at shutdown and will be redelivered: orders-0"
        " from offset 0"
    ]
    assert await rest(broker) == [0, 1, 2]


@pytest.mark.parametrize("keys", ["", "ab"])
@jumping
async def test_an_idle_handler_ends_at_once(keys: str) -> None:
    async with handling(broker_with(keys), Calls()):
        await trio.sleep(5)
        before = trio.current_time()
    assert trio.current_time() - before < 1


@jumping
async def test_running_messages_have_their_time_also_after_all_others_were_given_back_once() -> (
    None
):
    broker = broker_with("ab")
    calls = Calls(2.0, fails=fails_at(0, attempts=1))
    async with handling(broker, calls, retry=steady(2, 100)) as app:
        await trio.sleep(5)
        app.consumer.suspend_delivery()
        await trio.sleep(5)
        [handler] = app.handlers
        assert handler.running + handler.waiting == 0
        app.consumer.resume_delivery()
        await trio.sleep(1)
        assert calls.running == [0]
    assert calls.done == [0]
    assert committed_to(broker) == 1


@jumping
async def test_all_handlers_have_the_same_time_to_end() -> None:
    broker = broker_with("a")
    app = app_on(broker, grace=20.0)
    calls = [Calls(9.0) for _ in range(4)]
    for number, each in enumerate(calls):
        app.handler(app.topic("orders"), each, name=f"{number}")
    async with app:
        await trio.sleep(1)
        before = trio.current_time()
    assert [each.done for each in calls] == [[0]] * 4
    assert trio.current_time() - before < 10
    assert committed_to(broker) == 1


@jumping
async def test_what_handlers_send_at_the_end_is_delivered() -> None:
    broker = broker_with("a")
    app = app_on(broker)
    bills = app.topic("bills")

    async def worker(message: Message) -> None:
        await trio.sleep(5)
        await bills.send_and_wait(value=b"bill", partition=0)

    app.handler(app.topic("orders"), worker)
    async with app:
        await trio.sleep(1)
    assert broker.log(TP("bills", 0)).end == 1
    assert committed_to(broker) == 1


@jumping
async def test_a_handler_may_stop_the_app() -> None:
    broker = broker_with("abcdef")
    app = app_on(broker)
    calls = Calls()

    async def worker(message: Message) -> None:
        await calls(message)
        if message.offset == 2:
            app.stop()

    app.handler(app.topic("orders"), worker)
    async with app:
        await app.wait_stopped()
    assert calls.done == [0, 1, 2]
    assert await rest(broker) == [3, 4, 5]


@EACH_ORDER
@jumping
async def test_nothing_begins_after_stop(order: str) -> None:
    broker = broker_with("abcabcabc")
    calls = Calls(1.0, fails=fails_at(1, attempts=1))
    async with handling(broker, calls, order=order, concurrency=2, retry=steady(2, 3)) as app:
        await trio.sleep(1.5)
        app.stop()
        begun = calls.begun
        await trio.sleep(A_WHILE)
        assert calls.begun == begun
        put(broker, "abc")
        await trio.sleep(A_WHILE)
    assert calls.begun == begun
    left = sorted(set(range(12)) - set(calls.done))
    assert set(left) <= set(await rest(broker))


# Crashes


@jumping
async def test_an_error_of_the_block_commits_what_is_done_and_gives_back_the_rest() -> None:
    broker = broker_with("abc")
    calls = Calls(lambda message: 1.0 if message.offset == 0 else 1000.0)

    async def crash_after(seconds: float) -> None:
        async with handling(
            broker, calls, order="none", concurrency=3, settings={"commit_interval": NEVER}
        ):
            await trio.sleep(seconds)
            raise Broken

    before = trio.current_time()
    with pytest.raises(BaseExceptionGroup) as raised:
        await crash_after(5)
    assert [type(error) for error in leaves(raised.value)] == [Broken]
    assert trio.current_time() - before < 17
    assert committed_to(broker) == 1
    assert await rest(broker) == [1, 2]


@jumping
async def test_a_killed_app_commits_nothing_and_its_messages_are_handled_again() -> None:
    broker = broker_with("abc")
    calls = Calls(5.0)
    async with handling(
        broker, calls, order="none", concurrency=2, settings={"commit_interval": NEVER}
    ) as app:
        await trio.sleep(7)
        await app.kill()
    assert committed_to(broker) == 0
    assert await rest(broker) == [0, 1, 2]


@jumping
async def test_a_cancelled_app_gives_its_running_messages_their_time() -> None:
    broker = broker_with("ab")
    calls = Calls(3.0)
    with trio.move_on_after(1):
        async with handling(broker, calls):
            await trio.sleep_forever()
    assert calls.done in ([0], [])
    assert len(await rest(broker)) == 2 - len(calls.done)


# Stopped flow


@EACH_ORDER
@pytest.mark.parametrize("concurrency", [1, 2, 20])
@jumping
async def test_stopped_flow_begins_nothing_and_resumed_flow_goes_on(
    order: str, concurrency: int
) -> None:
    broker = broker_with("abcab" * 20)
    calls = Calls(1.0, fails=fails_at(0, 7, attempts=1))
    async with handling(
        broker, calls, order=order, concurrency=concurrency, retry=steady(2, 2)
    ) as app:
        for _ in range(3):
            await trio.sleep(2.5)
            app.consumer.stop_flow()
            begun = len(calls.all)
            await trio.sleep(30)
            assert len(calls.all) == begun
            assert calls.running == []
            put(broker, "a")
            app.consumer.resume_flow()
        await trio.sleep(200)
        assert sorted(calls.done) == list(range(103))
        assert committed_to(broker) == 103


@jumping
async def test_flow_that_is_stopped_while_nothing_waits_is_resumed_too() -> None:
    broker = broker_with()
    calls = Calls()
    async with handling(broker, calls, order="key", concurrency=2) as app:
        await trio.sleep(5)
        app.consumer.stop_flow()
        await trio.sleep(5)
        put(broker, "a")
        await trio.sleep(5)
        assert calls.all == []
        app.consumer.resume_flow()
        await trio.sleep(5)
        assert calls.done == [0]


@jumping
async def test_a_paused_partition_is_not_handled_beyond_what_was_fetched() -> None:
    broker = broker_with("a", partitions=2)
    calls = Calls()
    async with handling(broker, calls) as app:
        await trio.sleep(5)
        app.consumer.pause_partitions([ORDERS])
        await trio.sleep(5)
        put(broker, "b", ORDERS)
        put(broker, "b", TP("orders", 1))
        await trio.sleep(5)
        assert [call.tp.partition for call in calls.all if call.offset == 1] == [1]
        app.consumer.resume_partitions([ORDERS])
        await trio.sleep(5)
        assert len(calls.done) == 4


@jumping
async def test_wait_empty_waits_for_what_the_handler_has_taken() -> None:
    broker = broker_with("aab")
    calls = Calls(2.0, fails=fails_at(0, attempts=1))
    async with handling(
        broker,
        calls,
        order="key",
        concurrency=2,
        retry=steady(2, 3),
        settings={"commit_interval": NEVER},
    ) as app:
        await trio.sleep(1)
        await app.consumer.wait_empty()
        assert sorted(calls.done) == [0, 1, 2]
        assert committed_to(broker) == 3


# Restart of the consumer


@EACH_ORDER
@jumping
async def test_a_handler_goes_on_after_a_restart_of_the_consumer(order: str) -> None:
    broker = broker_with("abcab" * 4)
    calls = Calls(1.0, fails=fails_at(1, attempts=1))
    async with handling(broker, calls, order=order, concurrency=2, retry=steady(2, 3)) as app:
        await trio.sleep(2.5)
        await app.consumer.restart()
        await trio.sleep(100)
        assert set(calls.done) == set(range(20))
        assert committed_to(broker) == 20
    if order != "none":
        running_at_once = [(call.key if order == "key" else 0, call) for call in calls.all]
        for key, call in running_at_once:
            for other_key, other in running_at_once:
                if key == other_key and call is not other:
                    assert call.end is not None
                    assert other.end is not None
                    assert call.end <= other.start or other.end <= call.start


# Topics


async def discard(app: App) -> Any:
    """Discard the topic object of the only handler, and return it."""
    [handler] = app.handlers
    app.conductor.discard(handler.topic)
    return handler


@EACH_ORDER
@jumping
async def test_nothing_of_a_discarded_topic_begins_until_it_is_added_again(order: str) -> None:
    broker = broker_with("abaabb")
    calls = Calls(1.0)
    async with handling(broker, calls, order=order, concurrency=2) as app:
        await trio.sleep(1.5)
        handler = await discard(app)
        begun = calls.begun
        await trio.sleep(A_WHILE)
        assert calls.begun == begun
        assert calls.running == []
        assert (handler.running, handler.waiting) == (0, 0)
        app.conductor.add(handler.topic)
        await trio.sleep(A_WHILE)
        # The app has left the topic meanwhile, so this is a new epoch. Messages that were done out
        # of order after the first that was given back come again.
        assert set(calls.done) == set(range(6))
        assert committed_to(broker) == 6


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@EACH_ORDER
@jumping
async def test_a_topic_that_is_added_again_in_the_same_epoch_brings_no_message_twice(
    order: str, seconds: float
) -> None:
    """I6, also for messages that were done out of order, or are at work."""
    broker = broker_with("abababab")
    calls = Calls(lambda message: 3.5 if message.offset in (1, 4) else 1.0)
    async with handling(broker, calls, order=order, concurrency=3) as app:
        app.topic("orders").noack()  # the partition stays assigned
        await trio.sleep(2.5)
        handler = await discard(app)
        await trio.sleep(seconds)
        app.conductor.add(handler.topic)
        put(broker, "ab")
        await trio.sleep(A_WHILE)
        assert len(set(calls.begun)) == len(calls.begun)
        assert {8, 9} < set(calls.done)


@EACH_ORDER
@jumping
async def test_a_topic_that_is_added_again_at_once_brings_all_other_messages(order: str) -> None:
    broker = broker_with("abababab")
    calls = Calls(lambda message: 3.5 if message.offset in (1, 4) else 1.0)
    async with handling(broker, calls, order=order, concurrency=3) as app:
        for _ in range(4):
            await trio.sleep(1.2)
            handler = await discard(app)
            app.conductor.add(handler.topic)
        await trio.sleep(A_WHILE)
        assert sorted(calls.begun) == list(range(8)), "I6"
        assert committed_to(broker) == 8


@EACH_ORDER
@jumping
async def test_a_message_that_fails_after_its_topic_was_added_again_is_not_lost(order: str) -> None:
    broker = broker_with("abaabb")
    calls = Calls(2.0, fails=fails_at(0, attempts=1))
    async with handling(broker, calls, order=order, concurrency=2, retry=steady(3, 5)) as app:
        await trio.sleep(1)
        handler = await discard(app)
        app.conductor.add(handler.topic)
        await trio.sleep(A_WHILE)
        assert sorted(calls.begun) == [0, *range(6)]
        assert sorted(calls.done) == list(range(6))
        assert committed_to(broker) == 6
    if order != "none":
        check_order(calls.all, lambda call: call.key if order == "key" else None)


@jumping
async def test_a_drain_waits_for_no_retry_of_a_discarded_topic() -> None:
    broker = broker_with("a")
    calls = Calls(5.0, fails=fails_at(0))
    async with handling(broker, calls, retry=steady(3, 1000)) as app:
        app.topic("orders").noack()  # the partition stays assigned
        await trio.sleep(1)
        await discard(app)
        await trio.sleep(9)
        with trio.fail_after(5):
            await app.consumer.wait_empty()
    assert calls.begun == [0]


@jumping
async def test_a_handler_of_a_pattern_handles_topics_that_are_created_later() -> None:
    broker = broker_with("a")
    app = app_on(broker, pattern_interval=1.0)
    calls = Calls()
    app.handler(app.topic(re.compile("ord.*")), calls, order="key", concurrency=2)
    async with app:
        await trio.sleep(3)
        broker.create_topic("ordinary", 1)
        put(broker, "b", TP("ordinary", 0))
        await trio.sleep(10)
    assert sorted((call.tp, call.key) for call in calls.all) == [
        (TP("orders", 0), b"a"),
        (TP("ordinary", 0), b"b"),
    ]
    assert committed(broker) == {TP("orders", 0): 1, TP("ordinary", 0): 1}
    check_order(calls.all, lambda call: call.tp)
