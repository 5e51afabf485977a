"""A queue of things by their time, and the task that makes them due."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Timers(Generic[T]):
    """A queue of things that become due, each at an exact time on trio's clock.

    Args:
        on_due: called with each thing at its time; not a coroutine function.
    """

    def __init__(self, on_due: Callable[[T], None]) -> None:
        self._on_due = on_due
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()  # so that things of one time need not be compared
        self._change = trio.Event()

    def __iter__(self) -> Iterator[T]:
        return (thing for _, _, thing in self._heap)

    def add(self, thing: T, due: float) -> None:
        """Add a thing that is due at a time. Not a checkpoint."""
        heapq.heappush(self._heap, (due, next(self._numbers), thing))
        if self._heap[0][2] is thing:
            self._change.set()

    def keep(self, is_kept: Callable[[T], bool]) -> None:
        """Remove the other things. Not a checkpoint."""
        if self._heap:
            self._heap = [entry for entry in self._heap if is_kept(entry[2])]
            heapq.heapify(self._heap)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Call `on_due` with each thing at its time, until cancelled."""
        while True:
            with trio.move_on_at(self._heap[0][0] if self._heap else math.inf):
                await self._change.wait()
            self._change = trio.Event()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                _, _, thing = heapq.heappop(self._heap)
                self._on_due(thing)
