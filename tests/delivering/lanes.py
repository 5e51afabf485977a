"""Taking messages from a lane."""

from __future__ import annotations

from transport.delivering.ledger import Lane
from transport.message import Batch, Message


def take_one(lane: Lane) -> Message:
    """Return the next message, which must be ready."""
    assert lane.ready()
    message = lane.take()
    assert message is not None
    return message


def take(lane: Lane, count: int = 1) -> list[Message]:
    """Return the next `count` messages, which must be ready."""
    return [take_one(lane) for _ in range(count)]


def take_all(lane: Lane) -> list[Message]:
    """Return all messages that are ready."""
    taken = []
    while lane.ready():
        taken += take(lane)
    return taken


def take_batch(lane: Lane, most: int = 9) -> Batch:
    """Return the next batch, which must be ready."""
    assert lane.ready()
    return lane.take_batch(most)
