"""The partitions of a topic object, and the messages of each, for the tasks of an asyncio loop."""

from __future__ import annotations

import functools
from typing import Generic, Self

import outcome

from transport.anyio.guest import Answer, Guest, Leave
from transport.anyio.reader import AioReader
from transport.arguments import flag
from transport.delivering.partitions import Partitions, PartitionStream
from transport.message import Batch, Message
from transport.types import TP, K, V


class AioPartitionStream(Generic[K, V]):
    """The messages of one partition, for asyncio's tasks; see `PartitionStream` for each call."""

    def __init__(self, stream: PartitionStream[K, V], guest: Guest) -> None:
        self.native = stream
        self._guest = guest

    @property
    def tp(self) -> TP:
        """The partition."""
        return self.native.tp

    @property
    def has_ended(self) -> bool:
        """Whether no message follows; see `PartitionStream.has_ended`."""
        return self.native.has_ended

    def __aiter__(self) -> AioReader[Message[K, V]]:
        """Return an iterator over the messages, which acks each when the loop asks for the next."""
        channel = self.native.channel
        return AioReader(channel, self._guest, channel.take, acks=True)

    def noack(self) -> AioReader[Message[K, V]]:
        """Return an iterator over messages that your handler acks."""
        channel = self.native.channel
        return AioReader(channel, self._guest, channel.take, acks=False)

    def batches(
        self, max_size: int | None = None, *, noack: bool = False
    ) -> AioReader[Batch[K, V]]:
        """Return an iterator over batches; see `Topic.batches`."""
        most = self.native.batch_size(max_size)
        flag("noack", noack)
        channel = self.native.channel
        return AioReader(channel, self._guest, lambda: channel.take_batch(most), acks=not noack)

    def __repr__(self) -> str:
        return repr(self.native)


class AioPartitions(Generic[K, V]):
    """An async iterator over the assigned partitions of a topic object, for asyncio's tasks."""

    def __init__(self, partitions: Partitions[K, V], guest: Guest) -> None:
        self.native = partitions
        self._guest = guest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AioPartitionStream[K, V]:
        while True:
            await self._guest.give_way()
            if (stream := self.native.take()) is not None:
                return AioPartitionStream(stream, self._guest)
            if self.native.channel.ended:
                raise StopAsyncIteration
            await self._guest.wait(self._call_at_change)

    def _call_at_change(self, answer: Answer[None]) -> Leave:
        call = functools.partial(answer, outcome.Value(None))
        self.native.channel.call_at_change(call)
        return functools.partial(self.native.channel.call_off, call)
