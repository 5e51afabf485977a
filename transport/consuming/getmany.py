"""The iterator of `Consumer.getmany`: it takes messages from all topics of an app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeAlias

import trio
from trio.lowlevel import enable_ki_protection

from transport.codecs.errors import Loader, load_in_trio
from transport.consuming.conductor import Conductor
from transport.delivering.in_hand import in_hand
from transport.message import AnyMessage
from transport.types import TP

Wait: TypeAlias = Callable[[Sequence[trio.Event]], Awaitable[bool]]


class GetMany:
    """An async iterator over the available messages, which takes from the channels in turn.

    Args:
        conductor: has the channels that listen.
        wait: waits until one of the given events is set, and returns False at the end of the wait
            for the first message.
        give_way: lets other tasks run.
        loader: loads what a codec needs to decode a message.
    """

    def __init__(
        self,
        conductor: Conductor,
        wait: Wait,
        give_way: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        loader: Loader = load_in_trio,
    ) -> None:
        self._conductor = conductor
        self._wait = wait
        self._give_way = give_way
        self._loader = loader
        self._turn = 0
        self._has_begun = False

    def __aiter__(self) -> Self:
        return self

    @enable_ki_protection
    async def __anext__(self) -> tuple[TP, AnyMessage]:
        await self._give_way()
        while (found := await self._take()) is None:
            if self._has_begun or self._conductor.has_ended:
                raise StopAsyncIteration
            # The events are made before the last try, so a message that arrives after it sets one.
            changes = self._conductor.next_changes()
            if (found := await self._take()) is not None:
                break
            if not await self._wait(changes):
                raise StopAsyncIteration
        self._has_begun = True
        return found.tp, found

    async def _take(self) -> AnyMessage | None:
        """Return the next message, if any; a channel keeps its turn while its partition has one."""
        channels = self._conductor.channels()
        for step in range(len(channels)):
            channel = channels[(self._turn + step) % len(channels)]
            while (message := channel.take()) is not None:
                if not channel.must_decode or await channel.decode(message, self._loader):
                    self._turn = (self._turn + step + (channel.quota == 0)) % len(channels)
                    if channel.usage.names_source:
                        in_hand.set(message)
                    return message
        return None


@enable_ki_protection
async def until_set(deadline: float, events: Sequence[trio.Event]) -> bool:
    """Wait until one of the events is set; return False at the deadline, on trio's clock."""
    with trio.move_on_at(deadline) as scope:
        async with trio.open_nursery() as nursery:
            for event in events:
                nursery.start_soon(_first, event, nursery.cancel_scope)
    return not scope.cancelled_caught


async def _first(event: trio.Event, others: trio.CancelScope) -> None:
    await event.wait()
    others.cancel()
