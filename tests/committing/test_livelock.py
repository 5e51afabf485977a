"""The check for livelocks: `transport/committing/livelock.py`."""

from __future__ import annotations

import attrs

from tests.records import fetched
from transport import TP, Message
from transport.committing.livelock import LivelockWatch
from transport.delivering.assignment import Assignment
from transport.delivering.ledger import BufferUsage

A = TP("orders", 0)


@attrs.define
class Watched:
    """A partition with messages to ack, and a livelock check with a timeout of 10 seconds."""

    assignment: Assignment = attrs.field(factory=Assignment)
    watch: LivelockWatch = attrs.field(factory=lambda: LivelockWatch(10.0))
    messages: list[Message] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.assignment.assign([A], 1)
        ledger = self.assignment[A]
        lane = ledger.open_lane(BufferUsage(100))
        ledger.put(fetched(*range(100, 110)))
        lane.ready()
        self.messages = list(lane.take_batch(10))

    def check(self, now: float) -> list[tuple[TP, int, float]]:
        return self.watch.check(self.assignment, now)


def test_offset_that_stands_still_while_acks_go_on_is_reported_once() -> None:
    watched = Watched()
    assert watched.check(0.0) == []
    watched.messages[3].ack()
    assert watched.check(9.0) == []
    assert watched.check(10.0) == [(A, 100, 10.0)]
    watched.messages[4].ack()
    assert watched.check(30.0) == []


def test_livelock_is_reported_again_after_the_offset_has_moved() -> None:
    watched = Watched()
    watched.check(0.0)
    watched.messages[3].ack()
    assert watched.check(10.0)
    watched.messages[0].ack()
    assert watched.check(20.0) == []
    watched.messages[5].ack()
    assert watched.check(29.0) == []
    assert watched.check(30.0) == [(A, 101, 10.0)]


def test_offset_that_stands_still_without_acks_is_no_livelock() -> None:
    watched = Watched()
    assert [watched.check(now) for now in (0.0, 20.0, 40.0)] == [[], [], []]


def test_offset_that_moves_slowly_is_no_livelock() -> None:
    watched = Watched()
    for step, message in enumerate(watched.messages):
        message.ack()
        assert watched.check(step * 9.0) == []


def test_livelock_check_starts_again_with_each_epoch() -> None:
    watched = Watched()
    watched.check(0.0)
    watched.messages[3].ack()
    watched.assignment.seek(A, 100)
    assert watched.check(50.0) == []
