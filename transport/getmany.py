"""Taking messages from all topics of an app at once, without iterators of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import trio
from trio.lowlevel import enable_ki_protection

from transport.channel import Channel
from transport.message import Message
from transport.source import in_hand
from transport.types import TP


class GetMany:
    """An async iterator over what there is now, channel by channel in turn.

    Args:
        channels: those that are listened to at this moment.
        deadline: when to stop waiting for the first message, in trio's time.
    """

    def __init__(self, channels: Callable[[], Sequence[Channel]], deadline: float) -> None:
        self._channels = channels
        self._deadline = deadline
        self._turn = 0
        self._has_begun = False

    def __aiter__(self) -> Self:
        return self

    @enable_ki_protection
    async def __anext__(self) -> tuple[TP, Message]:
        await trio.lowlevel.checkpoint()
        while (found := await self._take()) is None:
            if self._has_begun or not await self._news():
                raise StopAsyncIteration
        self._has_begun = True
        return found.tp, found

    async def _take(self) -> Message | None:
        """The next message; a channel keeps its turn as long as its partition has it."""
        channels = self._channels()
        for step in range(len(channels)):
            channel = channels[(self._turn + step) % len(channels)]
            while (message := channel.take()) is not None:
                if not channel.must_decode or await channel.decode(message):
                    self._turn = (self._turn + step + (channel.quota == 0)) % len(channels)
                    if channel.load.names_source:
                        in_hand.set(message)
                    return message
        return None

    async def _news(self) -> bool:
        """Wait for something to take; False: the time is up, or delivery has ended."""
        channels = self._channels()
        if any(channel.ended for channel in channels):
            return False
        with trio.move_on_at(self._deadline) as scope:
            async with trio.open_nursery() as nursery:
                for channel in channels:
                    nursery.start_soon(_first_news, channel, nursery.cancel_scope)
                if not channels:
                    await trio.sleep_forever()
        return not scope.cancelled_caught


async def _first_news(channel: Channel, others: trio.CancelScope) -> None:
    await channel.news()
    others.cancel()
