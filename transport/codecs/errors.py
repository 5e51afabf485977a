"""The errors of decoding: bytes that do not fit the type, and a schema that is not loaded yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from transport.errors import TransportError
from transport.message import AnyMessage

R = TypeVar("R")

# The most loads for one message. A schema needs one for itself and one for each that it refers to.
MOST_LOADS = 1000


class DecodeError(TransportError):
    """A key or value cannot be decoded by its topic's type.

    The text names the partition, the offset, the type, and shows the first bytes.

    Attributes:
        message: the message. It is unacked; ack it to skip it.
        part: "key" or "value".
    """

    def __init__(self, text: str, message: AnyMessage, part: str = "value") -> None:
        super().__init__(text)
        self.message = message
        self.part = part


class NotLoaded(TransportError):
    """A codec needs something first that only a task can wait for, such as a schema.

    A codec raises this error from `encode` or `decode`. The topic awaits `load` in trio and calls
    the codec again. A call that cannot wait, such as `send_soon`, raises the error to its caller.

    Attributes:
        load: loads what is missing; an async function without arguments. If it raises a
            `TransportError`, the message waits again, and the reader gets that error. Any other
            error means that the message can never be decoded.
    """

    def __init__(self, text: str, load: Callable[[], Awaitable[None]]) -> None:
        super().__init__(text)
        self.load = load


Loader = Callable[[NotLoaded], Awaitable[None]]


async def load_in_trio(missing: NotLoaded) -> None:
    """Load what is missing, in a task of trio."""
    await missing.load()


async def load_and_call(
    missing: NotLoaded, fn: Callable[[], R], loader: Loader = load_in_trio
) -> R:
    """Load what is missing, then call `fn`, and again each time that it raises NotLoaded.

    A checkpoint. Cancelling leaves nothing behind: what a load has begun to fetch is still kept.
    """
    for _ in range(MOST_LOADS):
        await loader(missing)
        try:
            return fn()
        except NotLoaded as again:
            missing = again
    raise too_many_loads(missing)


def too_many_loads(missing: NotLoaded) -> TransportError:
    """Return the error for a codec that still misses what was loaded."""
    return TransportError(f"it was loaded {MOST_LOADS} times and is still missing: {missing}")
