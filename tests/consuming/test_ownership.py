"""New epochs and removed partitions: `transport/consuming/ownership.py`."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.apps import app_on, broker_with, take
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from transport import TP, App, Monitor

ORDERS = [TP("orders", number) for number in range(2)]
ONE = ORDERS[0]


def reader(records: int = 0, **settings: Any) -> App:
    return app_on(broker_with(*ORDERS, records=records), commit_interval=NEVER, **settings)


# New epochs


@jumping
async def test_rewound_messages_are_redelivered_at_once() -> None:
    """This holds also if the poll under way has nothing new to return."""
    async with reader(records=3) as app:
        messages = app.topic("orders").noack()
        await take(messages, 6)
        await trio.sleep(1)
        app.consumer.ownership.rewind(ONE, 1)
        with trio.fail_after(1):
            assert [message.offset for message in await take(messages, 2)] == [1, 2]


@jumping
async def test_rewound_partition_stays_draining() -> None:
    async with reader(records=3) as app:
        await take(app.topic("orders").noack(), 6)
        assignment, rewind = app.consumer.assignment, app.consumer.ownership.rewind
        assignment[ONE].drain()
        assert rewind(ONE, 1).is_draining
        assert not rewind(ORDERS[1], 1).is_draining


@jumping
async def test_monitor_receives_acks_of_rewound_epoch() -> None:
    monitor = Monitor()
    async with reader(records=3, monitor=monitor) as app:
        for message in await take(app.topic("orders").noack(), 6):
            if message.tp == ONE and message.offset < 2:
                message.ack()
        app.consumer.ownership.rewind(ONE, 2)
        assert monitor.messages_out == {ONE: 2}


@jumping
async def test_start_of_an_epoch_is_due_unless_its_offset_is_unproven() -> None:
    async with reader(records=3) as app:
        await take(app.topic("orders").noack(), 6)
        assignment, begin_epoch = app.consumer.assignment, app.consumer.ownership.begin_epoch
        assert begin_epoch(ONE, 2)
        assert begin_epoch(ORDERS[1], 2, is_proven=False)
        assert [assignment[tp].due for tp in ORDERS] == [2, None]


@jumping
async def test_epoch_of_a_partition_that_is_not_assigned_does_not_begin() -> None:
    async with reader(records=1) as app:
        await take(app.topic("orders").noack(), 2)
        app.consumer.ownership.drop({ONE})
        assert not app.consumer.ownership.begin_epoch(ONE, 0)
        assert ONE not in app.consumer.assignment


# Removed partitions


@pytest.mark.parametrize("step", ["drop", "abandon"])
@jumping
async def test_removal_of_all_partitions_ends_their_pauses(step: str) -> None:
    async with reader() as app:
        app.topic("orders").noack()
        await trio.sleep(1)
        consumer = app.consumer
        consumer.pause_partitions(ORDERS)
        getattr(consumer.ownership, step)(consumer.assignment)
        assert not consumer.assignment
        assert not consumer.flow.paused


@jumping
async def test_abandoned_partition_has_no_transaction() -> None:
    """If the partition is assigned again, it gets another producer."""
    async with reader(transactions="partition") as app:
        app.topic("orders").noack()
        await trio.sleep(1)
        consumer = app.consumer
        assert len(consumer.transactions.scopes) == 2
        consumer.ownership.abandon({ONE})
        assert consumer.transactions.scope_of(ONE) is None
        consumer.ownership.abandon(consumer.assignment)
        assert not consumer.transactions.scopes


@jumping
async def test_decoded_messages_of_dropped_partition_are_forgotten() -> None:
    async with reader(records=3) as app:
        topics = [app.topic("orders", value_type=str) for _ in range(2)]
        first, _ = [topic.noack() for topic in topics]
        await take(first, 6)
        decoded = topics[0].channel.decoded["orders"]
        assert len(decoded) == 6  # for the other topic object
        app.consumer.ownership.drop({ONE})
        assert len(decoded) == 3


@pytest.mark.parametrize(("generation", "then"), [(5, 5), (0, 0), (-1, 1)])
@jumping
async def test_release_sets_the_generation_if_there_is_one(generation: int, then: int) -> None:
    async with reader() as app:
        app.topic("orders").noack()
        await trio.sleep(1)
        assert app.consumer.assignment.generation == 1
        app.consumer.ownership.release([ONE], generation)
        assert app.consumer.assignment.generation == then
        assert set(app.consumer.assignment) == {ORDERS[1]}
