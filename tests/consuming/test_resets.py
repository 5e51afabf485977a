"""Positions that rules have set: committed before delivery, and reported."""

from __future__ import annotations

import re

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, nothing_comes, take, write
from tests.lanes import NEVER, Place
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.scripted import Function, fails, hold, replace
from transport import (
    TP,
    App,
    CommitUnknown,
    DeliveryFailed,
    Monitor,
    OffsetOutOfRange,
    RebalanceInProgress,
    TransportError,
)

ORDERS = [TP("orders", number) for number in range(4)]
ONE = ORDERS[0]
LATEST = {"auto_offset_reset": "latest", "commit_interval": NEVER}


def resets(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about resets."""
    return [text for text in warnings_in(caplog) if "reading" in text]


# "latest" is only for the start of a group


@jumping
async def test_added_partition_is_read_from_its_beginning() -> None:
    broker = broker_with(ONE, records=3)
    async with app_on(broker, **LATEST) as app:
        messages = app.topic("orders").noack()
        await trio.sleep(1)
        broker.add_partitions("orders", 1)
        write(broker, ORDERS[1], 5)
        assert [(m.tp, m.offset) for m in await take(messages, 5)] == [
            (ORDERS[1], offset) for offset in range(5)
        ]


@jumping
async def test_partition_added_without_members_is_read_from_its_beginning() -> None:
    broker = broker_with(ONE, records=3)
    async with app_on(broker, **LATEST) as app:
        app.topic("orders").noack()
        await trio.sleep(1)
    broker.add_partitions("orders", 1)
    write(broker, ORDERS[1], 5)
    async with app_on(broker, **LATEST) as app:
        assert [m.tp for m in await take(app.topic("orders").noack(), 5)] == [ORDERS[1]] * 5


@jumping
async def test_created_topic_of_a_pattern_is_read_from_its_beginning() -> None:
    broker = broker_with(ONE, records=3)
    async with app_on(broker, pattern_interval=1.0, **LATEST) as app:
        messages = app.topic(re.compile("orders.*")).noack()
        await trio.sleep(1)
        broker.create_topic("orders-new", 1)
        write(broker, TP("orders-new", 0), 2)
        assert [m.topic for m in await take(messages, 2)] == ["orders-new"] * 2


@jumping
async def test_second_topic_is_read_since_the_group_began() -> None:
    payments = TP("payments", 0)
    broker = broker_with(ONE, payments, records=3)
    async with app_on(broker, **LATEST) as app:
        app.topic("orders").noack()
        await trio.sleep(1)
        write(broker, payments, 2)
        assert [m.offset for m in await take(app.topic("payments").noack(), 2)] == [3, 4]


@jumping
async def test_members_that_start_together_skip_older_records() -> None:
    broker = broker_with(*ORDERS, records=9)
    async with app_on(broker, **LATEST) as one, app_on(broker, **LATEST) as two:
        ones, twos = one.topic("orders").noack(), two.topic("orders").noack()
        await trio.sleep(30)
        assert committed(broker) == dict.fromkeys(ORDERS, 9)
        for tp in ORDERS:
            write(broker, tp)
        both = await take(ones, 2) + await take(twos, 2)
        assert sorted((m.tp, m.offset) for m in both) == [(tp, 9) for tp in ORDERS]


@jumping
async def test_client_only_reads_added_partition_from_its_beginning() -> None:
    broker = broker_with(ONE, records=3)
    async with app_on(broker, client_only=True, **LATEST) as app:
        messages = app.topic("orders").noack()
        await trio.sleep(1)
        broker.add_partitions("orders", 1)
        write(broker, ORDERS[1], 2)
        write(broker, ONE)
        came = await take(messages, 3)
        assert sorted((m.tp, m.offset) for m in came) == [(ONE, 3), (ORDERS[1], 0), (ORDERS[1], 1)]


@jumping
async def test_added_named_partition_is_read_from_its_beginning() -> None:
    broker = broker_with(ONE, records=3)
    async with app_on(broker, partitions={ONE: None}, **LATEST) as app:
        app.topic("orders").noack()
        await trio.sleep(1)
        assert committed(broker) == {ONE: 3}
    broker.add_partitions("orders", 1)
    write(broker, ORDERS[1], 2)
    write(broker, ONE)
    async with app_on(broker, partitions={ONE: None, ORDERS[1]: None}, **LATEST) as app:
        came = await take(app.topic("orders").noack(), 3)
        assert sorted((m.tp, m.offset) for m in came) == [(ONE, 3), (ORDERS[1], 0), (ORDERS[1], 1)]


async def test_two_members_of_a_new_group_read_only_new_records(place: Place) -> None:
    old = [b"old"] * 20
    await place.create(1, *old)
    await place.widen(4)
    settings = {"auto_offset_reset": "latest", "commit_interval": 0.2, "metadata_max_age": 1.0}
    async with place.app(**settings) as one, place.app(**settings) as two:
        ones, twos = (app.topic(place.name).noack() for app in (one, two))
        await until_shared(one, two)
        assert await nothing_comes(ones, place.a_while)
        for number in range(4):
            await one.producer.send_and_wait(place.name, None, b"new", number)
        both = await take(ones, 2) + await take(twos, 2)
        assert [message.value for message in both] == [b"new"] * 4


async def until_shared(one: App, two: App) -> None:
    """Wait until two members have two partitions each."""
    for app in (one, two):
        while len(app.consumer.assignment) != 2:  # noqa: ASYNC110 - no event reports it
            await trio.sleep(0.05)


# The start offset of "latest" is committed before the first delivery


@pytest.mark.parametrize(
    "settings", [{}, {"transactions": "member"}, {"transactions": "partition"}]
)
@jumping
async def test_crash_before_the_first_commit_loses_no_message(
    settings: dict[str, str],
) -> None:
    broker = broker_with(ONE, records=3)
    async with app_on(broker, **LATEST, **settings) as app:
        messages = app.topic("orders").noack()
        await trio.sleep(1)
        write(broker, ONE)
        assert (await anext(messages)).offset == 3
        assert committed(broker) == {ONE: 3}
        await app.kill()
    write(broker, ONE)
    async with app_on(broker, **LATEST, **settings) as app:
        again = app.topic("orders").noack()
        assert [m.offset for m in await take(again, 2)] == [3, 4]


@jumping
async def test_delivery_waits_for_the_commit_of_the_start_offset() -> None:
    broker = broker_with(ONE, records=3)
    app = app_on(broker, **LATEST)
    may_commit = hold(app, "commit")
    async with app:
        messages = app.topic("orders").noack()
        await trio.sleep(1)
        write(broker, ONE)
        assert await nothing_comes(messages, 5)
        may_commit.set()
        assert (await anext(messages)).offset == 3


@jumping
async def test_refused_commit_of_the_start_offset_is_retried() -> None:
    broker = broker_with(ONE, records=3)
    app = app_on(broker, **LATEST, max_poll_interval=20.0)
    until = trio.current_time() + 30

    async def refuse(commit: Function, *args: object) -> None:
        if trio.current_time() < until:
            raise RebalanceInProgress("a join")
        await commit(*args)

    replace(app, "commit", refuse)
    async with app:
        messages = app.topic("orders").noack()
        await trio.sleep(1)
        write(broker, ONE)
        assert (await anext(messages)).offset == 3
        assert trio.current_time() >= until


@pytest.mark.parametrize("error", [CommitUnknown("no answer"), DeliveryFailed("test")])
@jumping
async def test_failed_commit_of_the_start_offset_is_retried(error: TransportError) -> None:
    """A start offset has no results. Yet it is not committed after a delivery that failed."""
    broker = broker_with(ONE, records=3)
    app = app_on(broker, **LATEST)
    replace(app, "commit", fails(error), once=True)
    async with app:
        messages = app.topic("orders").noack()
        await trio.sleep(5)
        assert committed(broker) == {ONE: 3}
        write(broker, ONE)
        assert (await anext(messages)).offset == 3


@jumping
async def test_delivery_begins_after_any_commit_of_the_start_offset() -> None:
    """A call of `commit` succeeds before the commit without an answer is retried."""
    broker = broker_with(ONE, records=3)
    app = app_on(broker, **LATEST)
    replace(app, "commit", fails(CommitUnknown("no answer")), once=True)
    async with app:
        messages = app.topic("orders").noack()
        await wait_all_tasks_blocked()
        assert committed(broker) == {}
        assert await app.consumer.commit()
        assert committed(broker) == {ONE: 3}
        write(broker, ONE)
        with trio.fail_after(30):
            assert (await anext(messages)).offset == 3


@jumping
async def test_delivery_with_earliest_does_not_wait_for_a_commit() -> None:
    broker = broker_with(ONE, records=3)
    async with app_on(broker, commit_interval=NEVER) as app:
        await take(app.topic("orders").noack(), 3)
        assert committed(broker) == {}


@jumping
async def test_unacked_messages_can_be_acked_after_a_reset() -> None:
    broker = broker_with(ONE)
    async with app_on(broker, buffer_size=2, **LATEST) as app:
        messages = app.topic("orders").noack()
        await trio.sleep(1)
        write(broker, ONE, 4)
        in_hand = await take(messages, 2)
        write(broker, ONE, 6)
        broker.delete_records(ONE, 8)
        (first, second) = in_hand
        second.ack()
        await trio.sleep(1)
        assert committed(broker) == {ONE: 0}  # not past the unacked message
        first.ack()
        for message in await take(messages, 2):
            message.ack()
        await trio.sleep(1)
        await app.consumer.commit()
        assert committed(broker) == {ONE: 10}
        write(broker, ONE)
        assert (await anext(messages)).offset == 10


# Each reset is reported


@pytest.mark.parametrize(("policy", "to", "skipped"), [("earliest", 7, 4), ("latest", 10, 7)])
@jumping
async def test_position_before_the_log_is_reset_with_a_warning(
    policy: str, to: int, skipped: int, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ONE, records=10)
    broker.group("group").take({ONE: 3})
    broker.delete_records(ONE, 7)
    monitor = Monitor()
    async with app_on(broker, auto_offset_reset=policy, monitor=monitor) as app:
        app.topic("orders").noack()
        await trio.sleep(5)
        now = monitor.snapshot()
    assert (now.resets, now.skipped) == (1, skipped)
    assert resets(caplog) == [
        f"group: orders-0: the position 3 is not in the log: reading goes on at offset {to}, as"
        f" auto_offset_reset={policy!r} says; {skipped} records are skipped"
    ]


@pytest.mark.parametrize(("policy", "to"), [("earliest", 0), ("latest", 10)])
@jumping
async def test_position_past_the_end_is_reset_with_a_warning(
    policy: str, to: int, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ONE, records=10)
    broker.group("group").take({ONE: 12})
    monitor = Monitor()
    async with app_on(broker, auto_offset_reset=policy, monitor=monitor) as app:
        app.topic("orders").noack()
        await trio.sleep(5)
        now = monitor.snapshot()
    assert (now.resets, now.skipped) == (1, 0)
    assert len(resets(caplog)) == 1
    assert f"position 12 is not in the log: reading goes on at offset {to}" in resets(caplog)[0]


@jumping
async def test_partition_without_offset_in_an_older_group_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(*ORDERS[:2], records=10)
    broker.group("group").take({ONE: 10})  # by another program
    monitor = Monitor()
    async with app_on(broker, monitor=monitor) as app:
        app.topic("orders").noack()
        await trio.sleep(5)
        assert (monitor.snapshot().resets, monitor.snapshot().skipped) == (1, 0)
    assert resets(caplog) == [
        "group: orders-1: the group is not new but has no committed offset of this partition:"
        " reading starts at offset 0, 0 records are skipped"
    ]


@pytest.mark.parametrize("policy", ["earliest", "latest"])
@jumping
async def test_new_group_causes_no_warning(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with(*ORDERS, records=10)
    settings = {"auto_offset_reset": policy, "commit_interval": 0.5}
    async with app_on(broker, **settings) as one:
        one.topic("orders").noack()
        await trio.sleep(0.1)
        async with app_on(broker, **settings) as two:
            two.topic("orders").noack()
            await trio.sleep(30)
    assert resets(caplog) == []


# Seeks outside and within the log


@jumping
async def test_seek_past_the_end_is_not_committed_at_shutdown() -> None:
    broker = broker_with(ONE, records=10)
    broker.group("group").take({ONE: 4})
    with pytest.RaisesGroup(OffsetOutOfRange, flatten_subgroups=True):
        async with app_on(broker, auto_offset_reset="error", commit_interval=NEVER) as app:
            messages = app.topic("orders").noack()
            (await anext(messages)).ack()
            await app.consumer.seek(ONE, 1000)
            await trio.sleep_forever()
    assert committed(broker) == {ONE: 4}


@jumping
async def test_seek_past_the_end_is_not_committed_before_the_next_poll() -> None:
    broker = broker_with(ONE, records=10)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        (await anext(messages)).ack()
        app.consumer.pause_partitions([ONE])
        await app.consumer.seek(ONE, 1000)
        assert not await app.consumer.commit()
        assert committed(broker) == {}
        app.consumer.resume_partitions([ONE])
        assert [m.offset for m in await take(messages, 10)] == list(range(10))


@pytest.mark.parametrize("offset", [3, 10])
@jumping
async def test_seek_within_the_log_is_committed(offset: int) -> None:
    broker = broker_with(ONE, records=10)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        await take(messages, 5)
        await app.consumer.seek(ONE, offset)
        assert await app.consumer.commit()
    assert committed(broker) == {ONE: offset}


@jumping
async def test_seek_within_the_log_is_committed_at_a_revocation() -> None:
    broker = broker_with(ONE, records=10)
    async with app_on(broker, commit_interval=NEVER) as app:
        # A client of Kafka knows the end of the log until the partition is released.
        replace(app, "highwater", lambda _, tp: broker.log(tp).end)
        orders = app.topic("orders")
        await take(orders.noack(), 5)
        app.consumer.pause_partitions([ONE])
        await app.consumer.seek(ONE, 3)
        app.conductor.discard(orders)
        await wait_all_tasks_blocked()
        assert ONE not in app.consumer.assignment
        assert committed(broker) == {ONE: 3}
