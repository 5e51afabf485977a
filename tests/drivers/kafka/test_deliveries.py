"""Each message has an outcome by its deadline, and its expiry fails as few others as possible."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from kafka import TopicPartition
from kafka.errors import InvalidRecordError, KafkaTimeoutError
from kafka.record.memory_records import MemoryRecordsBuilder

from tests.nurseries.clock import jumping
from transport import ClientClosed, DeliveryFailed, DeliveryTimeout
from transport.drivers.base import Outcome, Outgoing
from transport.drivers.kafka.appending import FilledBatch, Part
from transport.drivers.kafka.deliveries import Deliveries, HandedBatch, Run

TIMEOUT = 100.0


def part_of(messages: list[Outgoing]) -> Part:
    """Return the part of a new batch of the client that contains these messages."""
    held = FilledBatch(TopicPartition("t", 0), MemoryRecordsBuilder(2, 0, 1000), 0.0)
    part = Part(held, 0, 0, messages)
    held.parts.append(part)
    return part


@attrs.define
class Rig:
    failed: list[tuple[bytes | None, float]] = attrs.field(factory=list)
    discards: list[float] = attrs.field(factory=list)
    deliveries: Deliveries = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.deliveries = Deliveries(
            self.report, timeout=TIMEOUT, answered=True, set_aside=lambda *_: None
        )

    def report(self, reports: Sequence[tuple[Outgoing, Outcome]]) -> None:
        for each, outcome in reports:
            assert isinstance(outcome, DeliveryTimeout)
            self.failed.append((each.value, trio.current_time()))

    def discard(self) -> None:
        self.discards.append(trio.current_time())

    def hand_over(self, value: bytes, left: float = TIMEOUT) -> None:
        """Pass a message to a client that never resolves it."""
        outgoing = Outgoing("t", 0, None, value, (), None)
        batch = HandedBatch([outgoing], trio.current_time() + left)
        self.deliveries.add(batch)
        self.deliveries.taken(batch, [Run(batch, part_of([outgoing]))], [], [])


@asynccontextmanager
async def at_work() -> AsyncIterator[Rig]:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.deliveries.keep_deadlines, rig.discard)
        yield rig
        nursery.cancel_scope.cancel()


@jumping
async def test_client_is_discarded_with_all_messages_at_a_deadline() -> None:
    async with at_work() as rig:
        rig.hand_over(b"1")
        await trio.sleep(60)
        rig.hand_over(b"2")
        await trio.sleep(TIMEOUT)
    assert rig.failed == [(b"1", TIMEOUT), (b"2", TIMEOUT)]
    assert rig.discards == [TIMEOUT]


@jumping
async def test_message_that_waited_for_its_topic_keeps_its_deadline() -> None:
    async with at_work() as rig:
        rig.hand_over(b"1")
        await trio.sleep(60)
        rig.hand_over(b"waited", left=10)
        await trio.sleep(TIMEOUT)
    assert rig.failed == [(b"waited", 70.0), (b"1", TIMEOUT)]


@jumping
async def test_message_that_waited_for_its_topic_expires_alone() -> None:
    """The client has less time for that message than it takes to give up."""
    async with at_work() as rig:
        rig.hand_over(b"waited", left=10)
        rig.hand_over(b"1")
        await trio.sleep(TIMEOUT + 1)
    assert rig.failed == [(b"waited", 10.0), (b"1", TIMEOUT)]
    assert rig.discards == [TIMEOUT]


@jumping
async def test_client_is_discarded_after_a_short_wait_for_a_topic() -> None:
    async with at_work() as rig:
        rig.hand_over(b"waited", left=0.95 * TIMEOUT)
        await trio.sleep(TIMEOUT)
    assert rig.failed == [(b"waited", 95.0)]
    assert rig.discards == [95.0]


@pytest.mark.parametrize("how", ["deadline", "close"])
@jumping
async def test_message_keeps_its_outcome_if_a_later_one_has_none(how: str) -> None:
    """For example, the broker refuses one message, and hangs when its neighbors are sent again."""
    outcomes: list[tuple[Outgoing, Outcome]] = []
    deliveries = Deliveries(
        outcomes.extend, timeout=TIMEOUT, answered=True, set_aside=lambda *_: None
    )
    messages = [Outgoing("t", 0, None, b"%d" % n, (), None) for n in range(3)]
    part = part_of(messages)
    futures = part.held._record_futures  # as if the client had split the batch
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliveries.keep_deadlines, lambda: None)
        batch = HandedBatch(messages, trio.current_time() + TIMEOUT)
        deliveries.add(batch)
        deliveries.taken(batch, [Run(batch, part)], [], [])
        await trio.testing.wait_all_tasks_blocked()
        futures[1].failure(InvalidRecordError("no key"))
        if how == "deadline":
            await trio.sleep(TIMEOUT + 1)
        else:
            deliveries.fail(ClientClosed("closed"))
        futures[2].failure(KafkaTimeoutError())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    late = DeliveryTimeout if how == "deadline" else ClientClosed
    by_value = {message.value: type(outcome) for message, outcome in outcomes}
    assert by_value == {b"0": late, b"1": DeliveryFailed, b"2": late}
    assert len(outcomes) == 3
