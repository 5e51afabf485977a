"""The calls of a sensor, and the counts and snapshots of the monitor."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.apps import app_on, broker_with, nothing_comes, take, write
from tests.lanes import NEVER, Place
from tests.nurseries.clock import jumping
from tests.producing.held_back import HeldBack, app_with
from tests.scripted import Function, fails, replace
from transport import (
    TP,
    App,
    CommitUnknown,
    DeliveryFailed,
    MessageTooLarge,
    Monitor,
    RecordMetadata,
    Sensor,
    StuckCase,
)

ORDERS = [TP("orders", number) for number in range(2)]
ONE = ORDERS[0]
POINTS = [name for name in vars(Sensor) if name.startswith("on_")]


class Diary(Sensor):
    """A sensor that records every call, and returns the number of the call as its state."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def told(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the arguments of the calls with these names, in order."""
        return [given for name, given in self.calls if name in names]


def _noting(name: str) -> Callable[..., int]:
    def note(self: Diary, *given: Any) -> int:
        self.calls.append((name, given))
        return len(self.calls)

    return note


for _name in POINTS:
    setattr(Diary, _name, _noting(_name))


# The events


@jumping
async def test_on_open_is_the_first_call() -> None:
    diary = Diary()
    async with app_on(broker_with(ONE), monitor=diary) as app:
        assert diary.calls == [("on_open", (app,))]
        assert app.monitor is diary


@jumping
@pytest.mark.parametrize("crashes", [False, True])
async def test_on_close_is_the_last_call(crashes: bool) -> None:
    diary = Diary()
    with pytest.RaisesGroup(ZeroDivisionError) if crashes else nullcontext():
        async with app_on(broker_with(ONE), monitor=diary) as app:
            await app.topic("orders").send(value=b"value")
            if crashes:
                raise ZeroDivisionError
    assert diary.calls[-1] == ("on_close", (app,))
    assert len(diary.told("on_close")) == 1
    assert "on_sends_completed" in {name for name, _ in diary.calls}


@jumping
async def test_error_of_on_close_leaves_the_block() -> None:
    class Failing(Sensor):
        def on_close(self, app: App) -> None:
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with app_on(broker_with(ONE), monitor=Failing()):
            pass


@jumping
async def test_on_close_is_not_called_after_an_error_of_the_sensor() -> None:
    class Failing(Diary):
        def on_messages_in(self, tp: TP, count: int) -> None:
            raise ZeroDivisionError

    diary = Failing()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with app_on(broker_with(ONE, records=1), monitor=diary) as app:
            await take(app.topic("orders").noack(), 1)
            await trio.sleep(1)
    assert diary.told("on_close") == []


@jumping
async def test_on_messages_in_is_called_once_per_fetch() -> None:
    diary = Diary()
    broker = broker_with(*ORDERS, records=100)
    async with app_on(broker, monitor=diary) as app:
        await take(app.topic("orders").noack(), 200)
        assert diary.told("on_messages_in") == [(tp, 100) for tp in ORDERS]
        write(broker, ONE, 3)
        await trio.sleep(1)
        assert diary.told("on_messages_in")[2:] == [(ONE, 3)]


@jumping
async def test_on_messages_out_counts_acks_at_each_commit() -> None:
    diary = Diary()
    async with app_on(broker_with(*ORDERS, records=3), monitor=diary, commit_interval=NEVER) as app:
        messages = await take(app.topic("orders").noack(), 6)
        for message in messages[1:]:
            message.ack()
            message.ack()
        await app.consumer.commit()
        assert sorted(diary.told("on_messages_out")) == [(ONE, 2), (ORDERS[1], 3)]
        messages[0].ack()
        await app.consumer.commit()
        assert diary.told("on_messages_out")[2:] == [(ONE, 1)]


@jumping
async def test_on_messages_out_counts_acks_at_a_seek_and_at_a_loss() -> None:
    diary = Diary()
    async with app_on(broker_with(ONE, records=5), monitor=diary, commit_interval=NEVER) as app:
        orders = app.topic("orders")
        for message in (await take(orders.noack(), 5))[:3]:
            message.ack()
        await app.consumer.seek(ONE, 0)
        assert diary.told("on_messages_out") == [(ONE, 3)]  # without the unacked messages
        for message in (await take(orders.noack(), 5))[1:3]:
            message.ack()
        app.consumer.ownership.drop({ONE})
        assert diary.told("on_messages_out") == [(ONE, 3), (ONE, 2)]


@jumping
async def test_on_messages_out_counts_acks_of_each_topic_object() -> None:
    diary = Diary()
    async with app_on(broker_with(ONE, records=5), monitor=diary, commit_interval=NEVER) as app:
        topics = [app.topic("orders") for _ in range(2)]
        readers = [topic.noack() for topic in topics]
        for reader in readers:
            for message in await take(reader, 5):
                message.ack()
        app.conductor.discard(topics[0])
        await app.consumer.commit()
        assert sum(count for _, count in diary.told("on_messages_out")) == 10


@jumping
async def test_on_topic_buffer_full_names_the_partition() -> None:
    diary = Diary()
    async with app_on(broker_with(ONE, records=9), monitor=diary, buffer_size=4) as app:
        await anext(app.topic("orders").noack())
        assert diary.told("on_topic_buffer_full") == [(ONE,)]


@jumping
async def test_commit_events_share_a_state_and_need_a_due_offset() -> None:
    diary = Diary()
    async with app_on(broker_with(ONE, records=1), monitor=diary, commit_interval=NEVER) as app:
        (await anext(app.topic("orders").noack())).ack()
        await app.consumer.commit()
        (begun,) = diary.told("on_commit_initiated")
        (ended,) = diary.told("on_commit_completed")
        assert begun == (app.consumer,)
        state = diary.calls.index(("on_commit_initiated", begun)) + 1
        assert ended == (app.consumer, state, True)
        await app.consumer.commit()  # nothing is due
        assert len(diary.told("on_commit_initiated")) == 1


@jumping
async def test_on_commit_error_receives_the_error() -> None:
    diary = Diary()
    async with app_on(broker_with(ONE, records=1), monitor=diary, commit_interval=NEVER) as app:
        (await anext(app.topic("orders").noack())).ack()
        replace(app, "commit", fails(CommitUnknown("no answer")), once=True)
        with pytest.raises(CommitUnknown):
            await app.consumer.commit()
        ((_, _, error),) = diary.told("on_commit_error")
        assert isinstance(error, CommitUnknown)
        assert not diary.told("on_commit_completed")


@jumping
async def test_send_events_count_messages_and_receive_their_metadata() -> None:
    diary = Diary()
    async with app_on(broker_with(ONE), monitor=diary) as app:
        for _ in range(5):
            await app.topic("orders").send(value=b"value", partition=0)
        await app.producer.flush()
        assert diary.told("on_sends_initiated") == [(app.producer, 5)]
        ((_, written),) = diary.told("on_sends_completed")
        assert [(metadata.tp, metadata.offset) for metadata in written] == [
            (ONE, offset) for offset in range(5)
        ]
        assert isinstance(written[0], RecordMetadata)


@jumping
async def test_on_sends_error_receives_the_errors() -> None:
    diary = Diary()
    async with app_on(broker_with(ONE), monitor=diary) as app:

        async def refuse(_: object, batch: Any) -> None:
            app.producer._report([(outgoing, MessageTooLarge("too large")) for outgoing in batch])

        replace(app, "producer.send", refuse)
        delivery = await app.topic("orders").send(value=b"value", partition=0)
        with pytest.raises(DeliveryFailed):
            await delivery
        ((_, errors),) = diary.told("on_sends_error")
        assert [type(error) for error in errors] == [MessageTooLarge]
        assert not diary.told("on_sends_completed")


@jumping
async def test_a_report_about_several_topics_counts_the_written_messages_of_each() -> None:
    diary, client = Diary(), HeldBack()
    async with app_with(client, monitor=diary) as app:
        orders, bills = app.topic("orders"), app.topic("bills")
        first, failed = await orders.send(value=b"1"), await orders.send(value=b"not written")
        second, third = await bills.send(value=b"22"), await orders.send(value=b"333")
        await trio.testing.wait_all_tasks_blocked()
        written = [
            (each, RecordMetadata(each.topic, 0, offset, 1.0))
            for offset, each in enumerate([first, second, third])
        ]
        client.report([written[0], (failed, DeliveryFailed("too late")), *written[1:]])
        assert diary.told("on_bytes_sent") == [
            (app.producer, "orders", first.size + third.size),
            (app.producer, "bills", second.size),
        ]
        ((_, metadata),) = diary.told("on_sends_completed")
        assert list(metadata) == [each for _, each in written]
        assert list(metadata[1:]) == [each for _, each in written[1:]]
        with pytest.raises(DeliveryFailed):
            await failed


@jumping
async def test_assignment_and_rebalance_events_come_in_order_with_their_states() -> None:
    diary = Diary()
    broker = broker_with(*ORDERS)
    async with app_on(broker, monitor=diary) as one:
        one.topic("orders").noack()
        await trio.sleep(1)
        both = frozenset(ORDERS)
        assert [name for name, _ in diary.calls if "ssign" in name or "rebal" in name] == [
            "on_rebalance_start",
            "on_assignment_start",
            "on_assignment_completed",
            "on_rebalance_return",
            "on_rebalance_end",
        ]
        assert diary.told("on_rebalance_start") == [(one, "assigned", both)]
        assert diary.told("on_assignment_start") == [(one.consumer, both)]
        del diary.calls[:]
        async with app_on(broker) as two:
            two.topic("orders").noack()
            await trio.sleep(10)
        await trio.sleep(100)
        kinds = [kind for _, kind, _ in diary.told("on_rebalance_start")]
        assert {"revoked", "assigned"} <= set(kinds)
        starts = [
            number + 1
            for number, (name, _) in enumerate(diary.calls)
            if name == "on_rebalance_start"
        ]
        for end in ("on_rebalance_return", "on_rebalance_end"):
            assert [state for _, state in diary.told(end)] == starts


@jumping
async def test_end_of_a_rebalance_is_reported_at_once_without_a_new_message() -> None:
    diary = Diary()
    broker = broker_with(ONE)
    broker.group("group").take({ONE: 0})  # a start without a committed offset ends the poll as well
    async with app_on(broker, monitor=diary) as app:
        app.topic("orders").noack()
        await trio.testing.wait_all_tasks_blocked()
        assert len(diary.told("on_rebalance_return")) == 1
        assert len(diary.told("on_rebalance_end")) == 1


@jumping
async def test_on_assignment_error_receives_the_error_of_the_hook() -> None:
    class Fails(App):
        async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
            raise ZeroDivisionError

    diary = Diary()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with app_on(broker_with(ONE), kind=Fails, monitor=diary) as app:
            await nothing_comes(app.topic("orders").noack())
    ((_, _, error),) = diary.told("on_assignment_error")
    assert isinstance(error, ZeroDivisionError)
    assert not diary.told("on_assignment_completed")


# A sensor that fails


# The events of errors and of handlers do not come in this test.
OTHERS = {"on_commit_error", "on_sends_error", "on_assignment_error"}
OF_HANDLERS = {"on_attempts", "on_handler_failure"}


@pytest.mark.parametrize("point", sorted(set(POINTS) - OTHERS - OF_HANDLERS))
@jumping
async def test_error_of_a_sensor_ends_the_app_and_loses_no_message(point: str) -> None:
    sensor = Diary()

    def fail(*_: object) -> None:
        sensor.calls.append(("failed", ()))
        raise ZeroDivisionError(point)

    setattr(sensor, point, fail)
    broker = broker_with(ONE, records=5)
    broker.group("group").take({ONE: 9})  # outside of the log
    settings = {"monitor": sensor, "buffer_size": 4, "commit_interval": NEVER}
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with app_on(broker, **settings) as app:
            orders = app.topic("orders")
            await orders.send(value=b"value", partition=0)
            messages = orders.noack()
            for _ in range(6):
                (await anext(messages)).ack()
            await app.consumer.commit()
            await trio.sleep(10)
    assert sensor.calls[-1] == ("failed", ())  # no method is called after the error
    assert broker.group("group").members == {}
    # The last commit covers the acked messages, and the others are redelivered.
    safe, end = broker.group("group").offsets.get(ONE, 0), broker.log(ONE).end
    async with app_on(broker, commit_interval=NEVER) as app:
        left = await take(app.topic("orders").noack(), end - safe)
        assert [message.offset for message in left] == list(range(safe, end))


@jumping
async def test_error_of_a_sensor_at_shutdown_is_raised() -> None:
    class Fails(Sensor):
        def on_messages_out(self, tp: TP, count: int) -> None:
            raise ZeroDivisionError

    broker = broker_with(ONE, records=1)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with app_on(broker, monitor=Fails(), commit_interval=NEVER) as app:
            (await anext(app.topic("orders").noack())).ack()
    assert broker.group("group").offsets == {ONE: 1}


def test_monitor_that_is_no_sensor_is_refused() -> None:
    with pytest.raises(TypeError, match="monitor"):
        App("group", monitor=object())


# Cost


def calls_of(sensor: Sensor | None, records: int) -> int:
    """Return how many Python functions are called while the messages are taken and acked."""
    calls = 0

    def count(frame: object, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    async def read() -> None:
        broker = broker_with(ONE, records=records)
        async with app_on(broker, monitor=sensor, commit_interval=NEVER) as app:
            messages = app.topic("orders").noack()
            (await anext(messages)).ack()
            sys.setprofile(count)
            try:
                for _ in range(records - 1):
                    (await anext(messages)).ack()
            finally:
                sys.setprofile(None)

    trio.run(read, clock=trio.testing.MockClock(autojump_threshold=0))
    return calls


def test_monitor_adds_no_call_per_message() -> None:
    assert calls_of(Monitor(), 500) == calls_of(None, 500)


def test_no_monitor_code_runs_without_a_monitor() -> None:
    """The app sends, fetches, acks, commits and seeks, and its partitions are rebalanced."""
    called: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        called.add(Path(frame.f_code.co_filename).name)

    async def live() -> None:
        broker = broker_with(*ORDERS, records=9)
        settings: dict[str, Any] = {"buffer_size": 4, "commit_interval": 1.0}
        async with app_on(broker, **settings) as one:
            assert one.probe is None
            assert one.monitor is None
            await one.topic("orders").send_and_wait(value=b"value")
            messages = one.topic("orders").noack()
            for message in await take(messages, 4):
                message.ack()
            await one.consumer.commit()
            await one.consumer.seek(message.tp, 0)
            async with app_on(broker, **settings) as two:
                (await anext(two.topic("orders").noack())).ack()
            await trio.sleep(10)

    sys.setprofile(note)
    try:
        trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        sys.setprofile(None)
    assert {"consumer.py", "committer.py", "rebalance_handler.py", "producer.py"} <= called
    assert not called & {"sensor.py", "sensors.py", "monitor.py", "probe.py", "reported.py"}


# The monitor


@jumping
async def test_snapshot_shows_the_state_of_assigned_partitions() -> None:
    monitor = Monitor()
    with pytest.raises(RuntimeError):
        monitor.snapshot()
    broker = broker_with(*ORDERS, records=5)
    async with app_on(broker, monitor=monitor, commit_interval=NEVER) as app:
        assert monitor.snapshot().assignment == frozenset()
        batches = app.topic("orders").batches(3, noack=True)
        first = await anext(batches)
        first[0].ack()
        first[0].ack()
        await app.consumer.commit()
        seen = monitor.snapshot()
        assert seen.assignment == frozenset(ORDERS)
        state = seen.partitions[first.tp]
        assert (state.position, state.highwater, state.committed) == (5, 5, 1)
        assert (state.lag, state.waiting, state.unacked) == (4, 2, 2)
        assert (seen.lag, seen.unacked, seen.doubled_acks) == (9, 2, 1)
        await app.consumer.seek(first.tp, 0)
        assert not first[1].ack()
        assert monitor.snapshot().stale_acks == 1


@jumping
async def test_snapshot_times_commits_assignments_and_rebalances() -> None:
    class Slow(App):
        async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
            await trio.sleep(3)

    monitor = Monitor()
    broker = broker_with(ONE, records=2)
    async with app_on(broker, kind=Slow, monitor=monitor, commit_interval=NEVER) as app:
        seconds = iter([2.0, 4.0, 0.0])

        async def slow(commit: Function, *args: Any) -> None:
            await trio.sleep(next(seconds))
            await commit(*args)

        replace(app, "commit", slow)
        for message in await take(app.topic("orders").noack(), 2):
            message.ack()
            await app.consumer.commit()
        seen = monitor.snapshot()
        took = attrs.astuple(seen.commits)
        assert took == (2, 0, 4.0, 4.0, 6.0)
        assert seen.commits.mean == 3.0
        assert (seen.assignments.count, seen.assignments.longest) == (1, 3.0)
        assert (seen.rebalances.count, seen.rebalances.mean) == (1, 3.0)
        write(broker, ONE)
        await trio.sleep(1)
        assert monitor.snapshot().buffers_full == 0


@jumping
async def test_snapshot_counts_messages_in_flight_and_failed() -> None:
    monitor = Monitor()
    async with app_on(broker_with(ONE), monitor=monitor) as app:
        kept: list[Any] = []

        async def keep(_: object, batch: Any) -> None:
            kept.extend(batch)

        replace(app, "producer.send", keep)
        deliveries = [await app.topic("orders").send(value=b"v", partition=0) for _ in range(3)]
        await trio.sleep(1)
        seen = monitor.snapshot()
        assert (seen.sends_initiated, seen.in_flight) == (3, 3)
        written = RecordMetadata("orders", 0, 0, 0.0)
        app.producer._report([(kept[0], written), (kept[1], DeliveryFailed("no"))])
        with pytest.raises(DeliveryFailed):
            await deliveries[1]
        seen = monitor.snapshot()
        assert (seen.sends_completed, seen.sends_failed, seen.in_flight) == (1, 1, 1)
        app.producer._report([(kept[2], written)])


@jumping
async def test_snapshot_shows_stuck_partitions() -> None:
    monitor = Monitor()
    async with app_on(broker_with(ONE, records=1), monitor=monitor) as app:
        message = await anext(app.topic("orders").noack())
        await trio.sleep(1000)
        (stuck,) = monitor.snapshot().stuck
        assert stuck.case is StuckCase.NOT_ACKED
        message.ack()


@jumping
async def test_monitor_is_refused_by_a_second_app() -> None:
    monitor = Monitor()
    async with app_on(broker_with(ONE), monitor=monitor):
        pass
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        async with app_on(broker_with(ONE), monitor=monitor):
            pass


async def test_counts_add_up_over_a_whole_run(place: Place) -> None:
    """The counts equal the number of messages that were sent, received and committed."""
    count = 2000
    tps = await place.create(4)
    monitor = Monitor()
    async with place.app(monitor=monitor, commit_interval=NEVER) as app:
        orders = app.topic(place.name)
        for number in range(count):
            await orders.send(key=b"%d" % number, value=b"value")
        await app.producer.flush()
        seen = monitor.snapshot()
        assert (seen.sends_initiated, seen.sends_completed) == (count, count)
        assert (seen.sends_failed, seen.in_flight) == (0, 0)
        left = count
        async for batch in orders.batches(noack=True):
            batch.ack()
            left -= len(batch)
            if not left:
                break
        await app.consumer.commit()
        seen = monitor.snapshot()
        assert seen.assignment == set(tps)
        assert (seen.messages_in, seen.messages_out) == (count, count)
        assert (seen.lag, seen.unacked) == (0, 0)
        assert sum(state.committed or 0 for state in seen.partitions.values()) == count
        assert seen.commits.count >= 1
        assert seen.commits.failed == 0
        assert seen.rebalances.count >= 1
    assert sum((await place.committed()).values()) == count
    assert sum(monitor.messages_in.values()) == sum(monitor.messages_out.values()) == count


@pytest.mark.parametrize("transactions", ["member", "partition"])
@jumping
async def test_counts_include_messages_in_transactions(transactions: str) -> None:
    monitor = Monitor()
    broker = broker_with(*ORDERS, records=5)
    settings = {"monitor": monitor, "transactions": transactions, "commit_interval": NEVER}
    async with app_on(broker, **settings) as app:
        bills, messages = app.topic("bills"), app.topic("orders").noack()
        for _ in range(10):
            message = await anext(messages)
            await bills.send(value=message.value)
            message.ack()
        await app.consumer.commit()
        seen = monitor.snapshot()
    assert (seen.messages_in, seen.messages_out, seen.lag) == (10, 10, 0)
    assert (seen.sends_initiated, seen.sends_completed, seen.in_flight) == (10, 10, 0)
    assert (seen.commits.count, seen.commits.failed) == (1, 0)
