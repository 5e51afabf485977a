"""The iterator over messages or batches, for the tasks of an asyncio loop."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Generic, Self, TypeVar

import outcome

from transport.anyio.guest import GIVE_WAY, Answer, Guest, Leave
from transport.delivering.channel import Channel
from transport.delivering.in_hand import in_hand
from transport.message import AnyBatch, AnyMessage, Message

M = TypeVar("M", bound=AnyMessage | AnyBatch)


class AioReader(Generic[M]):
    """An async iterator over messages or batches, for asyncio's tasks.

    It takes messages directly from the channel of the topic object or the partition, and uses the
    guest only to wait for more. So cancelling loses no message.
    """

    _current: M | None = None

    def __init__(
        self, channel: Channel, guest: Guest, take: Callable[[], M | None], *, acks: bool
    ) -> None:
        self._channel = channel
        self._guest = guest
        self._take: Callable[[], M | None] = take
        self._acks = acks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        if (done := self._current) is not None:
            self._current = None
            done.ack()
        channel, guest = self._channel, self._guest
        while True:
            if channel.quota <= 0 or time.monotonic() - guest.gave_way > GIVE_WAY:
                await guest.give_way()
            if (taken := self._take()) is None:
                if channel.ended:
                    raise StopAsyncIteration
                await guest.wait(self._call_at_change)
                continue
            if channel.must_decode and not await self._decode(taken):
                continue
            if self._acks:
                self._current = taken
            if channel.usage.names_source:
                in_hand.set(taken)
            return taken

    def _call_at_change(self, answer: Answer[None]) -> Leave:
        call = functools.partial(answer, outcome.Value(None))
        self._channel.call_at_change(call)
        return functools.partial(self._channel.call_off, call)

    async def _decode(self, taken: AnyMessage | AnyBatch) -> bool:
        """Decode in place; False: nothing is left. Hooks run in the asyncio task, loads in trio."""
        if isinstance(taken, Message):
            return await self._channel.decode(taken, self._guest.load)
        return await self._channel.decode_batch(taken, self._guest.load)
