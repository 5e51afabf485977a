"""Messages wait for missing topics, in order, and delay no messages of other topics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from tests.drivers.rig import outgoing
from tests.nurseries.clock import jumping
from transport import BrokerUnavailable, DeliveryFailed, DeliveryTimeout, UnknownTopic
from transport.drivers.base import Outcome, Outgoing
from transport.drivers.kafka.topic_wait_queue import TopicWaitQueue
from transport.errors import ClientClosed, TransactionAborted

PATIENCE, DEADLINE = 10.0, 120.0


@attrs.define
class Rig:
    """A queue with a fake client and topics that exist from given times on.

    The first `bounces` times, the client has no metadata after all and adds the messages again.
    """

    there_at: dict[str, float] = attrs.field(factory=dict)
    broker_from: float = 0.0
    bounces: int = 0
    takes: float = 1.0  # seconds that the client takes for messages
    taken: list[tuple[bytes | None, float]] = attrs.field(factory=list)
    failed: list[tuple[bytes | None, Outcome, float]] = attrs.field(factory=list)
    absent: TopicWaitQueue = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.absent = TopicWaitQueue(self.look_up, self.hand_over, self.report, PATIENCE)

    async def look_up(self, topic: str, timeout: float) -> None:
        now = trio.current_time()
        there = self.there_at.get(topic, float("inf"))
        await trio.sleep(min(timeout, max(0.0, there - now)))
        if trio.current_time() < self.broker_from:
            raise BrokerUnavailable("nobody there")
        if trio.current_time() < there:
            raise UnknownTopic(f"no such topic: {topic}")

    async def hand_over(self, messages: Sequence[Outgoing], deadline: float) -> None:
        await trio.sleep(self.takes)
        if self.bounces:
            self.bounces -= 1
            self.absent.add(messages, deadline)
        else:
            self.taken += [(each.value, trio.current_time()) for each in messages]

    def report(self, reports: Sequence[tuple[Outgoing, Outcome]]) -> None:
        self.failed += [(each.value, outcome, trio.current_time()) for each, outcome in reports]


@asynccontextmanager
async def at_work(rig: Rig) -> AsyncIterator[TopicWaitQueue]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.absent.wait_for_topics)
        yield rig.absent
        nursery.cancel_scope.cancel()


@jumping
async def test_unexpected_error_fails_one_topic_only() -> None:
    rig = Rig({"good": 5.0})
    look_up = rig.look_up

    async def break_down(topic: str, timeout: float) -> None:
        if topic == "bad":
            raise RuntimeError("what is this?")
        await look_up(topic, timeout)

    rig.absent.look_up = break_down
    async with at_work(rig) as absent:
        absent.add([outgoing("bad", value=b"1"), outgoing("good", value=b"2")], DEADLINE)
        await trio.sleep(DEADLINE)
    ((value, outcome, _),) = rig.failed
    assert value == b"1"
    assert isinstance(outcome, DeliveryFailed)
    assert isinstance(outcome.__cause__, RuntimeError)
    assert [value for value, _ in rig.taken] == [b"2"]


@jumping
async def test_messages_leave_queue_once_their_topic_exists() -> None:
    rig = Rig({"a": 3.0, "b": 0.0})
    async with at_work(rig) as absent:
        absent.add(
            [outgoing("a", value=b"1"), outgoing("b", value=b"2"), outgoing("a", value=b"3")],
            DEADLINE,
        )
        await trio.sleep(DEADLINE)
    assert rig.taken == [(b"2", 1.0), (b"1", 4.0), (b"3", 4.0)]
    assert not absent.topics


@jumping
async def test_messages_of_missing_topic_fail_after_patience() -> None:
    rig = Rig({"b": 0.0})
    async with at_work(rig) as absent:
        absent.add([outgoing("a", value=b"1"), outgoing("b", value=b"2")], DEADLINE)
        await trio.sleep(DEADLINE)
    assert rig.taken == [(b"2", 1.0)]
    ((value, outcome, at),) = rig.failed
    assert (value, at) == (b"1", PATIENCE)
    assert isinstance(outcome, DeliveryFailed)
    assert isinstance(outcome.__cause__, UnknownTopic)


@jumping
async def test_deadline_before_end_of_patience_fails_one_message() -> None:
    """A broker that has just started may not know its topics yet."""
    rig = Rig({"a": 5.0})
    async with at_work(rig) as absent:
        absent.add([outgoing("a", value=b"1")], 4.0)
        absent.add([outgoing("a", value=b"2")], 6.0)
        await trio.sleep(DEADLINE)
    ((value, outcome, at),) = rig.failed
    assert (value, at) == (b"1", 4.0)
    assert isinstance(outcome, DeliveryTimeout)
    assert isinstance(outcome.__cause__, UnknownTopic)
    assert rig.taken == [(b"2", 6.0)]


@jumping
async def test_later_message_stays_behind_earlier_one() -> None:
    rig = Rig({"a": 2.0}, bounces=1)
    async with at_work(rig) as absent:
        absent.add([outgoing("a", value=b"1")], DEADLINE)
        await trio.sleep(2.5)  # the client is taking the message, and will add it again
        assert "a" in absent.topics
        absent.add([outgoing("a", value=b"2")], DEADLINE + 2.5)
        await trio.sleep(DEADLINE)
    assert [value for value, _ in rig.taken] == [b"1", b"2"]


@jumping
async def test_queue_empties_faster_than_messages_arrive() -> None:
    rig = Rig({"a": 5.0}, takes=0.1)
    values = [b"%d" % number for number in range(1000)]
    async with at_work(rig) as absent:
        for value in values:
            absent.add([outgoing("a", value=value)], trio.current_time() + DEADLINE)
            await trio.sleep(0.02)
        await trio.sleep(1.0)
        assert not absent.topics
    assert [value for value, _ in rig.taken] == values


@jumping
async def test_queue_waits_for_broker_until_deadline() -> None:
    rig = Rig({"a": 0.0}, broker_from=DEADLINE + 1)
    async with at_work(rig) as absent:
        absent.add([outgoing("a", value=b"1")], DEADLINE)
        await trio.sleep(5.0)
        absent.add([outgoing("a", value=b"2")], DEADLINE + 5)
        await trio.sleep(2 * DEADLINE)
    ((value, outcome, at),) = rig.failed
    assert value == b"1"
    assert isinstance(outcome, DeliveryTimeout)
    assert DEADLINE <= at < DEADLINE + 1
    assert [value for value, _ in rig.taken] == [b"2"]


@jumping
async def test_abort_leaves_no_message_for_next_transaction() -> None:
    rig = Rig({"a": 3.0})
    async with at_work(rig) as absent:
        absent.add([outgoing("a", value=b"1")], DEADLINE)
        await trio.testing.wait_all_tasks_blocked()
        absent.fail(TransactionAborted("it was aborted"))
        await trio.sleep(DEADLINE)
    assert rig.taken == []
    assert [value for value, _, _ in rig.failed] == [b"1"]


@jumping
async def test_messages_left_after_cancellation_can_be_failed() -> None:
    rig = Rig()
    async with at_work(rig) as absent:
        absent.add([outgoing("a", value=b"1"), outgoing("a", value=b"2")], DEADLINE)
        await trio.testing.wait_all_tasks_blocked()
    absent.fail(ClientClosed("it was closed"))
    assert [value for value, _, _ in rig.failed] == [b"1", b"2"]


class Counted(float):
    """A deadline that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return float(self) < float(other)

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return float(self) == other

    __hash__ = float.__hash__


@pytest.mark.parametrize("comes", ["in order", "again, before all"])
@jumping
async def test_adding_a_message_does_not_scan_the_queue(comes: str) -> None:
    rig = Rig()
    count = 5000
    for number in range(count):
        deadline = Counted(number if comes == "in order" else count - number)
        rig.absent.add([outgoing("a", value=b"%d" % number)], deadline)
    assert Counted.compared < 60 * count
    rig.absent.fail(ClientClosed("it was closed"))
    failed = [int(value or b"") for value, _, _ in rig.failed]
    assert failed == sorted(failed, reverse=comes != "in order")
    Counted.compared = 0
