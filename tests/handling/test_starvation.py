"""Messages that cannot begin never starve another partition: they fail, or their handler is slow.

In each test, these messages fill the buffer before the first message of the other partition is
written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.apps import A_WHILE, app_on
from tests.handling.calls import Broken, Calls, broker_with, committed_to, handling, put
from tests.nurseries.clock import jumping
from transport import TP, App, Batch, Message, Retry
from transport.drivers.memory import MemoryBroker

LATE = Retry(attempts=2, wait_initial=1000, wait_max=1000, wait_jitter=0)
FIRST, OTHER = TP("orders", 0), TP("orders", 1)
SETTINGS = {"buffer_size": 1000, "grace": 1.0}


def is_bad(message: Message) -> bool:
    return message.record.key == b"a"


def failing() -> Calls:
    return Calls(0.1, fails=lambda message, attempt: Broken() if is_bad(message) else None)


def slow() -> Calls:
    return Calls(lambda message: 1000.0 if is_bad(message) else 0.1)


def handled(calls: Calls, tp: TP) -> int:
    return len({call.offset for call in calls.all if call.tp == tp and call.outcome == "done"})


@pytest.mark.parametrize("order", ["partition", "key"])
@pytest.mark.parametrize("function", [failing, slow])
@jumping
async def test_a_partition_goes_on_when_another_one_has_filled_the_buffer(
    function: Callable[[], Calls], order: str
) -> None:
    broker = broker_with(partitions=2)
    put(broker, "a" * 3000, FIRST)
    calls = function()
    async with handling(
        broker, calls, order=order, concurrency=8, retry=LATE, settings=SETTINGS
    ) as app:
        await trio.sleep(A_WHILE)
        put(broker, "bcdefghi" * 10, OTHER)
        await trio.sleep(30)
        assert handled(calls, OTHER) == 80
        for _ in range(3):
            put(broker, "bcdefghi" * 40, OTHER)
            await trio.sleep(60)
        assert handled(calls, OTHER) == 80 + 3 * 320
        assert len(app.consumer.unacked) <= 1000


@jumping
async def test_a_partition_goes_on_when_many_messages_of_another_one_wait_for_their_retry() -> None:
    broker = broker_with(partitions=2)
    put(broker, "a" * 3000, FIRST)
    calls = failing()
    async with handling(
        broker, calls, order="none", concurrency=8, retry=LATE, settings=SETTINGS
    ) as app:
        await trio.sleep(A_WHILE)
        assert 250 <= len(app.consumer.unacked) <= 250 + 64
        put(broker, "b" * 500, OTHER)
        await trio.sleep(30)
        assert handled(calls, OTHER) == 500


@pytest.mark.parametrize("buffer_size", [1000, 20_000])
@jumping
async def test_a_partition_of_batches_goes_on_when_another_one_has_filled_the_buffer(
    buffer_size: int,
) -> None:
    broker = broker_with(partitions=2)
    put(broker, "a" * 3 * buffer_size, FIRST)
    app = app_on(broker, buffer_size=buffer_size, grace=1.0)
    done: list[int] = []

    async def worker(batch: Batch) -> None:
        if any(is_bad(message) for message in batch):
            raise Broken
        done.extend(message.offset for message in batch)

    app.batch_handler(
        app.topic("orders"), worker, concurrency=2, split=False, retry=LATE, dead_letters="skip"
    )
    async with app:
        await trio.sleep(A_WHILE)
        for count in (80, 160):
            put(broker, "bcdefghi" * 10, OTHER)
            await trio.sleep(30)
            assert done == list(range(count))


def two_handlers(broker: MemoryBroker, calls: Calls, other: Any, **settings: Any) -> App:
    app = app_on(broker, **{**SETTINGS, **settings})
    options: dict[str, Any] = {"order": "key", "concurrency": 8, "retry": LATE}
    app.handler(app.topic("orders"), calls, name="worker", **options)
    app.handler(app.topic(other), calls, name="other", **options)
    return app


@jumping
async def test_a_partition_goes_on_in_all_handlers_of_its_topic() -> None:
    broker = broker_with(partitions=2)
    put(broker, "a" * 3000, FIRST)
    first, second = failing(), Calls(0.1)
    app = app_on(broker, **SETTINGS)
    for name, calls in (("first", first), ("second", second)):
        app.handler(app.topic("orders"), calls, name=name, order="key", concurrency=8, retry=LATE)
    async with app:
        await trio.sleep(A_WHILE)
        put(broker, "bcdefghi" * 10, OTHER)
        await trio.sleep(30)
        assert handled(first, OTHER) == handled(second, OTHER) == 80


@jumping
async def test_a_partition_of_one_topic_goes_on_when_another_topic_has_filled_the_memory() -> None:
    """Each topic has a message that waits for its retry, so no buffer is empty."""
    broker = broker_with(partitions=1)
    broker.create_topic("other", 2)
    put(broker, "a" * 3000, FIRST)
    put(broker, "a", TP("other", 0))
    calls = failing()
    app = two_handlers(broker, calls, "other", buffer_bytes=300_000)
    async with app:
        await trio.sleep(A_WHILE)
        assert app.conductor.memory.is_full
        put(broker, "bcdefghi" * 10, TP("other", 0))
        put(broker, "bcdefghi" * 10, TP("other", 1))
        await trio.sleep(30)
        assert handled(calls, TP("other", 0)) == handled(calls, TP("other", 1)) == 80


@jumping
async def test_a_partition_that_is_assigned_to_a_full_buffer_goes_on() -> None:
    broker = broker_with(partitions=1)
    put(broker, "a" * 3000, FIRST)
    calls = failing()
    async with handling(
        broker,
        calls,
        order="key",
        concurrency=8,
        retry=LATE,
        settings={**SETTINGS, "metadata_max_age": 5.0},
    ):
        await trio.sleep(A_WHILE)
        broker.add_partitions("orders", 1)
        put(broker, "bcdefghi" * 10, OTHER)
        await trio.sleep(60)
        assert handled(calls, OTHER) == 80
        assert committed_to(broker, OTHER) == 80


@pytest.mark.parametrize("order", ["partition", "key", "none"])
@jumping
async def test_no_more_than_its_share_of_a_small_buffer_is_held_up(order: str) -> None:
    broker = broker_with(partitions=2)
    put(broker, "a" * 300, FIRST)
    async with handling(
        broker,
        slow() if order != "none" else failing(),
        order=order,
        concurrency=2,
        retry=LATE,
        settings={"buffer_size": 40, "grace": 1.0},
    ) as app:
        await trio.sleep(A_WHILE)
        assert len(app.consumer.unacked) <= 10 + 2
