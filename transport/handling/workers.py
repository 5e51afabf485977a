"""Worker tasks, started on demand.

A worker handles one work after the other, until there is none. If it finds more work than it can
begin at once, it wakes another worker. Only one woken worker at a time has not run yet. So for
handlers that never wait, a single worker does all the work, and no time is lost with waking.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio


class Workers:
    """The worker tasks of one handler.

    Args:
        most: the most workers.
        start: starts a worker with this number, counted from 1.

    Attributes:
        count: the number of workers.
        is_waking: whether a worker was woken or started, and has not run yet.
        latest: the number of the worker that has begun the latest work.
        gave_way: when a worker last continued after it gave way. All workers share this time, so
            that many workers together do not run for longer than one.
    """

    def __init__(self, most: int, start: Callable[[int], None]) -> None:
        self.count = self.latest = 0
        self.gave_way = -math.inf
        self._most = most
        self._start = start
        self._idle = trio.lowlevel.ParkingLot()
        self.is_waking = False
        self._has_stopped = False
        self._giving_way = 0  # workers that have more to do, and let other tasks run first

    @trio.lowlevel.enable_ki_protection
    def wake(self) -> None:
        """Wake or start one worker, unless all are at work or one is waking. Not a checkpoint."""
        if self.is_waking or self._has_stopped:
            return
        if self._idle:
            self._idle.unpark()
        elif self.count < self._most:
            self.count += 1
            self._start(self.count)
        else:
            return
        self.is_waking = True

    def stop(self) -> None:
        """Wake and start no worker from now on. Not a checkpoint."""
        self._has_stopped = True

    @trio.lowlevel.enable_ki_protection
    async def begin(self) -> None:
        """Begin the turn of a started worker, or wait for one, as `rest` does."""
        self.is_waking = False
        if self._giving_way:
            await self.rest()

    @trio.lowlevel.enable_ki_protection
    async def rest(self) -> None:
        """Wait until the worker is woken and no other worker is about to continue.

        A checkpoint. Cancelling changes nothing.
        """
        while True:
            await self._idle.park()
            self.is_waking = False
            if not self._giving_way:
                return

    @trio.lowlevel.enable_ki_protection
    async def give_way(self) -> None:
        """Let other tasks run, and continue. A checkpoint."""
        self._giving_way += 1
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._giving_way -= 1
            self.gave_way = trio.current_time()
