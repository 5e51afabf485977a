"""Messages that are to be sent soon: from code that cannot wait, and from other threads."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import attrs
import trio
from attrs.validators import instance_of, optional

from transport.drivers.base import Outcome
from transport.errors import AppClosed, BufferFull
from transport.types import HeadersArg, RecordMetadata


@attrs.frozen(kw_only=True)
class PendingMessage:
    """A message that is not sent yet; the fields are the arguments of `Producer.send`.

    Raises TypeError: a field is something else.
    """

    topic: str = attrs.field(validator=instance_of(str))
    key: bytes | None = attrs.field(default=None, validator=optional(instance_of(bytes)))
    value: bytes | None = attrs.field(default=None, validator=optional(instance_of(bytes)))
    partition: int | None = attrs.field(default=None, validator=optional(instance_of(int)))
    timestamp: float | None = attrs.field(
        default=None, validator=optional(instance_of((int, float)))
    )
    headers: HeadersArg = None


class FutureMessage:
    """What becomes of a pending message: `await` it for where it was written.

    Any number of tasks may await it. Awaiting is a checkpoint; cancelling ends only the waiting. It
    raises what `Producer.send` and the delivery raise. A thread without trio asks for `result`.

    Attributes:
        ended: set once the outcome is known.
        is_given: a producer has it; none takes it again.
    """

    def __init__(self, message: PendingMessage) -> None:
        self.message = message
        self.ended = trio.Event()
        self._outcome: concurrent.futures.Future[RecordMetadata] = concurrent.futures.Future()
        self._on_seen: Callable[[], object] = lambda: None
        self._waiting: list[None] = []  # one for each who waits; a thread may be one of them
        self.is_given = False

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome.done()

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        if self.ended.is_set():
            await trio.lowlevel.checkpoint()
        else:
            with self._counted():
                await self.ended.wait()
        self._on_seen()
        return self._outcome.result()

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Block for the outcome, in a thread that is not trio's.

        Raises TimeoutError after `timeout` seconds; RuntimeError: in trio's thread it would wait
        for itself.
        """
        if not self.is_done and trio.lowlevel.in_trio_run():
            raise RuntimeError("the outcome is awaited in trio, not blocked for")
        try:
            with self._counted():
                return self._outcome.result(timeout)
        finally:
            if self.is_done:
                self._on_seen()

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def end(self, outcome: Outcome, on_seen: Callable[[], object]) -> None:
        """For the producer, in trio; it wants to know once somebody has seen a failure."""
        self._on_seen = on_seen
        was_awaited = bool(self._waiting)  # before they are told: a thread goes on at once
        if isinstance(outcome, RecordMetadata):
            self._outcome.set_result(outcome)
        else:
            self._outcome.set_exception(outcome)
        self.ended.set()
        if was_awaited:
            on_seen()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._waiting.append(None)
        try:
            yield
        finally:
            self._waiting.pop()


class ProducerBuffer:
    """What is to be sent soon, in order; bounded, and filled from any thread.

    Args:
        limit: most messages, until the producer has accepted or refused them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._messages: collections.deque[FutureMessage] = collections.deque()
        # Other threads come in here: the one place where they share anything with us.
        self._lock = threading.Lock()
        self._held: dict[FutureMessage, None] = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._filled = trio.Event()

    def __len__(self) -> int:
        """How many messages have not been accepted or refused."""
        return len(self._held)

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """Of the trio run of the app. Raises AppClosed."""
        if self._token is None:
            raise AppClosed("the app is not open: nothing can be sent")
        return self._token

    def open(self) -> None:
        """Take messages, in this trio run."""
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._token = None

    @trio.lowlevel.enable_ki_protection
    def put(self, message: FutureMessage) -> None:
        """Add a message; from any thread, without waiting.

        Raises BufferFull, AppClosed; ValueError: a producer has it already.
        """
        with self._lock:
            if self._token is None:
                raise AppClosed("the app is not open: nothing can be sent")
            if message.is_given:
                raise ValueError("a FutureMessage is for one message: it was given before")
            if len(self._held) >= self.limit:
                raise BufferFull(f"{self.limit} messages are to be sent already")
            message.is_given = True
            self._held[message] = None
            self._messages.append(message)
            if len(self._messages) == 1:
                self._token.run_sync_soon(self._wake)

    async def take(self) -> FutureMessage:
        """Wait for the next message, which is held until `release`."""
        while not self._messages:
            self._filled = trio.Event()
            await self._filled.wait()
        return self._messages.popleft()

    def release(self, message: FutureMessage) -> None:
        """The message is accepted or refused."""
        with self._lock:
            self._held.pop(message, None)

    async def wait(self) -> None:
        """Wait for the outcomes of all that is held at the call. A checkpoint."""
        with self._lock:
            held = list(self._held)
        await trio.lowlevel.checkpoint()
        for message in held:
            await message.ended.wait()

    def drop(self) -> list[FutureMessage]:
        """Let go of all that is held, also of what was taken and not released."""
        with self._lock:
            dropped = list(self._held)
            self._held.clear()
            self._messages.clear()
        return dropped

    def _wake(self) -> None:
        self._filled.set()
