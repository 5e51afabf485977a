"""The works of a handler that wait for their next attempt."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

import trio

from transport.handling.key_order import Partition, Work


class RetryQueue:
    """A queue of works by the time of their next attempt, and the task that makes them due.

    Args:
        on_due: called with each work at its time.
    """

    def __init__(self, on_due: Callable[[Work[Any]], None]) -> None:
        self._on_due = on_due
        self._heap: list[tuple[float, int, Work[Any]]] = []
        self._numbers = itertools.count()
        self._change = trio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, work: Work[Any], due: float) -> None:
        """Add a work that is due at a time on trio's clock. Not a checkpoint."""
        heapq.heappush(self._heap, (due, next(self._numbers), work))
        if self._heap[0][2] is work:
            self._change.set()

    def has(self, partition: Partition[Any]) -> bool:
        """Return whether a work of the partition waits."""
        return any(work.partition is partition for _, _, work in self._heap)

    def prune(self) -> None:
        """Remove the works that `KeyOrder.cut` has removed."""
        if self._heap:
            self._heap = [entry for entry in self._heap if entry[2].partition is not None]
            heapq.heapify(self._heap)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Call `on_due` for each work at its time, until cancelled."""
        while True:
            with trio.move_on_at(self._heap[0][0] if self._heap else math.inf):
                await self._change.wait()
            self._change = trio.Event()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                _, _, work = heapq.heappop(self._heap)
                self._on_due(work)
