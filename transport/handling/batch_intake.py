"""The intake of a handler of batches: it takes batches from the channel into the key order.

A partition has at most one batch at a time. A batch is taken when `max_size` messages wait, or when
messages have waited for `linger` seconds. Until then, nothing is taken from the partition.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from transport.delivering.channel import Channel
from transport.delivering.ledger import Lane, lane_of
from transport.handling.key_order import KeyOrder, Partition, Work
from transport.handling.plan import BatchSize
from transport.handling.redelivery import Redelivery
from transport.handling.timers import Timers
from transport.message import AnyBatch, Part
from transport.types import TP


class BatchWork(Work[AnyBatch]):
    """A batch on its way through a handler.

    Attributes:
        parts: the parts that are left to handle, in offset order. At first, the batch is one part.
        is_prepared: whether its messages are decoded and filtered.
    """

    __slots__ = ("is_prepared", "parts")

    def __init__(self, batch: AnyBatch) -> None:
        super().__init__(batch, batch.first, True)
        self.parts: deque[AnyBatch] = deque([batch])
        self.is_prepared = False

    def split(self) -> None:
        """Replace the first part, which has several unacked messages, by its halves."""
        left = list(self.parts.popleft().open_messages())
        middle = len(left) // 2
        self.parts.extendleft([Part(left[middle:]), Part(left[:middle])])


class BatchIntake:
    """The intake of one handler of batches. The arguments are those of `MessageIntake`.

    Attributes:
        may_take: whether the channel may have batches to take.
        lanes: the lanes of the partitions from which batches were taken.
    """

    def __init__(
        self,
        size: BatchSize,
        channel: Channel,
        order: KeyOrder[Any],
        redelivery: Redelivery,
        on_change: Callable[[], None],
    ) -> None:
        self.may_take = False
        self.lanes: dict[TP, Lane] = {}
        self._most = min(size.max_size, channel.usage.limit)
        self._linger = size.linger
        self._channel = channel
        self._order = order
        self._redelivery = redelivery
        self._on_change = on_change
        self._is_listening = False
        self._busy: set[Lane] = set()  # their batch is not done
        self._since: dict[Lane, float] = {}  # since when messages of a lane wait
        self._timed: set[Lane] = set()  # the lanes in `_timers`
        self._timers: Timers[Lane] = Timers(self._on_time)

    async def run(self) -> None:
        """Take from partitions whose messages have waited long enough, until cancelled."""
        await self._timers.run()

    def take(self) -> None:
        """Take one batch from each partition that has one. Not a checkpoint."""
        while (batch := self._channel.take_batch(self._most_now())) is not None:
            lane = lane_of(batch)
            self._since.pop(lane, None)
            self._busy.add(lane)
            self._channel.hold(lane)
            self.lanes[lane.ledger.tp] = lane
            work = BatchWork(batch)
            waits = self._redelivery.recall(work)
            if work.attempts is not None and work.attempts.is_spent:
                work.attempts = None  # it is of the first message alone: see `BatchCalls.prepare`
            self._order.put(work, self._order.partition(batch.tp), waits=waits)
        self.listen()

    def _most_now(self) -> int:
        """Return the size of the next batch at most, which leaves room for all other partitions."""
        usage = self._channel.usage
        others = len(self._channel.lanes) - len(self._busy) - 1
        if others <= 0:
            return self._most
        room = usage.limit - usage.begun
        return max(1, min(self._most, room // 2, room - others))

    def listen(self) -> None:
        """Note that there is nothing to take until the channel calls. Not a checkpoint."""
        self.may_take = False
        if not self._is_listening:
            self._is_listening = True
            self._channel.call_at_change(self._listen_again)

    def _listen_again(self) -> None:
        self._is_listening = False
        self.may_take = True
        self._on_change()

    def filled(self, lane: Lane) -> None:
        """Decide whether a batch can be taken, because a lane has new messages."""
        self._since.setdefault(lane, trio.current_time())
        self._consider(lane)

    def _on_time(self, lane: Lane) -> None:
        self._timed.discard(lane)
        self._consider(lane)

    def _consider(self, lane: Lane) -> None:
        """Hold a lane back until its messages make a batch."""
        if lane in self._busy:
            return
        if lane.first_waiting is None:
            self._channel.release(lane)  # it wants messages
            return
        now = trio.current_time()
        due = self._since.setdefault(lane, now) + self._linger
        if due <= now or lane.waiting >= self._most:
            self._channel.release(lane)
            return
        self._channel.hold(lane)
        if lane not in self._timed:
            self._timed.add(lane)
            self._timers.add(lane, due)

    def done(self, partition: Partition[Any]) -> None:
        """Take the next batch of a partition."""
        if (lane := self.lanes.get(partition.tp)) is not None:
            self.release(lane)

    def release(self, lane: Lane) -> None:
        """Take batches of a lane again: it has no work."""
        self._busy.discard(lane)
        self._consider(lane)

    def loaded(self, lane: Lane, error: object) -> None:
        """Do nothing: batches are decoded when they are handled."""

    def held_up(self, lane: Lane) -> None:
        """Do nothing about a batch that waits for its retry: its lane is held back already."""

    def forget(self, lane: Lane) -> None:
        """Forget a lane that has ended."""
        if self.lanes.get(lane.ledger.tp) is lane:
            del self.lanes[lane.ledger.tp]
        self._busy.discard(lane)
        self._since.pop(lane, None)
        self._timers.keep(lambda each: each is not lane)
        self._timed.discard(lane)
