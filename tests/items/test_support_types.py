"""The types that users hold: messages, futures, metadata; and interfaces that users implement."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.apps import take
from tests.items.fetched import Fetched
from tests.lanes import Place
from tests.museum.members import send
from transport import (
    TP,
    App,
    FutureMessage,
    PendingMessage,
    ProducerBuffer,
    RecordMetadata,
    Sensor,
    UnknownTopic,
)


async def test_tp(place: Place) -> None:
    """A pair of topic and partition, equal to a tuple of the two and replaceable by one."""
    async with place.opened(2, b"0") as app:
        message = await anext(app.topic(place.name).noack())
        assert message.tp == TP(topic=place.name, partition=0) == (place.name, 0)
        assert str(message.tp) == f"{place.name}-0"
        message.ack()
        assert await app.consumer.commit({(place.name, 0)})


async def test_message(place: Place) -> None:
    async with place.opened(1) as app:
        headers = [("a", b"1"), ("a", b"2")]
        await app.producer.send_and_wait(place.name, b"key", b"value", 0, 1.5, headers)
        await app.producer.send_and_wait(place.name, None, None, 0)
        first, second = await take(app.topic(place.name).noack(), 2)
        assert (first.tp, first.topic, first.partition) == (place.tps(1)[0], place.name, 0)
        assert (first.offset, second.offset) == (0, 1)
        assert (first.key, first.value, list(first.headers)) == (b"key", b"value", headers)
        assert (first.timestamp, first.timestamp_type) == (1.5, 0)
        assert (first.serialized_key_size, first.serialized_value_size) == (3, 5)
        assert (second.key, second.value, list(second.headers)) == (None, None, [])
        assert (second.serialized_key_size, second.serialized_value_size) == (-1, -1)
        ledger = app.consumer.assignment[first.tp]
        assert first.generation_id == ledger.generation == app.consumer.assignment.generation


async def test_acked_refcount_incref_decref_ack(place: Place) -> None:
    """A message is acked when its last holder has released it."""
    async with place.opened(1, b"0") as app:
        message = await anext(app.topic(place.name).noack())
        assert (message.refcount, message.acked) == (1, False)
        message.incref()
        message.incref(2)
        assert message.refcount == 4
        assert not message.decref()
        assert not message.decref(2)
        assert not message.acked
        assert app.consumer.unacked == {message}
        assert message.ack()
        assert (message.refcount, message.acked) == (0, True)
        assert not message.ack()
        assert not message.decref()
        assert app.consumer.assignment.tally.doubled == 2
        with pytest.raises(ValueError, match="no holder"):
            message.incref()
    assert await place.committed() == {place.tps(1)[0]: 1}


async def test_record_metadata(place: Place) -> None:
    async with place.opened(2) as app:
        written = await app.producer.send_and_wait(place.name, None, b"v", 1, 1.5)
        assert written == RecordMetadata(place.name, 1, 0, 1.5)
        assert written.tp == TP(place.name, 1)


async def test_pending_message_future_message(place: Place) -> None:
    """Any task may await the future of a pending message, before and after its outcome."""
    pending = PendingMessage(
        topic=place.name, key=b"k", value=b"v", partition=0, timestamp=1.5, headers={"a": b"1"}
    )
    async with place.opened(1) as app, trio.open_nursery() as nursery:
        written: list[RecordMetadata] = []
        fut = FutureMessage(pending)

        async def wait() -> None:
            written.append(await fut)

        nursery.start_soon(wait)
        app.producer.send_soon(fut)
        assert not fut.is_done
        assert await fut == RecordMetadata(place.name, 0, 0, 1.5) == fut.result()
        assert fut.is_done
        message = await anext(app.topic(place.name).noack())
        assert (message.key, message.value, list(message.headers)) == (b"k", b"v", [("a", b"1")])
        with pytest.raises(ValueError, match="given to a producer before"):
            app.producer.send_soon(fut)
        bad = FutureMessage(PendingMessage(topic="no topic's name", value=b"v"))
        app.producer.send_soon(bad)
        with pytest.raises(UnknownTopic):
            await bad
    assert written == [fut.result()]
    with pytest.raises(TypeError):
        PendingMessage(topic=place.name, value="text")  # type: ignore[arg-type]


async def test_producer_buffer(place: Place) -> None:
    async with place.opened(1, send_buffer_messages=2) as app:
        buffer = app.producer.buffer
        assert isinstance(buffer, ProducerBuffer)
        assert (buffer.limit, len(buffer)) == (2, 0)
        fut = FutureMessage(PendingMessage(topic=place.name, value=b"v", partition=0))
        buffer.put(fut)
        assert len(buffer) == 1
        await buffer.wait()
        assert fut.is_done
        assert len(buffer) == 0


class Lowest:
    """A scheduling strategy of a user: the lowest partition with messages is always next."""

    quantum = 1

    def __init__(self) -> None:
        self.lanes: set[Any] = set()

    def add(self, item: Any) -> None:
        self.lanes.add(item)

    def discard(self, item: Any) -> None:
        self.lanes.discard(item)

    def turn(self) -> Any:
        return min(self.lanes, key=lambda lane: lane.ledger.tp, default=None)


async def test_scheduling_strategy(place: Place) -> None:
    tps = place.tps(2)
    fetched = Fetched(10)
    async with place.opened(2, scheduler=Lowest, monitor=fetched) as app:
        await send(app, tps, 5)
        messages = app.topic(place.name).noack()
        await fetched.all.wait()
        assert [message.tp for message in await take(messages, 10)] == [tps[0]] * 5 + [tps[1]] * 5


class Diary(Sensor):
    """A sensor that records each event by its name, with its arguments."""

    def __init__(self) -> None:
        self.told: dict[str, list[Any]] = {}

    def note(self, point: str, what: object) -> str:
        self.told.setdefault(point, []).append(what)
        return point

    def on_messages_in(self, tp: TP, count: int) -> None:
        self.note("messages_in", (tp, count))

    def on_messages_out(self, tp: TP, count: int) -> None:
        self.note("messages_out", (tp, count))

    def on_sends_initiated(self, producer: object, count: int) -> None:
        self.note("sends_initiated", count)

    def on_sends_completed(self, producer: object, written: Any) -> None:
        self.note("sends_completed", len(written))

    def on_commit_initiated(self, consumer: object) -> object:
        return self.note("commit_initiated", consumer)

    def on_commit_completed(self, consumer: object, state: object, moved: bool) -> None:
        self.note("commit_completed", (state, moved))

    def on_assignment_start(self, consumer: object, assigned: frozenset[TP]) -> object:
        return self.note("assignment_start", assigned)

    def on_assignment_completed(self, consumer: object, state: object) -> None:
        self.note("assignment_completed", state)

    def on_rebalance_start(self, app: App, kind: str, partitions: frozenset[TP]) -> object:
        return self.note("rebalance_start", kind)

    def on_rebalance_return(self, app: App, state: object) -> None:
        self.note("rebalance_return", state)

    def on_rebalance_end(self, app: App, state: object) -> None:
        self.note("rebalance_end", state)


async def test_sensor(place: Place) -> None:
    """It receives messages in and out, sends, commits, assignments and rebalances."""
    (tp,) = place.tps(1)
    diary = Diary()
    async with place.opened(1, b"0", b"1", monitor=diary) as app:
        told = diary.told
        assert sum(told["sends_initiated"]) == sum(told["sends_completed"]) == 2
        for message in await take(app.topic(place.name).noack(), 2):
            message.ack()
        assert sum(count for where, count in told["messages_in"] if where == tp) == 2
        await app.consumer.commit()
        assert sum(count for where, count in told["messages_out"] if where == tp) == 2
        assert told["commit_initiated"][-1] is app.consumer
        assert told["commit_completed"][-1] == ("commit_initiated", True)
        assert frozenset().union(*told["assignment_start"]) == {tp}
        assert set(told["assignment_completed"]) == {"assignment_start"}
        assert "assigned" in told["rebalance_start"]
        assert set(told["rebalance_return"]) == set(told["rebalance_end"]) == {"rebalance_start"}
