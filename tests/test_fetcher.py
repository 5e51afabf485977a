"""The polling side: what is not delivered while it seeks, and what it does not fetch."""

from __future__ import annotations

import trio

from tests.apps import A_WHILE, app_on, broker_with, nothing_comes, take
from tests.nurseries.clock import jumping
from transport import TP

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
