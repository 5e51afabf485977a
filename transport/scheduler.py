"""The order in which partitions deliver. Nothing here knows trio or Kafka."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from transport.arguments import whole

T = TypeVar("T", bound=Hashable)


class SchedulingStrategy(Protocol[T]):
    """A strategy that chooses which item (a channel's lane) delivers next.

    Attributes:
        quantum: the most messages that an item may deliver in one turn.
    """

    quantum: int

    def add(self, item: T) -> None:
        """Add an item that has messages to deliver; one that was added before keeps its place."""

    def discard(self, item: T) -> None:
        """Remove an item that has no message to deliver, if it is present."""

    def turn(self) -> T | None:
        """Return the item that has the next turn; None: there are no items."""


class RoundRobin(Generic[T]):
    """A strategy that gives each item one turn after another, in the order of their `add`."""

    def __init__(self, quantum: int = 64) -> None:
        self.quantum = whole("quantum", quantum, least=1)
        self._order: OrderedDict[T, None] = OrderedDict()

    def add(self, item: T) -> None:
        self._order.setdefault(item)

    def discard(self, item: T) -> None:
        self._order.pop(item, None)

    def turn(self) -> T | None:
        if not self._order:
            return None
        item = next(iter(self._order))
        self._order.move_to_end(item)
        return item
