"""The partitions of a topic object, and the messages of each, for programs with a task for each.

Look here for `Topic.partitions`. Each partition has a channel of its own: a branch of the topic
object's channel (`channel.py`). A branch exists as long as its partition is assigned to this
consumer without a break, also through seeks and aborts of transactions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Self

import trio
from trio.lowlevel import enable_ki_protection

from transport.arguments import flag
from transport.delivering.channel import Batches, Channel, Messages
from transport.types import TP, K_co, V_co

# Returns the most messages in a batch, from the argument of `batches`.
BatchSize = Callable[[int | None], int]


class PartitionStream(Generic[K_co, V_co]):
    """The messages of one partition, as long as the partition is assigned to this consumer.

    An async iterable. Its iterators share its messages, and end when the partition is revoked or
    lost, and when the app stops.

    Attributes:
        tp: the partition.
        channel: the buffer of its messages. For the transport.
    """

    def __init__(self, tp: TP, channel: Channel, batch_size: BatchSize) -> None:
        self.tp = tp
        self.channel = channel
        self.batch_size = batch_size

    def __aiter__(self) -> Messages[K_co, V_co]:
        """Return an iterator over the messages, which acks each when the loop asks for the next.

        A rebalance that revokes the partition waits for the message in hand, as for every unacked
        message. Then the loop ends. A seek, and an abort of a transaction, does not end it: the
        loop continues in the new epoch, which `message.epoch` shows.
        """
        return Messages(self.channel, acks=True)

    def noack(self) -> Messages[K_co, V_co]:
        """Return an iterator over messages that your handler acks; see `Topic.noack`."""
        return Messages(self.channel, acks=False)

    def batches(self, max_size: int | None = None, *, noack: bool = False) -> Batches[K_co, V_co]:
        """Return an iterator over batches; see `Topic.batches`."""
        most = self.batch_size(max_size)
        flag("noack", noack)
        return Batches(self.channel, acks=not noack, most=most)

    @property
    def has_ended(self) -> bool:
        """Whether the partition was revoked or lost, or the app has stopped: no message follows."""
        return self.channel.ended

    def __repr__(self) -> str:
        return f"<PartitionStream {self.tp}>"


class Partitions(Generic[K_co, V_co]):
    """An async iterator over the assigned partitions of a topic object.

    Each partition comes once for each assignment. Tasks that share the iterator share the
    partitions.
    """

    def __init__(self, channel: Channel, batch_size: BatchSize) -> None:
        self.channel = channel
        self._batch_size = batch_size
        self._given: set[Channel] = set()

    def __aiter__(self) -> Self:
        return self

    @enable_ki_protection
    async def __anext__(self) -> PartitionStream[K_co, V_co]:
        while True:
            await trio.lowlevel.checkpoint()
            if (stream := self.take()) is not None:
                return stream
            if self.channel.ended:
                raise StopAsyncIteration
            await self.channel.wait_for_change()

    @enable_ki_protection
    def take(self) -> PartitionStream[K_co, V_co] | None:
        """Return the next partition that this iterator has not returned; None: there is none."""
        if self.channel.ended:
            return None
        for tp, branch in self.channel.branches.items():
            if branch not in self._given:
                self._given.add(branch)
                return PartitionStream(tp, branch, self._batch_size)
        self._given.intersection_update(self.channel.branches.values())
        return None
