"""The outcomes of sent messages, for the tasks of an asyncio loop."""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, overload

import outcome

from transport.anyio.guest import GIVE_WAY, Answer, Guest, Leave
from transport.drivers.base import Outcome
from transport.producing.delivery import Delivery, ManyDeliveries, written_of
from transport.producing.pending import FutureMessage
from transport.types import RecordMetadata


class AioDelivery:
    """A delivery, for asyncio's tasks; see `Delivery`."""

    __slots__ = ("_guest", "native")

    def __init__(self, delivery: Delivery, guest: Guest) -> None:
        self.native = delivery
        self._guest = guest

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self.native.is_done

    @property
    def outcome(self) -> Outcome | None:
        """The metadata of the written message, or the error. None: not known yet."""
        return self.native.outcome

    def result(self) -> RecordMetadata:
        """Return the metadata, or raise the error. The outcome is known."""
        return self.native.result()

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        guest, native = self._guest, self.native
        if not native.is_done:
            await guest.wait(functools.partial(_call_at_ends, (native,)))
        elif time.monotonic() - guest.gave_way > GIVE_WAY:
            await guest.give_way()
        return native.result()

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()


class AioFutureMessage:
    """The outcome of a message that `send_soon` has queued, for asyncio's tasks.

    See `FutureMessage`.
    """

    __slots__ = ("_guest", "native")

    def __init__(self, message: FutureMessage, guest: Guest) -> None:
        self.native = message
        self._guest = guest

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self.native.is_done

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        if not self.native.is_done:
            await self._guest.wait(functools.partial(_call_at_ends, (self.native,)))
        else:
            await self._guest.give_way()
        return self.native.result()

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Block until the outcome is known, in another thread; see `FutureMessage.result`."""
        return self.native.result(timeout)

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        return repr(self.native)


class AioManyDeliveries(Sequence[AioDelivery]):
    """The deliveries of one `send_many`, for asyncio's tasks; see `ManyDeliveries`."""

    def __init__(self, deliveries: ManyDeliveries, guest: Guest) -> None:
        self.native = deliveries
        self._guest = guest

    @overload
    def __getitem__(self, at: int) -> AioDelivery: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[AioDelivery]: ...
    def __getitem__(self, at: int | slice) -> AioDelivery | Sequence[AioDelivery]:
        if isinstance(at, slice):
            return [AioDelivery(each, self._guest) for each in self.native[at]]
        return AioDelivery(self.native[at], self._guest)

    def __len__(self) -> int:
        return len(self.native)

    def __iter__(self) -> Iterator[AioDelivery]:
        return (AioDelivery(each, self._guest) for each in self.native)

    async def outcomes(self) -> list[Outcome]:
        """Wait for all outcomes and return them in order; see `ManyDeliveries.outcomes`."""
        if left := [each for each in self.native if not each.is_done]:
            await self._guest.wait(functools.partial(_call_at_ends, left))
        else:
            await self._guest.give_way()
        return self.native.known_outcomes()

    async def wait(self) -> list[RecordMetadata]:
        """Wait for all outcomes: the same as awaiting the object."""
        return written_of(await self.outcomes())

    def __await__(self) -> Generator[Any, Any, list[RecordMetadata]]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        return repr(self.native)


def _call_at_ends(deliveries: Sequence[Delivery | FutureMessage], answer: Answer[None]) -> Leave:
    """Answer once all deliveries have outcomes.

    There is at least one delivery, and none of them has an outcome yet.
    """
    left = len(deliveries)

    def on_end() -> None:
        nonlocal left
        left -= 1
        if not left:
            answer(outcome.Value(None))

    def leave() -> None:
        for delivery in deliveries:
            delivery.call_off(on_end)

    for delivery in deliveries:
        delivery.call_at_end(on_end)
    return leave
