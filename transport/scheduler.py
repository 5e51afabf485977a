"""Whose turn it is: a fair order over partitions. Knows neither trio nor Kafka."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from transport.arguments import whole

T = TypeVar("T", bound=Hashable)


class SchedulingStrategy(Protocol[T]):
    """Chooses among the items (a channel's lanes) that have something to deliver.

    Attributes:
        quantum: most messages an item may deliver in one turn.
    """

    quantum: int

    def add(self, item: T) -> None:
        """The item takes part from now on; one that does already keeps its place."""

    def discard(self, item: T) -> None:
        """The item has nothing to deliver any more."""

    def turn(self) -> T | None:
        """The item whose turn comes now; None when none takes part."""


class RoundRobin(Generic[T]):
    """Each in its turn, in the order in which they came."""

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
